"""Rows at output times where each sample has its own, times or clock.

A step passes other times in each sample. It writes the rows from the first to the last of those,
and each sample in those that it passes: in a graph all at once, under XLA one by one.
"""

from __future__ import annotations

import tensorflow as tf

from tf_neuralode.methods import interpolation
from tf_neuralode.stepping.arrays import read, state_arrays, write
from tf_neuralode.stepping.types import Recorder
from tf_neuralode.tensors import (
    State,
    add,
    along,
    each,
    inside_xla,
    or_nan,
    quotient_or_zero,
    while_loop,
)


class OwnRows(Recorder):
    """For each leaf `(num_times, batch, ...)`; NaN where a sample didn't get to.

    Args:
      times: `(num_times, batch)`, rising from the initial time on.
    """

    needs_dense = True

    def __init__(self, times: tf.Tensor) -> None:
        self._times = times
        self._num = times.shape[0] or tf.shape(times)[0]

    def start(self, start):
        repeated = [tf.repeat(x[tf.newaxis], self._num, axis=0) for x in start.y]
        return each(lambda array, x: array.unstack(x), state_arrays(start.y, self._num), repeated)

    def record(self, saved, slot):
        window = _Window(self._times, slot.t, slot.t_next, slot.end)
        if inside_xla():

            def one(i, arrays):
                theta, passed = window.at(tf.gather(self._times, i))
                new = interpolation.evaluate(slot.dense, theta, clock_rank=1)
                row = each(lambda a, b: tf.where(along(passed, a), a, b), new, read(arrays, i))
                return i + 1, write(arrays, i, row)

            return window.loop(one, saved)
        index = tf.range(window.begin, window.end)
        theta, passed = window.at(self._times[window.begin : window.end])
        new = interpolation.evaluate(slot.dense, theta, clock_rank=1)

        def scattered(array, x):
            # What is gathered eagerly from no rows is float32.
            old = tf.reshape(tf.cast(array.gather(index), x.dtype), tf.shape(x))
            return array.scatter(index, tf.where(along(passed, x, 1), x, old))

        return each(scattered, saved, new)

    def finish(self, saved, t, y, num_slots):
        del num_slots

        def one(array, x):
            rows = array.stack()
            rows = tf.where(along(tf.equal(self._times, t), rows, 1), x[tf.newaxis], rows)
            return or_nan(along(self._times <= t, rows, 1), rows)

        return each(one, saved, y)


def pull_back_own_rows(
    rows: State, times: tf.Tensor, t: tf.Tensor, t_next: tf.Tensor, num: int
) -> State:
    """Cotangents of a step's dense solution, from those of the rows that it made.

    Args:
      rows: Cotangents of all rows: for each leaf `(num_times, batch, ...)`.
      times: `(num_times, batch)`.
      t, t_next: The step's ends, clock values.
      num: Number of coefficients of the dense solution.
    """
    window = _Window(times, t, t_next, t_next)
    masked = lambda passed, x, axes: tf.where(along(passed, x, axes), x, tf.zeros_like(x))
    if inside_xla():

        def one(i, sums):
            theta, passed = window.at(tf.gather(times, i))
            cotangents = [masked(passed, tf.gather(row, i), 0) for row in rows]
            return i + 1, add(sums, interpolation.pull_back_time(cotangents, theta, num, 1))

        shapes = [tf.concat([[num], tf.shape(row)[1:]], axis=0) for row in rows]
        return window.loop(one, each(lambda s, row: tf.zeros(s, row.dtype), shapes, rows))
    theta, passed = window.at(times[window.begin : window.end])
    cotangents = [masked(passed, row[window.begin : window.end], 1) for row in rows]
    return interpolation.pull_back_times(cotangents, theta, num, clock_rank=1)


class _Window:
    """The rows that a step passes in any sample: from `begin` to before `end`."""

    def __init__(self, times: tf.Tensor, t: tf.Tensor, t_next: tf.Tensor, end: tf.Tensor) -> None:
        self._t, self._t_next, self._end = t, t_next, end
        self._num = times.shape[0] or tf.shape(times)[0]
        first, last = (tf.reduce_sum(tf.cast(times <= x, tf.int32), axis=0) for x in (t, end))
        passes = last > first
        self.begin = tf.reduce_min(tf.where(passes, first, self._num))
        self.end = tf.maximum(tf.reduce_max(tf.where(passes, last, 0)), self.begin)

    def at(self, times: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Place in the step of `times`, `([num,] batch)`, and whether the step passes them."""
        passed = (times > self._t) & (times <= self._end)
        theta = quotient_or_zero(times - self._t, self._t_next - self._t + tf.zeros_like(times))
        return tf.where(passed, theta, tf.zeros_like(theta)), passed

    def loop(self, one, start: State) -> State:
        """`one(i, x)` gives `i + 1` and the next x, for each of the rows."""
        _, result = while_loop(
            lambda i, _: i < self.end, one, (self.begin, start), maximum_iterations=self._num
        )
        return result
