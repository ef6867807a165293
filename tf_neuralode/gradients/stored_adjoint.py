"""The adjoint equation on the stored forward solution: the loop that both such methods share."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from tf_neuralode.field import Field
from tf_neuralode.gradients.backward_pass import BackwardPass, Piece, PieceResult
from tf_neuralode.gradients.backward_tolerances import BackwardTolerances
from tf_neuralode.gradients.checkpoints import Checkpoints
from tf_neuralode.gradients.gradient import Gradient
from tf_neuralode.gradients.output_cotangents import OutputCotangents
from tf_neuralode.gradients.problem import Problem, Solution, solve_and_store
from tf_neuralode.gradients.stored_solution import StoredSolution
from tf_neuralode.solvers.solver import RungeKutta
from tf_neuralode.stepping import status as status_codes
from tf_neuralode.tensors import State, Tensors, or_nan, while_loop


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
        begin, end = problem.ends
        span = end - begin
        conditions = self.backward(problem.solver, problem.conditions).part_of(span)
        # Being bound to the forward steps is no sign of a failure: a piece gets two attempts more
        # for each of them, the second for a step that stops in front of a shorter one.
        conditions = conditions.but(further_steps=2 * stored.segment_size)
        integrate = functools.partial(self._integrate_piece, problem.solver)
        backward_pass = BackwardPass(problem, field, stored, cotangents, conditions, integrate)
        (last,) = while_loop(
            backward_pass.unfinished,
            lambda place: (backward_pass.piece(place),),
            (backward_pass.begin(span),),
        )
        # The last piece ends at times[0] and adds its row, so nothing is left to add.
        success = tf.equal(last.status, status_codes.SUCCESS)
        adjoint_state, d_sources = (
            [or_nan(success, x) for x in d] for d in (last.adjoint_state, last.d_sources)
        )
        return adjoint_state, d_sources, last.num_evaluations
