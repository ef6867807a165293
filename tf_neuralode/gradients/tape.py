"""Gradients through the solver's own steps."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tf_neuralode.field import Field, zeros_for
from tf_neuralode.gradients.checkpoints import Checkpoints
from tf_neuralode.gradients.gradient import Gradient
from tf_neuralode.gradients.kept_activations import solve_keeping_activations
from tf_neuralode.gradients.output_cotangents import OutputCotangents
from tf_neuralode.gradients.problem import Problem, Solution, solve_and_store
from tf_neuralode.gradients.stored_solution import Segment, StoredSolution
from tf_neuralode.stepping import read
from tf_neuralode.tensors import State, Tensors, add, keep, while_loop, zeros_like


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
        checkpoints = Checkpoints(problem.solver.max_num_steps, with_carry=_is_carried(problem))
        return solve_and_store(problem, checkpoints, _backward, type(self).__name__, by_steps=True)


def _is_carried(problem: Problem) -> bool:
    """Whether the steps are differentiated with their carry.

    A dense solution needs the slope at the end of its step, which the next step goes on with. Where
    no loss sees one, a method that needs no carry has a shorter step without. Behind a jump of the
    field a carry is taken afresh.
    """
    sees_dense = problem.has_interior_times or problem.keep_steps
    return sees_dense or problem.field.has_jumps or problem.solver.method.needs_carry


class _Place(NamedTuple):
    """Where a backward pass stands: loop variables."""

    n: tf.Tensor  # the step
    adjoint_state: State
    d_carry: State
    d_sources: Tensors
    next_output: tf.Tensor
    num_evaluations: tf.Tensor


def _backward(
    problem: Problem, field: Field, stored: StoredSolution, cotangents: OutputCotangents
) -> tuple[State, State, tf.Tensor]:
    """Gradients of y0 and of the sources, and the number of evaluations of f."""
    carried = _is_carried(problem)
    steps = cotangents.steps
    if steps is not None:
        cotangents = dataclasses.replace(cotangents, steps=steps.folded(stored.num_steps))
    cotangents.prepare()
    start = _Place(
        n=stored.num_steps - 1,
        adjoint_state=cotangents.at_end(),
        d_carry=problem.solver.method.zero_carry(stored.y0) if carried else [],
        d_sources=zeros_for(field.sources),
        next_output=tf.convert_to_tensor(cotangents.num_times - 2),
        num_evaluations=tf.constant(int(carried)),
    )

    def through_segment(index: tf.Tensor, segment: Segment, place: _Place) -> _Place:
        """Its steps, last first."""
        first = index * stored.segment_size
        (place,) = while_loop(
            lambda place: place.n >= first,
            lambda place: (
                _back_a_step(problem, field, stored, cotangents, first, segment, place),
            ),
            (place,),
            # The graph runtime would take the stages of the next ten steps beforehand, since they
            # don't depend on the adjoint state, and hold their activations.
            parallel_iterations=1,
        )
        return place

    def one_more(index: tf.Tensor, segment: Segment, place: _Place) -> tuple:
        segment, replayed = stored.replay(True, index, segment, problem.solver.method, field)
        place = place._replace(num_evaluations=place.num_evaluations + replayed)
        return index - 1, segment, through_segment(index, segment, place)

    if stored.starts:
        _, _, end = while_loop(
            lambda index, *_: index >= 0,
            one_more,
            (stored.last_index, stored.segment, start),
            parallel_iterations=1,
        )
    else:
        end = through_segment(tf.constant(0), stored.segment, start)
    adjoint_state, d_sources = end.adjoint_state, end.d_sources
    if carried:  # the transpose of `method.start`
        begin = problem.ends[0]
        d_start, d_more = _vjp_in_a_loop(field.behind(begin), begin, stored.y0, end.d_carry)
        adjoint_state, d_sources = add(adjoint_state, d_start), add(d_sources, d_more)
    if cotangents.steps is not None:
        adjoint_state = add(adjoint_state, cotangents.steps.at_start(stored.num_steps))
    return add(adjoint_state, cotangents.at_start()), d_sources, end.num_evaluations


def _back_a_step(
    problem: Problem,
    field: Field,
    stored: StoredSolution,
    cotangents: OutputCotangents,
    first: tf.Tensor,
    segment: Segment,
    place: _Place,
) -> _Place:
    """Through step `place.n` of the segment whose first step is `first`."""
    method, n, next_output = problem.solver.method, place.n, place.next_output
    t, t_next = stored.time(n), stored.time(n + 1)
    y, carry = stored.split(read(segment, n - first))
    d_dense = None
    if problem.has_interior_times:
        next_output, d_dense = cotangents.of_step(next_output, t, t_next, method)
    d_end = place.adjoint_state
    if cotangents.steps is not None:
        d_state, d_kept = cotangents.steps.of_step(n)
        d_end, d_dense = add(d_end, d_state), d_kept if d_dense is None else add(d_dense, d_kept)
    # A sample with a clock of its own that rests, or was rejected, goes through no step.
    moved = tf.not_equal(t, t_next) if t.shape.rank else None
    d_y1, d_carry1 = (keep(moved, d, zeros_like(d)) for d in (d_end, place.d_carry))
    taken = method.step_vjp(
        field.on(t, t_next), t, t_next, y, carry, d_y1, d_carry1 or None, d_dense, place.d_sources
    )
    d_y, d_carry, d_sources, num_behind = method.behind_step_vjp(
        field, t, y, taken.y, taken.carry or [], taken.sources
    )
    return _Place(
        n=n - 1,
        adjoint_state=keep(moved, d_y, d_end),
        d_carry=keep(moved, d_carry, place.d_carry),
        d_sources=d_sources,
        next_output=next_output,
        num_evaluations=place.num_evaluations + taken.num_evaluations + num_behind,
    )


def _vjp_in_a_loop(field: Field, t: tf.Tensor, y: State, d_slope: State) -> tuple[State, State]:
    """The pullback of the slope, taken in a loop of one turn.

    Where TensorFlow differentiates a loop or a branch that a solve is in, its graph sees copies of
    the tensors that f closes over, and a tape there misses what is watched. In loops it doesn't.
    """
    if tf.executing_eagerly():
        return field.open_vjp(t, y)[1](d_slope)

    def turn(i: tf.Tensor, *_: tf.Tensor) -> tuple:
        d_y, d_sources = field.open_vjp(t, y)[1](d_slope)
        return (i + 1, *d_y, *d_sources)

    start = (tf.constant(0), *(tf.zeros_like(x) for x in y), *zeros_for(field.sources))
    _, *gradients = tf.while_loop(lambda i, *_: i < 1, turn, start)
    return gradients[: len(y)], gradients[len(y) :]
