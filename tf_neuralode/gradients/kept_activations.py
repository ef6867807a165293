"""A solve that TensorFlow differentiates itself: every activation of the forward pass is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from tf_neuralode.field import Attempt, Field
from tf_neuralode.gradients.problem import Problem, Solution
from tf_neuralode.stepping import status as status_codes
from tf_neuralode.tensors import State, along, each, or_nan, scale


class GatedField(Field):
    """f whose gradient passes through accepted attempts only.

    A rejected attempt gets the cotangent 0, and 0 times an overflowed activation is NaN. So the
    gradients are cut off where they leave an attempt, once it is known whether it was accepted: of
    the parameters, where samples have clocks of their own, if it was by none.
    """

    def attempt(self, y: State, carry: State | None) -> Attempt:
        gate = _Gate()

        def of_samples(d):
            return tf.where(along(gate.accepted, d), d, tf.zeros_like(d))

        def of_params(d):
            return tf.where(tf.reduce_any(gate.accepted), d, tf.zeros_like(d))

        field = dataclasses.replace(self, params=gate(self.params, of_params))
        carry = None if carry is None else gate(carry, of_samples)
        return Attempt(field, gate(y, of_samples), carry, gate.settle)

    def moved_by_jump(self, t: tf.Tensor, y: State, before: State, after: State) -> State:
        """`y`, with the derivative dy/dtau = before - after by the time tau of a jump at `t`."""
        which = tf.cast(tf.equal(self.jumps, t), t.dtype)
        tau = tf.reduce_sum(which * self.params[-1])
        # 0, with the derivative of tau.
        passed = tau - tf.stop_gradient(tau)
        return each(lambda x, a, b: x + scale(passed, a - b), y, before, after)


class _Gate:
    """Identities, whose gradients are functions of what is `accepted`, which is settled later."""

    accepted: tf.Tensor

    def settle(self, accepted: tf.Tensor) -> None:
        self.accepted = tf.stop_gradient(accepted)

    def __call__(self, tensors: State, grad: Callable[[tf.Tensor], tf.Tensor]) -> State:
        @tf.custom_gradient
        def gated(x):
            return tf.identity(x), grad

        return [gated(x) for x in tensors]


def solve_keeping_activations(problem: Problem) -> Solution:
    """Solves `problem` in a way that is differentiable as it stands, to any order."""
    # Where all attempts are rejected their gates would make the parameters' gradients zero.
    verdict = _Gate()
    params = verdict(problem.field.params, lambda d: or_nan(tf.reduce_all(verdict.accepted), d))
    # XLA can't differentiate a loop of adaptive steps twice, whatever is in it.
    twice_under_xla = not problem.solver.is_adaptive
    field = GatedField(problem.field.f, params, has_jumps=problem.field.has_jumps)
    solution, _ = problem.integrate(field, problem.y0, bounded=twice_under_xla)
    success = tf.equal(solution.diagnostics.status, status_codes.SUCCESS)
    verdict.settle(success)
    # A failed solve has no gradient.
    spoilt = lambda rows: verdict(rows, lambda d: or_nan(along(success, d, 1), d))
    steps = solution.steps
    if steps is not None:
        times = tf.stop_gradient(steps.times)
        steps = steps._replace(times=times, states=spoilt(steps.states), dense=spoilt(steps.dense))
    return Solution(spoilt(solution.rows), solution.diagnostics, steps)
