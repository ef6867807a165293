"""All attempts at a step, the rejected ones too: to look at how a solver copes with a field."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_neuralode.field import Clock, Field, FlatState
from tf_neuralode.solvers import checks
from tf_neuralode.solvers.solver import RungeKutta
from tf_neuralode.stepping import Conditions, Point, Recorder, Slot
from tf_neuralode.tensors import State, each


class AttemptedSteps(NamedTuple):
    """The attempts of one solve, in the order in which they were made.

    Attributes:
      times: `(num_attempts,)`, where each starts, in units of time.
      step_sizes: `(num_attempts,)`, `t_next - t` in units of time; negative backwards in time.
      accepted: `(num_attempts,)`, boolean; what follows a rejected attempt starts at the same time.
    """

    times: tf.Tensor
    step_sizes: tf.Tensor
    accepted: tf.Tensor


class _Attempts(Recorder):
    """Writes each attempt behind the last; the result is `AttemptedSteps`."""

    def __init__(self, max_num_steps: int):
        self._max_num_steps = max_num_steps

    def start(self, start: Point) -> Any:
        t0 = start.t
        dtypes = (t0.dtype, t0.dtype, tf.bool)
        arrays = [tf.TensorArray(dtype, self._max_num_steps, element_shape=[]) for dtype in dtypes]
        # A solve that fails at once writes nothing, and nothing can't be stacked.
        empty = (t0, tf.zeros_like(t0), tf.constant(False))
        return tf.constant(0), each(lambda array, x: array.write(0, x), arrays, empty)

    def record(self, saved: Any, slot: Slot) -> Any:
        count, arrays = saved
        row = (slot.t, slot.t_next - slot.t, slot.accepted)
        return count + 1, each(lambda array, x: array.write(count, x), arrays, row)

    def finish(self, saved: Any, t: tf.Tensor, y: State, num_slots: tf.Tensor) -> AttemptedSteps:
        del t, y, num_slots
        count, arrays = saved
        return AttemptedSteps(*[array.stack()[:count] for array in arrays])


def attempted_steps(
    solver: RungeKutta,
    f: Callable[[tf.Tensor, Any], Any],
    y0: Any,
    t_span: Sequence[float],
    batch_ndims: int = 0,
) -> AttemptedSteps:
    """Solves dy/dt = f(t, y) once and returns every attempt at a step.

    Args:
      solver: One of `tf_neuralode.solvers`.
      f: Function of a scalar time and a state like `y0`; returns the slope, like `y0`.
      y0: State at `t_span[0]`: a float or complex tensor of any shape, or a nest of them.
      t_span: Initial and final time, in units of time: two numbers; may run backwards.
      batch_ndims: How many axes of the state, the first, count samples, see `odeint`; a layer's
        solves have 1.

    Returns:
      `AttemptedSteps`. After a failed solve they are those up to the failure. Eagerly or in a
      `tf.function`, but not under XLA, where a length can't depend on the solve.

    Raises:
      TypeError: if `solver` isn't one of ours.
    """
    if not isinstance(solver, RungeKutta):
        raise TypeError(
            "Argument solver must be one of tf_neuralode.solvers: others don't report rejected "
            f"steps. Received: solver={solver!r}"
        )
    flat = FlatState(y0)
    conditions = Conditions(checks.count("batch_ndims", batch_ndims), flat.pack_as_held)
    first, last = (np.float64(float(t)) for t in t_span)
    clock = Clock(first, flat.time_dtype, last)
    flat_f = clock.forwards(flat.flat_fn(f))
    result = solver.integrate(
        Field(lambda s, y, _: flat_f(s, y)),
        Point(clock.elapsed(first), flat.leaves),
        clock.elapsed(last),
        [_Attempts(solver.max_num_steps)],
        conditions.for_field(flat.field_precision),
    )
    attempts = result.saved[0]
    return attempts._replace(
        times=clock.user_time(attempts.times),
        step_sizes=clock.signed(attempts.step_sizes),
    )
