"""Signals that are cubic polynomials from knot to knot."""

from __future__ import annotations

import tensorflow as tf

from tf_neuralode.controls.missing import Observed, at, linear_in_gaps
from tf_neuralode.controls.piecewise import Control
from tf_neuralode.tensors import Tensors


class Hermite(Control):
    """Cubic, with the slope of the line from the knot before at each knot [1].

    Smooth, and of the future it sees no more than the next value. Takes the arguments of `Control`:
    `times`, `values`, `mask`; missing values are filled by lines. With m_i the slope of the line on
    piece i, of length h, and d_i = m_(i-1), d_0 = m_0, the coefficients are

        x_i,   d_i,   2 (m_i - d_i) / h,   (d_i - m_i) / h^2

    Reference:
      [1] J. Morrill et al., Neural controlled differential equations for online prediction tasks,
          2021.
    """

    def _coefficients(self, data, steps):
        values = linear_in_gaps(data)
        begin, end = values[..., :-1, :], values[..., 1:, :]
        m = (end - begin) / steps
        d = tf.concat([m[..., :1, :], m[..., :-1, :]], axis=-2)
        two = tf.constant(2.0, m.dtype)
        return [begin, d, two * (m - d) / steps, (d - m) / steps**2]


class Natural(Control):
    """The natural cubic spline: two continuous derivatives, the second of them 0 at both ends.

    Takes the arguments of `Control`: `times`, `values`, `mask`. Each value depends on all of the
    signal, the future included. Where values are missing it is the spline through the others.
    """

    def _coefficients(self, data, steps):
        if data.is_there is None:
            return _spline(data.values, tf.broadcast_to(steps, tf.shape(data.values[..., 1:, :])))
        return _spline_of_the_others(data)


def _spline(values: tf.Tensor, h: tf.Tensor, is_inner: tf.Tensor | None = None) -> Tensors:
    """Coefficients of the natural spline, from the second derivatives M at the knots.

        h_(i-1) M_(i-1) + 2 (h_(i-1) + h_i) M_i + h_i M_(i+1) = 6 (m_i - m_(i-1)),  M = 0 at ends

    Args:
      values: `([batch,] num_knots, channels)`.
      h: Lengths of the pieces, `([batch,] num_knots - 1, channels)`.
      is_inner: Where the equation holds, `([batch,] num_knots - 2, channels)`; elsewhere M = 0.
    """
    m = (values[..., 1:, :] - values[..., :-1, :]) / h
    right_side = tf.constant(6.0, h.dtype) * (m[..., 1:, :] - m[..., :-1, :])
    below, above = h[..., :-1, :], h[..., 1:, :]
    diagonal = tf.constant(2.0, h.dtype) * (below + above)
    if is_inner is not None:
        off = lambda x, other: tf.where(is_inner, x, other)
        below, above, right_side = (off(x, tf.zeros_like(x)) for x in (below, above, right_side))
        diagonal = off(diagonal, tf.ones_like(diagonal))
    rows = [tf.linalg.matrix_transpose(x) for x in (above, diagonal, below, right_side)]
    inner = tf.linalg.tridiagonal_solve(
        rows[:3], rows[3], diagonals_format="sequence", partial_pivoting=False
    )
    inner = tf.linalg.matrix_transpose(inner)
    end = tf.zeros_like(values[..., :1, :])
    second = tf.concat([end, inner, end], axis=-2)
    m0, m1 = second[..., :-1, :], second[..., 1:, :]
    two, six = (tf.constant(c, h.dtype) for c in (2.0, 6.0))
    return [values[..., :-1, :], m - h * (two * m0 + m1) / six, m0 / two, (m1 - m0) / (six * h)]


def _spline_of_the_others(data: Observed) -> Tensors:
    """The spline through what is there, written down piece by piece of all knots."""
    times, values, there = data.times, data.values, data.is_there
    assert times is not None and there is not None
    axis = there.shape.rank - 2
    # What is there first, in its order; behind it knots of no meaning, a unit apart.
    order = tf.argsort(tf.cast(~there, tf.int32), axis=axis, stable=True)
    num_there = tf.reduce_sum(tf.cast(there, tf.int32), axis=axis, keepdims=True)
    place = tf.range(tf.shape(there)[-2])[:, tf.newaxis]
    t, x = at(times, order), at(values, order)
    h = tf.cast(t[..., 1:, :] - t[..., :-1, :], x.dtype)
    h = tf.where(place[:-1] < num_there - 1, h, tf.ones_like(h))
    is_inner = tf.broadcast_to(place[1:-1] < num_there - 1, tf.shape(h[..., 1:, :]))
    pieces = _spline(x, h, is_inner)
    # Piece i of all knots lies in the piece that begins with the last knot that is there.
    last = (tf.cumsum(tf.cast(there, tf.int32), axis=axis) - 1)[..., :-1, :]
    a, b, c, d = (at(p, last) for p in pieces)
    s = tf.cast(times[..., :-1, :] - at(t[..., :-1, :], last), a.dtype)
    two, three = (tf.constant(k, a.dtype) for k in (2.0, 3.0))
    return [a + s * (b + s * (c + s * d)), b + s * (two * c + three * s * d), c + three * s * d, d]
