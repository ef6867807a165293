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
from collections.abc import Callable

import tensorflow as tf

from tf_neuralode.field import Field
from tf_neuralode.methods import Method, interpolation
from tf_neuralode.stepping import read, write
from tf_neuralode.tensors import State, inside_xla, keep, while_loop

Segment = list[tf.TensorArray]
# Gives the state at a time.
Reader = Callable[[tf.Tensor], State]


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
            on_step = field.on(t, t_next)
            if self.dense:
                carry = method.start(on_step, t, y)
            step = method.step(on_step, t, t_next, y, carry)
            num_evaluations += step.num_evaluations
            if self.dense:
                num_evaluations += 1 + method.num_dense_evaluations
                segment = write(segment, i, method.dense(on_step, t, t_next, y, step))
                return i + 1, step.y1, segment, num_evaluations
            # A sample with a clock of its own may rest.
            moved = tf.not_equal(t, t_next) if t.shape.rank else None
            y1, carry, num_behind = method.behind_step(field, t_next, step.y1, step.carry)
            num_evaluations += num_behind
            end = keep(moved, [*y1, *(carry or [])], start)
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

    def reader(self, index: tf.Tensor, segment: Segment, own_times: bool) -> Reader:
        """Of states in segment `index`, held in `segment` as dense solutions.

        Args:
          index: Of the segment.
          segment: Its steps.
          own_times: Whether it is read at times of each sample, `(batch,)`.
        """
        if not own_times:
            return lambda t: self._evaluate(t, index, segment)
        # Read out once, not at each time.
        _, num = self._ends(index)
        if inside_xla():
            coefs = [array.stack() for array in segment]
        else:
            coefs = [array.gather(tf.range(tf.maximum(num, 1))) for array in segment]
        return lambda t: interpolation.evaluate_samples(coefs, *self._place(t, index))

    def _evaluate(self, t: tf.Tensor, index: tf.Tensor, segment: Segment) -> State:
        i, theta = self._place(t, index)
        return interpolation.evaluate(read(segment, i), theta)

    def _place(self, t: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Which step of the segment holds time `t`, a clock value, and where in it."""
        times, num = self._ends(index)
        passed = times <= t[..., tf.newaxis]
        valid = tf.range(self.segment_size + 1) <= num
        i = tf.reduce_sum(tf.cast(passed & valid, tf.int32), axis=-1) - 1
        i = tf.clip_by_value(i, 0, tf.maximum(num - 1, 0))
        start, end = tf.gather(times, i), tf.gather(times, i + 1)
        return i, (t - start) / (end - start)

    def limit(self, t: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        """How far back a step from time `t`, a clock value, in segment `index` may go.

        So far that it isn't longer than any forward step that it overlaps: what made that one short
        may be nothing that the adjoint state sees. Forward step k, which ends at e_k and is h_k
        long, is left alone by a step that stops at e_k, and allows one of length h_k.
        """
        times, num = self._ends(index)
        starts, ends = times[:-1], times[1:]
        t = t[..., tf.newaxis]
        allowed = tf.minimum(ends, t - (ends - starts))
        overlapped = (tf.range(self.segment_size) < num) & (starts < t)
        return tf.reduce_max(tf.where(overlapped, allowed, starts[0]), axis=-1)

    def _ends(self, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Ends of a segment's steps, `(segment_size + 1,)`, and how many steps it has."""
        first = index * self.segment_size
        times = self.time(first + tf.range(self.segment_size + 1))
        return times, tf.minimum(self.num_steps - first, self.segment_size)
