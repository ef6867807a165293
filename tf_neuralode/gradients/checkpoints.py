"""What a solve keeps for a backward pass on the stored solution, see `stored_solution`."""

from __future__ import annotations

import math

import tensorflow as tf

from tf_neuralode.gradients.stored_solution import StoredSolution
from tf_neuralode.stepping import Point, Recorder, Slot, room_for, state_arrays, write
from tf_neuralode.tensors import State, inside_xla

# Below this the memory is small in any case, and short solves should solve nothing again.
_SMALLEST_SEGMENT = 32


class Checkpoints(Recorder):
    """Records a `StoredSolution`.

    Args:
      max_num_steps: The most steps that the solve can take.
      num_coefficients: How many coefficients of dense output to keep of the segment's steps (those
        of the method, see `interpolation`), or 0 for what the steps begin with.
      with_carry: Whether that is the state and its carry, or the state alone.
      checkpoint: If false, all steps are one segment: more memory, nothing is replayed.

    Result: `(times, starts, segment, num_steps)`, for `stored_solution`.
    """

    def __init__(
        self,
        max_num_steps: int,
        num_coefficients: int = 0,
        with_carry: bool = False,
        checkpoint: bool = True,
    ):
        num_a_step = num_coefficients or 1
        least_memory = math.ceil(math.sqrt(max_num_steps / num_a_step))
        segment_size = max(least_memory, _SMALLEST_SEGMENT) if checkpoint else max_num_steps
        self.segment_size = min(segment_size, max_num_steps)
        self._num_segments = -(-max_num_steps // self.segment_size)
        self.needs_dense = num_coefficients > 0
        self._num_coefficients = num_coefficients
        self._with_carry = with_carry

    def start(self, start: Point):
        size = self._num_segments * self.segment_size + 1
        times = room_for(start.t.dtype, size, start.t.shape)
        point = self._point(start)
        starts = []
        if self._num_segments > 1:
            # One slot more, where what is no segment's first goes.
            starts = write(state_arrays(point, self._num_segments + 1), 0, point)
        # Known, so that a slot that a solve without a step never writes can be read.
        leading = (self._num_coefficients,) if self.needs_dense else ()
        kept = start.y if self.needs_dense else point
        return times.write(0, start.t), starts, state_arrays(kept, self.segment_size, leading)

    def _point(self, at: Point | Slot) -> State:
        return [*at.y, *(at.carry or [])] if self._with_carry else at.y

    def record(self, saved, slot: Slot):
        times, starts, segment = saved
        times = times.write(slot.index + 1, slot.end)
        index, position = slot.index // self.segment_size, slot.index % self.segment_size
        point = self._point(slot)
        if starts:
            place = tf.where(tf.equal(position, 0), index, self._num_segments)
            starts = write(starts, place, point)
        return times, starts, write(segment, position, slot.dense if self.needs_dense else point)

    def finish(self, saved, t, y, num_slots):
        times, starts, segment = saved
        # A TensorArray can neither leave a function that XLA compiles, nor be captured by the
        # gradients of a SavedModel.
        if inside_xla():
            leave = lambda arrays, num: [array.stack() for array in arrays]
        else:
            # Stacking would allocate the slots that were never written, too.
            leave = lambda arrays, num: [array.gather(tf.range(num)) for array in arrays]
        num_starts = tf.maximum(num_slots - 1, 0) // self.segment_size + 1
        # A solve of several segments is going to be replayed; copying the last is no use.
        num_kept = tf.where(num_slots > self.segment_size, 1, tf.maximum(num_slots, 1))
        starts, segment = leave(starts, num_starts), leave(segment, num_kept)
        (times,) = leave([times], num_slots + 1)
        return times, starts, segment, num_slots

    def stored_solution(self, result, y0: State) -> StoredSolution:
        """The result, of a solve from `y0`, as the backward pass needs it."""
        times, starts, segment, num_steps = result
        if not inside_xla():  # there they have all their room
            # `evaluate` slices a whole segment, the last as well.
            num_segments = -(-tf.maximum(num_steps, 1) // self.segment_size)
            room = num_segments * self.segment_size + 1 - tf.shape(times)[0]
            times = tf.pad(times, [[0, room], *[[0, 0]] * (times.shape.rank - 1)])

        def enter(x, size):
            array = tf.TensorArray(x.dtype, size, element_shape=x.shape[1:], clear_after_read=False)
            # XLA has no scatter for arrays, but there they come back full.
            return array.unstack(x) if x.shape[0] == size else array.scatter(_rows_of(x), x)

        segment = [enter(x, self.segment_size) for x in segment]
        return StoredSolution(
            times, y0, starts, segment, num_steps, self.segment_size, self.needs_dense
        )


def _rows_of(x: tf.Tensor) -> tf.Tensor:
    return tf.range(tf.shape(x)[0])
