"""Base class of the fixed-step solvers: their setting."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
import tensorflow_probability as tfp

from tf_neuralode.solvers import checks
from tf_neuralode.solvers.solver import RungeKutta
from tf_neuralode.stepping import Conditions, EqualSteps, Point


class FixedStepRungeKutta(RungeKutta):
    """Base of the fixed-step methods: `num_steps` equal steps over the whole interval.

    Args:
      num_steps: Number of steps, a positive integer.
      make_adjoint_solver_fn: As in `tfp.math.ode.Solver`.
      validate_args: As in `tfp.math.ode.Solver`; our own checks are always made.
      name: Prefix of the operations' names.

    Raises:
      ValueError: if `num_steps` isn't a positive integer.
    """

    read_only: tuple[str, ...] = ("num_steps",)

    def __init__(
        self,
        num_steps: int = 20,
        *,
        make_adjoint_solver_fn: Callable[[], tfp.math.ode.Solver] | None = None,
        validate_args: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(
            make_adjoint_solver_fn=make_adjoint_solver_fn,
            validate_args=validate_args,
            name=name,
        )
        self.num_steps = checks.positive_integer("num_steps", num_steps)

    @property
    def max_num_steps(self) -> int:  # type: ignore[override]
        """The number of steps of a solve."""
        return self.num_steps

    def steps(self, conditions: Conditions, start: Point, t1: tf.Tensor) -> EqualSteps:
        """As in `RungeKutta`."""
        del conditions
        return EqualSteps(self.num_steps, start, t1)

    def step_size_of_parts(self, whole: tf.Tensor, warm: tf.Tensor | None = None) -> tf.Tensor:
        """That of the equal steps over the whole."""
        del warm
        return whole / tf.cast(self.num_steps, whole.dtype)
