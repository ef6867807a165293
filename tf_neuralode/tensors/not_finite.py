"""NaN and infinity, made when they are needed and not before.

As constants they would stop every healthy solve under `tf.debugging.enable_check_numerics()`, which
looks at the results of all operations.
"""

from __future__ import annotations

import tensorflow as tf


def nan_unless(condition: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """0 where `condition` is true, otherwise NaN; of its shape."""
    zero = tf.constant(0.0, dtype.real_dtype)
    return tf.cast(tf.sqrt(tf.where(condition, zero, -tf.ones_like(zero))), dtype)


def or_nan(condition: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """`x` where `condition`, which broadcasts against it, is true; otherwise NaN."""
    return tf.where(condition, x, nan_unless(condition, x.dtype))


def infinite_if(condition: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Infinity where `condition` is true, otherwise 0; of its shape."""
    zero = tf.constant(0.0, dtype)
    return -tf.math.log(tf.where(condition, zero, tf.ones_like(zero)))


def quotient_or_zero(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """`a / b`, and 0 where `b` is; by operations that TF Lite has, too."""
    is_zero = tf.equal(b, 0)
    return tf.where(is_zero, tf.zeros_like(b), a / tf.where(is_zero, tf.ones_like(b), b))
