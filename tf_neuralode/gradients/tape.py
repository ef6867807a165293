"""Gradients through the solver's own steps."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_neuralode.gradients.gradient import Gradient, Problem, Solution
from tf_neuralode.gradients.kept_activations import solve_keeping_activations
from tf_neuralode.gradients.step_vjp import (
    end_slope_cotangent,
    hands_last_slope_on,
    num_evaluations_of_step_vjp,
    step_vjp,
)
from tf_neuralode.gradients.stored_solution import Checkpoints, Segment, StoredSolution
from tf_neuralode.gradients.stored_solve import OutputCotangents, solve_and_store
from tf_neuralode.gradients.vjp import open_vjp, zeros_for
from tf_neuralode.loops import while_loop
from tf_neuralode.solvers.recording import read
from tf_neuralode.solvers.runge_kutta import OdeFn, State


@keras.saving.register_keras_serializable("tf_neuralode")
class Tape(Gradient):
    """Exact gradient of the discrete solution at its own step sequence.

    The accepted steps y_{n+1} = Phi_n(y_n, params) are differentiated one by one, last first, with
    the step sizes as constants; rejected steps play no part:

        lambda_n   = (d Phi_n / d y)^T lambda_{n+1}
        dL/dparams = sum_n (d Phi_n / d params)^T lambda_{n+1}

    It has no error beyond rounding, at any tolerance, for any field.

    Args:
      checkpoint: If true, memory grows like sqrt(max_num_steps), see `stored_solution`, and each
        accepted step is evaluated once more, or twice. If false, the activations of all steps are
        kept: faster, and differentiable to any order, but memory grows with the number of steps,
        and under XLA with `max_num_steps`, which then should be small.
    """

    def __init__(self, checkpoint: bool = True) -> None:
        self._checkpoint = bool(checkpoint)
        self.keeps_activations = not self._checkpoint

    def get_config(self) -> dict[str, Any]:
        return {"checkpoint": self._checkpoint}

    def solve(self, problem: Problem) -> Solution:
        self.check_solver(problem.solver)
        if not self._checkpoint:
            return solve_keeping_activations(problem)
        checkpoints = Checkpoints(problem.solver.max_num_steps)
        return solve_and_store(problem, checkpoints, _backward, type(self).__name__)


def _backward(
    problem: Problem, stored: StoredSolution, cotangents: OutputCotangents, sources: list
) -> tuple[State, State, tf.Tensor]:
    """Gradients of y0 and of `sources`, and the number of evaluations of f."""
    method = problem.solver.method
    # A step's dense solution matters only where the loss sees it.
    dense = problem.has_interior_times
    # Then the cotangents of the step before are wanted, too, for the slope that the two share.
    shared = dense and hands_last_slope_on(method)
    f = lambda t, y: problem.f(t, y, problem.params)

    def of_step(next_output: tf.Tensor, n: tf.Tensor) -> tuple:
        t, t_next = stored.time(n), stored.time(n + 1)
        return cotangents.of_step(next_output, t, t_next, method)

    def of_end_slope(n: tf.Tensor, d_dense: State) -> State:
        return end_slope_cotangent(method, stored.time(n + 1) - stored.time(n), d_dense)

    def step(
        n: tf.Tensor,
        adjoint_state: State,
        d_sources: State,
        segment: Segment,
        next_output: tf.Tensor,
        d_dense_early: State,
        num_evaluations: tf.Tensor,
    ) -> tuple:
        index, position = n // stored.segment_size, n % stored.segment_size
        of_segment = tf.equal(position, stored.segment_size - 1)
        enters = of_segment | tf.equal(n, stored.num_steps - 1)
        segment, resolved = stored.resolve(enters, index, segment, method, f, dense=False)
        t, t_next = stored.time(n), stored.time(n + 1)
        y = read(segment, position)

        d_dense = d_slope = None
        if shared:
            d_dense = d_dense_early
            # In front of the first step there are no output times left.
            before = tf.maximum(n - 1, 0)
            next_output, d_dense_early = of_step(next_output, before)
            d_slope = of_end_slope(before, d_dense_early)
        elif dense:
            next_output, d_dense = of_step(next_output, n)
        adjoint_state, d_sources = step_vjp(
            f, method, t, t_next, y, sources, adjoint_state, d_dense, d_slope, d_sources
        )
        num_evaluations += resolved + num_evaluations_of_step_vjp(method, dense)
        return n - 1, adjoint_state, d_sources, segment, next_output, d_dense_early, num_evaluations

    adjoint_state, d_sources = cotangents.at_end(), zeros_for(sources)
    next_output = cotangents.num_times - 2
    d_dense_early: State = []
    if shared:
        last = tf.maximum(stored.num_steps - 1, 0)
        next_output, d_dense_early = of_step(next_output, last)
        d_end, d_sources = _vjp_in_a_loop(
            f, problem.times[-1], stored.end, sources, of_end_slope(last, d_dense_early)
        )
        adjoint_state = [a + b for a, b in zip(adjoint_state, d_end, strict=True)]
    start = (
        stored.num_steps - 1,
        adjoint_state,
        d_sources,
        stored.segment,
        next_output,
        d_dense_early,
        tf.constant(int(shared)),
    )
    _, adjoint_state, d_sources, _, _, _, num_evaluations = while_loop(
        lambda n, *_: n >= 0,
        step,
        start,
        # The graph runtime would take the stages of the next ten steps beforehand, since they
        # don't depend on the adjoint state, and hold their activations.
        parallel_iterations=1,
    )
    return cotangents.add(adjoint_state, 0), d_sources, num_evaluations


def _vjp_in_a_loop(
    f: OdeFn, t: tf.Tensor, y: State, sources: list, d_slope: State
) -> tuple[State, State]:
    """The pullback of `open_vjp`, taken in a loop of one turn.

    Where TensorFlow differentiates a loop or a branch that a solve is in, its graph sees copies of
    the tensors that f closes over, and a tape there misses what is watched. In loops it doesn't.
    """
    if tf.executing_eagerly():
        return open_vjp(f, t, y, sources)[1](d_slope)

    def turn(i: tf.Tensor, *_: tf.Tensor) -> tuple:
        d_y, d_sources = open_vjp(f, t, y, sources)[1](d_slope)
        return (i + 1, *d_y, *d_sources)

    start = (tf.constant(0), *(tf.zeros_like(x) for x in y), *zeros_for(sources))
    _, *gradients = tf.while_loop(lambda i, *_: i < 1, turn, start)
    return gradients[: len(y)], gradients[len(y) :]
