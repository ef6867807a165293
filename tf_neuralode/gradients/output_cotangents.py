"""What a backward pass begins with: the cotangents of the states at the output times."""

from __future__ import annotations

import dataclasses
import functools

import tensorflow as tf

from tf_neuralode.methods import Method
from tf_neuralode.stepping import OwnRowsBack, StepHistory, pull_back_rows
from tf_neuralode.tensors import State, along, in_rows


@dataclasses.dataclass(frozen=True)
class OutputCotangents:
    """Derivatives of the loss with respect to the state at the output times.

    Attributes:
      rows: For each leaf `(num_times, *leaf.shape)`.
      times: `(num_times,)`.
      steps: Those with respect to the steps of a dense solution, or `None`.
    """

    rows: State
    times: tf.Tensor
    steps: StepHistory | None = None

    @property
    def num_times(self):
        return self.times.shape[0] or tf.shape(self.times)[0]

    def at(self, index) -> State:
        return [tf.gather(row, index) for row in self.rows]

    def at_end(self) -> State:
        return self.at(self.num_times - 1)

    def at_start(self) -> State:
        return self.at(0)

    def merged(self) -> OutputCotangents:
        """The same with one row for times that repeat, the last of them; 0 in the others.

        Of shared times that is so: where they may repeat their rows have been made one.
        """
        return self

    def before(self, t: tf.Tensor) -> tuple[tf.Tensor, State]:
        """The last output time before `t`, or the first, and its row."""
        index = self._last_before(t)
        return tf.gather(self.times, index), self.at(index)

    def _last_before(self, t: tf.Tensor) -> tf.Tensor:
        num_before = tf.reduce_sum(tf.cast(self.times < t, tf.int32), axis=0)
        return tf.maximum(num_before - 1, 0)

    def prepare(self) -> None:
        """To be called outside of the loop that calls `of_step`."""

    def of_step(self, index, t, t_next, method: Method):
        """Cotangents of a step's dense solution from the output times inside the step.

        Args:
          index: Last output time that has not been treated; the first is never treated here.

        Returns:
          The next index, and for each leaf `(num_coefficients, *leaf.shape)`.
        """
        begin, d_dense = pull_back_rows(
            self.rows, self.times, index + 1, t, t_next, method.num_coefficients
        )
        return begin - 1, d_dense


class OwnCotangents(OutputCotangents):
    """The same where each sample has its own times, `(num_times, batch)`.

    The last row is that of the end, and others may be, too; by dense output they are the same.
    """

    def at_start(self):
        starts = tf.equal(self.times[:-1], self.times[0])
        zero_behind = lambda row: tf.where(along(starts, row, 1), row[:-1], tf.zeros_like(row[:-1]))
        return [tf.reduce_sum(zero_behind(row), axis=0) for row in self.rows]

    def merged(self):
        num, batch = tf.unstack(tf.shape(self.times))
        is_new = tf.cast(tf.not_equal(self.times[1:], self.times[:-1]), tf.int32)
        # Of groups of equal times, counted from the last one: they move up to the end.
        group = tf.cumsum(tf.pad(is_new, [[0, 1], [0, 0]]), reverse=True)
        place = tf.reshape((num - 1 - group) * batch + tf.range(batch), [-1])

        def one(row: tf.Tensor) -> tf.Tensor:
            sums = tf.math.unsorted_segment_sum(in_rows(row, num * batch), place, num * batch)
            return tf.reshape(sums, tf.shape(row))

        times = tf.math.unsorted_segment_max(tf.reshape(self.times, [-1]), place, num * batch)
        times = tf.maximum(tf.reshape(times, tf.shape(self.times)), self.times[0])
        times = tf.ensure_shape(times, self.times.shape)
        return OwnCotangents([one(row) for row in self.rows], times)

    def before(self, t):
        num, batch = tf.unstack(tf.shape(self.times))
        place = self._last_before(t) * batch + tf.range(batch)

        def one(row: tf.Tensor) -> tf.Tensor:
            chosen = tf.gather(in_rows(row, num * batch), place)
            return tf.ensure_shape(tf.reshape(chosen, tf.shape(row)[1:]), row.shape[1:])

        return tf.gather(tf.reshape(self.times, [-1]), place), [one(row) for row in self.rows]

    def of_step(self, index, t, t_next, method):
        return index, self._back.of_step(t, t_next, method.num_coefficients)

    @functools.cached_property
    def _back(self) -> OwnRowsBack:
        return OwnRowsBack([row[:-1] for row in self.rows], self.times[:-1])

    def prepare(self):
        _ = self._back


def output_cotangents(
    rows: State, times: tf.Tensor, steps: StepHistory | None = None
) -> OutputCotangents:
    """Of rows at `times`, shared or of each sample, and of kept `steps`."""
    return (OwnCotangents if times.shape.rank > 1 else OutputCotangents)(rows, times, steps)
