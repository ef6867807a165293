"""The adjoint equation on the stored forward solution: the loop that both such methods share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tf_neuralode.field import Field, zeros_for
from tf_neuralode.gradients.backward_tolerances import BackwardTolerances
from tf_neuralode.gradients.gradient import Gradient
from tf_neuralode.gradients.output_cotangents import OutputCotangents
from tf_neuralode.gradients.problem import Problem, Solution, solve_and_store
from tf_neuralode.gradients.stored_solution import Checkpoints, Segment, StoredSolution
from tf_neuralode.solvers.solver import RungeKutta
from tf_neuralode.stepping import Conditions, Point
from tf_neuralode.stepping import status as status_codes
from tf_neuralode.tensors import State, Tensors, add, keep, or_nan, while_loop


class Piece(NamedTuple):
    """A stretch of the backward pass without jumps, in the time u that has passed since its start.

    Attributes:
      products: `products(u, lambda, of_state, of_sources)` gives `(f_y^T lambda, f_p^T lambda)` at
        one evaluation of f, an empty list for what isn't asked for.
      length: Of the stretch.
      h: First step size, 0 for "choose one".
      conditions: Of the solve.
    """

    products: Callable[..., tuple[State, State]]
    length: tf.Tensor
    h: tf.Tensor
    conditions: Conditions

    def start(self, y: State) -> Point:
        """Where a solve over the piece begins."""
        return Point(tf.zeros_like(self.length), y, h=self.h)


class PieceResult(NamedTuple):
    """State at the end of a `Piece`: lambda, mu, and what the solve said."""

    adjoint_state: State
    d_sources: Tensors
    h: tf.Tensor
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
            problem.solver.max_num_steps,
            problem.solver.method.num_coefficients,
            checkpoint=self._checkpoint,
        )
        return solve_and_store(problem, checkpoints, self._backward, type(self).__name__)

    def _integrate_piece(
        self,
        solver: RungeKutta,
        piece: Piece,
        adjoint_state: State,
        d_sources: Tensors,
    ) -> PieceResult:
        """Integrates lambda and mu over one piece."""
        raise NotImplementedError

    def _backward(
        self,
        problem: Problem,
        field: Field,
        stored: StoredSolution,
        cotangents: OutputCotangents,
    ) -> tuple[State, State, tf.Tensor]:
        """Gradients of y0 and of the sources, and the number of evaluations of f."""
        span = problem.times[-1] - problem.times[0]
        conditions = self.backward(problem.solver, problem.conditions).part_of(span)
        # Being bound to the forward steps is no sign of a failure: a piece gets two attempts more
        # for each of them, the second for a step that stops in front of a shorter one.
        conditions = conditions.but(further_steps=2 * stored.segment_size)
        integrate = functools.partial(self._integrate_piece, problem.solver)
        backward_pass = _BackwardPass(problem, field, stored, cotangents, conditions, integrate)
        (end,) = while_loop(
            backward_pass.unfinished,
            lambda place: (backward_pass.piece(place),),
            (backward_pass.begin(span),),
        )
        # The last piece ends at times[0] and adds its row, so nothing is left to add.
        success = tf.equal(end.status, status_codes.SUCCESS)
        adjoint_state, d_sources = (
            [or_nan(success, x) for x in d] for d in (end.adjoint_state, end.d_sources)
        )
        return adjoint_state, d_sources, end.num_evaluations


class _Place(NamedTuple):
    """Where a backward pass stands: loop variables."""

    t: tf.Tensor
    index: tf.Tensor  # of the segment
    segment: Segment
    next_output: tf.Tensor
    adjoint_state: State
    d_sources: Tensors
    h: tf.Tensor
    num_evaluations: tf.Tensor
    status: tf.Tensor


class _BackwardPass:
    """Start and body of its loop, piece by piece from the last time to the first."""

    def __init__(
        self,
        problem: Problem,
        field: Field,
        stored: StoredSolution,
        cotangents: OutputCotangents,
        conditions: Conditions,
        integrate: Callable[[Piece, State, State], PieceResult],
    ) -> None:
        self._problem, self._field, self._stored = problem, field, stored
        self._cotangents, self._conditions, self._integrate = cotangents, conditions, integrate
        self._replay = functools.partial(stored.replay, method=problem.solver.method, field=field)

    def begin(self, span: tf.Tensor) -> _Place:
        problem, stored = self._problem, self._stored
        several, last = stored.has_several_segments, stored.last_index
        segment, replayed = self._replay(several, last, stored.segment)
        h = problem.first_h
        return _Place(
            t=problem.times[-1],
            index=last,
            segment=segment,
            next_output=tf.convert_to_tensor(self._cotangents.num_times - 2),
            adjoint_state=self._cotangents.at_end(),
            d_sources=zeros_for(self._field.sources),
            h=problem.solver.step_size_of_parts(span) if h is None else h,
            num_evaluations=replayed,
            status=tf.constant(status_codes.SUCCESS),
        )

    def unfinished(self, place: _Place) -> tf.Tensor:
        succeeds = tf.equal(place.status, status_codes.SUCCESS)
        return tf.not_equal(place.t, self._problem.times[0]) & succeeds

    def piece(self, place: _Place) -> _Place:
        """Ends at the next output time, or before it at the start of the segment."""
        output_time = tf.gather(self._problem.times, place.next_output)
        segment_time = self._stored.time(place.index * self._stored.segment_size)
        end = tf.maximum(segment_time, output_time)
        result = self._integrate(self._piece_to(end, place), place.adjoint_state, place.d_sources)
        at_output = tf.equal(end, output_time)
        jumped = add(result.adjoint_state, self._cotangents.at(place.next_output))
        enters = tf.equal(end, segment_time) & (place.index > 0)
        index = tf.where(enters, place.index - 1, place.index)
        segment, replayed = self._replay(enters, index, place.segment)
        return _Place(
            t=end,
            index=index,
            segment=segment,
            next_output=tf.where(at_output, place.next_output - 1, place.next_output),
            adjoint_state=keep(at_output, jumped, result.adjoint_state),
            d_sources=result.d_sources,
            h=result.h,
            num_evaluations=place.num_evaluations + result.num_evaluations + replayed,
            status=result.status,
        )

    def _piece_to(self, end: tf.Tensor, place: _Place) -> Piece:
        stored, index = self._stored, place.index

        def time(u: tf.Tensor) -> tf.Tensor:
            return tf.maximum(place.t - u, end)  # as u comes to t - end, rounded

        def products(
            u: tf.Tensor, adjoint_state: State, of_state: bool = True, of_sources: bool = True
        ) -> tuple[State, State]:
            y = stored.evaluate(time(u), index, place.segment)
            _, pullback = self._field.open_vjp(time(u), y)
            return pullback(adjoint_state, of_state, of_sources)

        limit = lambda u: place.t - stored.limit(time(u), index)
        return Piece(products, place.t - end, place.h, self._conditions.but(limit=limit))
