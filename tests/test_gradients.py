"""Gradients against finite differences, exact gradients and each other."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from all_gradients import ALL_GRADIENTS
from gradient_problem import (
    BACKWARDS,
    FOUR_TIMES,
    TWO_TIMES,
    finite_differences,
    loss_and_gradients,
    loss_of,
    make_inputs,
    reference_gradients,
    relative_error,
    solve,
)
from modes import MODES, in_mode
from scipy.linalg import expm

from tf_neuralode import gradients, odeint, solvers
from tf_neuralode.methods import interpolation


@pytest.fixture(scope="module", params=[TWO_TIMES, FOUR_TIMES, BACKWARDS], ids=str)
def case(request):
    """Output times and the reference gradient there."""
    return request.param, reference_gradients(request.param)


@pytest.mark.parametrize("times", [TWO_TIMES, FOUR_TIMES], ids=str)
def test_reference_gradient_equals_finite_differences(times):
    solver = solvers.DormandPrince8(1e-12, 1e-12)
    loss = tf.function(lambda inputs: loss_of(solve(inputs, times, "tape", solver).states))
    expected = finite_differences(loss, make_inputs())
    # Central differences with a step of 1e-5: truncation 1e-10, and the solution's own error of
    # 1e-12 over the step gives 1e-7.
    assert relative_error(reference_gradients(times), expected) < 1e-7


@pytest.mark.parametrize("gradient", ALL_GRADIENTS)
def test_gradient_error_falls_with_the_tolerance(gradient, case):
    times, expected = case

    @tf.function
    def at(tolerance):
        solver = solvers.DormandPrince(rtol=tolerance, atol=tolerance)
        return loss_and_gradients(make_inputs(), times, gradient, solver)[1]

    tolerances = (1e-3, 1e-6, 1e-9)
    errors = [relative_error(at(tf.constant(t, tf.float64)), expected) for t in tolerances]
    # The tolerance bounds the local error; over an interval of 2 and a Lipschitz constant of about
    # 3 the global one is some ten times that. The backsolve adjoint also solves the state back
    # through a field that contracts by a factor of ten, which multiplies its errors by as much.
    factor = 300 if gradient == "adjoint" else 30
    if times == BACKWARDS:  # there the solution itself is what grows
        factor = max(factor, 60)
    for error, tolerance in zip(errors, tolerances, strict=True):
        assert error < factor * tolerance
    # A tolerance a thousand times smaller; the error per step goes as its 6/5-th power or less.
    assert errors[1] < errors[0] / 30
    assert errors[2] < errors[1] / 30


def test_issue_tolerances_tape_1e_minus_6_and_adjoint_1e_minus_5_at_1e_minus_8(case):
    times, expected = case
    solver = solvers.DormandPrince(rtol=1e-8, atol=1e-8)
    for gradient, bound in (("tape", 1e-6), ("adjoint", 1e-5)):
        function = tf.function(lambda x, g=gradient: loss_and_gradients(x, times, g, solver)[1])
        assert relative_error(function(make_inputs()), expected) <= bound


@pytest.mark.parametrize("times", [TWO_TIMES, FOUR_TIMES], ids=str)
@pytest.mark.parametrize("tolerance", [1e-1, 1e-3])
@pytest.mark.parametrize("checkpoint", [True, False])
def test_tape_equals_finite_differences_of_the_same_step_sequence(tolerance, times, checkpoint):
    inputs = make_inputs()
    solver = solvers.DormandPrince(rtol=tolerance, atol=tolerance)
    y0, *params = inputs
    method = solver.method
    steps = odeint(
        lambda t, y: _field(t, y, params), y0, times, solver=solver, dense_output=True
    ).solution.times.numpy()

    def replayed_loss(inputs):
        y, *params = inputs
        f = lambda t, y: [_field(t, y[0], params)]
        states, y = [y], [y]
        for i in range(len(steps) - 1):
            t, t_next = tf.constant(steps[i]), tf.constant(steps[i + 1])
            taken = method.step(f, t, t_next, y, f(t, y))
            dense = method.dense(f, t, t_next, y, taken)
            for time in times[1:-1]:
                if steps[i] < time <= steps[i + 1]:
                    states += interpolation.evaluate(dense, (time - t) / (t_next - t))
            y = taken.y1
        return loss_of(tf.stack([*states, *y]))

    gradient = gradients.Tape(checkpoint=checkpoint)
    actual = loss_and_gradients(inputs, times, gradient, solver)[1]
    function = tf.function(replayed_loss, autograph=False)
    wide, narrow = (finite_differences(function, inputs, step=h) for h in (2e-5, 1e-5))
    # A step of 1.8, which 1e-1 allows, makes third derivatives large: extrapolated, the truncation
    # of central differences is of order h^4, and what is left is rounding, about 1e-10.
    expected = [(4 * b - a) / 3 for a, b in zip(wide, narrow, strict=True)]
    assert relative_error(actual, expected) < 1e-9


def _field(t, y, params):
    return tf.tanh(tf.tanh(y @ params[0] * (1 + t)) @ params[1])


@pytest.mark.core
@pytest.mark.parametrize(
    "solver", [solvers.DormandPrince8(1e-6, 1e-6), solvers.RK4(40)], ids=["adaptive", "fixed"]
)
@pytest.mark.parametrize("gradient", ALL_GRADIENTS)
def test_any_gradient_works_with_any_solver(gradient, solver):
    function = tf.function(lambda x: loss_and_gradients(x, FOUR_TIMES, gradient, solver)[1])
    error = relative_error(function(make_inputs()), reference_gradients(FOUR_TIMES))
    # Eighth order at 1e-6, and fourth order with h = 1/20 (h^4 = 6e-6), times ten as above.
    assert error < 6e-5


@pytest.mark.parametrize(
    "times", [TWO_TIMES, pytest.param(FOUR_TIMES, marks=pytest.mark.core)], ids=str
)
@pytest.mark.parametrize("gradient", [*ALL_GRADIENTS, gradients.Tape(checkpoint=False)], ids=str)
def test_eager_graph_and_xla_give_the_same_gradient(gradient, times):
    solver = solvers.DormandPrince(1e-6, 1e-6, max_num_steps=50)
    results = [
        in_mode(lambda x: loss_and_gradients(x, times, gradient, solver)[1], mode)(make_inputs())
        for mode in MODES
    ]
    for other in results[1:]:
        # Rounding alone, 1e-16, amplified by the step-size control, which sees it too.
        assert relative_error(other, results[0]) < 1e-9


@pytest.mark.parametrize("gradient", ALL_GRADIENTS)
def test_linear_system_has_its_exact_gradient(gradient):
    # y(1) = exp(A) y0, L = c . y(1): dL/dy0 = exp(A)^T c, dL/dA from the block exponential
    # (Van Loan 1978): the upper right block of exp([[A, E], [0, A]]) is d exp(A) along E.
    matrix = np.array([[-0.5, 2.0], [-1.0, 0.3]])
    y0, c = np.array([1.0, -0.7]), np.array([0.4, 1.1])
    d_matrix = np.zeros((2, 2))
    for entry in np.ndindex(2, 2):
        direction = np.zeros((2, 2))
        direction[entry] = 1
        block = np.block([[matrix, direction], [np.zeros((2, 2)), matrix]])
        d_matrix[entry] = c @ expm(block)[:2, 2:] @ y0
    expected = [expm(matrix).T @ c, d_matrix]

    @tf.function
    def function(y0, matrix):
        with tf.GradientTape() as tape:
            tape.watch([y0, matrix])
            solver = solvers.DormandPrince(1e-9, 1e-9)
            results = odeint(
                lambda t, y, matrix: tf.linalg.matvec(matrix, y),
                y0,
                [0.0, 1.0],
                matrix,
                solver=solver,
                gradient=gradient,
            )
            loss = tf.tensordot(results.states[-1], tf.constant(c), 1)
        return tape.gradient(loss, [y0, matrix])

    actual = function(tf.constant(y0), tf.constant(matrix))
    # Ten times the tolerance, for the growth of the error over the interval.
    assert relative_error(actual, expected) < 1e-8


@pytest.mark.parametrize("gradient", [*ALL_GRADIENTS, gradients.Tape(checkpoint=False)], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_times_have_gradients(gradient, mode):
    # y' = -y: y(t1) = y0 exp(t0 - t1), and the same for the output time between.
    def function(times):
        with tf.GradientTape() as tape:
            tape.watch(times)
            solver = solvers.DormandPrince(1e-9, 1e-9, max_num_steps=60)
            y0 = tf.constant([2.0], tf.float64)
            states = odeint(lambda t, y: -y, y0, times, solver=solver, gradient=gradient).states
            loss = 3 * states[1, 0] + states[2, 0]
        return tape.gradient(loss, times)

    actual = in_mode(function, mode)(tf.constant([0.2, 0.7, 1.5], tf.float64))
    first, second = 3 * 2 * np.exp(-0.5), 2 * np.exp(-1.3)
    # Ten times the tolerance.
    np.testing.assert_allclose(actual, [first + second, -first, -second], rtol=1e-8)


@pytest.mark.parametrize("gradient", ALL_GRADIENTS)
def test_nests_of_states_and_parameters_have_gradients(gradient):
    # A harmonic oscillator, q' = w p, p' = -w q, as a dict beside a scalar z' = -rate z.
    def field(t, y, params):
        del t
        oscillator, (rate,) = y["oscillator"], params["rates"]
        q, p = oscillator
        return {"oscillator": (params["w"] * p, -params["w"] * q), "z": -rate * y["z"]}

    @tf.function
    def function(y0, params):
        with tf.GradientTape() as tape:
            tape.watch([y0, params])
            solver = solvers.DormandPrince(1e-9, 1e-9)
            results = odeint(field, y0, [0.0, 1.0], params, solver=solver, gradient=gradient)
            q, p = results.states["oscillator"]
            loss = q[-1] + 2 * p[-1] + 3 * results.states["z"][-1]
        return tape.gradient(loss, [y0, params])

    one = lambda value: tf.constant(value, tf.float64)
    y0 = {"oscillator": (one(1.0), one(0.5)), "z": one(2.0)}
    d_y0, d_params = function(y0, {"w": one(1.3), "rates": [one(0.4)], "seed": tf.constant(3)})
    cos, sin = np.cos(1.3), np.sin(1.3)
    # q = q0 cos w + p0 sin w, p = p0 cos w - q0 sin w at t = 1.
    np.testing.assert_allclose(d_y0["oscillator"][0], cos - 2 * sin, rtol=1e-7)
    np.testing.assert_allclose(d_y0["oscillator"][1], sin + 2 * cos, rtol=1e-7)
    np.testing.assert_allclose(d_y0["z"], 3 * np.exp(-0.4), rtol=1e-7)
    expected = -sin + 0.5 * cos + 2 * (-0.5 * sin - cos)
    np.testing.assert_allclose(d_params["w"], expected, rtol=1e-7)
    np.testing.assert_allclose(d_params["rates"][0], -6 * np.exp(-0.4), rtol=1e-7)
    assert d_params["seed"] is None


@pytest.mark.parametrize("gradient", ["interpolating_adjoint", "gauss_adjoint", "tape"])
def test_solving_again_from_checkpoints_changes_nothing(gradient):
    # 200 steps with room for 1,000: several segments, and a last one that isn't full.
    solver = solvers.DormandPrince(1e-3, 1e-3, first_step_size=0.01, max_step_size=0.01)
    in_full = gradients.Tape(checkpoint=False)
    if gradient != "tape":
        in_full = type(gradients.get(gradient))(checkpoint=False)
    run = lambda g: tf.function(lambda x: loss_and_gradients(x, FOUR_TIMES, g, solver)[1])
    actual, expected = run(gradient)(make_inputs()), run(in_full)(make_inputs())
    # The same operations on the same numbers, but for the order of sums.
    assert relative_error(actual, expected) < 1e-12


@pytest.mark.parametrize("gradient", [*ALL_GRADIENTS, gradients.Tape(checkpoint=False)], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_gradient_of_a_failed_solve_is_nan(gradient, mode):
    def function(y0):
        with tf.GradientTape() as tape:
            tape.watch(y0)
            # Blows up at t = 1.
            solver = solvers.DormandPrince(max_num_steps=60)
            states = odeint(lambda t, y: y**2, y0, [0.0, 2.0], solver=solver, gradient=gradient)
            # A loss that hides the NaN.
            last = states.states[-1]
            loss = tf.reduce_sum(tf.where(tf.math.is_nan(last), tf.zeros_like(last), last))
        return tape.gradient(loss, y0)

    assert np.all(np.isnan(in_mode(function, mode)(tf.constant([1.0]))))


@pytest.mark.parametrize("times", [[0.0, 0.95], [0.0, 0.3, 0.5, 0.6, 0.61, 0.95]], ids=len)
@pytest.mark.parametrize("mode", MODES)
def test_rejected_attempts_that_overflow_leave_no_trace_in_the_gradient(mode, times):
    # exp(200 t) at the far end of a first step of 1 overflows in float32; the step is rejected.
    def function(rate, checkpoint):
        solver = solvers.DormandPrince(1e-5, 1e-5, first_step_size=1.0, max_num_steps=100)
        with tf.GradientTape() as tape:
            tape.watch(rate)
            results = odeint(
                lambda t, y, rate: rate * tf.exp(200 * (t - 0.9) * tf.ones_like(y)) - y,
                tf.constant([1.0]),
                times,
                rate,
                solver=solver,
                gradient=gradients.Tape(checkpoint=checkpoint),
            )
            loss = tf.reduce_sum(results.states[1:])
        return tape.gradient(loss, rate), results.diagnostics

    rate = tf.constant(1.0)
    kept, diagnostics = in_mode(functools.partial(function, checkpoint=False), mode)(rate)
    assert diagnostics.num_rejected_steps > 0
    assert np.isfinite(kept)
    replayed, _ = in_mode(functools.partial(function, checkpoint=True), mode)(rate)
    np.testing.assert_allclose(kept, replayed, rtol=1e-5)  # float32
