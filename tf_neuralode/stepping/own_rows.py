"""Rows at output times where each sample has its own, times or clock.

A step passes other times in each sample: it looks at the rows from the first to the last of those,
and writes each sample in those that it passes. In a graph that is done at once for all of them;
under XLA, where shapes are fixed, block by block of rows.
"""

from __future__ import annotations

import tensorflow as tf

from tf_neuralode.methods import interpolation
from tf_neuralode.stepping.arrays import state_arrays
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

# Rows of a block: few enough that little is done in vain, and enough that a turn of the loop, 10 us
# under XLA, is worth it.
_BLOCK = 32


class OwnRows(Recorder):
    """For each leaf `(num_times, batch, ...)`; NaN where a sample didn't get to.

    Args:
      times: `(num_times, batch)`, rising from the initial time on.
    """

    needs_dense = True

    def __init__(self, times: tf.Tensor) -> None:
        self._times = times
        self._blocks = _Blocks(times)

    def start(self, start):
        blocks, size = self._blocks, self._blocks.size
        repeated = [tf.repeat(x[tf.newaxis], blocks.num * size, axis=0) for x in start.y]
        arrays = state_arrays(start.y, blocks.num, (size,) if blocks.are_used else ())
        return each(lambda array, x: array.unstack(blocks.split(x)), arrays, repeated)

    def record(self, saved, slot):
        window = _Window(self._times, slot.t, slot.t_next, slot.end)
        blocks = self._blocks
        if blocks.are_used:

            def one(i, arrays):
                theta, passed = window.at(tf.gather(blocks.times, i))
                new = interpolation.evaluate(slot.dense, theta, clock_rank=1)
                write = lambda array, x: array.write(
                    i, tf.where(along(passed, x, 1), x, array.read(i))
                )
                return i + 1, each(write, arrays, new)

            return blocks.loop(window, one, saved)
        # One at least: from an array of unknown shapes TensorFlow can't gather nothing.
        begin = tf.minimum(window.begin, blocks.num - 1)
        index = tf.range(begin, tf.maximum(window.end, begin + 1))
        theta, passed = window.at(tf.gather(self._times, index))
        new = interpolation.evaluate(slot.dense, theta, clock_rank=1)

        def scattered(array, x):
            old = tf.reshape(array.gather(index), tf.shape(x))
            return array.scatter(index, tf.where(along(passed, x, 1), x, old))

        return each(scattered, saved, new)

    def finish(self, saved, t, y, num_slots):
        del num_slots

        def one(array, x):
            rows = self._blocks.joined(array.stack(), x)
            rows = tf.where(along(tf.equal(self._times, t), rows, 1), x[tf.newaxis], rows)
            return or_nan(along(self._times <= t, rows, 1), rows)

        return each(one, saved, y)


class OwnRowsBack:
    """Takes cotangents of rows back to the dense solutions of the steps that made them.

    Args:
      rows: Cotangents of all rows: for each leaf `(num_times, batch, ...)`.
      times: `(num_times, batch)`.
    """

    def __init__(self, rows: State, times: tf.Tensor) -> None:
        self._times, self._blocks, self._rows = times, _Blocks(times), rows
        if self._blocks.are_used:
            blocks = self._blocks
            self._rows = [blocks.split(blocks.padded(row)) for row in rows]

    def of_step(self, t: tf.Tensor, t_next: tf.Tensor, num: int) -> State:
        """Cotangents of a step's dense solution.

        Args:
          t, t_next: The step's ends, clock values.
          num: Number of coefficients of the dense solution.
        """
        window, blocks = _Window(self._times, t, t_next, t_next), self._blocks
        masked = lambda passed, x: tf.where(along(passed, x, 1), x, tf.zeros_like(x))
        if not blocks.are_used:
            theta, passed = window.at(self._times[window.begin : window.end])
            cotangents = [masked(passed, row[window.begin : window.end]) for row in self._rows]
            return interpolation.pull_back_times(cotangents, theta, num, clock_rank=1)

        def one(i, sums):
            theta, passed = window.at(tf.gather(blocks.times, i))
            cotangents = [masked(passed, tf.gather(row, i)) for row in self._rows]
            return i + 1, add(sums, interpolation.pull_back_times(cotangents, theta, num, 1))

        shapes = [tf.concat([[num], tf.shape(row)[2:]], axis=0) for row in self._rows]
        zeros = each(lambda shape, row: tf.zeros(shape, row.dtype), shapes, self._rows)
        return blocks.loop(window, one, zeros)


class _Blocks:
    """Rows in blocks, under XLA; in a graph each stands for itself.

    Attributes:
      are_used: Whether rows stand in blocks.
      num, size: Number of blocks, and of rows in each.
      times: `(num, size, batch)`; those that fill up the last one are never passed.
    """

    def __init__(self, times: tf.Tensor) -> None:
        self.are_used = inside_xla()
        self._num_rows = times.shape[0] or tf.shape(times)[0]
        self.size = min(_BLOCK, times.shape[0] or _BLOCK) if self.are_used else 1
        self.num = -(-self._num_rows // self.size)
        self._static = times.shape[0]
        if self.are_used:
            never = times.dtype.min
            self.times = self.split(self.padded(times, never))

    def padded(self, rows: tf.Tensor, value: float = 0.0) -> tf.Tensor:
        """`rows` and as many more as fill up the last block."""
        missing = self.num * self.size - self._num_rows
        paddings = [[0, missing], *[[0, 0]] * (rows.shape.rank - 1)]
        return tf.pad(rows, paddings, constant_values=tf.constant(value, rows.dtype))

    def split(self, rows: tf.Tensor) -> tf.Tensor:
        """`(num, size, ...)`, of all rows and those that fill up; in a graph `rows`."""
        if not self.are_used:
            return rows
        shape = [self.num, self.size]
        return tf.reshape(rows, tf.concat([shape, tf.shape(rows)[1:]], axis=0))

    def joined(self, blocks: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """The rows, each like `y`, in `blocks`."""
        shape = tf.concat([[self.num * self.size], tf.shape(y)], axis=0)
        rows = tf.reshape(blocks, shape)[: self._num_rows]
        return tf.ensure_shape(rows, [self._static, *y.shape])

    def loop(self, window: _Window, one, start: State) -> State:
        """`one(i, x)` gives `i + 1` and the next x, for each block that has rows in the window."""
        _, result = while_loop(
            lambda i, _: i * self.size < window.end,
            one,
            (window.begin // self.size, start),
            maximum_iterations=self.num,
        )
        return result


class _Window:
    """The rows that a step passes in any sample: from `begin` to before `end`."""

    def __init__(self, times: tf.Tensor, t: tf.Tensor, t_next: tf.Tensor, end: tf.Tensor) -> None:
        self._t, self._t_next, self._end = t, t_next, end
        num = times.shape[0] or tf.shape(times)[0]
        first, last = (tf.reduce_sum(tf.cast(times <= x, tf.int32), axis=0) for x in (t, end))
        passes = last > first
        # An empty batch has no smallest one.
        self.begin = tf.minimum(tf.reduce_min(tf.where(passes, first, num)), num)
        self.end = tf.maximum(tf.reduce_max(tf.where(passes, last, 0)), self.begin)

    def at(self, times: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Place in the step of `times`, `(num, batch)`, and whether the step passes them."""
        passed = (times > self._t) & (times <= self._end)
        theta = quotient_or_zero(times - self._t, self._t_next - self._t + tf.zeros_like(times))
        return tf.where(passed, theta, tf.zeros_like(theta)), passed
