"""The core with a clock of each sample: loop, rows, and the tape, for any method.

No public name asks for it yet.
"""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from modes import MODES, in_mode

from tf_neuralode import gradients, solvers
from tf_neuralode.field.captures import Captures
from tf_neuralode.field.field import Field
from tf_neuralode.gradients.problem import Problem
from tf_neuralode.methods.method import Method, Step
from tf_neuralode.solvers.fixed_solver import FixedStepRungeKutta
from tf_neuralode.stepping.types import NOTHING_KNOWN
from tf_neuralode.tensors.algebra import advanced

Y0 = np.array([[1.0, 2.0], [0.5, -1.0], [3.0, 0.2]])
RATE = np.array([-0.7, 0.4])
# Begin at 0 each, and end where each ends; the last sample rests.
TIMES = np.array([[0.0, 0.0, 0.0], [0.3, 0.2, 0.0], [0.3, 0.9, 0.0], [1.0, 2.0, 0.0]])


class Euler(Method):
    """What a user would write: a step, its dense solution, and no transpose."""

    error_order, num_coefficients, needs_carry = 1, 2, True

    def step(self, field, t, t_next, y, carry, norm=None):
        y1 = advanced(y, t_next - t, [1.0], [carry])
        return Step(y1, field(t_next, y1), None, None, [carry], 1)

    def dense(self, field, t, t_next, y, step, needed=None):
        (slope,) = step.stages
        change = advanced([tf.zeros_like(x) for x in y], t_next - t, [1.0], [slope])
        return [tf.stack([a, b]) for a, b in zip(y, change, strict=True)]


class EqualEuler(FixedStepRungeKutta):
    method = Euler()


def solve(y0, rate, solver, gradient, times=TIMES, kind=NOTHING_KNOWN):
    problem = Problem(
        field=Field(lambda t, y, params: [params[0] * y[0]], [rate]),
        times=tf.constant(times),
        y0=[y0],
        captures=Captures(),
        counter=tf.zeros([]),
        solver=solver,
        conditions=dataclasses.replace(kind, batch_ndims=1),
        flatten=list,
        own_clocks=True,
    )
    return gradients.get(gradient).solve(problem)


def with_gradients(solver, gradient, mode, times=TIMES):
    weights = tf.constant(np.cos(np.arange(times.size * 2)).reshape(*times.shape, 2))

    def function(y0, rate):
        with tf.GradientTape() as tape:
            tape.watch([y0, rate])
            solution = solve(y0, rate, solver, gradient, times)
            loss = tf.reduce_sum(weights * solution.rows[0])
        return solution.rows[0], solution.diagnostics, tape.gradient(loss, [y0, rate])

    inputs = tf.constant(Y0), tf.constant(RATE)
    return in_mode(function, mode)(*inputs), weights.numpy()


def reference(growth, weights):
    """Rows and gradients of y0 growth(t, rate)."""
    t, eps = TIMES[:, :, None], 1e-6
    derivative = (growth(t, RATE + eps) - growth(t, RATE - eps)) / (2 * eps)
    d_rate = np.sum(weights * Y0 * derivative, (0, 1))
    return Y0 * growth(t, RATE), np.sum(weights * growth(t, RATE), 0), d_rate


GRADIENTS = ["tape", gradients.Tape(checkpoint=False)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gradient", GRADIENTS, ids=str)
def test_a_stub_of_a_method_steps_each_sample_by_its_own_clock(gradient, mode):
    num = 40  # more than a segment of the tape
    solver = EqualEuler(num)
    (rows, diagnostics, (d_y0, d_rate)), weights = with_gradients(solver, gradient, mode)
    h = TIMES[-1][:, None] / num

    # Linear between the ends of the steps: n of them passed, and the part theta of one.
    def growth(t, rate):
        n = np.minimum(np.floor(t / np.maximum(h, 1e-9) + 1e-9), num - 1)
        return (1 + h * rate) ** n * (1 + (t - n * h) * rate)

    expected = reference(growth, weights)
    np.testing.assert_allclose(rows, expected[0], rtol=1e-12)
    np.testing.assert_allclose(d_y0, expected[1], rtol=1e-12)
    np.testing.assert_allclose(d_rate, expected[2], rtol=1e-8)  # finite differences of size 1e-6
    assert diagnostics.num_accepted_steps.numpy().tolist() == [num, num, 0]
    assert diagnostics.final_time.numpy().tolist() == TIMES[-1].tolist()
    # One for the carry at the start, one a step.
    assert diagnostics.num_ode_fn_evaluations == 1 + num


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gradient", GRADIENTS, ids=str)
def test_adaptive_steps_are_each_samples_own(gradient, mode):
    solver = solvers.Bosh3(1e-6, 1e-6, max_num_steps=300)
    (rows, diagnostics, found), weights = with_gradients(solver, gradient, mode)
    expected = reference(lambda t, rate: np.exp(t * rate), weights)
    for x, y in zip([rows, *found], expected, strict=True):
        # Ten times the tolerance, and sums of a dozen terms.
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)
    accepted = diagnostics.num_accepted_steps.numpy()
    assert accepted[1] > accepted[0] > accepted[2] == 0
    alone = [
        solve(tf.constant(Y0[i : i + 1]), tf.constant(RATE), solver, "tape", TIMES[:, i : i + 1])
        for i in range(2)
    ]
    assert [int(x.diagnostics.num_accepted_steps[0]) for x in alone] == accepted[:2].tolist()


@pytest.mark.parametrize("mode", MODES)
def test_a_sample_that_fails_leaves_the_others_alone(mode):
    field = Field(lambda t, y, _: [y[0] ** 2])

    def function(y0):
        problem = Problem(
            field=field,
            times=tf.constant(np.array([[0.0] * 3, [0.3] * 3, [0.9] * 3])),
            y0=[y0],
            captures=Captures(),
            counter=tf.zeros([]),
            solver=solvers.Bosh3(1e-6, 1e-6, max_num_steps=200),
            conditions=dataclasses.replace(NOTHING_KNOWN, batch_ndims=1),
            flatten=list,
            own_clocks=True,
        )
        solution = gradients.get("tape").solve(problem)
        return solution.rows[0], solution.diagnostics.status

    y0 = np.array([[1.0], [2.0], [np.nan]])  # y0 / (1 - y0 t): the second is infinite at 0.5
    rows, status = in_mode(function, mode)(tf.constant(y0))
    exact = np.array([[1.0, 2.0], [1 / 0.7, 2 / 0.4], [10.0, np.nan]])
    np.testing.assert_allclose(rows[:, :2, 0], exact, rtol=1e-4)
    assert status[0] == 0 and status[1] < 0 and status[2] == -3
    assert np.isnan(rows[1:, 2]).all()
