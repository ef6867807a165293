"""Second derivatives, closures, and fields that gradients are known to fail on."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from all_gradients import ALL_GRADIENTS
from modes import MODES, in_mode, pairs

from tf_neuralode import gradients, odeint, solvers

KEPT = gradients.Tape(checkpoint=False)


def second_derivative(gradient, solver, times=(0.0, 1.0)):
    """Of the sum of y at all times but the first with respect to w, for y' = w y, y(0) = 2."""

    def function(w):
        with tf.GradientTape() as outer:
            outer.watch(w)
            with tf.GradientTape() as inner:
                inner.watch(w)
                y0 = tf.constant([2.0], tf.float64)
                results = odeint(
                    lambda t, y, w: w * y, y0, times, w, solver=solver, gradient=gradient
                )
                total = tf.reduce_sum(results.states[1:])
            first = inner.gradient(total, w)
        return first, outer.gradient(first, w)

    return function


where_there_are_second_derivatives = pytest.mark.parametrize(
    ("mode", "solver"),
    [
        ("eager", solvers.DormandPrince(1e-10, 1e-10)),
        ("graph", solvers.DormandPrince(1e-10, 1e-10)),
        # Adaptive steps under XLA: TensorFlow 2.21 can't compile the second derivative of such a
        # loop ("Cannot find body function"), see the documentation of Tape.
        ("xla", solvers.RK4(200)),
    ],
    ids=MODES,
)


@where_there_are_second_derivatives
def test_kept_activations_have_second_derivatives(mode, solver):
    function = in_mode(second_derivative(KEPT, solver), mode)
    first, second = function(tf.constant(0.5, tf.float64))
    # y = 2 exp(w) is its own derivative; some tens of the tolerance (RK4: (1/200)^4 = 6e-10).
    np.testing.assert_allclose([first, second], 2 * np.exp(0.5), rtol=1e-8)


@where_there_are_second_derivatives
def test_kept_activations_have_second_derivatives_of_output_times(mode, solver):
    times = np.array([0.0, 0.21, 0.22, 0.5, 1.0])
    function = in_mode(second_derivative(KEPT, solver, times), mode)
    derivatives = function(tf.constant(0.5, tf.float64))
    # y(t) = 2 exp(w t); the interpolants' errors are some tens of the tolerance, too.
    exact = [np.sum(2 * times**n * np.exp(0.5 * times)) for n in (1, 2)]
    np.testing.assert_allclose(derivatives, exact, rtol=1e-8)


@pytest.mark.parametrize(
    ("gradient", "mode", "solver"),
    pairs(ALL_GRADIENTS, MODES, [solvers.Bosh3(), solvers.RK4(3)]),
)
def test_second_derivatives_elsewhere_are_an_error_and_no_wrong_number(gradient, mode, solver):
    function = in_mode(second_derivative(gradient, solver), mode)
    with pytest.raises((LookupError, tf.errors.OpError), match="checkpoint=False"):
        function(tf.constant(0.5, tf.float64))


def gradient_of_closure(kind, gradient, mode):
    rate = tf.Variable(-1.0) if kind == "variable" else tf.constant(-1.0)

    def function(rate_value, y0):
        with tf.GradientTape() as tape:
            tape.watch([rate_value, y0])
            closed_over = {
                "variable": rate,
                "tensor": rate_value,
                "stopped": tf.stop_gradient(rate_value),
            }[kind]
            solver = solvers.RK4(10)  # adaptive steps: see test_captures.py
            f = lambda t, y: closed_over * y
            states = odeint(f, y0, [0.0, 1.0], solver=solver, gradient=gradient).states
            loss = tf.reduce_sum(states[-1])
        source = rate if kind == "variable" else rate_value
        d_source, d_y0 = tape.gradient(
            loss, [source, y0], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return d_source, d_y0

    return in_mode(function, mode)(tf.constant(-1.0), tf.constant([1.0]))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gradient", [*ALL_GRADIENTS, KEPT], ids=str)
def test_a_variable_that_f_closes_over_gets_its_gradient(gradient, mode):
    d_rate, d_y0 = gradient_of_closure("variable", gradient, mode)
    # d exp(rate) / d rate = exp(-1), the same for y0; RK4 at h = 1/10 has h^4 / 120, 1e-6.
    np.testing.assert_allclose([d_rate, d_y0[0]], np.exp(-1), rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gradient", [*ALL_GRADIENTS, KEPT], ids=str)
def test_a_watched_tensor_that_f_closes_over_gets_its_gradient(gradient, mode):
    d_rate, d_y0 = gradient_of_closure("tensor", gradient, mode)
    np.testing.assert_allclose([d_rate, d_y0[0]], np.exp(-1), rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gradient", ALL_GRADIENTS)
def test_a_tensor_behind_stop_gradient_is_no_error(gradient, mode):
    _, d_y0 = gradient_of_closure("stopped", gradient, mode)
    np.testing.assert_allclose(d_y0[0], np.exp(-1), rtol=1e-5)


def contraction(kind):
    """y' = -w (y - cos t) or -w (y - cos t)(1 + y^2): w = 50 pulls every solution to cos t."""
    linear = lambda t, y, w: -w * (y - tf.cos(t))
    return {"linear": linear, "nonlinear": lambda t, y, w: linear(t, y, w) * (1 + y**2)}[kind]


def contraction_gradient(kind, gradient, tolerance=1e-6):
    @tf.function
    def function(y0, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            solver = solvers.DormandPrince(tolerance, tolerance)
            results = odeint(contraction(kind), y0, [0.0, 1.0], w, solver=solver, gradient=gradient)
            loss = tf.reduce_sum(results.states[-1])
        return tape.gradient(loss, w), loss

    return function(tf.constant([0.3], tf.float64), tf.constant(50.0, tf.float64))


@functools.cache
def contraction_errors(kind):
    """Relative error of each gradient at a tolerance of 1e-6."""

    # Central differences of a solve at 1e-12: exact to 1e-7 relative to a gradient of 1e-4.
    @tf.function
    def loss(w):
        solver = solvers.DormandPrince8(1e-12, 1e-12)
        y0 = tf.constant([0.3], tf.float64)
        return odeint(contraction(kind), y0, [0.0, 1.0], w, solver=solver).states[-1, 0]

    low, high = (float(loss(tf.constant(w, tf.float64))) for w in (49.99, 50.01))
    expected = (high - low) / 0.02
    return {
        gradient: abs(float(contraction_gradient(kind, gradient)[0]) / expected - 1)
        for gradient in ALL_GRADIENTS
    }


@pytest.mark.parametrize("gradient", ALL_GRADIENTS)
def test_pure_decay_leaves_every_gradient_right(gradient):
    @tf.function
    def function(y0, rate):
        with tf.GradientTape() as tape:
            tape.watch([y0, rate])
            f = lambda t, y, rate: -rate * y
            solver = solvers.DormandPrince(1e-6, 1e-6)
            end = odeint(f, y0, [0.0, 0.2], rate, solver=solver, gradient=gradient).states[-1]
        return tape.gradient(end, [y0, rate])

    d_y0, d_rate = function(tf.constant(1.0, tf.float64), tf.constant(50.0, tf.float64))
    # y = y0 exp(-rate t): what is left of 1 is 45 times the tolerance, and errors are far below it.
    np.testing.assert_allclose([d_y0, d_rate], np.exp(-10) * np.array([1, -0.2]), atol=1e-7)


@pytest.mark.parametrize("kind", ["linear", "nonlinear"])
def test_contraction_leaves_tape_and_stored_adjoints_right(kind):
    errors = {**contraction_errors(kind)}
    del errors["adjoint"]
    # A local tolerance of 1e-6 on lambda of size 1, against a gradient of about 1e-4.
    assert max(errors.values()) < 1e-3


def test_contraction_by_a_nonlinear_field_breaks_the_backsolve_adjoint():
    # Solved backwards, an error of 1e-6 in the state grows by exp(50); where the field is linear
    # lambda shrinks by as much and hides it, here it doesn't: the state blows up on the way back.
    assert np.isnan(contraction_errors("nonlinear")["adjoint"])


def test_contraction_by_a_linear_field_costs_the_backsolve_adjoint_digits():
    errors = contraction_errors("linear")
    assert errors["adjoint"] > 10 * max(errors[name] for name in ALL_GRADIENTS if name != "adjoint")
