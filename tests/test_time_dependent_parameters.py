"""Gradients of parameters whose effect changes faster in time than the adjoint state does."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from modes import in_mode
from scipy.integrate import quad

from tf_neuralode import NeuralODE, gradients, odeint, solvers

STORED = {
    "interpolating_adjoint": gradients.InterpolatingAdjoint,
    "gauss_adjoint": gradients.GaussAdjoint,
}
KNOTS = np.linspace(0.0, 1.0, 11)
TABLE = np.array([0.0, 1.0, -2.0, 3.0, 0.5, -1.0, 2.0, 4.0, -3.0, 1.0, 0.3])
INPUTS = [2.0, 1.0, TABLE]


def pulse(t):
    return np.exp(-(((t - 0.7) / 0.05) ** 2))


# Of `forcing`: integrals over (0, 1) of what the parameters are factors of.
INTEGRALS = [
    quad(pulse, 0, 1, points=[0.7], epsabs=1e-13, epsrel=1e-13)[0],
    0.5 - np.sin(80) / 160,
    np.array([0.05, *[0.1] * 9, 0.05]),
]


def forcing(t, y, params):
    """A pulse, waves, and a table of values that is interpolated linearly in time."""
    height, amplitude, table = params
    weights = tf.maximum(1 - 10 * tf.abs(t - KNOTS), 0)
    slopes = [
        height * tf.exp(-(((t - 0.7) / 0.05) ** 2)),
        amplitude * tf.sin(40 * t) ** 2,
        tf.tensordot(weights, table, 1),
    ]
    return tf.stack(slopes) + 0 * y


def derivatives(gradient, solver, times=(0.0, 1.0), mode="graph"):
    """Of the sum of the final state, for `forcing`, and the diagnostics."""

    def function(*params):
        with tf.GradientTape() as tape:
            tape.watch(params)
            y0 = tf.ones([3], tf.float64)
            results = odeint(forcing, y0, times, params, solver=solver, gradient=gradient)
            loss = tf.reduce_sum(results.states[-1])
        # The sum of the changes of the states, which is linear in the parameters.
        return tape.gradient(loss, params), results.diagnostics, loss - 3

    return in_mode(function, mode)(*[tf.constant(x, tf.float64) for x in INPUTS])


def assert_close(actual, tolerance, direction=1):
    """The waves ask for short steps everywhere, so the rest is solved as the tolerance says: ten
    times, for the sum over the steps. A step over a table's kink is accepted by what the error
    estimate happens to see of the kink: a hundredth of the error, maybe."""
    for x, expected, factor in zip(actual, INTEGRALS, (10, 10, 1000), strict=True):
        np.testing.assert_allclose(x, direction * expected, rtol=0, atol=factor * tolerance)


CASES = [(name, tolerance) for name in STORED for tolerance in (1e-3, 1e-9)]


# "adjoint" chooses its steps anew, and at 1e-3 takes some that are too long for the waves.
@pytest.mark.parametrize(("gradient", "tolerance"), [*CASES, ("tape", 1e-9), ("adjoint", 1e-9)])
def test_each_gradient_sees_forcing_that_the_adjoint_state_does_not(gradient, tolerance):
    actual, diagnostics, _ = derivatives(gradient, solvers.DormandPrince(tolerance, tolerance))
    assert_close(actual, tolerance)
    # At 1e-9 there are several segments, of 32 steps, that are solved again.
    assert int(diagnostics.num_accepted_steps) > (100 if tolerance == 1e-9 else 10)


def test_the_tape_sees_what_the_steps_saw():
    """At 1e-3 some step over whole waves, as SciPy's do; the tape is exact for what they see."""
    actual, _, change = derivatives("tape", solvers.DormandPrince(1e-3, 1e-3))
    effect = sum(np.sum(x * d) for x, d in zip(INPUTS, actual, strict=True))
    # Rounding.
    np.testing.assert_allclose(effect, change, rtol=1e-12)


@pytest.mark.parametrize("gradient", STORED)
@pytest.mark.parametrize(
    ("times", "direction", "mode"),
    [((0.0, 0.13, 0.4, 0.69, 0.7, 1.0), 1, "graph"), ((1.0, 0.0), -1, "xla")],
    ids=["times_between", "backwards_under_xla"],
)
def test_stored_adjoints_see_it_with_any_times(gradient, times, direction, mode):
    actual, *_ = derivatives(gradient, solvers.DormandPrince(1e-6, 1e-6), times, mode)
    assert_close(actual, 1e-6, direction)


@pytest.mark.parametrize("gradient", STORED)
def test_stored_adjoints_see_it_with_equal_steps(gradient):
    actual, *_ = derivatives(gradient, solvers.RK4(300), (0.0, 0.13, 0.4, 0.69, 0.7, 1.0))
    # Simpson's rule, h = 1/300, of the waves: h^4 / 2880 times a fourth derivative of 80^4 / 2.
    assert_close(actual, 9e-7)


@pytest.mark.parametrize("gradient", STORED)
def test_room_for_the_forward_steps_is_room_for_the_backward_ones(gradient):
    solver = solvers.DormandPrince(1e-6, 1e-6)
    _, diagnostics, _ = derivatives("tape", solver)
    num = int(diagnostics.num_accepted_steps + diagnostics.num_rejected_steps)
    # All steps in one piece of the backward pass.
    solver, gradient = solver.copy(max_num_steps=num), STORED[gradient](checkpoint=False)
    actual, *_ = derivatives(gradient, solver)
    assert_close(actual, 1e-6)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-9])
@pytest.mark.parametrize("gradient", STORED)
def test_stored_adjoints_see_a_jump_in_time(gradient, tolerance):
    def function(w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            # y' = w y up to the jump, then -w y; y(1) = exp(0.6 w - 0.4 w).
            field = lambda t, y, w: tf.where(t < 0.6, w * y, -w * y)
            solver = solvers.DormandPrince(tolerance, tolerance)
            y0 = tf.ones([], tf.float64)
            final = odeint(field, y0, [0.0, 1.0], w, solver=solver, gradient=gradient).states[-1]
        return tape.gradient(final, w)

    actual = in_mode(function, "graph")(tf.ones([], tf.float64))
    expected = 0.2 * np.exp(0.2)
    # As at a kink; a step over a jump spoils it by more.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1000 * tolerance)


@keras.saving.register_keras_serializable("tests")
class Pulse(keras.layers.Layer):
    """A weight that drives one column for a short time; the other keeps the steps short."""

    def build(self, input_shape):
        self.height = self.add_weight(shape=(), initializer="ones")

    def call(self, inputs):
        t, _ = inputs
        driven = self.height * keras.ops.exp(-(((t - 0.7) / 0.05) ** 2))
        return keras.ops.concatenate([driven, keras.ops.sin(40 * t) ** 2], axis=1)


@pytest.mark.parametrize("gradient", STORED)
def test_a_layer_s_weights_get_what_they_did_for_a_short_time(gradient):
    layer = NeuralODE(
        Pulse(dtype="float64"),
        time_dependent=True,
        gradient=gradient,
        rtol=1e-6,
        atol=1e-6,
        dtype="float64",
    )
    y0 = tf.zeros([2, 2], tf.float64)
    layer.build(y0.shape)

    def function():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(y0)[:, 0])
        return tape.gradient(loss, layer.trainable_variables)

    (actual,) = in_mode(function, "graph")()
    np.testing.assert_allclose(actual, 2 * INTEGRALS[0], rtol=0, atol=2 * 10 * 1e-6)


@pytest.mark.parametrize("gradient", ["adjoint", "tape", *STORED])
def test_a_factor_of_zero_has_the_derivative_that_others_have(gradient):
    # As a network whose last layer begins with zeros: no slope, and no error, shows the pulse.
    def function(p):
        with tf.GradientTape() as tape:
            tape.watch(p)
            f = lambda t, y, p: p * tf.exp(-(((t - 0.7) / 0.1) ** 2)) + 0 * y
            y0 = tf.ones([], tf.float64)
            results = odeint(f, y0, [0.0, 1.0], p, rtol=1e-6, atol=1e-6, gradient=gradient)
            end = results.states[-1]
        return tape.gradient(end, p)

    exact = quad(lambda t: np.exp(-(((t - 0.7) / 0.1) ** 2)), 0, 1, points=[0.7])[0]
    # Steps of 10 % of the interval: half the pulse's width and a method of order 5.
    found = in_mode(function, "graph")(tf.constant(0.0, tf.float64))
    np.testing.assert_allclose(found, exact, rtol=1e-3)
