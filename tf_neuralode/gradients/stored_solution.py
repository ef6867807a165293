"""The forward solution as the backward passes see it: checkpoints, re-solved where necessary.

With room for N steps in segments of K, a solve keeps the times of all N steps, the state at the
start of each segment (N / K of them) and one segment in full. A backward pass starts with the last
segment and solves each again from its checkpoint. A step of the segment is kept as its state, or as
the m coefficients of its dense solution: N / K + m K states in all, fewest for K = sqrt(N / m). A
solve of at most K steps has left its one segment in place, and nothing is solved again; where N is
no more than K, no code is made for it either.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import tensorflow as tf

from tf_neuralode.loops import while_loop
from tf_neuralode.solvers import interpolation
from tf_neuralode.solvers.method import Method
from tf_neuralode.solvers.recording import Recorder, Step, read, room_for, state_arrays, write
from tf_neuralode.solvers.runge_kutta import State
from tf_neuralode.xla import inside_xla

# Below this the memory is small in any case, and short solves should solve nothing again.
_SMALLEST_SEGMENT = 32

Segment = list[tf.TensorArray]


def num_evaluations_of_replay(method: Method, dense: bool) -> int:
    """Evaluations of f to take a known step again, with its dense solution or without."""
    if dense:
        return method.tableau.num_stages + len(method.extra_nodes)
    return method.num_evaluations_to_advance


@dataclasses.dataclass(frozen=True)
class StoredSolution:
    """Accepted steps of a forward solve.

    Attributes:
      times: Ends of the steps, valid up to `num_steps`; with room for whole segments.
      starts: State at the start of each segment: each leaf `(num_segments, *leaf.shape)`; empty if
        there can't be several.
      segment: Steps of the first segment: their states at the start, or dense solutions. Without
        meaning if there are several.
      num_steps: Number of accepted steps.
      end: State at the final time; NaN after a failure.
      segment_size: Steps a segment.
    """

    times: tf.Tensor
    starts: State
    segment: Segment
    num_steps: tf.Tensor
    end: State
    segment_size: int

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

    def resolve(
        self,
        needed: tf.Tensor,
        index: tf.Tensor,
        segment: Segment,
        method: Method,
        f: Callable[[tf.Tensor, State], State],
        dense: bool,
    ) -> tuple[Segment, tf.Tensor]:
        """Fills `segment` with the steps of segment `index` if `needed` and there are several.

        Otherwise a loop of no iterations, which under XLA is cheaper than a branch. Returns the
        segment and the number of evaluations of f.
        """
        if not self.starts:
            return segment, tf.constant(0)
        first = index * self.segment_size
        num_steps = tf.minimum(self.segment_size, self.num_steps - first)
        if not dense:
            # The state behind the last step isn't wanted.
            num_steps -= 1
        num_steps = tf.where(needed & self.has_several_segments, num_steps, 0)

        def step(i, y, segment):
            t, t_next = self.time(first + i), self.time(first + i + 1)
            if dense:
                taken = method.step(f, t, t_next, y, f(t, y))
                coefficients = method.dense_coefficients(f, taken, t, t_next, y)
                return i + 1, taken.y1, write(segment, i, coefficients)
            y = method.advance(f, t, t_next, y)
            return i + 1, y, write(segment, i + 1, y)

        y = [tf.gather(x, index) for x in self.starts]
        if not dense:
            # The segment under work begins with this state in any case.
            segment = write(segment, 0, y)
        _, _, segment = while_loop(lambda i, *_: i < num_steps, step, (tf.constant(0), y, segment))
        return segment, num_steps * num_evaluations_of_replay(method, dense)

    def evaluate(self, t: tf.Tensor, index: tf.Tensor, segment: Segment) -> State:
        """The state at time `t` from segment `index`, held in `segment` as dense solutions."""
        times, num = self._ends(index)
        passed = tf.where(times[1] > times[0], times <= t, times >= t)
        valid = tf.range(self.segment_size + 1) <= num
        i = tf.reduce_sum(tf.cast(passed & valid, tf.int32)) - 1
        i = tf.clip_by_value(i, 0, tf.maximum(num - 1, 0))
        start, end = tf.gather(times, i), tf.gather(times, i + 1)
        return interpolation.evaluate(read(segment, i), (t - start) / (end - start))

    def limit(self, t: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        """How far back a step from time `t` in segment `index` may go, see `runge_kutta.Limit`.

        So far that it isn't longer than any forward step that it overlaps: what made that one short
        may be nothing that the adjoint state sees. Forward step k, which ends at e_k and is h_k
        long, is left alone by a step that stops at e_k, and allows one of length h_k.
        """
        times, num = self._ends(index)
        direction = tf.sign(times[1] - times[0])
        starts, ends = direction * times[:-1], direction * times[1:]
        now = direction * t
        allowed = tf.minimum(ends, now - (ends - starts))
        overlapped = (tf.range(self.segment_size) < num) & (starts < now)
        allowed = tf.where(overlapped, allowed, starts[0])
        return direction * tf.reduce_max(allowed)

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
        of the method, see `interpolation`), or 0 for their states at the start alone.
      checkpoint: If false, all steps are one segment: more memory, nothing is solved again.

    Result: `(times, starts, segment, num_steps, end)`, for `stored_solution`.
    """

    def __init__(self, max_num_steps: int, num_coefficients: int = 0, checkpoint: bool = True):
        least_memory = math.ceil(math.sqrt(max_num_steps / max(num_coefficients, 1)))
        segment_size = max(least_memory, _SMALLEST_SEGMENT) if checkpoint else max_num_steps
        self.segment_size = min(segment_size, max_num_steps)
        self._num_segments = -(-max_num_steps // self.segment_size)
        self.needs_dense = num_coefficients > 0
        self._num_coefficients = num_coefficients

    def start(self, t0, y0):
        size = self._num_segments * self.segment_size + 1
        times = room_for(t0.dtype, size, [])
        starts = []
        if self._num_segments > 1:
            # One slot more, where the states go that are no segment's first.
            starts = write(state_arrays(y0, self._num_segments + 1), 0, y0)
        # Known, so that a slot that a solve without a step never writes can be read.
        leading = (self._num_coefficients,) if self.needs_dense else ()
        return times.write(0, t0), starts, state_arrays(y0, self.segment_size, leading)

    def record(self, saved, step: Step):
        times, starts, segment = saved
        times = times.write(step.index + 1, step.t_next)
        index, position = step.index // self.segment_size, step.index % self.segment_size
        if starts:
            slot = tf.where(tf.equal(position, 0), index, self._num_segments)
            starts = write(starts, slot, step.y)
        return times, starts, write(segment, position, step.dense if self.needs_dense else step.y)

    def finish(self, saved, t, y, num_accepted):
        times, starts, segment = saved
        # A TensorArray can neither leave a function that XLA compiles, nor be captured by the
        # gradients of a SavedModel.
        if inside_xla():
            leave = lambda arrays, num: [array.stack() for array in arrays]
        else:
            # Stacking would allocate the slots that were never written, too.
            leave = lambda arrays, num: [array.gather(tf.range(num)) for array in arrays]
        num_starts = tf.maximum(num_accepted - 1, 0) // self.segment_size + 1
        # A solve of several segments is going to be solved again; copying the last is no use.
        num_kept = tf.where(num_accepted > self.segment_size, 1, tf.maximum(num_accepted, 1))
        starts, segment = leave(starts, num_starts), leave(segment, num_kept)
        (times,) = leave([times], num_accepted + 1)
        return times, starts, segment, num_accepted, y

    def stored_solution(self, result) -> StoredSolution:
        """The result as the backward pass needs it."""
        times, starts, segment, num_steps, end = result
        if not inside_xla():  # there they have all their room
            # `evaluate` slices a whole segment, the last as well.
            num_segments = -(-tf.maximum(num_steps, 1) // self.segment_size)
            room = num_segments * self.segment_size + 1 - tf.shape(times)[0]
            times = tf.pad(times, [[0, room]])

        def enter(x, size):
            array = tf.TensorArray(x.dtype, size, element_shape=x.shape[1:], clear_after_read=False)
            # XLA has no scatter for arrays, but there they come back full.
            return array.unstack(x) if x.shape[0] == size else array.scatter(_rows_of(x), x)

        segment = [enter(x, self.segment_size) for x in segment]
        return StoredSolution(times, starts, segment, num_steps, end, self.segment_size)


def _rows_of(x: tf.Tensor) -> tf.Tensor:
    return tf.range(tf.shape(x)[0])
