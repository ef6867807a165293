"""The state at output times: from the dense solutions of steps to rows of a result, and back.

A step's rows are linear in its dense solution. How many they are is known at run time only: in a
graph a step treats all of its own at once, under XLA, where shapes are fixed, one by one, in a
small loop that costs little there.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tf_neuralode.loops import while_loop
from tf_neuralode.not_finite import quotient_or_zero
from tf_neuralode.solvers import interpolation
from tf_neuralode.solvers.recording import Recorder, state_arrays, write
from tf_neuralode.solvers.runge_kutta import State
from tf_neuralode.xla import inside_xla


def output_recorder(times: tf.Tensor, bounded: bool = False) -> Recorder:
    """Records the state at `times`: first, last, and by dense output those between.

    Derivatives, for which the times are constants, pass through it in every mode.

    Args:
      times: `(num_times,)`, sorted.
      bounded: Whether XLA is told how often a small loop can run at most. It needs that for a
        second derivative, and it costs a tenth of a training step with many output times.

    Returns:
      A recorder whose result is, for each leaf, `(num_times, *leaf.shape)`. Times that were not
      reached hold NaN.
    """
    if times.shape[0] == 2:
        return _Ends()
    return _OneByOne(times, bounded) if inside_xla() else _AllOfAStep(times)


def repeat_rows(rows: State, y0: State, times: tf.Tensor) -> State:
    """`rows`, with one and the same for times that repeat, and so with one cotangent for all.

    At the initial time that is `y0`; at any other the last of the equal ones, since the last of all
    times is the end of the solve.

    Args:
      rows: For each leaf `(num_times, *leaf.shape)`.
      y0: The initial state.
      times: `(num_times,)`, sorted.
    """
    num = tf.shape(times)[0]
    group = tf.cumsum(tf.cast(tf.not_equal(times[1:], times[:-1]), tf.int32))
    group = tf.concat([[0], group], axis=0)
    last = tf.math.unsorted_segment_max(tf.range(num), group, num)
    at_start, index = tf.equal(group, 0), tf.gather(last, group)

    def one(row: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        chosen = tf.reshape(at_start, tf.concat([[num], tf.ones([tf.rank(y)], tf.int32)], axis=0))
        return tf.ensure_shape(tf.where(chosen, y[tf.newaxis], tf.gather(row, index)), row.shape)

    return [one(row, y) for row, y in zip(rows, y0, strict=True)]


def pull_back_rows(
    rows: State, times: tf.Tensor, end: tf.Tensor, t: tf.Tensor, t_next: tf.Tensor, num: int
) -> tuple[tf.Tensor, State]:
    """Cotangents of a step's dense solution, from those of the rows that it made.

    Args:
      rows: Cotangents of all rows: for each leaf `(num_times, *leaf.shape)`.
      times: `(num_times,)`; the first is no step's.
      end: Index behind the step's last output time.
      t, t_next: The step's ends.
      num: Number of coefficients of the dense solution.

    Returns:
      Index of the step's first output time, and for each leaf `(num, *leaf.shape)`.
    """
    if inside_xla():
        return _pull_back_one_by_one(_Span(times, t, t_next), rows, end, num)
    begin = tf.clip_by_value(_num_passed(times, t, t_next > t), 1, end)
    theta = _position(times[begin:end], t, t_next)
    return begin, interpolation.pull_back_times([row[begin:end] for row in rows], theta, num)


def _position(times, t, t_next):
    """In the step from `t` to `t_next`; 0 where that has no length."""
    h = t_next - t
    return quotient_or_zero(times - t, h)


def _num_passed(times, t, forwards):
    """How many of the sorted `times` come before `t`, or are `t`."""
    return tf.reduce_sum(tf.cast(_is_passed(times, t, forwards), tf.int32))


def _is_passed(time, t, forwards):
    return tf.where(forwards, time <= t, time >= t)


class _Ends(Recorder):
    """First and last state: nothing to record, nothing to interpolate."""

    def __init__(self) -> None:
        self._y0: State = []

    def start(self, t0, y0):
        del t0
        self._y0 = y0
        return ()

    def record(self, saved, step):
        del step
        return saved

    def finish(self, saved, t, y, num_accepted):
        del saved, t, num_accepted
        return [tf.stack([a, b]) for a, b in zip(self._y0, y, strict=True)]


class _BetweenTheEnds(Recorder):
    """What both modes share: the first row is that of the start, the last that of the end."""

    needs_dense = True

    def __init__(self, times: tf.Tensor):
        self._times = times
        self._num = times.shape[0] or tf.shape(times)[0]


class _AllOfAStep(_BetweenTheEnds):
    """Pieces of rows, one for each attempt: in the end one copy of them all.

    A rejected attempt's piece is empty. The next attempt doesn't write over it, since TensorFlow's
    gradient of that would expect pieces of the same shape.
    """

    def start(self, t0, y0):
        del t0
        arrays = [
            tf.TensorArray(
                x.dtype, 1, dynamic_size=True, infer_shape=False, element_shape=[None, *x.shape]
            )
            for x in y0
        ]
        one = tf.constant(1)
        return one, one, write(arrays, 0, [x[tf.newaxis] for x in y0])

    def record(self, saved, step):
        num_pieces, begin, arrays = saved
        passed = _num_passed(self._times[:-1], step.t_next, step.t_next > step.t)
        end = tf.where(step.accepted, tf.maximum(passed, begin), begin)
        theta = _position(self._times[begin:end], step.t, step.t_next)
        piece = interpolation.evaluate(step.dense, theta)
        return num_pieces + 1, end, write(arrays, num_pieces, piece)

    def finish(self, saved, t, y, num_accepted):
        del t, num_accepted
        num_pieces, index, arrays = saved
        # The last row, or after a failure, as NaN, all that were not reached.
        last = [tf.repeat(x[tf.newaxis], self._num - index, axis=0) for x in y]
        arrays = write(arrays, num_pieces, last)
        return [
            tf.ensure_shape(array.concat(), [self._times.shape[0], *x.shape])
            for array, x in zip(arrays, y, strict=True)
        ]


class _OneByOne(_BetweenTheEnds):
    """All rows in their place from the start."""

    def __init__(self, times: tf.Tensor, bounded: bool):
        super().__init__(times)
        self._max_num = times.shape[0] if bounded else None

    def start(self, t0, y0):
        del t0
        return tf.constant(1), _rows_that_begin_with(y0, self._num)

    def record(self, saved, step):
        begin, rows = saved
        # A rejected attempt gets nowhere.
        reached = tf.where(step.accepted, step.t_next, step.t)
        span = _Span(self._times, step.t, step.t_next, self._max_num)
        return _write_one_by_one(span, rows, step.dense, begin, reached)

    def finish(self, saved, t, y, num_accepted):
        del t, num_accepted
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
    arrays = [array.unstack(x) for array, x in zip(arrays, rows, strict=True)]
    arrays = write(arrays, index, y)
    return [tf.ensure_shape(a.stack(), x.shape) for a, x in zip(arrays, rows, strict=True)]


class _Span(NamedTuple):
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
        return _position(self.times, self.t, self.t_next)

    def is_passed(self, index: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        """Whether that output time comes before `t`, or is `t`."""
        return _is_passed(tf.gather(self.times, index), t, self.t_next > self.t)


def _write_one_by_one(span: _Span, rows: State, dense: State, begin, reached):
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
            _, d_dense = _pull_back_one_by_one(span, list(d_rows), end, num)
            return [*d_rows, *d_dense]

        return [end, *rows], backward

    end, *rows = written(*rows, *dense)
    return end, rows


def _pull_back_one_by_one(span: _Span, rows: State, end, num: int):
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
            return i - 1, [a + b for a, b in zip(sums, parts, strict=True)]

        shapes = [tf.concat([[num], tf.shape(row)[1:]], axis=0) for row in rows]
        zeros = [tf.zeros(s, row.dtype) for s, row in zip(shapes, rows, strict=True)]
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
