"""A solve in which every sample has output times of its own.

With knots t_b0 (the initial time), t_b1, ... of sample b, one solve serves the whole batch: the
i-th segment is the initial value problem

    dy_b/du = (t_bi - t_b,i-1) f((1 - u) t_b,i-1 + u t_bi, y_b),   u from 0 to 1,

so that all samples arrive at their i-th times together, at the end of a step. A sample whose time
doesn't move stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_neuralode.field import Captures, captures_of
from tf_neuralode.gradients.vjp import with_backward
from tf_neuralode.odeint import solve_from
from tf_neuralode.results import Results
from tf_neuralode.stepping import Conditions, Diagnostics
from tf_neuralode.stepping import status as status_codes
from tf_neuralode.tensors import State, add, scale, while_loop


def solve_at_sample_times(
    f: Callable[[tf.Tensor, Any, Any], Any],
    y0: Any,
    knots: tf.Tensor,
    params: list[tf.Tensor],
    conditions_of: Callable[[tf.Tensor], Conditions],
    *,
    solver,
    gradient,
    backward_counter: tf.Tensor | None = None,
) -> Results:
    """Solves segment by segment, each by `odeint`, with a step size that is handed on.

    The backward pass takes the segments last first, and solves each again from the state that it
    began with: its memory is that of one segment. The knots are parameters of the segments, so all
    of them have gradients, those of the method's own solution.

    Args:
      f: `f(t, y, params)` with t of shape `(batch,)`.
      y0: State at `knots[0]`, a nest of tensors with a leading batch axis.
      knots: `(num_times + 1, batch)`, monotone along the first axis.
      params: What gradients are wanted for.
      conditions_of: What else a segment is told, from `(batch,)`: which samples move in it.
      solver: As `solvers.stock` adapts it.
      gradient: One of `tf_neuralode.gradients`.
      backward_counter: As in `odeint`; solving the segments again counts, too.

    Returns:
      `Results`; `states` has the rows of all knots, `final_time` is each sample's, `(batch,)`.
    """
    segments = _Segments(f, y0, conditions_of, solver, gradient)
    num_leaves, num_params = len(tf.nest.flatten(y0)), len(params)
    counter = tf.zeros([]) if backward_counter is None else backward_counter
    captured = list(segments.captures(knots[0], y0, params).tensors)

    def forward(knots, counter, *inputs):
        # What is recorded of the forward pass is nothing: the backward pass solves again.
        knots, *constants = [tf.stop_gradient(x) for x in (knots, *inputs)]
        y0, params = constants[:num_leaves], constants[num_leaves:][:num_params]
        rows, step_sizes, diagnostics = segments.solve(y0, knots, params)
        return [*rows, *diagnostics], (rows, step_sizes, knots, params)

    def backward(residuals, d_outputs, variables):
        rows, step_sizes, knots, params = residuals
        d_rows = list(d_outputs[:num_leaves])
        sources = [*params, *captured, *variables]
        d_knots, d_y0, d_sources, num_evaluations = segments.pull_back(
            rows, step_sizes, knots, params, sources, d_rows
        )
        num_inputs = len(params) + len(captured)
        d_inputs = d_sources[:num_inputs]
        return [d_knots, num_evaluations, *d_y0, *d_inputs], d_sources[num_inputs:]

    inputs = [knots, counter, *tf.nest.flatten(y0), *params, *captured]
    outputs = list(with_backward(forward, backward, inputs, "a solve at times of each sample"))
    states = tf.nest.pack_sequence_as(y0, outputs[:num_leaves])
    return Results(knots, states, Diagnostics(*outputs[num_leaves:]))


class _Segments:
    """The segments of one solve, forwards and backwards, on flat lists."""

    def __init__(self, f, y0, conditions_of, solver, gradient):
        self._f, self._structure, self._conditions_of = f, y0, conditions_of
        self._solver, self._gradient = solver, gradient

    def captures(self, t: tf.Tensor, y0: Any, params: list[tf.Tensor]) -> Captures:
        """What f closes over."""

        def flat_f(t, leaves, params):
            packed = tf.nest.pack_sequence_as(self._structure, leaves)
            return tf.nest.flatten(self._f(t, packed, params))

        return captures_of(flat_f, t, tf.nest.flatten(y0), params)

    def _odeint(self, y: State, ends, whole, params: list, step_size, counter=None) -> Results:
        """Between the `ends`, of `whole` an interval; with a `counter`, to be differentiated."""
        start, end = ends
        length = _longest(end - start)

        def f(u, y, params):
            start, end, params = params
            t = (1 - u) * start + u * end
            return tf.nest.map_structure(lambda x: scale(end - start, x), self._f(t, y, params))

        conditions = self._conditions_of(tf.not_equal(start, end))
        return solve_from(
            f,
            tf.nest.pack_sequence_as(self._structure, y),
            np.array([0.0, 1.0], start.dtype.as_numpy_dtype),
            (start, end, params),
            solver=self._solver,
            gradient=self._gradient,
            conditions=conditions.but(unit=length).part_of(_in_units_of(length, whole)),
            backward_counter=counter,
            first_h=step_size,
            expects_backward=counter is not None,
        )

    def solve(self, y0: State, knots, params):
        """Rows of all knots, first step sizes of all segments, `Diagnostics`."""
        num = knots.shape[0] or tf.shape(knots)[0]
        rows = [tf.TensorArray(x.dtype, num, element_shape=x.shape).write(0, x) for x in y0]
        first_steps = tf.TensorArray(knots.dtype, num - 1, element_shape=[])
        whole, zero = _longest(knots[-1] - knots[0]), tf.constant(0)
        start = Diagnostics(zero, zero, zero, zero, zero, knots[0], zero)

        def segment(i, y, rows, warm, first_steps, total):
            begin, end = tf.gather(knots, i), tf.gather(knots, i + 1)
            length = _longest(end - begin)
            step_size = self._first_step(warm, length, knots)
            results = self._odeint(y, (begin, end), whole, params, step_size)
            y = [x[-1] for x in tf.nest.flatten(results.states)]
            rows = [array.write(i + 1, x) for array, x in zip(rows, y, strict=True)]
            warm = _handed_on(warm, length, results.diagnostics)
            total = _add(total, results.diagnostics, begin, end)
            return i + 1, y, rows, warm, first_steps.write(i, step_size), total

        _, _, rows, _, first_steps, total = while_loop(
            lambda i, y, rows, warm, first_steps, total: i < num - 1,
            segment,
            (zero, y0, rows, tf.zeros([], knots.dtype), first_steps, start),
            parallel_iterations=1,
        )
        return [array.stack() for array in rows], first_steps.stack(), total

    def pull_back(self, rows, step_sizes, knots, params, sources, d_rows):
        """Gradients of the knots, of y0 and of the sources, and the number of evaluations of f."""
        num = knots.shape[0] or tf.shape(knots)[0]
        whole = tf.stop_gradient(_longest(knots[-1] - knots[0]))
        at = lambda leaves, i: [tf.gather(x, i) for x in leaves]

        def segment(i, adjoint_state, d_end, d_sources, d_knots, num_evaluations):
            y, begin, end = at(rows, i), tf.gather(knots, i), tf.gather(knots, i + 1)
            counter = tf.zeros([])
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([begin, end, counter, *y, *sources])
                step_size = tf.gather(step_sizes, i)
                results = self._odeint(y, (begin, end), whole, params, step_size, counter)
                y1 = [x[-1] for x in tf.nest.flatten(results.states)]
            d_begin, d_this_end, num_backward, *rest = tape.gradient(
                y1,
                [begin, end, counter, *y, *sources],
                output_gradients=adjoint_state,
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            d_y, d_more = rest[: len(y)], rest[len(y) :]
            adjoint_state, d_sources = add(d_y, at(d_rows, i)), add(d_sources, d_more)
            num_forward = tf.cast(results.diagnostics.num_ode_fn_evaluations, tf.float32)
            return (
                i - 1,
                adjoint_state,
                d_begin,
                d_sources,
                d_knots.write(i + 1, d_end + d_this_end),
                num_evaluations + num_forward + num_backward,
            )

        start = (
            tf.convert_to_tensor(num - 2),
            at(d_rows, num - 1),
            tf.zeros_like(knots[0]),
            [tf.zeros_like(x) for x in sources],
            tf.TensorArray(knots.dtype, num, element_shape=knots.shape[1:]),
            tf.zeros([]),
        )
        _, adjoint_state, d_first, d_sources, d_knots, num_evaluations = while_loop(
            lambda i, *_: i >= 0, segment, start, parallel_iterations=1
        )
        d_knots = d_knots.write(0, d_first).stack()
        return d_knots, adjoint_state, d_sources, num_evaluations

    def _first_step(self, warm, length, knots):
        """First step size of a segment, in u; 0 for "choose one".

        Equal steps: the longest trajectory takes as many as it would with shared times.
        """
        size = self._solver.step_size_of_parts(_longest(knots[-1] - knots[0]), warm)
        return _in_units_of(length, size)


def _in_units_of(length: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """`size` over `length`; 1 where nobody moves."""
    moves = length > 0
    return tf.where(moves, size / tf.where(moves, length, 1.0), tf.ones_like(length))


def _longest(lengths: tf.Tensor) -> tf.Tensor:
    """The largest absolute value, 0 for an empty batch."""
    return tf.maximum(tf.reduce_max(tf.abs(lengths)), tf.zeros([], lengths.dtype))


def _handed_on(warm, length, diagnostics) -> tf.Tensor:
    """Step size for the next segment, in units of time of the sample that moved furthest."""
    accepted, rejected = diagnostics.num_accepted_steps, diagnostics.num_rejected_steps
    mean = length / tf.cast(tf.maximum(accepted, 1), length.dtype)
    # One good step over the whole segment says nothing against longer ones.
    unhindered = tf.equal(accepted, 1) & tf.equal(rejected, 0)
    return tf.where(unhindered, tf.maximum(warm, length), tf.where(length > 0, mean, warm))


def _add(total: Diagnostics, new, begin: tf.Tensor, end: tf.Tensor) -> Diagnostics:
    """Counts of `total` and of a segment's diagnostics; the first failure is the status."""
    so_far = tf.equal(total.status, status_codes.SUCCESS)
    u = tf.cast(new.final_time, begin.dtype)
    return Diagnostics(
        num_ode_fn_evaluations=total.num_ode_fn_evaluations + new.num_ode_fn_evaluations,
        num_jacobian_evaluations=total.num_jacobian_evaluations + new.num_jacobian_evaluations,
        num_matrix_factorizations=total.num_matrix_factorizations + new.num_matrix_factorizations,
        num_accepted_steps=_both(total.num_accepted_steps, new.num_accepted_steps),
        num_rejected_steps=_both(total.num_rejected_steps, new.num_rejected_steps),
        final_time=tf.where(so_far, (1 - u) * begin + u * end, total.final_time),
        status=tf.where(so_far, new.status, total.status),
    )


def _both(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Sum of two counts, see `Diagnostics`."""
    return tf.where((a < 0) | (b < 0), -1, a + b)
