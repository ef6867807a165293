"""How often the backward passes evaluate f, and where."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from all_gradients import ALL_GRADIENTS
from modes import MODES, in_mode

from tf_neuralode import gradients, odeint, solvers

SIXTEEN_STEPS = solvers.DormandPrince(1e-3, 1e-6)  # or about as many, forwards


def backward_pass(gradient, solver):
    """Of a smooth oscillator, as a function of a counter, the state and the times."""

    def function(counter, y0, times):
        with tf.GradientTape() as tape:
            tape.watch(counter)
            results = odeint(
                lambda t, y: tf.reverse(y, [0]) ** 3 * tf.constant([2.0, -2.0], tf.float64),
                y0,
                times,
                solver=solver,
                gradient=gradient,
                backward_counter=counter,
            )
            loss = tf.reduce_sum(results.states**2)
        return tape.gradient(loss, counter), results.diagnostics

    return function


@functools.cache
def for_any_times(gradient):
    """Traced once for any number of them."""
    signature = [
        tf.TensorSpec([]),
        tf.TensorSpec([2], tf.float64),
        tf.TensorSpec([None], tf.float64),
    ]
    return tf.function(backward_pass(gradient, SIXTEEN_STEPS), signature, autograph=False)


def backward_evaluations(gradient, num_outputs, mode="graph", solver=SIXTEEN_STEPS):
    times = np.linspace(0.0, 1.0, num_outputs + 1)
    counter, y0 = tf.constant(0.0), tf.constant([2.0, 0.0], tf.float64)
    if mode == "any times":
        count, diagnostics = for_any_times(gradient)(counter, y0, tf.constant(times))
    else:
        function = backward_pass(gradient, solver)
        run = in_mode(lambda counter, y0: function(counter, y0, times), mode)
        count, diagnostics = run(counter, y0)
    return int(count), diagnostics


def test_output_times_cost_the_tape_nothing():
    counts = {num: backward_evaluations("tape", num)[0] for num in (1, 10, 100)}
    # Output times between the ends ask for the slopes at the ends of the steps. Each is the next
    # step's first, but for the last.
    assert counts[10] == counts[100] == counts[1] + 1


@pytest.mark.parametrize("gradient", ["adjoint", "interpolating_adjoint"])
def test_an_output_time_costs_an_adjoint_at_most_eight_evaluations(gradient):
    one = backward_evaluations(gradient, 1)[0]
    for num in (10, 100):
        assert backward_evaluations(gradient, num, "any times")[0] <= one + 8 * (num - 1)


def test_an_output_time_costs_gauss_quadrature_three_evaluations_more():
    # One step of seven evaluations, and three nodes for the parameters.
    one = backward_evaluations("gauss_adjoint", 1)[0]
    assert backward_evaluations("gauss_adjoint", 100, "any times")[0] <= one + (8 + 3) * 99


@pytest.mark.parametrize("gradient", ALL_GRADIENTS)
def test_the_count_is_the_same_in_every_mode(gradient):
    solver = solvers.Bosh3(1e-3, 1e-6)  # fewer stages to compile
    counts = [backward_evaluations(gradient, 10, mode, solver)[0] for mode in MODES]
    assert counts[0] == counts[1] == counts[2]


@pytest.mark.parametrize("times", [[0.0, 0.4, 1.0], [1.0, 0.4, 0.0]], ids=["forwards", "backwards"])
@pytest.mark.parametrize("gradient", ALL_GRADIENTS)
def test_the_reported_counts_are_those_of_the_calls_and_lie_inside_the_interval(gradient, times):
    seen = []

    def f(t, y):
        # Traced once, to learn what it closes over.
        if not tf.is_symbolic_tensor(t):
            seen.append(float(t))
        return -y * (1 + t)

    counter, y0 = tf.constant(0.0), tf.constant([1.0, 2.0])
    with tf.GradientTape() as tape:
        tape.watch([counter, y0])
        solver = solvers.DormandPrince(1e-5, 1e-5)
        results = odeint(f, y0, times, solver=solver, gradient=gradient, backward_counter=counter)
        loss = tf.reduce_sum(results.states)
    assert len(seen) == int(results.diagnostics.num_ode_fn_evaluations)
    forward = len(seen)
    count, _ = tape.gradient(loss, [counter, y0])
    assert len(seen) - forward == int(count)
    assert min(seen) >= 0.0
    assert max(seen) <= 1.0


def test_checkpoints_cost_at_most_one_further_forward_pass():
    # 300 steps with room for 1,000. The vector-Jacobian products evaluate f once a stage; what
    # comes on top is solving the earlier segments again.
    solver = solvers.DormandPrince(first_step_size=1 / 300, max_step_size=1 / 300)

    @tf.function
    def function(counter, y0):
        with tf.GradientTape() as tape:
            tape.watch(counter)
            results = odeint(
                lambda t, y: -y, y0, [0.0, 1.0], solver=solver, backward_counter=counter,
                gradient="tape",
            )  # fmt: skip
            loss = tf.reduce_sum(results.states)
        return tape.gradient(loss, counter), results.diagnostics

    count, diagnostics = function(tf.constant(0.0), tf.constant([1.0], tf.float64))
    products = 6 * int(diagnostics.num_accepted_steps)
    assert products >= 1800
    assert int(count) - products <= int(diagnostics.num_ode_fn_evaluations)


def test_rejected_steps_are_never_replayed():
    # A first step of 1 on a fast oscillator is rejected several times.
    solver = solvers.DormandPrince(1e-6, 1e-6, first_step_size=1.0)
    counter = tf.constant(0.0)
    with tf.GradientTape() as tape:
        tape.watch(counter)
        results = odeint(
            lambda t, y: 20 * tf.reverse(y, [0]) * tf.constant([1.0, -1.0]),
            tf.constant([1.0, 0.0]),
            [0.0, 0.2],
            solver=solver,
            gradient="tape",
            backward_counter=counter,
        )
        loss = tf.reduce_sum(results.states[-1])
    assert results.diagnostics.num_rejected_steps > 0
    # Fewer than 32 steps: one segment, nothing is solved again.
    assert int(tape.gradient(loss, counter)) == 6 * int(results.diagnostics.num_accepted_steps)


def test_backward_tolerances_are_their_own():
    counts = [
        backward_evaluations(gradients.Adjoint(rtol=tolerance, atol=tolerance), 1)[0]
        for tolerance in (1e-3, 1e-9)
    ]
    assert counts[1] > 2 * counts[0]


@pytest.mark.parametrize("name", ["rtol", "atol"])
@pytest.mark.parametrize(
    "cls", [gradients.Adjoint, gradients.InterpolatingAdjoint, gradients.GaussAdjoint]
)
def test_one_backward_tolerance_of_each_component_is_enough(cls, name):
    y0 = tf.constant([1.0, -0.5], tf.float64)
    gradient = cls(**{name: np.array([1e-9, 1e-10])})
    with tf.GradientTape() as tape:
        tape.watch(y0)
        results = odeint(
            lambda t, y: -y * y, y0, [0.0, 1.0], rtol=1e-9, atol=1e-9, gradient=gradient
        )
        loss = tf.reduce_sum(results.states[-1])
    # y(1) = y0 / (1 + y0), whose derivative is 1 / (1 + y0)^2.
    expected = 1 / (1 + y0.numpy()) ** 2
    np.testing.assert_allclose(tape.gradient(loss, y0), expected, rtol=1e-6)


@pytest.mark.parametrize("gradient", ALL_GRADIENTS)
def test_a_short_eager_solve_bounds_no_steps_of_its_backward_pass(gradient):
    # The first eager call of a key may take 128 evaluations as it comes: 21 steps. One of these
    # forward solves takes fewer, while the adjoint's own takes more.
    y0 = tf.constant([1.0], tf.float64)
    for tolerance in np.geomspace(1e-8, 1e-10, 9):
        with tf.GradientTape() as tape:
            tape.watch(y0)
            results = odeint(
                lambda t, y: -y * y, y0, [0.0, 1.0], rtol=tolerance, atol=tolerance,
                gradient=gradient,
            )  # fmt: skip
            loss = tf.reduce_sum(results.states[-1])
        # y(1) = y0 / (1 + y0); the error of its derivative is some hundred tolerances at most.
        np.testing.assert_allclose(tape.gradient(loss, y0), [0.25], atol=300 * tolerance)
