"""An initial value problem on flat states: solved, and differentiated by a backward pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_neuralode.field import Captures, Field
from tf_neuralode.gradients.checkpoints import Checkpoints
from tf_neuralode.gradients.output_cotangents import OutputCotangents, output_cotangents
from tf_neuralode.gradients.stored_solution import StoredSolution
from tf_neuralode.gradients.vjp import with_backward, without_gradients
from tf_neuralode.stepping import (
    AcceptedSteps,
    Conditions,
    Diagnostics,
    Point,
    Recorder,
    StepHistory,
    loop,
    output_recorder,
)
from tf_neuralode.stepping import status as status_codes
from tf_neuralode.tensors import State, along, each, nan_unless


@dataclasses.dataclass(frozen=True)
class Solution:
    """What a differentiable solve returns.

    Attributes:
      rows: For each leaf of the state `(num_times, *leaf.shape)`.
      diagnostics: Of the solve.
      steps: `StepHistory` if the problem asked for it.
    """

    rows: State
    diagnostics: Diagnostics
    steps: StepHistory | None = None


@dataclasses.dataclass(frozen=True)
class Problem:
    """An initial value problem on flat states.

    Attributes:
      field: What is solved; its parameters are those that gradients are wanted for.
      times: `(num_times,)`, rising; the first is the initial time. Or `(num_times, batch)`, where
        each sample has its own, from 0 to 1, see `field.SampleClock`.
      y0: State at `times[0]`.
      captures: What f reads besides its arguments; its gradient is wanted, too.
      counter: Scalar whose gradient is the number of evaluations of f in the backward pass.
      solver: One of ours, or a `StockSolver`.
      conditions: What else a solve is told. Their `pack` gives a flat state the user's structure.
      flatten: The inverse of `pack`. Both leave alone what axes there are in front of a state's.
      keep_steps: Whether the solution's accepted steps are wanted.
      first_h: Size of the first step, 0 or `None` for "choose one".
      expects_backward: Whether a backward pass is to be expected, and what it needs is stored. One
        that comes unexpectedly solves again.
      own_clocks: Whether each sample has steps of its own, from the first of its times to the last.
    """

    field: Field
    times: tf.Tensor
    y0: State
    captures: Captures
    counter: tf.Tensor
    solver: Any
    conditions: Conditions
    flatten: Callable[[Any], State]
    keep_steps: bool = False
    first_h: tf.Tensor | None = None
    expects_backward: bool = True
    own_clocks: bool = False

    @property
    def ends(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Where a solve begins and ends, clock values."""
        begin, end = self.times[0], self.times[-1]
        if self.times.shape.rank == 1 or self.own_clocks:
            return begin, end
        return tf.zeros([], self.times.dtype), tf.ones([], self.times.dtype)

    @property
    def inputs(self) -> list[tf.Tensor]:
        """All that a solve depends on but variables: counter, y0, params, captured tensors."""
        return [self.counter, *self.y0, *self.field.params, *self.captures.tensors]

    def y0_and_params(self, inputs: list[tf.Tensor]) -> tuple[State, State]:
        """Those among values of `inputs`."""
        num = 1 + len(self.y0)
        return inputs[1:num], inputs[num:][: len(self.field.params)]

    @property
    def has_interior_times(self) -> bool:
        """Whether there are output times between the first and the last (or may be)."""
        return self.times.shape[0] is None or self.times.shape[0] > 2

    def integrate(
        self, field: Field, y0: State, recorder: Recorder | None = None, bounded: bool = False
    ) -> tuple[Solution, Any]:
        """The solve of this field from this state.

        Args:
          field, y0: What is solved.
          recorder: A further one, for a solver of ours.
          bounded: As in `output_recorder`.

        Returns:
          The solution, which isn't differentiable but by TensorFlow, and what `recorder` kept.
        """
        if not self.solver.is_ours:
            arguments = (field, y0, self.times, self.conditions, self.flatten)
            return Solution(*self.solver.rows(*arguments)), None
        recorders = [output_recorder(self.times, bounded)]
        if recorder is not None:
            recorders.append(recorder)
        solver = self.solver
        if self.keep_steps:
            recorders.append(AcceptedSteps(solver.max_num_steps, solver.method.num_coefficients))
        begin, end = self.ends
        start = Point(begin, y0, h=self.first_h)
        steps = solver.steps(self.conditions, start, end)
        result = loop.solve(solver.method, steps, field, start, recorders)
        history = result.saved[-1] if self.keep_steps else None
        kept = None if recorder is None else result.saved[1]
        return Solution(result.saved[0], result.diagnostics, history), kept

    def differentiated(
        self,
        solve: Callable[[list[tf.Tensor]], tuple[Solution, Any]],
        backward: Callable[..., tuple[State, State]],
        name: str,
        by_steps: bool = False,
    ) -> Solution:
        """A solution whose rows are differentiated by `backward`.

        Args:
          solve: `solve(inputs)` gives the solution for values of `inputs`, and residuals.
          backward: `backward(residuals, d_rows, variables)` gives the gradients of the inputs, and
            of the variables that `solve` read.
          name: Of the method, for errors.
          by_steps: Whether it takes the cotangents of the kept steps as well, as `d_steps`;
            otherwise they have no gradient.
        """
        structure: list[Any] = []

        def forward(*inputs: Any) -> tuple:
            solution, residuals = solve(list(inputs))
            steps = [] if solution.steps is None else [solution.steps]
            structure[:] = [(solution.rows, solution.diagnostics, steps)]
            return tf.nest.flatten(structure[0]), residuals

        def of_rows(residuals: Any, d_outputs: Any, variables: Any) -> tuple:
            d_rows, _, d_steps = tf.nest.pack_sequence_as(structure[0], d_outputs)
            further = {"d_steps": d_steps[0]} if by_steps and d_steps else {}
            return backward(residuals, d_rows, variables, **further)

        outputs = list(with_backward(forward, of_rows, self.inputs, name))
        rows, report, steps = tf.nest.pack_sequence_as(structure[0], outputs)
        if steps and not by_steps:
            steps = [without_gradients(steps[0], name)]
        return Solution(rows, report, *steps)


Backward = Callable[
    [Problem, Field, StoredSolution, OutputCotangents], tuple[State, State, tf.Tensor]
]


def solve_and_store(
    problem: Problem,
    checkpoints: Checkpoints,
    backward: Backward,
    name: str,
    by_steps: bool = False,
) -> Solution:
    """Solves `problem`, and differentiates it by `backward` on what `checkpoints` kept.

    Args:
      problem: What to solve, with a solver of ours.
      checkpoints: What to keep for the backward pass.
      backward: `backward(problem, field, stored, cotangents)` returns the gradients of y0, those of
        `field.sources` (parameters, captured tensors, variables) and how often it evaluated f.
      name: Of the method, for errors.
      by_steps: Whether it takes the cotangents of the kept steps, too.
    """

    def solve(inputs: list[tf.Tensor]) -> tuple[Solution, Any]:
        y0, params = problem.y0_and_params(inputs)
        recorder = checkpoints if problem.expects_backward else None
        solution, stored = problem.integrate(problem.field.with_params(params), y0, recorder)
        return solution, (stored, y0, params, solution.diagnostics.status)

    def run_backward(
        residuals: Any, d_rows: State, variables: Any, d_steps: StepHistory | None = None
    ) -> tuple:
        stored, y0, params, status = residuals
        # After a failure the solution is NaN, and so is its gradient, whatever the loss made of it.
        poison = nan_unless(tf.equal(status, status_codes.SUCCESS), problem.times.dtype)
        d_rows = [d + along(tf.cast(poison, d.dtype), d, 1) for d in d_rows]
        # Behind an identity: f may close over a tensor that it gets as a parameter as well.
        field = problem.field.with_params([tf.identity(x) for x in params])
        num_again = tf.constant(0)
        if stored is None:
            again, stored = problem.integrate(field, y0, checkpoints)
            num_again = again.diagnostics.num_ode_fn_evaluations
        field = field.reading([*problem.captures.tensors, *variables])
        stored = checkpoints.stored_solution(stored, y0)
        cotangents = output_cotangents(d_rows, problem.times, d_steps)
        d_y0, d_sources, num_evaluations = backward(problem, field, stored, cotangents)
        # A solve that failed at its first step has no step to carry the NaN to the sources.
        spoilt = lambda d, x: tf.cast(d + tf.cast(tf.reduce_sum(poison), d.dtype), x.dtype)
        d_sources = each(spoilt, d_sources, field.sources)
        d_counter = tf.cast(num_evaluations + num_again, problem.counter.dtype)
        num = len(d_sources) - len(variables)
        return [d_counter, *d_y0, *d_sources[:num]], d_sources[num:]

    return problem.differentiated(solve, run_backward, name, by_steps)
