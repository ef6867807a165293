"""Rows at output times under XLA: a step writes its own one by one, in a small loop."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tf_neuralode.methods import interpolation
from tf_neuralode.stepping.arrays import state_arrays, write
from tf_neuralode.stepping.types import Recorder
from tf_neuralode.tensors import State, add, each, quotient_or_zero, while_loop


def position(times, t, t_next):
    """Of `times` in the step from `t` to `t_next`; 0 where that has no length."""
    return quotient_or_zero(times - t, t_next - t)


class OneByOne(Recorder):
    """All rows in their place from the start: the first is that of the start, the last of the end.

    Args: as of `output_recorder`.
    """

    needs_dense = True

    def __init__(self, times: tf.Tensor, bounded: bool):
        self._times = times
        self._num = times.shape[0] or tf.shape(times)[0]
        self._max_num = times.shape[0] if bounded else None

    def start(self, start):
        return tf.constant(1), _rows_that_begin_with(start.y, self._num)

    def record(self, saved, slot):
        begin, rows = saved
        span = Span(self._times, slot.t, slot.t_next, self._max_num)
        # A rejected attempt gets nowhere.
        return _write_one_by_one(span, rows, slot.dense, begin, slot.end)

    def finish(self, saved, t, y, num_slots):
        del t, num_slots
        begin, rows = saved
        return _fill_up(rows, begin, y, self._max_num)


def _rows_that_begin_with(y: State, num) -> State:
    """The state in the first row; what is in the others doesn't matter, nor do their cotangents."""

    @tf.custom_gradient
    def repeated(*y):
        rows = [tf.repeat(x[tf.newaxis], num, axis=0) for x in y]
        return rows, lambda *d_rows: [tf.gather(d, 0) for d in d_rows]

    return list(repeated(*y))


def _fill_up(rows: State, begin, y: State, max_num=None) -> State:
    """The last state in all rows from `begin` on: in one, or after a failure, as NaN, in several.

    A loop for this one row, too: XLA joins a single write and the reshape behind it to an operation
    that copies all rows.
    """
    num_leaves, num = len(rows), rows[0].shape[0] or tf.shape(rows[0])[0]

    @tf.custom_gradient
    def filled(*rows_and_y):
        rows, y = list(rows_and_y[:num_leaves]), list(rows_and_y[num_leaves:])
        _, rows = while_loop(
            lambda i, _: i < num,
            lambda i, rows: (i + 1, _put(rows, i, y)),
            (begin, rows),
            maximum_iterations=max_num,
        )
        return rows, lambda *d_rows: [*d_rows, *[tf.gather(d, num - 1) for d in d_rows]]

    return list(filled(*rows, *y))


def _put(rows: State, index, y: State) -> State:
    """`rows` with another one at `index`. Under XLA an array is a tensor, and none is copied."""
    arrays = state_arrays(y, rows[0].shape[0] or tf.shape(rows[0])[0])
    arrays = each(lambda array, x: array.unstack(x), arrays, rows)
    arrays = write(arrays, index, y)
    return each(lambda array, x: tf.ensure_shape(array.stack(), x.shape), arrays, rows)


class Span(NamedTuple):
    """A step among the output times, for the small loops over those that lie in it.

    Attributes:
      times: `(num_times,)`.
      t, t_next: The step's ends.
      max_num: How often a loop can run at most, if XLA is to be told.
    """

    times: tf.Tensor
    t: tf.Tensor
    t_next: tf.Tensor
    max_num: int | None = None

    @property
    def theta(self) -> tf.Tensor:
        return position(self.times, self.t, self.t_next)

    def is_passed(self, index: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        """Whether that output time comes before `t`, or is `t`."""
        return tf.gather(self.times, index) <= t


def _write_one_by_one(span: Span, rows: State, dense: State, begin, reached):
    """`rows`, those of the times from `begin` on up to `reached` from a step's dense solution.

    Returns the index behind the last of them, too.
    """
    num_leaves, num = len(rows), dense[0].shape[0]
    last, theta = tf.shape(span.times)[0] - 1, span.theta

    @tf.custom_gradient
    def written(*rows_and_dense):
        rows, dense = list(rows_and_dense[:num_leaves]), list(rows_and_dense[num_leaves:])

        def is_left(i, _):
            return (i < last) & span.is_passed(i, reached)

        def one(i, rows):
            return i + 1, _put(rows, i, interpolation.evaluate(dense, tf.gather(theta, i)))

        end, rows = while_loop(is_left, one, (begin, rows), maximum_iterations=span.max_num)

        def backward(_, *d_rows):
            # A row is written once, or again after a rejected attempt, which has no gradient. So
            # what a row held before doesn't matter, and its cotangent needn't be set to zero: that
            # would copy the rows at each step.
            _, d_dense = pull_back_one_by_one(span, list(d_rows), end, num)
            return [*d_rows, *d_dense]

        return [end, *rows], backward

    end, *rows = written(*rows, *dense)
    return end, rows


def pull_back_one_by_one(span: Span, rows: State, end, num: int):
    """The transpose of `_write_one_by_one` for the dense solution, with the index `begin`."""
    # In a gradient that is differentiated itself an inner loop can't take tensors of the forward
    # loop, but what is made of them here.
    end = tf.identity(end)
    span = span._replace(t=tf.identity(span.t), t_next=tf.identity(span.t_next))
    theta = span.theta

    @tf.custom_gradient
    def pulled_back(*rows):
        def is_left(i, _):
            return (i > 1) & ~span.is_passed(tf.maximum(i - 1, 0), span.t)

        def one(i, sums):
            cotangents = [tf.gather(row, i - 1) for row in rows]
            parts = interpolation.pull_back_time(cotangents, tf.gather(theta, i - 1), num)
            return i - 1, add(sums, parts)

        shapes = [tf.concat([[num], tf.shape(row)[1:]], axis=0) for row in rows]
        zeros = each(lambda shape, row: tf.zeros(shape, row.dtype), shapes, rows)
        begin, sums = while_loop(is_left, one, (end, zeros), maximum_iterations=span.max_num)

        def backward(_, *d_dense):
            zeros = [tf.zeros_like(row) for row in rows]
            # Up to the last of this step's times.
            reached = tf.gather(span.times, end - 1)
            _, d_rows = _write_one_by_one(span, zeros, list(d_dense), begin, reached)
            return d_rows

        return [begin, *sums], backward

    begin, *sums = pulled_back(*rows)
    return begin, sums
