"""The steps of a solve: where they end, and their dense solutions."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tf_neuralode.stepping.arrays import room_for, state_arrays, write
from tf_neuralode.stepping.types import Recorder
from tf_neuralode.tensors import State, each, inside_xla


class AcceptedSteps(Recorder):
    """Times and states at the ends of all accepted steps, and their dense solutions if `dense`.

    Args:
      max_num_steps: The most steps that the solve can take.
      num_coefficients: How many coefficients of dense output to keep of each step (those of the
        method, see `interpolation`), or 0.

    Result: `StepHistory`.
    """

    def __init__(self, max_num_steps: int, num_coefficients: int = 0):
        self._max_num_steps = max_num_steps
        self.needs_dense = num_coefficients > 0
        self._num_coefficients = num_coefficients

    def start(self, start):
        """The initial state."""
        t0, y0 = start.t, start.y
        times = room_for(t0.dtype, self._max_num_steps + 1, t0.shape)
        states = write(state_arrays(y0, self._max_num_steps + 1), 0, y0)
        dense = []
        if self.needs_dense:
            dense = state_arrays(y0, self._max_num_steps, (self._num_coefficients,))
            # Without a step the solution is the initial state (and nothing can't be stacked).
            zeros = self._num_coefficients - 1
            dense = write(dense, 0, [tf.stack([x, *[tf.zeros_like(x)] * zeros]) for x in y0])
        return times.write(0, t0), states, dense

    def record(self, saved, slot):
        """Adds the end of the step."""
        times, states, dense = saved
        times = times.write(slot.index + 1, slot.end)
        states = write(states, slot.index + 1, slot.y1)
        if self.needs_dense:
            dense = write(dense, slot.index, slot.dense)
        return times, states, dense

    def finish(self, saved, t, y, num_slots):
        """A `StepHistory`."""
        times, states, dense = saved
        n = num_slots
        if inside_xla():  # shapes are fixed there
            fill = lambda array, last: _repeat_from(array.stack(), last)
            ends = [fill(array, n) for array in (times, *states)]
            return StepHistory(ends[0], ends[1:], [fill(x, tf.maximum(n - 1, 0)) for x in dense], n)
        # Stacking would allocate the slots that were never written, too.
        ends = [array.gather(tf.range(n + 1)) for array in (times, *states)]
        dense = [array.gather(tf.range(tf.maximum(n, 1))) for array in dense]
        return StepHistory(ends[0], ends[1:], dense, n)


def _repeat_from(rows: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
    """`rows`, those behind row `last` replaced by it."""
    return tf.gather(rows, tf.minimum(tf.range(tf.shape(rows)[0]), last))


class StepHistory(NamedTuple):
    """Accepted steps of a solve.

    Under XLA the shapes are those of `max_num_steps` steps, the room behind the accepted ones
    filled with the last. Where no step was accepted one dense solution is left: an item to look
    up.

    Attributes:
      times: `(num_steps + 1,)`; entry 0 is the initial time.
      states: For each leaf `(num_steps + 1, *leaf.shape)`.
      dense: For each leaf `(num_steps, num_coefficients, *leaf.shape)`, or nothing.
      num_accepted: How many steps are valid.
    """

    times: tf.Tensor
    states: State
    dense: State
    num_accepted: tf.Tensor

    def folded(self, num_steps: tf.Tensor) -> StepHistory:
        """As cotangents of a solve of so many steps: those of room behind are the last one's."""
        fold = lambda x, last: tf.math.unsorted_segment_sum(
            x, tf.minimum(tf.range(tf.shape(x)[0]), last), tf.shape(x)[0]
        )
        states = [fold(x, num_steps) for x in self.states]
        dense = [fold(x, tf.maximum(num_steps - 1, 0)) for x in self.dense]
        return self._replace(states=states, dense=dense)

    def of_step(self, n: tf.Tensor) -> tuple[State, State]:
        """As cotangents: of the state at the end of step `n`, and of its dense solution."""
        return [tf.gather(x, n + 1) for x in self.states], [tf.gather(x, n) for x in self.dense]

    def at_start(self, num_steps: tf.Tensor) -> State:
        """As cotangents: of the initial state, which is all there is of a solve without a step."""

        def one(states: tf.Tensor, dense: tf.Tensor) -> tf.Tensor:
            resting = tf.where(tf.equal(num_steps, 0), dense[0, 0], tf.zeros_like(dense[0, 0]))
            return states[0] + resting

        return each(one, self.states, self.dense)
