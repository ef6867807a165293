"""Gradients with respect to the times, the same for every method."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from tf_neuralode.field import Captures, Field, FlatFn, zeros_for
from tf_neuralode.gradients.vjp import once_differentiable
from tf_neuralode.tensors import State, Tensors, each, while_loop


def attach_times(
    f: FlatFn,
    captures: Captures,
    times: tf.Tensor,
    y0: State,
    params: Tensors,
    dtype: tf.DType,
    twice: bool,
) -> tuple[State, Callable[[State], State]]:
    """Gives a solve with constant `times` its derivatives with respect to them.

    Those of the exact solution: with g_i = dL/dy(t_i) and lambda_0 the gradient of y0,

        dL/dt_i = g_i . f(t_i, y(t_i)) for i > 0,   dL/dt_0 = -(lambda_0 - g_0) . f(t_0, y0)

    f is evaluated in the backward pass only.

    Args:
      f: `f(t, y, params)`, flat; t may be `(batch,)` where times are.
      captures: What it reads besides.
      times: `(num_times,)`, or `(num_times, batch)` where each sample has its own.
      y0: State at `times[0]`.
      params: Parameters.
      dtype: Of the time that f takes.
      twice: Whether there are second derivatives, too; otherwise they raise `LookupError`. Third
        ones do in any case, and second ones of own times.

    Returns:
      y0 to solve from, and a function to pass the rows of the solution through.
    """
    in_own_time = lambda t, y, p: f(tf.cast(t, dtype), y, p)
    twice = twice and times.shape.rank == 1
    before = _Moved(in_own_time, captures, params, -1.0, twice)
    after = _Moved(in_own_time, captures, params, 1.0, twice)
    start = [y[0] for y in before(times[:1], [y[tf.newaxis] for y in y0])]
    return start, lambda rows: after(times, rows)


class _Moved:
    """Rows of states as they are, that move with their times: dy/dt = sign f(t, y).

    The row y of time t stands for the solution through y, taken at t: its derivatives are

        y_t = sign f,   y_tt = sign (f_t + f_y y_t),   y_ty = sign f_y,   y_tp = sign f_p

    the mixed ones in both orders: the cotangent d that is handed on to y changes with t by
    sign f_y^T d, and that of a parameter, which is 0, by sign f_p^T d.

    Args:
      f, captures, params: The field.
      sign: 1, or -1 for an initial state, which moves against the solution through it.
      twice: As in `attach_times`.
    """

    def __init__(
        self, f: FlatFn, captures: Captures, params: Tensors, sign: float, twice: bool
    ) -> None:
        self._f = f
        self._captures = captures
        self._params = params
        self._sign = sign
        self._twice = twice

    def __call__(self, times: tf.Tensor, rows: State) -> State:
        """The rows, for each leaf `(num_times, *leaf.shape)`."""
        num_rows = len(rows)
        # What f reads is an input as well, for the sake of mixed derivatives.
        variables = [tf.convert_to_tensor(v) for v in self._captures.variables]
        others = [*self._params, *self._captures.tensors, *variables]

        @tf.custom_gradient
        def moved(times, *inputs):
            rows, others = list(inputs[:num_rows]), list(inputs[num_rows:])

            def grad(*d_rows):
                dense = [tf.convert_to_tensor(d) for d in d_rows]  # that of tf.gather is sparse
                if self._twice:
                    return self._first_gradients(times, rows, others, dense)
                d_times = self._time_gradients(times, rows, dense)
                gradients = once_differentiable(
                    [d_times, *dense], [times, *inputs, *dense], "times"
                )
                return [*gradients, *([None] * len(others))]

            return [tf.identity(row) for row in rows], grad

        return list(moved(times, *rows, *others))

    def _time_gradients(
        self, times: tf.Tensor, rows: State, d_rows: Sequence[tf.Tensor]
    ) -> tf.Tensor:
        """`sign d . f(t, y)` for each time."""

        def one(i: tf.Tensor) -> tf.Tensor:
            t, y, d = tf.gather(times, i), _row(rows, i), _row(d_rows, i)
            return self._sign * _inner_product(d, self._f(t, y, self._params), t)

        spec = tf.TensorSpec(times.shape[1:], times.dtype)
        return tf.map_fn(one, tf.range(tf.shape(times)[0]), fn_output_signature=spec)

    def _first_gradients(
        self, times: tf.Tensor, rows: State, others: Tensors, d_rows: State
    ) -> list[tf.Tensor]:
        """Gradients of times, rows and others, that can be differentiated once more."""
        num_rows = len(rows)

        @tf.custom_gradient
        def first(times, *inputs):
            rows, d_rows = list(inputs[:num_rows]), list(inputs[num_rows:][:num_rows])

            def grad(*cotangents, variables=None):
                gradients = self._second_gradients(times, rows, d_rows, cotangents)
                known = [times, *inputs, *cotangents]
                gradients = once_differentiable(gradients, known, "times, twice,")
                # Their values are among the inputs.
                return (gradients, [None] * len(variables)) if variables else gradients

            d_times = self._time_gradients(times, rows, d_rows)
            zeros = [tf.zeros_like(x) for x in others]
            return [d_times, *(tf.identity(d) for d in d_rows), *zeros], grad

        return list(first(times, *rows, *d_rows, *others))

    def _second_gradients(
        self, times: tf.Tensor, rows: State, d_rows: State, cotangents: Sequence[tf.Tensor]
    ) -> list[tf.Tensor]:
        """Gradients of times, rows, d_rows and others, from cotangents of the first gradients.

        With g = sign d . f(t, y), and u the cotangents of the gradients of t, y and others p:

            t: u_t (g_t + g_y sign f) + u_y . g_y + u_p . g_p,   y: u_t g_y,
            d: u_t sign f + u_y,   p: u_t g_p
        """
        num_rows, sign = len(rows), self._sign
        u_times, *rest = cotangents
        u_rows, u_others = rest[:num_rows], rest[num_rows:]
        params = [tf.identity(x) for x in self._params]
        read = [*params, *self._captures.tensors, *self._captures.variables]
        num_times = tf.shape(times)[0]
        arrays = [
            tf.TensorArray(x.dtype, num_times, element_shape=x.shape[1:])
            for x in (times, *rows, *d_rows)
        ]

        def one(i, arrays, d_others):
            t, u_t = tf.gather(times, i), tf.gather(u_times, i)
            y, d, u_y = _row(rows, i), _row(d_rows, i), _row(u_rows, i)
            field = Field(lambda t, y, _: [sign * k for k in self._f(t, y, params)], [], [t, *read])
            slope, pullback = field.open_vjp(t, y)
            g_y, (g_t, *g_others) = pullback(d)
            d_t = u_t * (g_t + _inner_product(g_y, slope, t))
            d_t += _inner_product([*u_y, *u_others], [*g_y, *g_others], t)
            d_y = [tf.cast(u_t, g.dtype) * g for g in g_y]
            d_d = each(lambda k, u: tf.cast(u_t, k.dtype) * k + u, slope, u_y)
            d_others = each(lambda a, g: a + tf.cast(u_t, g.dtype) * g, d_others, g_others)
            arrays = each(lambda array, x: array.write(i, x), arrays, [d_t, *d_y, *d_d])
            return i + 1, arrays, d_others

        start = (tf.constant(0), arrays, zeros_for(read))
        _, arrays, d_others = while_loop(lambda i, arrays, d: i < num_times, one, start)
        d_others = each(lambda d, x: tf.cast(d, x.dtype), d_others, u_others)
        return [*(array.stack() for array in arrays), *d_others]


def _row(leaves: Sequence[tf.Tensor], i: tf.Tensor) -> State:
    return [tf.gather(x, i) for x in leaves]


def _inner_product(a: Sequence[tf.Tensor], b: Sequence[tf.Tensor], like: tf.Tensor) -> tf.Tensor:
    """Over all leaves, like a time: of each sample, if times are `(batch,)`.

    Of complex numbers that of their real and imaginary parts.
    """

    def one(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        x = tf.cast(x, y.dtype)
        products = tf.math.real(tf.math.conj(x) * y) if y.dtype.is_complex else x * y
        if like.shape.rank:
            # Under XLA samples stand one behind the other in a vector, see `field.flat_state`.
            products = tf.reshape(products, [tf.size(like), -1])
        return tf.cast(tf.reduce_sum(products, axis=-1 if like.shape.rank else None), like.dtype)

    return tf.add_n(each(one, a, b))
