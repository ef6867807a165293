"""A solve that TensorFlow differentiates itself: every activation of the forward pass is kept."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_neuralode.gradients.gradient import Problem, Solution
from tf_neuralode.not_finite import nan_unless
from tf_neuralode.solvers import FixedStepRungeKutta
from tf_neuralode.solvers import status as status_codes
from tf_neuralode.solvers.diagnostics import diagnostics
from tf_neuralode.solvers.output_times import output_recorder
from tf_neuralode.solvers.recording import AcceptedSteps, StepHistory
from tf_neuralode.solvers.runge_kutta import Attempt, PerAttempt, State


class GatedField(PerAttempt):
    """f whose gradient passes through accepted attempts only.

    A rejected attempt gets the cotangent 0, and 0 times an overflowed activation is NaN. So the
    gradients are cut off where they leave an attempt, once it is known whether it was accepted.
    """

    def __init__(self, f: Callable[[tf.Tensor, State, State], State], params: State):
        self._f = f
        self._params = params

    def __call__(self, t, y):
        return self._f(t, y, self._params)

    def attempt(self, y, k0):
        gate = _Gate()
        params = gate(self._params)
        return Attempt(lambda t, y: self._f(t, y, params), gate(y), gate(k0), gate.settle)


class _Gate:
    """Identity whose gradient is 0, or NaN, unless it is settled with a true value later."""

    def __init__(self, otherwise_nan: bool = False):
        self._otherwise_nan = otherwise_nan
        self._accepted = None

    def settle(self, accepted: tf.Tensor) -> None:
        self._accepted = tf.stop_gradient(accepted)

    def __call__(self, tensors: State) -> State:
        return [self._one(x) for x in tensors]

    def _one(self, tensor):
        @tf.custom_gradient
        def gated(x):
            def grad(d):
                if self._otherwise_nan:
                    otherwise = nan_unless(self._accepted, x.dtype)
                else:
                    otherwise = tf.zeros([], x.dtype)
                return tf.where(self._accepted, d, otherwise)

            return tf.identity(x), grad

        return gated(tensor)


def solve_keeping_activations(problem: Problem) -> Solution:
    """Solves `problem` in a way that is differentiable as it stands, to any order."""
    times, solver = problem.times, problem.solver
    # Where all attempts are rejected their gates would make the parameters' gradients zero.
    verdict = _Gate(otherwise_nan=True)
    # XLA can't differentiate a loop of adaptive steps twice, whatever is in it.
    twice_under_xla = isinstance(solver, FixedStepRungeKutta)
    recorders = [output_recorder(times, bounded=twice_under_xla)]
    if problem.keep_steps:
        recorders.append(AcceptedSteps(solver.max_num_steps, solver.method.num_coefficients))
    result = solver.integrate(
        GatedField(problem.f, verdict(problem.params)),
        times[0],
        times[-1],
        problem.y0,
        recorders,
        problem.pack,
    )
    rows, *steps = result.saved
    success = tf.equal(result.status, status_codes.SUCCESS)
    verdict.settle(success)
    return Solution(
        rows=_spoil_gradient_after_failure(rows, success),
        diagnostics=diagnostics(result),
        steps=_differentiable(steps[0], success) if steps else None,
    )


def _differentiable(steps: StepHistory, success: tf.Tensor) -> StepHistory:
    """Steps with the derivatives of their states and dense solutions; their times are constants."""
    return steps._replace(
        times=tf.stop_gradient(steps.times),
        states=_spoil_gradient_after_failure(steps.states, success),
        dense=_spoil_gradient_after_failure(steps.dense, success),
    )


def _spoil_gradient_after_failure(rows: State, success: tf.Tensor) -> State:
    """`rows`, with NaN as their gradient unless `success`: a failed solve has none."""

    def one(row):
        @tf.custom_gradient
        def spoiled(x):
            return tf.identity(x), lambda d: tf.where(success, d, nan_unless(success, x.dtype))

        return spoiled(row)

    return [one(row) for row in rows]
