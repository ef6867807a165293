"""Dense output: the solution inside a step as a polynomial.

With theta = (t - t_n) / h in [0, 1], every method's interpolant is, with its own weights p,

    y(t) = y_n + h sum_i sum_j k_i p_ij theta^(j+1) = sum_m coefficients[m] theta^m

so that a step's dense solution is one tensor (num_coefficients, ...) for each leaf of the state.
theta is a clock value, see `tensors.algebra`, with an axis of times in front of it or not.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf_neuralode.tensors import State, along, in_rows, scale


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
        return scale(h, tf.add_n(products), num_axes_before=1)

    inputs = [slopes[i] for i in used]
    if tf.executing_eagerly():
        return total(*inputs)

    @tf.custom_gradient
    def differentiable(*slopes):
        # As in `algebra.advanced`: TensorFlow's own gradient would keep all slopes.
        return total(*slopes), lambda d: [scale(h, pull_back(weights[i], d)) for i in used]

    return differentiable(*inputs)


def pull_back(row: np.ndarray, d_changes: tf.Tensor) -> tf.Tensor:
    """Cotangent of a slope, over h, from that of the changes: `sum_m row[m] d_changes[m]`."""
    return tf.reduce_sum(_column(row, d_changes[0]) * d_changes, axis=0)


def _column(row: np.ndarray, like: tf.Tensor) -> tf.Tensor:
    """`row` along a new first axis in front of those of `like`."""
    return tf.constant(row.reshape([-1] + [1] * like.shape.rank), like.dtype)


def evaluate(coefs: State, theta: tf.Tensor, clock_rank: int = 0) -> State:
    """The state at `theta`, or at several: each leaf `([num,] *leaf.shape)`.

    Differentiable with respect to the coefficients, for which theta is a constant.

    Args:
      coefs: For each leaf `(num_coefficients, *leaf.shape)`.
      theta: `([num,] *clock)`.
      clock_rank: 0 where the state has one clock, 1 where each sample has its own.
    """
    return [_evaluated(leaf, theta, clock_rank) for leaf in coefs]


def _evaluated(coefs: tf.Tensor, theta: tf.Tensor, clock_rank: int) -> tf.Tensor:
    def horner(coefs):
        terms = tf.unstack(coefs)
        return _horner(terms, _against(theta, terms[0], clock_rank))

    if tf.executing_eagerly():
        return horner(coefs)

    @tf.custom_gradient
    def differentiable(coefs):
        # As in `algebra.advanced`: TensorFlow's own gradient would keep all partial sums.
        pull_back = pull_back_times if theta.shape.rank > clock_rank else pull_back_time
        return horner(coefs), lambda d: pull_back([d], theta, coefs.shape[0], clock_rank)[0]

    return differentiable(coefs)


def evaluate_rows(coefs: tf.Tensor, theta: tf.Tensor) -> tf.Tensor:
    """A leaf at `theta` `(num,)`, from coefficients `(num, num_coefficients, *leaf.shape)`."""
    terms = tf.unstack(coefs, axis=1)
    return _horner(terms, _against(theta, terms[0], clock_rank=1))


def evaluate_samples(steps: State, index: tf.Tensor, theta: tf.Tensor) -> State:
    """States of a batch whose samples are each at a place of its own, in steps that they share.

    Args:
      steps: For each leaf `(num_steps, num_coefficients, *leaf.shape)`.
      index: Of the step, `(..., batch)`.
      theta: Place in it, `(..., batch)`.

    Returns:
      For each leaf `(..., *leaf.shape)`.
    """
    batch = tf.shape(index)[-1]

    def one(leaf: tf.Tensor) -> tf.Tensor:
        num = leaf.shape[1]
        rows = in_rows(leaf, tf.shape(leaf)[0] * num * batch)
        first = index * num * batch + tf.range(batch)
        terms = [tf.gather(rows, first + m * batch) for m in range(num)]
        state = _horner(terms, theta[..., tf.newaxis])
        return tf.reshape(state, tf.concat([tf.shape(index)[:-1], tf.shape(leaf)[2:]], axis=0))

    return [one(leaf) for leaf in steps]


def pull_back_time(
    cotangents: State, theta: tf.Tensor, num_coefficients: int, clock_rank: int = 0
) -> State:
    """As `pull_back_times`, for the state at one time: one product, which XLA fuses."""
    powers = tf.stack([theta**m for m in range(num_coefficients)])
    return [_against(powers, x[tf.newaxis], clock_rank, 1) * x[tf.newaxis] for x in cotangents]


def pull_back_times(
    cotangents: State, theta: tf.Tensor, num_coefficients: int, clock_rank: int = 0
) -> State:
    """Cotangents of the coefficients, from those of the states that `evaluate` has at `theta`.

    With y(t_i) = sum_m theta_i^m coefficients[m] they are `sum_i theta_i^m cotangents[i]`.

    Args:
      cotangents: For each leaf `(num, *leaf.shape)`.
      theta: `(num, *clock)`.
      num_coefficients: How many m.
      clock_rank: As in `evaluate`.

    Returns:
      For each leaf `(num_coefficients, *leaf.shape)`; zeros if there are no times.
    """

    def sums(rows):
        column = _against(theta, rows, clock_rank, 1)
        terms = [tf.reduce_sum(rows, axis=0)]
        for _ in range(num_coefficients - 1):
            rows = rows * column
            terms.append(tf.reduce_sum(rows, axis=0))
        return tf.stack(terms)

    return [sums(rows) for rows in cotangents]


def _horner(terms: list[tf.Tensor], theta: tf.Tensor) -> tf.Tensor:
    """`sum_m terms[m] theta^m`."""
    theta = tf.cast(theta, terms[0].dtype)
    total = terms[-1]
    for term in terms[-2::-1]:
        total = total * theta + term
    return total


def _against(
    theta: tf.Tensor, leaf: tf.Tensor, clock_rank: int, num_axes_before: int = 0
) -> tf.Tensor:
    """`theta`, `([num,] *clock)`, with the axes it needs to be combined with `leaf`.

    Args:
      theta: Places in a step.
      leaf: `(..., *leaf.shape)`.
      clock_rank: As in `evaluate`.
      num_axes_before: How many axes it has in front of a state's.
    """
    theta = tf.cast(theta, leaf.dtype)
    if clock_rank:
        return along(theta, leaf, num_axes_before)
    behind = [1] * (leaf.shape.rank - num_axes_before)
    return tf.reshape(theta, tf.concat([tf.shape(theta), behind], axis=0))
