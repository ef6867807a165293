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
    """The polynomial's coefficients: for each leaf `(num_coefficients, *leaf.shape)`."""
    result = []
    for i, leaf in enumerate(y):
        stacked = tf.stack([k_i[i] for k_i in k])
        flat = tf.reshape(stacked, [len(k), -1])
        matrix = tf.constant(weights.T, leaf.dtype)
        changes = scale(h, tf.linalg.matmul(matrix, flat))
        shape = tf.concat([[weights.shape[1]], tf.shape(leaf)], axis=0)
        changes = tf.ensure_shape(tf.reshape(changes, shape), [weights.shape[1], *leaf.shape])
        result.append(tf.concat([leaf[tf.newaxis], changes], axis=0))
    return result


def powers(theta: tf.Tensor, num_coefficients: int) -> tf.Tensor:
    """`theta^0 .. theta^(num_coefficients - 1)`, along a new last axis."""
    return tf.stack([theta**m for m in range(num_coefficients)], axis=-1)


def evaluate(coefs: State, theta: tf.Tensor) -> State:
    """The state at `theta`, a scalar or `(num,)`: each leaf `(*theta.shape, *leaf.shape)`."""
    thetas = tf.reshape(theta, [-1])
    result = []
    for leaf in coefs:
        num = leaf.shape[0]
        weights = tf.cast(powers(thetas, num), leaf.dtype)
        values = tf.linalg.matmul(weights, tf.reshape(leaf, [num, -1]))
        shape = tf.concat([tf.shape(theta), tf.shape(leaf)[1:]], axis=0)
        values = tf.reshape(values, shape)
        result.append(tf.ensure_shape(values, [*theta.shape, *leaf.shape[1:]]))
    return result


def evaluate_rows(coefs: tf.Tensor, theta: tf.Tensor) -> tf.Tensor:
    """A leaf at `theta` `(num,)`, from coefficients `(num, num_coefficients, *leaf.shape)`."""
    weights = tf.cast(powers(theta, coefs.shape[1]), coefs.dtype)
    return tf.einsum("nm,nm...->n...", weights, coefs)
