"""Base class of the adaptive solvers: their settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_neuralode.solvers import checks
from tf_neuralode.solvers.solver import RungeKutta
from tf_neuralode.stepping import AdaptiveSteps, Conditions, Point


class AdaptiveRungeKutta(RungeKutta):
    """Base of the adaptive methods: steps as long as the tolerances allow.

    Args:
      rtol, atol: Relative and absolute tolerance of the local error, positive: scalars, arrays
        that broadcast against the state, or nests of the state's structure. A step is good enough
        if `norm` of `error / (atol + rtol * max(|y|, |y1|))` is at most 1.
      first_step_size: Size of the first step, in units of time, a number or a scalar tensor; chosen
        by the solver if `None`. No step is longer than the interval. Where
        each sample of a layer has times of its own, this is the step of the sample that has
        furthest to go to its next time.
      max_num_steps: Attempts (accepted and rejected) after which a solve fails with status -1.
      safety_factor: Factor on each proposed step, in (0, 1).
      min_step_size_factor, max_step_size_factor: Bounds of the change from one step to the next.
      max_step_size: Longest step, in units of time, likewise; unbounded if `None`.
      norm: How large the scaled error of a batch is. `"max"`: the largest of the samples' own
        norms, each the RMS over the sample's components, so that a hard sample gets the steps that
        it needs. `"mean"`: the RMS over all components of all samples, fewer steps, in which the
        errors of few hard samples drown. Or a function that maps the scaled error, in the state's
        structure, to a scalar. What a sample is `batch_ndims` says, of `odeint` and of `solve`;
        without it the whole state is one. `None` is `"max"`.
      make_adjoint_solver_fn: As in `tfp.math.ode.Solver`.
      validate_args: As in `tfp.math.ode.Solver`; our own checks are always made.
      name: Prefix of the operations' names.

    Raises:
      ValueError, TypeError: for settings out of range.

    Reference: Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, II.4.
    """

    is_adaptive = True
    # Weight of the integral part of the step-size control, see `StepSizeController`.
    beta: float | None = None

    read_only = (
        "rtol",
        "atol",
        "first_step_size",
        "max_num_steps",
        "safety_factor",
        "min_step_size_factor",
        "max_step_size_factor",
        "max_step_size",
        "norm",
    )

    def __init__(
        self,
        rtol: Any = 1e-3,
        atol: Any = 1e-6,
        first_step_size: float | tf.Tensor | None = None,
        max_num_steps: int = 1000,
        *,
        safety_factor: float = 0.9,
        min_step_size_factor: float = 0.2,
        max_step_size_factor: float = 10.0,
        max_step_size: float | tf.Tensor | None = None,
        norm: str | Callable[[Any], tf.Tensor] | None = "max",
        make_adjoint_solver_fn: Callable[[], tfp.math.ode.Solver] | None = None,
        validate_args: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(
            make_adjoint_solver_fn=make_adjoint_solver_fn,
            validate_args=validate_args,
            name=name,
        )
        self.rtol = checks.tolerance("rtol", rtol)
        self.atol = checks.tolerance("atol", atol)
        self.first_step_size = checks.optional_positive("first_step_size", first_step_size)
        self.max_num_steps = checks.positive_integer("max_num_steps", max_num_steps)
        self.safety_factor = checks.inside("safety_factor", safety_factor, 0, 1)
        self.min_step_size_factor = checks.inside(
            "min_step_size_factor", min_step_size_factor, 0, 1
        )
        self.max_step_size_factor = checks.inside(
            "max_step_size_factor", max_step_size_factor, 1, np.inf
        )
        self.max_step_size = checks.optional_positive("max_step_size", max_step_size)
        self.norm = checks.norm(norm)

    @property
    def tolerances(self) -> tuple[Any, Any]:  # type: ignore[override]
        """`rtol` and `atol`."""
        return self.rtol, self.atol

    def steps(self, conditions: Conditions, start: Point, t1: tf.Tensor) -> AdaptiveSteps:
        """As in `RungeKutta`."""
        return AdaptiveSteps(self, conditions, start, t1)

    def has_functions(self) -> bool:
        """As in `RungeKutta`."""
        return callable(self.norm) or super().has_functions()
