"""The forward solution as the backward passes see it: checkpoints, replayed where necessary.

With room for N steps in segments of K, a solve keeps the times of all N steps, the state at the
start of each segment (N / K of them) and one segment in full. A backward pass starts with the last
segment and replays each from its checkpoint. A step of the segment is kept as what it began with,
or as the m coefficients of its dense solution: N / K + m K states in all, fewest for
K = sqrt(N / m). A
solve of at most K steps has left its one segment in place, and nothing is replayed; where N is no
more than K, no code is made for it either.
"""

from __future__ import annotations

import dataclasses
import math

import tensorflow as tf

from tf_neuralode.field import Field
from tf_neuralode.methods import Method, interpolation
from tf_neuralode.stepping import Point, Recorder, Slot, read, room_for, state_arrays, write
from tf_neuralode.tensors import State, inside_xla, keep, while_loop

# Below this the memory is small in any case, and short solves should solve nothing again.
_SMALLEST_SEGMENT = 32

Segment = list[tf.TensorArray]


@dataclasses.dataclass(frozen=True)
class StoredSolution:
    """Accepted steps of a forward solve.

    Attributes:
      times: Ends of the steps, valid up to `num_steps`; with room for whole segments.
      y0: State at the initial time.
      starts: What each segment begins with, the state or state and carry: each leaf
        `(num_segments, *leaf.shape)`; empty if there can't be several.
      segment: Steps of the first segment: what they begin with, or dense solutions. Without meaning
        if there are several.
      num_steps: Number of accepted steps.
      segment_size: Steps a segment.
      dense: Whether segments hold dense solutions.
    """

    times: tf.Tensor
    y0: State
    starts: State
    segment: Segment
    num_steps: tf.Tensor
    segment_size: int
    dense: bool

    @property
    def last_index(self) -> tf.Tensor:
        """Index of the last segment."""
        return tf.maximum(self.num_steps - 1, 0) // self.segment_size

    @property
    def has_several_segments(self) -> tf.Tensor:
        return self.num_steps > self.segment_size

    def time(self, index: tf.Tensor) -> tf.Tensor:
        """End of a step, or of several.

        Not by an index in brackets: it can depend on the number of steps, which TensorFlow would
        then take for a constant of the backward pass where XLA compiles that by itself, as for
        `NeuralODE(jit_compile=True)`, and compile it anew for each number of steps.
        """
        return tf.gather(self.times, index)

    def replay(
        self, needed: tf.Tensor, index: tf.Tensor, segment: Segment, method: Method, field: Field
    ) -> tuple[Segment, tf.Tensor]:
        """Fills `segment` with the steps of segment `index` if `needed` and there are several.

        Otherwise a loop of no iterations, which under XLA is cheaper than a branch. Returns the
        segment and the number of evaluations of f.
        """
        if not self.starts:
            return segment, tf.constant(0)
        first = index * self.segment_size
        num_steps = tf.minimum(self.segment_size, self.num_steps - first)
        if not self.dense:
            # What is behind the last step isn't wanted.
            num_steps -= 1
        num_steps = tf.where(needed & self.has_several_segments, num_steps, 0)

        def one(i, start, segment, num_evaluations):
            t, t_next = self.time(first + i), self.time(first + i + 1)
            y, carry = self.split(start)
            if self.dense:
                carry = method.start(field, t, y)
            step = method.step(field, t, t_next, y, carry)
            num_evaluations += step.num_evaluations
            if self.dense:
                num_evaluations += 1 + method.num_dense_evaluations
                segment = write(segment, i, method.dense(field, t, t_next, y, step))
                return i + 1, step.y1, segment, num_evaluations
            # A sample with a clock of its own may rest.
            moved = tf.not_equal(t, t_next) if t.shape.rank else None
            end = keep(moved, [*step.y1, *(step.carry or [])], start)
            return i + 1, end, write(segment, i + 1, end), num_evaluations

        start = [tf.gather(x, index) for x in self.starts]
        if not self.dense:
            # The segment under work begins with this in any case.
            segment = write(segment, 0, start)
        zero = tf.constant(0)
        _, _, segment, num_evaluations = while_loop(
            lambda i, start, segment, num: i < num_steps, one, (zero, start, segment, zero)
        )
        return segment, num_evaluations

    def split(self, point: State) -> tuple[State, State | None]:
        """State and carry of what a step begins with; `None` if no carry is kept."""
        num = len(self.y0)
        return point[:num], point[num:] or None

    def evaluate(self, t: tf.Tensor, index: tf.Tensor, segment: Segment) -> State:
        """The state at time `t` from segment `index`, held in `segment` as dense solutions."""
        times, num = self._ends(index)
        passed = times <= t
        valid = tf.range(self.segment_size + 1) <= num
        i = tf.reduce_sum(tf.cast(passed & valid, tf.int32)) - 1
        i = tf.clip_by_value(i, 0, tf.maximum(num - 1, 0))
        start, end = tf.gather(times, i), tf.gather(times, i + 1)
        return interpolation.evaluate(read(segment, i), (t - start) / (end - start))

    def limit(self, t: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        """How far back a step from time `t` in segment `index` may go.

        So far that it isn't longer than any forward step that it overlaps: what made that one short
        may be nothing that the adjoint state sees. Forward step k, which ends at e_k and is h_k
        long, is left alone by a step that stops at e_k, and allows one of length h_k.
        """
        times, num = self._ends(index)
        starts, ends = times[:-1], times[1:]
        allowed = tf.minimum(ends, t - (ends - starts))
        overlapped = (tf.range(self.segment_size) < num) & (starts < t)
        return tf.reduce_max(tf.where(overlapped, allowed, starts[0]))

    def _ends(self, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Ends of a segment's steps, `(segment_size + 1,)`, and how many steps it has."""
        first = index * self.segment_size
        times = self.time(first + tf.range(self.segment_size + 1))
        return times, tf.minimum(self.num_steps - first, self.segment_size)


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
