"""Dense output: the solution inside a step as a polynomial.

With theta = (t - t_n) / h in [0, 1], every method's interpolant is, with its own weights p,

    y(t) = y_n + h sum_i sum_j k_i p_ij theta^(j+1) = sum_m coefficients[m] theta^m

so that a step's dense solution is one tensor (num_coefficients, ...) for each leaf of the state.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf_neuralode.solvers.runge_kutta import State, scale


def coefficients(weights: np.ndarray, h: tf.Tensor, y: State, k: list[State]) -> State:
    """The polynomial's coefficients: for each leaf `(num_coefficients, *leaf.shape)`.

    Differentiable with respect to y and the slopes, for which h is a constant.
    """
    changes = [_changes(weights, h, [k_i[i] for k_i in k]) for i in range(len(y))]
    return [tf.concat([x[tf.newaxis], c], axis=0) for x, c in zip(y, changes, strict=True)]


def _changes(weights: np.ndarray, h: tf.Tensor, slopes: list[tf.Tensor]) -> tf.Tensor:
    """`h sum_i slopes[i] weights[i, m]` for all m.

    Not by a matrix product: on a GPU its factors would be rounded to ten bits (TensorFloat-32).
    """
    used = [i for i, row in enumerate(weights) if np.any(row)]

    def total(*slopes):
        products = [_column(weights[i], x) * x for i, x in zip(used, slopes, strict=True)]
        return scale(h, tf.add_n(products))

    inputs = [slopes[i] for i in used]
    if tf.executing_eagerly():
        return total(*inputs)

    @tf.custom_gradient
    def differentiable(*slopes):
        # As in `runge_kutta.advanced`: TensorFlow's own gradient would keep all slopes.
        return total(*slopes), lambda d: [scale(h, pull_back(weights[i], d)) for i in used]

    return differentiable(*inputs)


def pull_back(row: np.ndarray, d_changes: tf.Tensor) -> tf.Tensor:
    """Cotangent of a slope, over h, from that of the changes: `sum_m row[m] d_changes[m]`."""
    return tf.reduce_sum(_column(row, d_changes[0]) * d_changes, axis=0)


def _column(row: np.ndarray, like: tf.Tensor) -> tf.Tensor:
    """`row` along a new first axis in front of those of `like`."""
    return tf.constant(row.reshape([-1] + [1] * like.shape.rank), like.dtype)


def powers(theta: tf.Tensor, num_coefficients: int) -> tf.Tensor:
    """`theta^0 .. theta^(num_coefficients - 1)`, along a new last axis."""
    return tf.stack([theta**m for m in range(num_coefficients)], axis=-1)


def evaluate(coefs: State, theta: tf.Tensor) -> State:
    """The state at `theta`, a scalar or `(num,)`: each leaf `(*theta.shape, *leaf.shape)`."""
    return [_horner(tf.unstack(leaf), theta, leaf.shape.rank - 1) for leaf in coefs]


def evaluate_rows(coefs: tf.Tensor, theta: tf.Tensor) -> tf.Tensor:
    """A leaf at `theta` `(num,)`, from coefficients `(num, num_coefficients, *leaf.shape)`."""
    return _horner(tf.unstack(coefs, axis=1), theta, coefs.shape.rank - 2)


def _horner(terms: list[tf.Tensor], theta: tf.Tensor, rank: int) -> tf.Tensor:
    """`sum_m terms[m] theta^m`, theta in front of a state's `rank` axes."""
    shape = tf.concat([tf.shape(theta), [1] * rank], axis=0)
    theta = tf.cast(tf.reshape(theta, shape), terms[0].dtype)
    total = terms[-1]
    for term in terms[-2::-1]:
        total = total * theta + term
    return total
