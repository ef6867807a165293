"""Lists and numbers where Keras and SciPy take them, functions as a dynamics, and clear errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from modes import MODES, in_mode

from tf_neuralode import NeuralODE, odeint, solvers

Y0 = np.array([[1.0, 2.0], [0.5, -1.0]], "float32")


def decay(y):
    return -y


@keras.saving.register_keras_serializable("test_plain_arguments")
def forced(t, y):
    return 2.0 * t * y


def linear():
    return keras.layers.Dense(2, use_bias=False, kernel_initializer="ones")


# Times and masks


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("times", "mask"),
    [
        ([0.5, 1.0], None),
        ((0.5, 1), None),
        ([[0.5, 1.0], [0.2, 0.4]], None),
        ([[0.5, 1.0], [0.2, 0.4]], [[True, True], [True, False]]),
        ([0.5, 1.0], [[1, 1], [1, 0]]),
    ],
    ids=str,
)
def test_times_and_masks_may_be_lists(times, mask, mode):
    layer = NeuralODE(decay, solver=solvers.RK4(4))  # which is compiled in half the time
    layer.build((None, 2))
    found = in_mode(lambda y0: layer(y0, times=times, mask=mask), mode)(Y0)
    as_tensors = {"times": tf.constant(times, tf.float32)}
    if mask is not None:
        as_tensors["mask"] = tf.cast(mask, tf.bool)
    # The same solve, of times in another dtype.
    np.testing.assert_allclose(found, layer(Y0, **as_tensors), rtol=1e-6)


def test_times_of_a_list_may_be_tensors():
    layer, t = NeuralODE(decay), tf.constant(0.5)
    with tf.GradientTape() as tape:
        tape.watch(t)
        loss = tf.reduce_sum(layer(Y0, times=[t, 2 * t])[:, 0])
    # The sum over y0 of d exp(-t) / dt, within the tolerance.
    np.testing.assert_allclose(tape.gradient(loss, t), -np.exp(-0.5) * Y0.sum(), rtol=2e-3)


def test_times_of_a_functional_model_may_be_a_list():
    y0 = keras.Input((2,))
    model = keras.Model(y0, NeuralODE(decay)(y0, times=[0.5, 1.0]))
    assert model.output.shape == (None, 2, 2)
    expected = Y0[:, np.newaxis] * np.exp(-np.array([0.5, 1.0]))[:, np.newaxis]
    # The default tolerance.
    np.testing.assert_allclose(model(Y0), expected, rtol=1e-3)


@pytest.mark.parametrize("times", [["a"], [[0.5, 1.0], [0.5]], [None]], ids=str)
def test_times_that_are_no_numbers_are_an_error(times):
    with pytest.raises(TypeError, match=r"Argument times must hold numbers.*Received"):
        NeuralODE(decay)(Y0, times=times)


def test_ragged_tensors_are_an_error_that_says_how_to_pad():
    ragged = tf.ragged.constant([[0.5, 1.0], [0.5]])
    with pytest.raises(TypeError, match=r"times must be a dense.*times.to_tensor\(\)"):
        NeuralODE(decay)(Y0, times=ragged)
    with pytest.raises(TypeError, match=r"y0 must be a dense.*y0.to_tensor\(\)"):
        NeuralODE(decay)(ragged)
    with pytest.raises(TypeError, match=r"y0 must hold dense.*y0.to_tensor\(\)"):
        odeint(lambda t, y: -y, ragged, [0.0, 1.0])


# odeint


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parameters_may_be_numbers(dtype, mode):
    y0 = tf.constant([1.0, 2.0], dtype)

    def solve(y0):
        params = {"rate": -0.5, "times": 2}
        f = lambda t, y, p: p["rate"] * p["times"] * y
        return odeint(f, y0, [0.0, 1.0], params).states[-1]

    found = in_mode(solve, mode)(y0)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, y0 * np.exp(-1.0), rtol=2e-3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_slope_may_be_a_list_of_numbers_and_tensors(dtype, mode):
    def solve(y0):
        return odeint(lambda t, y: [1.0, -y[1], 0], y0, [0.0, 1.0]).states[-1]

    found = in_mode(solve, mode)(tf.constant([0.0, 1.0, 3.0], dtype))
    np.testing.assert_allclose(found, [1.0, np.exp(-1.0), 3.0], rtol=2e-3)


def test_a_state_may_be_a_list_of_numbers():
    results = odeint(lambda t, y: [1.0, -y[1]], [0.0, 1.0], [0.0, 1.0])
    # A nest of two scalars, of which f gets a list.
    np.testing.assert_allclose([x[-1] for x in results.states], [1.0, np.exp(-1.0)], rtol=2e-3)
    with pytest.raises(TypeError, match=r"list of scalars.*tf.constant\(y0\)"):
        odeint(lambda t, y: -0.5 * y, [0.0, 1.0], [0.0, 1.0])


def test_a_function_without_return_is_an_error():
    with pytest.raises(ValueError, match=r"must return the slope.*None.*no return"):
        odeint(lambda t, y: None, tf.ones([2]), [0.0, 1.0])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [0.5, 1.0, 7.0])
def test_a_first_step_longer_than_the_interval_is_the_interval(size, mode):
    def solve(y0):
        solver = solvers.DormandPrince(1e-3, 1e-3, first_step_size=size)
        results = odeint(lambda t, y: 0.1 * tf.ones_like(y), y0, [1.0, 0.0], solver=solver)
        return results.states[-1], results.diagnostics.num_accepted_steps

    end, num_steps = in_mode(solve, mode)(tf.ones([2]))
    np.testing.assert_allclose(end, [0.9, 0.9], rtol=1e-6)
    assert num_steps == (2 if size < 1 else 1)


# Functions as a dynamics


@pytest.mark.parametrize("mode", MODES)
def test_a_function_of_the_state_is_a_dynamics(mode):
    layer = NeuralODE(decay)
    layer.build((None, 2))
    assert layer.trainable_weights == []
    np.testing.assert_allclose(in_mode(layer, mode)(Y0), Y0 * np.exp(-1.0), rtol=2e-3)


@pytest.mark.parametrize("mode", MODES)
def test_a_function_of_time_and_state_is_a_dynamics(mode):
    layer = NeuralODE(forced, time_dependent=True, dtype="float64")
    layer.build((None, 2))
    found = in_mode(layer, mode)(tf.constant(Y0, tf.float64))
    np.testing.assert_allclose(found, Y0 * np.exp(1.0), rtol=2e-3)


def test_a_model_with_a_registered_function_is_saved(tmp_path):
    model = keras.Sequential([keras.Input((2,)), NeuralODE(forced, time_dependent=True)])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(Y0, verbose=0), model.predict(Y0, verbose=0))


def test_one_that_is_not_registered_says_so(tmp_path):
    model = keras.Sequential([keras.Input((2,)), NeuralODE(decay)])
    with pytest.raises(ValueError, match=r"register_keras_serializable.*Received.*decay"):
        model.save(tmp_path / "model.keras")


def test_a_function_that_reads_weights_is_an_error():
    net = linear()
    net.build((None, 2))
    with pytest.raises(ValueError, match=r"Write a layer.*Received: a function.* reads .*kernel"):
        NeuralODE(lambda y: net(y)).build((None, 2))


@pytest.mark.parametrize(("function", "time_dependent"), [(decay, True), (forced, False)])
def test_a_function_with_other_arguments_is_an_error(function, time_dependent):
    error = TypeError if time_dependent else ValueError  # two may be the state and a context
    with pytest.raises(error, match=r"must be a function f\(.*time_dependent=.*Received"):
        NeuralODE(function, time_dependent=time_dependent).build((None, 2))


# Layers that don't fit


class TwoArguments(keras.layers.Layer):
    def call(self, t, y):
        return -y


class NoReturn(keras.layers.Layer):
    def call(self, y):
        linear()(y)


def of_a_dictionary():
    y = keras.Input((2,), name="y")
    return keras.Model({"y": y}, linear()(y))


@pytest.mark.parametrize(
    ("dynamics", "time_dependent", "error", "message"),
    [
        (
            TwoArguments,
            True,
            TypeError,
            r"one argument.*inputs\): \[t, y\].*call\(t, y\)",
        ),
        (TwoArguments, False, TypeError, r"one argument.*inputs\): the state"),
        (NoReturn, False, ValueError, "has no return.*NoneType"),
        (of_a_dictionary, False, TypeError, r"takes the state, not a dictionary.*\['y'\]"),
    ],
)
def test_a_layer_that_cannot_be_called_with_a_state_is_named(
    dynamics, time_dependent, error, message
):
    with pytest.raises(error, match=message):
        NeuralODE(dynamics(), time_dependent=time_dependent).build((None, 2))
