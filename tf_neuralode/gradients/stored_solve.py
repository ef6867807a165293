"""A solve that keeps its solution for a backward pass of ours: what tape and adjoints share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from tf_neuralode.gradients.gradient import Problem, Solution
from tf_neuralode.gradients.stored_solution import Checkpoints, StoredSolution
from tf_neuralode.gradients.vjp import with_backward, without_gradients
from tf_neuralode.not_finite import nan_unless
from tf_neuralode.solvers import status as status_codes
from tf_neuralode.solvers.diagnostics import Diagnostics, diagnostics
from tf_neuralode.solvers.output_times import output_recorder, pull_back_rows
from tf_neuralode.solvers.recording import AcceptedSteps, StepHistory
from tf_neuralode.solvers.runge_kutta import State


@dataclasses.dataclass(frozen=True)
class OutputCotangents:
    """Derivatives of the loss with respect to the state at the output times.

    Attributes:
      rows: For each leaf `(num_times, *leaf.shape)`.
      times: `(num_times,)`.
    """

    rows: State
    times: tf.Tensor

    @property
    def num_times(self):
        return self.times.shape[0] or tf.shape(self.times)[0]

    def at(self, index) -> State:
        return [tf.gather(row, index) for row in self.rows]

    def at_end(self) -> State:
        return self.at(self.num_times - 1)

    def add(self, adjoint_state: State, index) -> State:
        return [a + b for a, b in zip(adjoint_state, self.at(index), strict=True)]

    def of_step(self, index, t, t_next, method):
        """Cotangents of a step's dense solution from the output times inside the step.

        Args:
          index: Last output time that has not been treated; the first is never treated here.

        Returns:
          The next index, and for each leaf `(num_coefficients, *leaf.shape)`.
        """
        begin, d_dense = pull_back_rows(
            self.rows, self.times, index + 1, t, t_next, method.num_coefficients
        )
        return begin - 1, d_dense


Backward = Callable[
    [Problem, StoredSolution, OutputCotangents, list], tuple[State, list, tf.Tensor]
]


def solve_and_store(
    problem: Problem, checkpoints: Checkpoints, backward: Backward, name: str
) -> Solution:
    """Solves `problem`, and differentiates it by `backward`.

    Args:
      problem: What to solve, with a solver of ours.
      checkpoints: What to keep for the backward pass.
      backward: `backward(problem, stored, cotangents, sources)` returns the gradients of y0, those
        of the sources (parameters, captured tensors, variables) and how often it evaluated f.
      name: Of the method, for errors.
    """
    num_leaves, num_params = len(problem.y0), len(problem.params)
    captured = list(problem.captures.tensors)

    def forward(probe, *inputs):
        del probe
        y0, params = list(inputs[:num_leaves]), list(inputs[num_leaves:][:num_params])
        recorders = [output_recorder(problem.times), checkpoints]
        if problem.keep_steps:
            recorders.append(
                AcceptedSteps(problem.solver.max_num_steps, problem.solver.method.num_coefficients)
            )
        result = problem.solver.integrate(
            lambda t, y: problem.f(t, y, params),
            problem.times[0],
            problem.times[-1],
            y0,
            recorders,
            problem.pack,
        )
        rows, stored, *steps = result.saved
        outputs = [*rows, *diagnostics(result), *(tf.nest.flatten(steps))]
        steps_structure.extend(steps)
        return outputs, (stored, params, result.status)

    def run_backward(residuals, d_outputs, variables):
        stored, params, status = residuals
        # After a failure the solution is NaN, and so is its gradient, whatever the loss made of it.
        poison = nan_unless(tf.equal(status, status_codes.SUCCESS), problem.times.dtype)
        d_rows = [row + tf.cast(poison, row.dtype) for row in d_outputs[:num_leaves]]
        cotangents = OutputCotangents(d_rows, problem.times)
        # Behind an identity: f may close over a tensor that it gets as a parameter as well.
        params = [tf.identity(x) for x in params]
        sources = [*params, *captured, *variables]
        d_y0, d_sources, num_evaluations = backward(
            dataclasses.replace(problem, params=params),
            checkpoints.stored_solution(stored),
            cotangents,
            sources,
        )
        # A solve that failed at its first step has no step to carry the NaN to the sources.
        d_sources = [
            tf.cast(d + tf.cast(poison, d.dtype), x.dtype)
            for d, x in zip(d_sources, sources, strict=True)
        ]
        d_probe = tf.cast(num_evaluations, problem.probe.dtype)
        num_inputs = num_params + len(captured)
        return [d_probe, *d_y0, *d_sources[:num_inputs]], d_sources[num_inputs:]

    steps_structure: list[StepHistory] = []
    outputs = with_backward(
        forward, run_backward, [problem.probe, *problem.y0, *problem.params, *captured], name
    )
    outputs = list(outputs)
    num_diagnostics = len(Diagnostics._fields)
    rows, rest = outputs[:num_leaves], outputs[num_leaves:]
    steps = None
    if problem.keep_steps:
        steps = tf.nest.pack_sequence_as(steps_structure[0], rest[num_diagnostics:])
        steps = without_gradients(steps, name)
    return Solution(rows, Diagnostics(*rest[:num_diagnostics]), steps)
