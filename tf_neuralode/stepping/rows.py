"""The state at output times: from the dense solutions of steps to rows of a result, and back.

A step's rows are linear in its dense solution. How many they are is known at run time only: in a
graph a step treats all of its own at once, under XLA, where shapes are fixed, one by one, in a
small loop that costs little there.
"""

from __future__ import annotations

import tensorflow as tf

from tf_neuralode.methods import interpolation
from tf_neuralode.stepping.arrays import write
from tf_neuralode.stepping.own_rows import OwnRows
from tf_neuralode.stepping.rows_one_by_one import OneByOne, Span, position, pull_back_one_by_one
from tf_neuralode.stepping.types import Recorder
from tf_neuralode.tensors import State, each, inside_xla


def output_recorder(times: tf.Tensor, bounded: bool = False) -> Recorder:
    """Records the state at `times`: first, last, and by dense output those between.

    Derivatives, for which the times are constants, pass through it in every mode.

    Args:
      times: `(num_times,)`, sorted; or `(num_times, batch)` where each sample has its own.
      bounded: Whether XLA is told how often a small loop can run at most. It needs that for a
        second derivative, and it costs a tenth of a training step with many output times.

    Returns:
      A recorder whose result is, for each leaf, `(num_times, *leaf.shape)`. Times that were not
      reached hold NaN.
    """
    if times.shape[0] == 2:
        return _Ends()
    if times.shape.rank == 2:
        return OwnRows(times)
    return OneByOne(times, bounded) if inside_xla() else _AllOfAStep(times)


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

    return each(one, rows, y0)


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
        return pull_back_one_by_one(Span(times, t, t_next), rows, end, num)
    begin = tf.clip_by_value(_num_passed(times, t), 1, end)
    theta = position(times[begin:end], t, t_next)
    return begin, interpolation.pull_back_times([row[begin:end] for row in rows], theta, num)


def _num_passed(times, t):
    """How many of the sorted `times` come before `t`, or are `t`."""
    return tf.reduce_sum(tf.cast(times <= t, tf.int32))


class _Ends(Recorder):
    """First and last state: nothing to record, nothing to interpolate."""

    def __init__(self) -> None:
        self._y0: State = []

    def start(self, start):
        self._y0 = start.y
        return ()

    def record(self, saved, slot):
        del slot
        return saved

    def finish(self, saved, t, y, num_slots):
        del saved, t, num_slots
        return each(lambda a, b: tf.stack([a, b]), self._y0, y)


class _AllOfAStep(Recorder):
    """Pieces of rows, one for each attempt: in the end one copy of them all.

    A rejected attempt's piece is empty. The next attempt doesn't write over it, since TensorFlow's
    gradient of that would expect pieces of the same shape.
    """

    needs_dense = True

    def __init__(self, times: tf.Tensor):
        self._times = times
        self._num = times.shape[0] or tf.shape(times)[0]

    def start(self, start):
        arrays = [
            tf.TensorArray(
                x.dtype, 1, dynamic_size=True, infer_shape=False, element_shape=[None, *x.shape]
            )
            for x in start.y
        ]
        one = tf.constant(1)
        return one, one, write(arrays, 0, [x[tf.newaxis] for x in start.y])

    def record(self, saved, slot):
        num_pieces, begin, arrays = saved
        passed = _num_passed(self._times[:-1], slot.t_next)
        end = tf.where(slot.accepted, tf.maximum(passed, begin), begin)
        theta = position(self._times[begin:end], slot.t, slot.t_next)
        piece = interpolation.evaluate(slot.dense, theta)
        return num_pieces + 1, end, write(arrays, num_pieces, piece)

    def finish(self, saved, t, y, num_slots):
        del t, num_slots
        num_pieces, index, arrays = saved
        # The last row, or after a failure, as NaN, all that were not reached.
        last = [tf.repeat(x[tf.newaxis], self._num - index, axis=0) for x in y]
        arrays = write(arrays, num_pieces, last)
        num = self._times.shape[0]
        return each(lambda array, x: tf.ensure_shape(array.concat(), [num, *x.shape]), arrays, y)
