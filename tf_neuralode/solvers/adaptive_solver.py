"""Base class of the adaptive solvers: their settings, handed to the adaptive loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_neuralode.solvers import adaptive, checks
from tf_neuralode.solvers.error_norm import ErrorNorm, whole
from tf_neuralode.solvers.integration import Integration
from tf_neuralode.solvers.precision import EPSILON, FieldPrecision, warn_of_tolerance
from tf_neuralode.solvers.recording import Recorder
from tf_neuralode.solvers.runge_kutta import Limit, OdeFn, State
from tf_neuralode.solvers.solver import RungeKutta
from tf_neuralode.solvers.step_size import StepSizeController, Tolerances


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

    # Weight of the integral part of the step-size control, see `StepSizeController`.
    beta: float | None = None

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
        self._rtol = checks.tolerance("rtol", rtol)
        self._atol = checks.tolerance("atol", atol)
        self._first_step_size = checks.optional_positive("first_step_size", first_step_size)
        self._max_num_steps = checks.positive_integer("max_num_steps", max_num_steps)
        self._safety_factor = checks.inside("safety_factor", safety_factor, 0, 1)
        self._min_step_size_factor = checks.inside(
            "min_step_size_factor", min_step_size_factor, 0, 1
        )
        self._max_step_size_factor = checks.inside(
            "max_step_size_factor", max_step_size_factor, 1, np.inf
        )
        self._max_step_size = checks.optional_positive("max_step_size", max_step_size)
        self._norm = checks.norm(norm)
        # Set on copies only: what one solve, or a part of the package, knows of the state.
        self._counted_parts: Callable[[Any], list[Any]] = whole
        self._among: tf.Tensor | None = None
        self._field_epsilon = 0.0

    @property
    def max_num_steps(self) -> int:
        """The most steps that a solve can take."""
        return self._max_num_steps

    def with_seminorm(self, num_parts: int) -> AdaptiveRungeKutta:
        """As in `RungeKutta`, with one tolerance for all components: the smallest."""
        counted = self._counted_parts

        def parts(augmented: Any) -> list[Any]:
            return [inner for part in augmented[:num_parts] for inner in counted(part)]

        # A tolerance for each component has no counterpart among the parameters.
        rtol, atol = _smallest(self._rtol), _smallest(self._atol)
        return self.copy(counted_parts=parts, rtol=rtol, atol=atol)

    def for_field(self, field: FieldPrecision, held_in: str | None = None) -> AdaptiveRungeKutta:
        """As in `RungeKutta`: errors below the field's rounding are none."""
        if held_in is not None:
            warn_of_tolerance(field, self._rtol, self._atol, held_in)
        return self.copy(field_epsilon=max(field.epsilon, self._field_epsilon))

    def in_units_of(self, unit: tf.Tensor) -> AdaptiveRungeKutta:
        """As in `RungeKutta`: step sizes are settings in the user's time."""
        sizes = {"first_step_size": self._first_step_size, "max_step_size": self._max_step_size}
        return self.copy(**{name: _in_parts(name, value, unit) for name, value in sizes.items()})

    def error_norm(self, pack: Callable[[State], Any] = list) -> ErrorNorm:
        """The norm of a state's error; `pack` gives the state its structure."""
        return ErrorNorm(self._norm, self.batch_ndims, pack, self._counted_parts, self._among)

    def integrate(
        self,
        f: OdeFn,
        t0: tf.Tensor,
        t1: tf.Tensor,
        y0: State,
        recorders: Sequence[Recorder] = (),
        pack: Callable[[State], Any] = list,
        previous_step_size: tf.Tensor | None = None,
        limit: Limit | None = None,
    ) -> Integration:
        """As in `RungeKutta`, by the adaptive loop."""
        if previous_step_size is None:
            previous_step_size = self._start_step_size
        error_order = self.method.error_order
        tolerances = Tolerances.broadcast(self._rtol, self._atol, y0, pack, t0.dtype)
        if self._field_epsilon > EPSILON[t0.dtype.name]:
            tolerances = tolerances._replace(field_epsilon=self._field_epsilon)
        settings = adaptive.AdaptiveSettings(
            controller=StepSizeController(
                error_order=error_order,
                safety_factor=self._safety_factor,
                min_step_size_factor=self._min_step_size_factor,
                max_step_size_factor=self._max_step_size_factor,
                beta=0.2 / (error_order + 1) if self.beta is None else self.beta,
            ),
            tolerances=tolerances,
            norm=self.error_norm(pack),
            first_step_size=_as_time("first_step_size", self._first_step_size, t0.dtype),
            max_step_size=_as_time("max_step_size", self._max_step_size, t0.dtype),
            max_num_steps=self._max_num_steps,
            limit=limit,
            autonomous=self._autonomous,
            whole_span=self._whole_span,
        )
        return adaptive.integrate(
            self.method,
            settings,
            f,
            t0,
            t1,
            y0,
            recorders,
            previous_step_size,
        )

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor; a solver with functions among them has none.

        Raises:
          ValueError: if `norm` is a function, `make_adjoint_solver_fn` was given, or a setting is a
            tensor of a graph.
        """
        self._check_serializable(callable(self._norm) or self._custom_adjoint)
        return {
            "rtol": checks.plain(self._rtol),
            "atol": checks.plain(self._atol),
            "first_step_size": checks.plain(self._first_step_size),
            "max_num_steps": self._max_num_steps,
            "safety_factor": self._safety_factor,
            "min_step_size_factor": self._min_step_size_factor,
            "max_step_size_factor": self._max_step_size_factor,
            "max_step_size": checks.plain(self._max_step_size),
            "norm": self._norm,
            "validate_args": self._validate_args,
            "name": self._name,
        }


def _as_time(name: str, value: float | tf.Tensor | None, dtype: tf.DType) -> tf.Tensor | None:
    return None if value is None else checks.as_time(name, value, dtype)


def _in_parts(name: str, value: float | tf.Tensor | None, unit: tf.Tensor) -> tf.Tensor | None:
    """A step size in parts of `unit`, which may be 0; at most 1, the whole of it."""
    if value is None:
        return None
    tiny = tf.constant(np.finfo(unit.dtype.as_numpy_dtype).tiny, unit.dtype)
    parts = checks.as_time(name, value, unit.dtype) / tf.maximum(unit, tiny)
    return tf.where(parts > 1, tf.ones_like(parts), parts)  # NaN stays


def _smallest(tolerance: Any) -> Any:
    leaves = tf.nest.flatten(tolerance)
    if any(tf.is_tensor(leaf) for leaf in leaves):
        return tf.reduce_min([tf.reduce_min(leaf) for leaf in leaves])
    return min(float(np.min(leaf)) for leaf in leaves)
