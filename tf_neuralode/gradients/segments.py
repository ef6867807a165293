"""A solve at times of each sample that ends a step at every one of them.

For the adjoint that TFP brings, which goes back from each output time to the one before it. With u
the solve's time, and times u_bi of sample b, segment i is the initial value problem

    dy_b/dv = (u_bi - u_b,i-1) f((1 - v) u_b,i-1 + v u_bi, y_b),   v from 0 to 1,

so that all samples arrive at their i-th times together. A sample whose time doesn't move stays
where it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_neuralode.field import zeros_for
from tf_neuralode.gradients.problem import Problem, Solution
from tf_neuralode.stepping import Diagnostics, state_arrays, write
from tf_neuralode.stepping import status as status_codes
from tf_neuralode.tensors import State, add, each, scale, while_loop


def solve_in_segments(
    problem: Problem, solve: Callable[[Problem], Solution], name: str
) -> Solution:
    """Solves `problem`, of own times, segment by segment, with a step size that is handed on.

    The backward pass takes the segments last first, and solves each again from the state that it
    began with: its memory is that of one segment.

    Args:
      problem: Its times are `(num_times, batch)`.
      solve: Solves a problem of shared times, to be differentiated.
      name: Of the method, for errors.
    """
    segments = _Segments(problem, solve)

    def forward(inputs: list[tf.Tensor]) -> tuple[Solution, Any]:
        # What is recorded of the forward pass is nothing: the backward pass solves again.
        inputs = [tf.stop_gradient(x) for x in inputs]
        y0, params = problem.y0_and_params(inputs)
        rows, step_sizes, diagnostics = segments.solve(y0, params)
        return Solution(rows, diagnostics), (rows, step_sizes, params)

    def backward(residuals: Any, d_rows: State, variables: Any) -> tuple[State, State]:
        rows, step_sizes, params = residuals
        sources = [*params, *problem.captures.tensors, *variables]
        d_y0, d_sources, num_evaluations = segments.pull_back(
            rows, step_sizes, params, sources, d_rows
        )
        d_sources = each(lambda d, x: tf.cast(d, x.dtype), d_sources, sources)
        num = len(sources) - len(variables)
        d_counter = tf.cast(num_evaluations, problem.counter.dtype)
        return [d_counter, *d_y0, *d_sources[:num]], d_sources[num:]

    return problem.differentiated(forward, backward, name)


class _Segments:
    """The segments of one solve, forwards and backwards."""

    def __init__(self, problem: Problem, solve: Callable[[Problem], Solution]) -> None:
        self._problem, self._solve = problem, solve
        self._times = times = problem.times
        self._num = times.shape[0] or tf.shape(times)[0]
        self._unit = problem.conditions.unit
        self._whole = _longest(times[-1] - times[0], self._unit)

    def _segment(
        self, i: tf.Tensor, y: State, params: State, step_size: tf.Tensor, **changes: Any
    ) -> Problem:
        """The problem of segment `i`."""
        problem, (begin, end) = self._problem, self._ends(i)
        gaps = end - begin

        def f(v: tf.Tensor, y: State, params: State) -> State:
            slope = problem.field.f((1 - v) * begin + v * end, y, params)
            return [scale(gaps, k) for k in slope]

        unit = gaps if self._unit is None else gaps * self._unit
        conditions = problem.conditions.but(unit=unit).among_also(tf.not_equal(gaps, 0))
        conditions = conditions.part_of(_in_units_of(self._length(i), self._whole))
        field = dataclasses.replace(problem.field, f=f, params=params)
        ends = tf.constant([0.0, 1.0], self._times.dtype)
        return dataclasses.replace(
            problem,
            field=field,
            times=ends,
            y0=y,
            conditions=conditions,
            first_h=step_size,
            **changes,
        )

    def _ends(self, i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.gather(self._times, i), tf.gather(self._times, i + 1)

    def _length(self, i: tf.Tensor) -> tf.Tensor:
        """How far the sample goes that goes furthest, in units of the solver's settings."""
        begin, end = self._ends(i)
        return _longest(end - begin, self._unit)

    def solve(self, y0: State, params: State) -> tuple[State, tf.Tensor, Diagnostics]:
        """Rows of all times, first step sizes of all segments, `Diagnostics`."""
        times, num = self._times, self._num
        rows = write(state_arrays(y0, num), 0, y0)
        first_steps = tf.TensorArray(times.dtype, num - 1, element_shape=[])
        zero = tf.constant(0)
        start = Diagnostics(zero, zero, zero, zero, zero, times[0], zero)

        def segment(i, y, rows, warm, first_steps, total):
            length = self._length(i)
            # Equal steps: the longest trajectory takes as many as it would with shared times.
            step_size = self._problem.solver.step_size_of_parts(self._whole, warm)
            step_size = _in_units_of(length, step_size)
            problem = self._segment(i, y, params, step_size)
            solution, _ = problem.integrate(problem.field, y)
            y = [row[-1] for row in solution.rows]
            warm = _handed_on(warm, length, solution.diagnostics)
            total = _add(total, solution.diagnostics, *self._ends(i))
            first_steps = first_steps.write(i, step_size)
            return i + 1, y, write(rows, i + 1, y), warm, first_steps, total

        _, _, rows, _, first_steps, total = while_loop(
            lambda i, *_: i < num - 1,
            segment,
            (zero, y0, rows, tf.zeros([], times.dtype), first_steps, start),
            parallel_iterations=1,
        )
        return [array.stack() for array in rows], first_steps.stack(), total

    def pull_back(
        self, rows: State, step_sizes: tf.Tensor, params: State, sources: list, d_rows: State
    ) -> tuple[State, State, tf.Tensor]:
        """Gradients of y0 and of the sources, and the number of evaluations of f."""
        at = lambda leaves, i: [tf.gather(x, i) for x in leaves]

        def segment(i, adjoint_state, d_sources, num_evaluations):
            y, counter = at(rows, i), tf.zeros([])
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([counter, *y, *sources])
                step_size = tf.gather(step_sizes, i)
                problem = self._segment(
                    i, y, params, step_size, counter=counter, expects_backward=True
                )
                solution = self._solve(problem)
                y1 = [row[-1] for row in solution.rows]
            num_backward, *rest = tape.gradient(
                y1,
                [counter, *y, *sources],
                output_gradients=adjoint_state,
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            d_y, d_more = rest[: len(y)], [tf.convert_to_tensor(d) for d in rest[len(y) :]]
            d_more = each(lambda d, total: tf.cast(d, total.dtype), d_more, d_sources)
            num_forward = tf.cast(solution.diagnostics.num_ode_fn_evaluations, tf.float32)
            return (
                i - 1,
                add(d_y, at(d_rows, i)),
                add(d_sources, d_more),
                num_evaluations + num_forward + num_backward,
            )

        last = tf.convert_to_tensor(self._num - 1)
        start = (last - 1, at(d_rows, last), zeros_for(sources), tf.zeros([]))
        _, *result = while_loop(lambda i, *_: i >= 0, segment, start, parallel_iterations=1)
        return tuple(result)


def _in_units_of(length: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """`size` over `length`; 1 where nobody moves."""
    moves = length > 0
    return tf.where(moves, size / tf.where(moves, length, 1.0), tf.ones_like(length))


def _longest(gaps: tf.Tensor, unit: tf.Tensor | None) -> tf.Tensor:
    """The largest of `gaps` times `unit`, 0 for an empty batch."""
    lengths = gaps if unit is None else gaps * unit
    return tf.maximum(tf.reduce_max(lengths), tf.zeros([], lengths.dtype))


def _handed_on(warm: tf.Tensor, length: tf.Tensor, diagnostics: Diagnostics) -> tf.Tensor:
    """Step size for the next segment, in units of time of the sample that moved furthest."""
    accepted, rejected = diagnostics.num_accepted_steps, diagnostics.num_rejected_steps
    mean = length / tf.cast(tf.maximum(accepted, 1), length.dtype)
    # One good step over the whole segment says nothing against longer ones.
    unhindered = tf.equal(accepted, 1) & tf.equal(rejected, 0)
    return tf.where(unhindered, tf.maximum(warm, length), tf.where(length > 0, mean, warm))


def _add(total: Diagnostics, new: Diagnostics, begin: tf.Tensor, end: tf.Tensor) -> Diagnostics:
    """Counts of `total` and of a segment's diagnostics; the first failure is the status."""
    so_far = tf.equal(total.status, status_codes.SUCCESS)
    v = tf.cast(new.final_time, begin.dtype)
    return Diagnostics(
        num_ode_fn_evaluations=total.num_ode_fn_evaluations + new.num_ode_fn_evaluations,
        num_jacobian_evaluations=total.num_jacobian_evaluations + new.num_jacobian_evaluations,
        num_matrix_factorizations=total.num_matrix_factorizations + new.num_matrix_factorizations,
        num_accepted_steps=_both(total.num_accepted_steps, new.num_accepted_steps),
        num_rejected_steps=_both(total.num_rejected_steps, new.num_rejected_steps),
        final_time=tf.where(so_far, (1 - v) * begin + v * end, total.final_time),
        status=tf.where(so_far, new.status, total.status),
    )


def _both(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Sum of two counts, see `Diagnostics`."""
    return tf.where((a < 0) | (b < 0), -1, a + b)
