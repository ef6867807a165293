"""The gaps between observation times, in the times' own precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tf_neuralode.field import EPSILON, checked, unresolved
from tf_neuralode.layers.call_times import FAR, fill_masked
from tf_neuralode.tensors import or_nan

# So many gaps say whether times are resolved.
_MANY = 8


def gaps_between(times: tf.Tensor, mask: tf.Tensor | None, t0: Any, dtype: str) -> tf.Tensor:
    """How long it is from each time's predecessor to it, `(batch, num_times)`.

    Integers are subtracted as integers, other times in their own dtype.

    Args:
      times: `(batch, num_times)`.
      mask: Likewise, boolean, or `None`. The gap of a masked time is 0, and the predecessor is the
        last valid one.
      t0: The predecessor of the first valid time: a scalar or `(batch,)`; the first valid time
        itself, if `None`.
      dtype: Of the gaps.

    Raises:
      TypeError: for times that are no numbers.
      ValueError: for times that their dtype doesn't resolve, where the values are known.
      tf.errors.InvalidArgumentError: for such at run time; under XLA the gaps are NaN.
    """
    own = times.dtype
    if not (own.is_floating or own.is_integer):
        raise TypeError(f"Argument times must hold numbers. Received: dtype {own.name}")
    if own.is_integer:
        times = tf.cast(times, tf.int64)
    valid = tf.ones_like(times, tf.bool) if mask is None else mask
    is_first = valid & tf.equal(tf.cumsum(tf.cast(valid, tf.int32), axis=1), 1)
    first = tf.reduce_sum(tf.where(is_first, times, tf.zeros_like(times)), axis=1, keepdims=True)
    times = tf.concat([first, times], axis=1)
    if mask is not None:
        times = fill_masked(times, tf.concat([tf.ones_like(mask[:, :1]), mask], axis=1))
    # A layer of 16 bits casts behind the checks.
    wide = tf.float64 if dtype == "float64" else tf.float32
    gaps = tf.cast(times[:, 1:] - times[:, :-1], wide)
    counts = valid & ~is_first
    if t0 is not None:
        since_t0 = tf.cast(_difference(first, t0), wide)
        gaps += tf.where(is_first, since_t0, tf.zeros_like(gaps))
        counts = valid
    resolved = _resolved(times[:, 1:], gaps, counts, own)
    received = lambda: f"Received: times={times[:, 1:]}"
    gaps = checked(gaps, resolved, unresolved("Argument times", own), received, times)
    return tf.cast(or_nan(resolved, gaps), dtype)


def _difference(times: tf.Tensor, t0: Any) -> tf.Tensor:
    """`times`, `(batch, 1)`, since `t0`."""
    # TensorFlow would round Python's numbers to float32.
    t0 = tf.convert_to_tensor(t0 if tf.is_tensor(t0) else np.asarray(t0))
    if t0.shape.rank == 1:
        t0 = t0[:, tf.newaxis]
    both_whole = times.dtype.is_integer and t0.dtype.is_integer
    dtype = tf.int64 if both_whole else tf.float64
    return tf.cast(times, dtype) - tf.cast(t0, dtype)


def _resolved(times: tf.Tensor, gaps: tf.Tensor, counts: tf.Tensor, own: tf.DType) -> tf.Tensor:
    """Whether `times`, given in the dtype `own`, tell the gaps that count to 1 % in the mean."""
    if not own.is_floating:
        return tf.constant(True)
    times, gaps = tf.abs(tf.stop_gradient(times)), tf.abs(tf.stop_gradient(gaps))
    # A few may be close to each other, or round, by chance.
    few = tf.math.count_nonzero(counts) < _MANY
    if own != tf.float64:
        return few | _resolved_by(own, times, gaps, counts)
    # float64 that went through float32, as `fit` sends arrays.
    rounded = tf.equal(tf.cast(tf.cast(times, tf.float32), own), times) & (times >= FAR)
    fine = few | tf.reduce_any(counts & ~rounded)
    return fine | _resolved_by(tf.float32, times, gaps, counts)


def _resolved_by(
    dtype: tf.DType, times: tf.Tensor, gaps: tf.Tensor, counts: tf.Tensor
) -> tf.Tensor:
    eps = EPSILON[dtype.name]
    times = tf.cast(times, gaps.dtype)
    # Times may repeat, but where not even integers are held it is rather for want of bits.
    counts &= (gaps > 0) | (times >= 2 / eps)
    sum_of = lambda x: tf.reduce_sum(tf.where(counts, x, tf.zeros_like(x)))
    # A time is rounded by about eps times itself.
    return sum_of(gaps) >= 100 * eps * sum_of(times)
