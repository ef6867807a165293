"""Times far from zero, as Unix timestamps are: in more precision than the state has, or refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from all_gradients import ALL_GRADIENTS
from modes import MODES, in_mode

from tf_neuralode import NeuralODE, gradients, odeint, solvers

RATE = 0.05
ELAPSED = np.array([0.0, 10.0, 20.0, 40.0])
OWN = np.array([[10.0, 20.0, 30.0], [5.0, 5.0, 20.0]])
# A hundred times float32's rounding: the solver's tolerance is 1e-6.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@keras.saving.register_keras_serializable("tests")
class Decay(keras.layers.Layer):
    """dy/dt = -RATE y, whatever the time."""

    def call(self, inputs):
        y = inputs[1] if isinstance(inputs, list) else inputs
        return -RATE * y


def decay(t, y):
    del t
    return -RATE * y


def layer_from(origin, **options):
    return NeuralODE(Decay(), (origin, origin + 100), rtol=1e-6, atol=1e-8, **options)


def far(origin, kind):
    """Times in each form that holds them: the first is the initial time."""
    times = origin + ELAPSED
    return times.tolist() if kind == "list" else tf.constant(times, kind)


@pytest.mark.parametrize("kind", ["list", "float64", "int64"])
@pytest.mark.parametrize("origin", [1.7e9, -1.7e9, 1e6 + 3])
def test_far_times_are_as_good_as_near_ones(origin, kind):
    times, y0 = far(origin, kind), tf.ones([2])
    results = odeint(decay, y0, times, rtol=1e-6, atol=1e-8, dense_output=True)
    expected = np.exp(-RATE * ELAPSED)
    np.testing.assert_allclose(results.states[:, 0], expected, **CLOSE)
    np.testing.assert_array_equal(results.times, origin + ELAPSED)
    assert results.diagnostics.final_time == origin + 40
    between = results.solution.evaluate(origin + 15.0)
    # The interpolant is no better than a hundred times the tolerance.
    np.testing.assert_allclose(between[0], np.exp(-RATE * 15), rtol=1e-4)
    layer = layer_from(origin)
    states = layer(tf.ones([3, 2]), np.asarray(times)[1:])
    np.testing.assert_allclose(states[0, :, 0], expected[1:], **CLOSE)
    np.testing.assert_allclose(layer(tf.ones([3, 2]))[0, 0], np.exp(-RATE * 100), **CLOSE)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float64", "int64"])
def test_each_sample_has_far_times_of_its_own(dtype, mode):
    run = in_mode(layer_from(1.7e9), mode)
    states = run(tf.ones([2, 2]), tf.constant(1.7e9 + OWN, dtype))
    np.testing.assert_allclose(states[..., 0], np.exp(-RATE * OWN), **CLOSE)


def test_integer_times_are_exact_where_float64_is_not():
    nanoseconds = 1_700_000_000_123_456_789 + np.array([0, 1, 2])
    states = odeint(decay, tf.ones([2]), tf.constant(nanoseconds), rtol=1e-6, atol=1e-8).states
    np.testing.assert_allclose(states[:, 0], np.exp(-RATE * np.array([0, 1, 2])), **CLOSE)
    with pytest.raises(ValueError, match="integers that float64 holds"):
        NeuralODE(Decay(), (int(nanoseconds[0]), int(nanoseconds[2])))


CASES = [
    *[(gradient, "graph") for gradient in (*ALL_GRADIENTS, gradients.Tape(checkpoint=False))],
    ("tape", "eager"),
    ("adjoint", "xla"),
]


@pytest.mark.parametrize(("gradient", "mode"), CASES)
def test_far_times_have_the_gradient_of_near_ones_in_their_own_dtype(gradient, mode):
    def gradient_of_sum(y0, times):
        with tf.GradientTape() as tape:
            tape.watch([y0, times])
            states = odeint(decay, y0, times, rtol=1e-6, atol=1e-8, gradient=gradient).states
            loss = tf.reduce_sum(states[1:, 0])
        return tape.gradient(loss, [y0, times])

    d_y0, d_times = in_mode(gradient_of_sum, mode)(tf.ones([1]), far(1.7e9, "float64"))
    expected = np.exp(-RATE * ELAPSED[1:])
    assert d_times.dtype == tf.float64
    # TFP's adjoint solves to the tolerance between each two times.
    np.testing.assert_allclose(d_y0, [expected.sum()], rtol=1e-4)
    np.testing.assert_allclose(d_times[1:], -RATE * expected, rtol=1e-4)
    np.testing.assert_allclose(d_times[0], RATE * expected.sum(), rtol=1e-4)


def test_a_layers_far_times_have_gradients_in_their_own_dtype():
    times = tf.constant(1.7e9 + np.array([[10.0, 20.0], [5.0, 30.0]]))
    layer = layer_from(1.7e9, gradient="tape")
    with tf.GradientTape() as tape:
        tape.watch(times)
        loss = tf.reduce_sum(layer(tf.ones([2, 1]), times))
    expected = -RATE * np.exp(-RATE * (times.numpy() - 1.7e9))
    np.testing.assert_allclose(tape.gradient(loss, times), expected, rtol=1e-4)


@pytest.mark.parametrize("origin", [1.7e9, 0.3, 0.0])
def test_a_field_gets_the_time_as_near_as_the_states_dtype_allows(origin):
    seen = []

    def f(t, y):
        if tf.executing_eagerly():  # not where the solve looks what f closes over
            seen.append(t.numpy())
        return -y

    odeint(f, tf.ones([1]), np.array([origin, origin + 1000.0]), solver="euler")
    num_steps = solvers.Euler().get_config()["num_steps"]
    exact = origin + 1000.0 * np.arange(num_steps) / num_steps
    # One unit of float32's last place: the steps are rounded as well.
    assert np.all(np.abs(seen - exact) <= np.spacing(np.float32(exact)) + 1e-4)
    assert {t.dtype for t in seen} == {np.dtype("float32")}
    assert min(seen) >= np.float32(origin) and max(seen) <= np.float32(origin + 1000.0)


UNRESOLVED = {
    "timestamps": np.float32(1.7e9 + np.array([0.0, 200.0, 400.0])),
    "around a million": np.float32(1e6 + np.array([0.0, 1.0, 2.0])),
}


@pytest.mark.parametrize("times", UNRESOLVED)
def test_times_that_their_dtype_does_not_resolve_are_an_error(times):
    times = UNRESOLVED[times]
    with pytest.raises(ValueError, match=r"Argument t must be resolved to 1 %.*float64"):
        odeint(decay, tf.ones([2]), times)
    layer = layer_from(float(times[0]))
    for given in (times[1:], np.stack([times[1:], times[:2]])):
        with pytest.raises(ValueError, match="Argument times must be resolved to 1 %"):
            layer(tf.ones([2, 2]), given)
        with pytest.raises(tf.errors.InvalidArgumentError, match="resolved to 1 %"):
            tf.function(layer)(tf.ones([2, 2]), given)
    with pytest.raises(ValueError, match="Argument t_span must be resolved to 1 %"):
        NeuralODE(Decay(), times[:2])


def test_times_that_all_fall_on_the_first_for_want_of_bits_are_an_error():
    times = np.float32(1.7e9 + np.array([[10.0, 20.0]]))
    assert np.all(times == np.float32(1.7e9))
    with pytest.raises(ValueError, match="resolved to 1 %"):
        layer_from(1.7e9)(tf.ones([1, 2]), times)


def test_times_that_are_not_resolved_give_nan_under_xla():
    times = UNRESOLVED["timestamps"]
    run = tf.function(lambda y0, t: odeint(decay, y0, t).states, jit_compile=True)
    assert np.all(np.isnan(run(tf.ones([2]), times)))
    states = tf.function(layer_from(1.7e9), jit_compile=True)(
        tf.ones([1, 2]), times[np.newaxis, 1:]
    )
    assert np.all(np.isnan(states))


RESOLVED = {
    "many": np.linspace(0, 10, 1001),
    "a few together": np.array([0.0, 3.0, 3.0 + 1e-6, 8.0]),
    "seconds of a day": np.linspace(0, 86400, 86401),
    "not from zero": np.linspace(5, 15, 1001),
}


@pytest.mark.parametrize("times", RESOLVED)
def test_float32_times_as_they_occur_raise_no_alarm(times):
    times = RESOLVED[times].astype("float32")
    odeint(lambda t, y: 0 * y, tf.ones([1]), times, solver="euler")
    layer = NeuralODE(Decay(), (float(times[0]), 1e5), solver="euler")
    layer(tf.ones([1, 1]), times[1:][:3])
    layer(tf.ones([1, 1]), times[:1])
    layer(tf.ones([2, 1]), np.stack([times[1:3], times[[0, 0]]]))


def test_timestamps_reach_the_layer_through_fit():
    y0 = keras.Input((2,))
    for dtype in ("int64", "float64"):
        times = keras.Input((3,), dtype=dtype)
        model = keras.Model([y0, times], layer_from(1.7e9)(y0, times))
        model.compile("sgd", "mse")
        target = np.exp(-RATE * OWN)[..., np.newaxis] * np.ones(2)
        data = ([np.ones((2, 2), "float32"), (1.7e9 + OWN).astype(dtype)], target)
        if dtype == "float64":
            # As arrays Keras would make float32 of them, which is an error.
            with pytest.raises(tf.errors.InvalidArgumentError, match="resolved"):
                model.evaluate(*data, verbose=0)
            inputs, target = data
            data = (tf.data.Dataset.from_tensors((tuple(inputs), target)),)
        assert model.evaluate(*data, verbose=0) < 1e-10


def test_attempts_of_far_intervals_are_those_of_near_ones():
    span = [
        solvers.attempted_steps(solvers.Tsit5(), decay, tf.ones([1]), (t, t + 40))
        for t in (0.0, 1.7e9)
    ]
    np.testing.assert_array_equal(span[0].step_sizes, span[1].step_sizes)
    np.testing.assert_allclose(span[0].times, span[1].times - 1.7e9)
