"""What a backward pass begins with: the cotangents of the states at the output times."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tf_neuralode.methods import Method
from tf_neuralode.stepping import pull_back_own_rows, pull_back_rows
from tf_neuralode.tensors import State, along


@dataclasses.dataclass(frozen=True)
class OutputCotangents:
    """Derivatives of the loss with respect to the state at the output times.

    Attributes:
      rows: For each leaf `(num_times, *leaf.shape)`.
      times: `(num_times,)`.
    """

    rows: State
    times: tf.Tensor

    @property
    def num_times(self):
        return self.times.shape[0] or tf.shape(self.times)[0]

    def at(self, index) -> State:
        return [tf.gather(row, index) for row in self.rows]

    def at_end(self) -> State:
        return self.at(self.num_times - 1)

    def at_start(self) -> State:
        return self.at(0)

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

    def of_step(self, index, t, t_next, method):
        rows, num = [row[:-1] for row in self.rows], method.num_coefficients
        return index, pull_back_own_rows(rows, self.times[:-1], t, t_next, num)


def output_cotangents(rows: State, times: tf.Tensor) -> OutputCotangents:
    """Of rows at `times`, shared or of each sample."""
    return (OwnCotangents if times.shape.rank > 1 else OutputCotangents)(rows, times)
