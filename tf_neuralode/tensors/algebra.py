"""Algebra of states: flat lists of tensors; what is shared by all their entries is a clock value.

A clock value, such as a time or a step size, is a scalar, or `(batch,)` where each sample of the
batch has its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_neuralode.tensors.xla import inside_xla

State = list[tf.Tensor]
Tensors = list[tf.Tensor]  # any others: parameters, say


def each(function: Callable[..., Any], *states: Sequence[Any]) -> list[Any]:
    """`function` of the leaves that stand in the same place."""
    return [function(*leaves) for leaves in zip(*states, strict=True)]


def add(a: State, b: State) -> State:
    """The sum of two states."""
    return each(tf.add, a, b)


def zeros_like(state: State) -> State:
    """Zeros in the place of all entries."""
    return each(tf.zeros_like, state)


def along(clock: tf.Tensor, leaf: tf.Tensor, num_axes_before: int = 0) -> tf.Tensor:
    """A clock value with as many axes as it needs to be combined with `leaf`.

    Args:
      clock: A scalar or `(batch,)`, or with axes in front of that.
      leaf: `(..., batch, ...)`; under XLA it may be held as a vector, see `field.flat_state`.
      num_axes_before: How many axes of the leaf come before that of the batch.
    """
    if clock.shape.rank == 0:
        return clock
    num_behind = leaf.shape.rank - num_axes_before - 1
    if num_behind == 0 and inside_xla():
        return _repeated(clock, tf.shape(leaf)[-1])
    return tf.reshape(clock, tf.concat([tf.shape(clock), [1] * num_behind], axis=0))


def _repeated(clock: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Each entry of the last axis as often as it takes to have `size` of them."""
    shape = tf.shape(clock)
    num = size // tf.maximum(shape[-1], 1)
    repeated = tf.broadcast_to(clock[..., tf.newaxis], tf.concat([shape, [num]], axis=0))
    return tf.reshape(repeated, tf.concat([shape[:-1], [size]], axis=0))


def spacing(t: tf.Tensor, num: float = 1.0) -> tf.Tensor:
    """Of the numbers near `t`, about, times `num`; a normal one, as denormal ones are flushed."""
    limits = np.finfo(t.dtype.as_numpy_dtype)
    eps, tiny = (tf.constant(x, t.dtype) for x in (num * limits.eps, limits.tiny))
    return tf.maximum(eps * tf.abs(t), tiny)


def in_rows(x: tf.Tensor, num: tf.Tensor) -> tf.Tensor:
    """`x` as `(num, size)`, for any number of axes of `x` that the rows are counted in."""
    return tf.reshape(x, tf.stack([num, tf.size(x) // tf.maximum(num, 1)]))


def scale(factor: tf.Tensor, tensor: tf.Tensor, num_axes_before: int = 0) -> tf.Tensor:
    """`factor * tensor` for a real clock value and a real or complex leaf; see `along`."""
    return along(tf.cast(factor, tensor.dtype), tensor, num_axes_before) * tensor


def keep(condition: tf.Tensor | None, new: State, old: State) -> State:
    """`new` where the clock's `condition` holds, otherwise `old`; `None` is true."""
    if condition is None:
        return new
    return each(lambda a, b: tf.where(along(condition, a), a, b), new, old)


def casts(
    tensors: State, dtype: tf.DType
) -> tuple[Callable[[State], State], Callable[[State], State]]:
    """Functions that give real tensors `dtype`, and that give them back their own dtypes."""
    own = [x.dtype for x in tensors]

    def cast(tensors: State, dtypes: Sequence[tf.DType]) -> State:
        one = lambda x, old, new: x if old.is_complex else tf.cast(x, new)
        return each(one, tensors, own, dtypes)

    return lambda xs: cast(xs, [dtype] * len(own)), lambda xs: cast(xs, own)


def weighted_sum(weights: Sequence[float], terms: Sequence[State]) -> State:
    """`sum_i weights[i] terms[i]`; a weight of zero costs nothing. The last term is the newest."""
    used = [(w, term) for w, term in zip(weights, terms, strict=True) if w != 0]
    if not used:
        return zeros_like(terms[0])

    def leaf(index: int) -> tf.Tensor:
        products = [
            # In the state's own precision: a cast of a Python float would go through float32.
            term[index] if w == 1 else tf.constant(w, term[index].dtype) * term[index]
            for w, term in used
        ]
        return products[0] if len(products) == 1 else tf.add_n(products)

    # The graph runtime would make the products for all later stages as soon as a slope is there,
    # and hold them until they are needed.
    with tf.control_dependencies(terms[-1]):
        return [leaf(i) for i in range(len(terms[0]))]


def advanced(y: State, h: tf.Tensor, weights: Sequence[float], slopes: Sequence[State]) -> State:
    """`y + h sum_i weights[i] slopes[i]`, differentiable with respect to y and the slopes alone.

    h is a constant of differentiation. TensorFlow's own gradient of a product wants both factors,
    so a loop that it differentiates would keep every slope of every step, to no use.
    """
    used = [(w, slope) for w, slope in zip(weights, slopes, strict=True) if w != 0]
    if not used:
        return list(y)
    weights, slopes = zip(*used, strict=True)
    with tf.control_dependencies(slopes[-1]):  # as in `weighted_sum`
        return [
            _advanced_leaf(leaf, h, weights, [slope[i] for slope in slopes])
            for i, leaf in enumerate(y)
        ]


def _advanced_leaf(
    leaf: tf.Tensor, h: tf.Tensor, weights: Sequence[float], slopes: Sequence[tf.Tensor]
) -> tf.Tensor:
    def factors() -> list[tf.Tensor]:
        # In the time's precision: a cast of a Python float would go through float32.
        column = tf.constant(weights, h.dtype, [len(weights)] + [1] * h.shape.rank)
        return [along(tf.cast(x, leaf.dtype), leaf) for x in tf.unstack(h * column)]

    def total(leaf: tf.Tensor, *slopes: tf.Tensor) -> tf.Tensor:
        return tf.add_n([leaf, *each(tf.multiply, factors(), slopes)])

    if tf.executing_eagerly():
        return total(leaf, *slopes)  # an eager tape keeps no factor that it doesn't need

    @tf.custom_gradient
    def differentiable(leaf, *slopes):
        return total(leaf, *slopes), lambda d: [d, *(c * d for c in factors())]

    return differentiable(leaf, *slopes)


def all_finite(clock: tf.Tensor, *states: State) -> tf.Tensor:
    """Whether all entries are, as a clock value like `clock`; in one pass over the states."""

    def one(*leaves: tf.Tensor) -> tf.Tensor:
        finite = functools.reduce(tf.logical_and, [tf.math.is_finite(tf.abs(x)) for x in leaves])
        axes = list(range(1, leaves[0].shape.rank)) if clock.shape.rank else None
        return tf.reduce_all(finite, axis=axes)

    return tf.reduce_all(each(one, *states), axis=0)
