"""Output times that repeat, one time alone, and no interval at all, with every gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from all_gradients import ALL_GRADIENTS
from modes import MODES, in_mode, pairs

from tf_neuralode import NeuralODE, gradients, odeint, solvers

KEPT = gradients.Tape(checkpoint=False)
ADAPTIVE, FIXED = solvers.Bosh3(1e-6, 1e-6), solvers.RK4(20)
BOTH = {"adaptive": ADAPTIVE, "fixed": FIXED}
W, Y0 = tf.constant(0.7, tf.float64), tf.constant([1.0, 2.0], tf.float64)
REPEATED = [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]
BACKWARDS = [1.0, 1.0, 0.2, 0.2]
NO_INTERVAL = [0.5, 0.5, 0.5]


def field(t, y, w):
    return w * tf.cos(t) * y


def exact(w, y0, t):
    return tf.exp(w * (tf.sin(t) - tf.sin(t[:1])))[:, tf.newaxis] * y0


def with_gradients(states_of, t):
    """States, and what a loss that weighs each row by itself has as gradients of w, y0 and t."""
    sources = [W, Y0, t]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        states = states_of(*sources)
        weights = tf.range(1, 1 + tf.shape(states)[0])
        loss = tf.reduce_sum(tf.cast(weights, tf.float64)[:, tf.newaxis] * states**2)
    # Without an interval nothing depends on w, of which an eager tape then knows nothing.
    return states, tape.gradient(loss, sources, unconnected_gradients="zero")


def check(times, gradient, mode, solver, signature=None):
    def solve(w, y0, t):
        return odeint(field, y0, t, w, solver=solver, gradient=gradient).states

    function = in_mode(lambda t: with_gradients(solve, t), mode)
    if signature:
        function = tf.function(function, input_signature=[signature], autograph=False)
    t = tf.constant(times, tf.float64)
    states, found = function(t)
    expected_states, expected = with_gradients(exact, t)
    # Ten times the tolerance; the gradients add up six rows.
    np.testing.assert_allclose(states, expected_states, rtol=1e-5)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for row, next_row, same in zip(states, states[1:], np.diff(times) == 0, strict=False):
        assert np.array_equal(row, next_row) or not same


@pytest.mark.parametrize(
    ("gradient", "times", "steps"),
    pairs([*ALL_GRADIENTS, KEPT], [REPEATED, BACKWARDS, NO_INTERVAL, [0.5]], [*BOTH]),
    ids=str,
)
def test_rows_repeat_and_add_up_their_gradients(gradient, times, steps):
    check(times, gradient, "graph", BOTH[steps])


@pytest.mark.parametrize(
    ("times", "mode"), [(REPEATED, "eager"), (NO_INTERVAL, "eager"), (REPEATED, "xla")], ids=str
)
@pytest.mark.parametrize("gradient", [*ALL_GRADIENTS, KEPT], ids=str)
def test_so_they_do_in_the_other_modes(gradient, times, mode):
    check(times, gradient, mode, FIXED)


@pytest.mark.parametrize("gradient", ["tape", "gauss_adjoint"])
def test_no_interval_is_none_under_xla(gradient):
    check(NO_INTERVAL, gradient, "xla", ADAPTIVE)


@pytest.mark.parametrize("times", [REPEATED, NO_INTERVAL], ids=str)
def test_the_number_of_times_may_be_unknown(times):
    check(times, "tape", "graph", ADAPTIVE, tf.TensorSpec([None], tf.float64))


@pytest.mark.parametrize("solver", ["dormand_prince", "rk4", "stock"])
def test_times_may_be_numbers(solver):
    solver = tfp.math.ode.DormandPrince() if solver == "stock" else solver
    results = odeint(field, Y0, REPEATED, W, solver=solver)
    # The default tolerance.
    expected = exact(W, Y0, tf.constant(REPEATED, tf.float64))
    np.testing.assert_allclose(results.states, expected, rtol=2e-3)
    assert np.array_equal(results.states[0], Y0) and np.array_equal(results.states[1], Y0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("t", [[0.5], [0.5, 0.5]], ids=str)
def test_without_an_interval_the_dense_solution_is_the_initial_state(t, mode):
    def solve(s):
        results = odeint(field, Y0, t, W, solver=ADAPTIVE, dense_output=True)
        diagnostics = results.diagnostics
        return results.states, results.solution.evaluate(s), diagnostics.status, results.times

    states, at_s, status, times = in_mode(solve, mode)(tf.constant([0.5, 0.6], tf.float64))
    assert status == 0 and np.array_equal(times, t)
    np.testing.assert_array_equal(states, [Y0] * len(t))
    np.testing.assert_array_equal(at_s, [Y0, [np.nan, np.nan]])


class DefinedUntil01(keras.layers.Layer):
    """Beyond 0.1 it is NaN."""

    def call(self, inputs):
        t, y = inputs
        return tf.sqrt(0.1 - t) * y


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_a_layer_does_not_go_beyond_the_initial_time(shared, mode):
    layer = NeuralODE(
        DefinedUntil01(dtype="float64"), solver="bosh3", time_dependent=True, dtype="float64"
    )
    layer.build((None, 2))
    y0 = tf.stack([Y0, 3 * Y0])
    for times in ([0.0], [0.0, 0.0], [0.0, 0.05, 0.05]):
        t = tf.constant(times if shared else [times] * 2, tf.float64)
        rows = in_mode(layer, mode)(y0, t)
        # Of y' = sqrt(0.1 - t) y: y0 exp((0.1^1.5 - (0.1 - t)^1.5) 2 / 3).
        growth = np.exp((0.1**1.5 - (0.1 - np.array(times)) ** 1.5) * 2 / 3)
        # The default tolerance.
        np.testing.assert_allclose(rows, y0[:, tf.newaxis] * growth[:, np.newaxis], rtol=1e-3)
        np.testing.assert_array_equal(rows[:, 0], y0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gradient", [*ALL_GRADIENTS, KEPT], ids=str)
def test_rows_may_be_gathered(gradient, mode):
    """The gradient of tf.gather is sparse."""

    def function(t):
        def states_of(w, y0, t):
            states = odeint(field, y0, t, w, solver=FIXED, gradient=gradient).states
            return tf.gather(states, [0, 2])

        return with_gradients(states_of, t)[1]

    t = tf.constant([0.0, 0.5, 1.0], tf.float64)
    found = in_mode(function, mode)(t)
    expected = with_gradients(lambda w, y0, t: tf.gather(exact(w, y0, t), [0, 2]), t)[1]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
