"""The adjoint equation on the stored forward solution: the loop that both such methods share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_neuralode.gradients.backward_tolerances import BackwardTolerances
from tf_neuralode.gradients.gradient import Gradient, Problem, Solution
from tf_neuralode.gradients.stored_solution import Checkpoints, StoredSolution
from tf_neuralode.gradients.stored_solve import OutputCotangents, solve_and_store
from tf_neuralode.gradients.vjp import open_vjp, zeros_for
from tf_neuralode.loops import while_loop
from tf_neuralode.not_finite import nan_unless
from tf_neuralode.solvers import AdaptiveRungeKutta
from tf_neuralode.solvers import status as status_codes
from tf_neuralode.solvers.runge_kutta import Limit, State
from tf_neuralode.solvers.solver import RungeKutta


class Piece(NamedTuple):
    """A stretch of the backward pass without jumps.

    Attributes:
      products: `products(t, lambda, of_state, of_sources)` gives `(-f_y^T lambda, -f_p^T lambda)`
        at one evaluation of f, an empty list for what isn't asked for.
      start, end: Times; the pass goes against the solution's direction.
      step_size: First step size, 0 for "choose one".
      limit: How far a step may go, see `runge_kutta.Limit`.
    """

    products: Callable[..., tuple[State, State]]
    start: tf.Tensor
    end: tf.Tensor
    step_size: tf.Tensor
    limit: Limit


class PieceResult(NamedTuple):
    """State at the end of a `Piece`: lambda, mu, and what the solve said."""

    adjoint_state: State
    d_sources: State
    step_size: tf.Tensor
    num_evaluations: tf.Tensor
    status: tf.Tensor


class StoredAdjoint(BackwardTolerances, Gradient):
    """Base of the adjoints on the stored solution.

        lambda' = -f_y^T lambda,  lambda(t_i-) = lambda(t_i+) + dL/dy(t_i),
        dL/dparams = integral from t_0 to t_end of f_p^T lambda

    with y(t) from the dense output of the forward steps. lambda governs the steps, and where it is
    constant one step would do for it, however f_p changes in time. So none is longer than any
    forward step that it overlaps: those resolved what y' does. What shows in no slope, like a force
    in time times a parameter that is 0, is resolved by no gradient: `max_step_size` helps there.

    Args:
      rtol, atol: Tolerances of the backward solve; the solver's own if `None`.
      checkpoint: Whether to keep only a segment of the steps at a time, see `stored_solution`, and
        solve the forward equation again, segment by segment, where there are more. If false all
        are kept.
    """

    def __init__(self, rtol: Any = None, atol: Any = None, checkpoint: bool = True) -> None:
        super().__init__(rtol, atol)
        self._checkpoint = bool(checkpoint)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "checkpoint": self._checkpoint}

    def solve(self, problem: Problem) -> Solution:
        self.check_solver(problem.solver)
        checkpoints = Checkpoints(
            problem.solver.max_num_steps, problem.solver.method.num_coefficients, self._checkpoint
        )
        return solve_and_store(problem, checkpoints, self._backward, type(self).__name__)

    def _integrate_piece(
        self, solver: RungeKutta, problem: Problem, piece: Piece, adjoint_state, d_sources
    ) -> PieceResult:
        """Integrates lambda and mu over one piece."""
        raise NotImplementedError

    def _backward(
        self,
        problem: Problem,
        stored: StoredSolution,
        cotangents: OutputCotangents,
        sources: Sequence[tf.Tensor],
    ):
        """Gradients of y0 and of `sources`, and the number of evaluations of f."""
        times = problem.times
        solver = self.backward_solver(problem.solver).as_part_of(tf.abs(times[-1] - times[0]))
        if isinstance(solver, AdaptiveRungeKutta):
            # Being bound to the forward steps is no sign of a failure: a piece gets two attempts
            # more for each of them, the second for a step that stops in front of a shorter one.
            room = min(solver.max_num_steps + 2 * stored.segment_size, tf.int32.max)
            solver = solver.copy(max_num_steps=room)
        forward = lambda t, y: problem.f(t, y, problem.params)

        resolve = functools.partial(
            stored.resolve, method=problem.solver.method, f=forward, dense=True
        )

        def products(index, segment, t, adjoint_state, of_state=True, of_sources=True):
            y = stored.evaluate(t, index, segment)
            _, pullback = open_vjp(forward, t, y, sources)
            return pullback([-x for x in adjoint_state], of_state, of_sources)

        def piece(t, index, segment, next_output, *carried):
            adjoint_state, d_sources, step_size, num_evaluations, _ = carried
            # Ends at the next output time, or before it at the start of the segment.
            output_time = tf.gather(times, next_output)
            segment_time = stored.time(index * stored.segment_size)
            towards = tf.sign(times[0] - times[-1])
            end = tf.where((segment_time - output_time) * towards < 0, segment_time, output_time)
            result = self._integrate_piece(
                solver,
                problem,
                Piece(
                    products=functools.partial(products, index, segment),
                    start=t,
                    end=end,
                    step_size=step_size,
                    limit=functools.partial(stored.limit, index=index),
                ),
                adjoint_state,
                d_sources,
            )
            at_output = tf.equal(end, output_time)
            jump = cotangents.at(next_output)
            adjoint_state = [
                tf.where(at_output, a + b, a)
                for a, b in zip(result.adjoint_state, jump, strict=True)
            ]
            enters = tf.equal(end, segment_time) & (index > 0)
            index = tf.where(enters, index - 1, index)
            segment, resolved = resolve(enters, index, segment)
            return (
                end,
                index,
                segment,
                tf.where(at_output, next_output - 1, next_output),
                adjoint_state,
                result.d_sources,
                result.step_size,
                num_evaluations + result.num_evaluations + resolved,
                result.status,
            )

        def unfinished(t, *carried):
            return tf.not_equal(t, times[0]) & tf.equal(carried[-1], status_codes.SUCCESS)

        segment, resolved = resolve(stored.has_several_segments, stored.last_index, stored.segment)
        start = (
            times[-1],
            stored.last_index,
            segment,
            tf.convert_to_tensor(cotangents.num_times - 2),
            cotangents.at_end(),
            zeros_for(sources),
            solver.initial_step_size(tf.abs(times[-1] - times[0])),
            resolved,
            tf.constant(status_codes.SUCCESS),
        )
        *_, adjoint_state, d_sources, _, num_evaluations, status = while_loop(
            unfinished, piece, start
        )
        # The last piece ends at times[0] and adds its row, so nothing is left to add.
        success = tf.equal(status, status_codes.SUCCESS)
        failed = lambda x: tf.where(success, x, nan_unless(success, x.dtype))
        return [failed(x) for x in adjoint_state], [failed(x) for x in d_sources], num_evaluations
