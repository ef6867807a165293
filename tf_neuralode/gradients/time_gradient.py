"""Gradients with respect to the times, the same for every method."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from tf_neuralode.solvers.runge_kutta import OdeFn, State


def _inner_product(a: Sequence[tf.Tensor], b: State, dtype: tf.DType) -> tf.Tensor:
    products = [tf.reduce_sum(x * y) for x, y in zip(a, b, strict=True)]
    return tf.add_n([tf.cast(product, dtype) for product in products])


def attach_times(
    flat_f: Callable[[tf.Tensor, State, State], State],
    times: tf.Tensor,
    y0: State,
    params: State,
) -> tuple[State, Callable[[State], State]]:
    """Gives a solve with constant `times` its derivatives with respect to them.

    Those of the exact solution: with g_i = dL/dy(t_i) and lambda_0 the gradient of y0,

        dL/dt_i = g_i . f(t_i, y(t_i)) for i > 0,   dL/dt_0 = -(lambda_0 - g_0) . f(t_0, y0)

    f is evaluated in the backward pass only.

    Returns:
      y0 to solve from, and a function to pass the rows of the solution through.
    """
    num_times = times.shape[0] or tf.shape(times)[0]
    slope: OdeFn = lambda t, y: flat_f(t, y, params)

    @tf.custom_gradient
    def before(times, *y0):
        def grad(*d_y0, variables=None):
            d_t0 = -_inner_product(d_y0, slope(times[0], list(y0)), times.dtype)
            rest = tf.zeros([num_times - 1], times.dtype)
            d_times = tf.concat([[d_t0], rest], axis=0)
            return ([d_times, *d_y0], [None] * len(variables)) if variables else [d_times, *d_y0]

        return [tf.identity(y) for y in y0], grad

    @tf.custom_gradient
    def after(times, *rows):
        def grad(*d_rows, variables=None):
            def one(i):
                at = lambda leaves: [tf.gather(x, i) for x in leaves]
                return _inner_product(at(d_rows), slope(tf.gather(times, i), at(rows)), times.dtype)

            d_times = tf.map_fn(one, tf.range(num_times), fn_output_signature=times.dtype)
            grads = [d_times, *d_rows]
            return (grads, [None] * len(variables)) if variables else grads

        return [tf.identity(row) for row in rows], grad

    return list(before(times, *y0)), lambda rows: list(after(times, *rows))
