"""Values that are missing: those before and behind them, channel by channel."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from tf_neuralode.tensors import nan_unless


class Observed(NamedTuple):
    """Values at all knots, and which of them are data.

    Attributes:
      times: Knots, like `values`, in their own dtype; `None` if nothing is missing.
      values: `([batch,] num_knots, channels)`, without NaN where something of the channel is there:
        what is missing is the last value, or anything; the first holds the nearest.
      is_there: Boolean, like `values`, true at both ends; `None` if nothing is missing.
    """

    times: tf.Tensor | None
    values: tf.Tensor
    is_there: tf.Tensor | None


def observed(times: tf.Tensor, values: tf.Tensor, mask: Any) -> Observed:
    """The data in `values`, of which NaN, and what `mask` says, is missing."""
    there = ~tf.math.is_nan(values)
    if mask is not None:
        mask = tf.cast(mask, tf.bool)
        there &= mask if mask.shape.rank == values.shape.rank else mask[..., tf.newaxis]
    known = tf.get_static_value(tf.reduce_all(there))
    if known is not None and bool(known):
        return Observed(None, values, None)
    times = tf.broadcast_to(times[..., tf.newaxis], tf.shape(values))
    values = tf.where(there, values, tf.zeros_like(values))
    before, behind = neighbours(there)
    num = tf.shape(values)[-2]
    place = tf.range(num)[:, tf.newaxis]
    is_first, is_last = tf.equal(place, 0), tf.equal(place, num - 1)
    nearest = tf.where(is_first, tf.minimum(behind, num - 1), tf.maximum(before, 0))
    # A channel without any is NaN.
    nothing = nan_unless(tf.reduce_any(there, axis=-2, keepdims=True), values.dtype)
    return Observed(times, at(values, nearest) + nothing, there | is_first | is_last)


def neighbours(there: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Indices of the nearest values there, up to each knot (or -1), and from it on (or num).

    Args:
      there: Boolean, `([batch,] num_knots, channels)`.
    """
    axis, num = there.shape.rank - 2, tf.shape(there)[-2]
    index = tf.broadcast_to(tf.range(num)[:, tf.newaxis], tf.shape(there))
    scan = lambda fn, x: tfp.math.scan_associative(fn, x, axis=axis)
    before = scan(tf.maximum, tf.where(there, index, -1))
    behind = tf.reverse(scan(tf.minimum, tf.reverse(tf.where(there, index, num), [axis])), [axis])
    return before, behind


def at(values: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """`values`, `([batch,] num_knots, channels)`, at the knots `index`, of the same shape."""
    swap = lambda x: tf.linalg.matrix_transpose(x)
    rank = values.shape.rank
    return swap(tf.gather(swap(values), swap(index), axis=-1, batch_dims=rank - 1))


def linear_in_gaps(data: Observed) -> tf.Tensor:
    """The values, and between those that are there a line."""
    if data.is_there is None:
        return data.values
    assert data.times is not None
    before, behind = neighbours(data.is_there)
    t0, t1 = at(data.times, before), at(data.times, behind)
    y0, y1 = at(data.values, before), at(data.values, behind)
    length = tf.where(t1 > t0, t1 - t0, tf.ones_like(t0))
    part = tf.cast((data.times - t0) / length, y0.dtype)
    # What is there stays as it is: an infinite one must not become NaN, and so be missing.
    return tf.where(data.is_there, data.values, y0 + part * (y1 - y0))


def last_in_gaps(data: Observed) -> tf.Tensor:
    """The values, and between those that are there the last one."""
    if data.is_there is None:
        return data.values
    before, _ = neighbours(data.is_there)
    return at(data.values, before)
