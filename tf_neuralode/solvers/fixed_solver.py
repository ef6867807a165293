"""Base class of the fixed-step solvers: their setting, handed to the fixed-step loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_neuralode.solvers import checks, fixed
from tf_neuralode.solvers.integration import Integration
from tf_neuralode.solvers.recording import Recorder
from tf_neuralode.solvers.runge_kutta import Limit, OdeFn, State
from tf_neuralode.solvers.solver import RungeKutta


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
        self._num_steps = checks.positive_integer("num_steps", num_steps)

    def initial_step_size(self, span: tf.Tensor) -> tf.Tensor:
        """Of the equal steps over the whole of `span`."""
        equal = span / tf.cast(self._num_steps, span.dtype)
        return equal if self._start_step_size is None else self._start_step_size

    @property
    def max_num_steps(self) -> int:
        """The number of steps of a solve."""
        return self._num_steps

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
        """As in `RungeKutta`, by the loop of equal steps, whose length no `limit` changes."""
        del pack, limit
        if previous_step_size is None:
            previous_step_size = self._start_step_size
        num_steps = tf.constant(self._num_steps)
        if previous_step_size is not None:
            # A part of an interval takes its part of the steps (0.01: rounding makes no step).
            parts = tf.abs(t1 - t0) / tf.maximum(previous_step_size, _tiny(t0.dtype))
            parts = tf.maximum(tf.cast(tf.math.ceil(parts - 0.01), tf.int32), 1)
            num_steps = tf.where(previous_step_size > 0, parts, num_steps)
        return fixed.integrate(self.method, f, t0, t1, y0, num_steps, recorders)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor.

        Raises:
          ValueError: if `make_adjoint_solver_fn` was given.
        """
        self._check_serializable(self._custom_adjoint)
        return {
            "num_steps": self._num_steps,
            "validate_args": self._validate_args,
            "name": self._name,
        }


def _tiny(dtype: tf.DType) -> tf.Tensor:
    return tf.constant(np.finfo(dtype.as_numpy_dtype).tiny, dtype)
