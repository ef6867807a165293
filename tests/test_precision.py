"""Dtype policies: low precision for the dynamics, at least float32 for state and time."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mnist
from digits import load_digits
from tf_neuralode import NeuralODE

POLICIES = ["mixed_float16", "mixed_bfloat16", "float64"]
HELD_IN = {"mixed_float16": "float32", "mixed_bfloat16": "float32", "float64": "float64"}


@pytest.fixture
def policy(request):
    old = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(old)


class Watched(keras.layers.Layer):
    """Notes the dtypes that it is called with."""

    def __init__(self):
        super().__init__(autocast=False)
        self.seen = set()
        self.inner = keras.layers.Dense(3)

    def build(self, input_shape):
        self.inner.build(input_shape[1])

    def compute_output_shape(self, input_shape):
        return input_shape[1]

    def call(self, inputs):
        t, y = inputs
        self.seen |= {t.dtype, y.dtype}
        slope = self.inner(y)
        self.seen_slope = slope.dtype
        return slope


@pytest.mark.parametrize("policy", POLICIES, indirect=True)
@pytest.mark.parametrize("times", [None, np.array([[0.5], [1.0]])], ids=["span", "own times"])
def test_state_and_time_are_held_in_at_least_float32(policy, times):
    dynamics = Watched()
    layer = NeuralODE(dynamics, time_dependent=True)
    output = layer(tf.ones([2, 3], keras.config.dtype_policy().compute_dtype), times)
    dtype = tf.as_dtype(HELD_IN[policy])
    assert output.dtype == dtype
    names = {tf.as_dtype(x).name for x in dynamics.seen}
    assert names == {dtype.name}
    assert dynamics.seen_slope == keras.config.dtype_policy().compute_dtype


def accuracies(epochs):
    keras.utils.set_random_seed(0)
    model = mnist.build_model()
    (x, y), (x_test, y_test) = load_digits("subset")
    history = model.fit(
        x, y, batch_size=128, epochs=epochs, validation_data=(x_test, y_test), verbose=0
    ).history
    return model, history["accuracy"][-1], history["val_accuracy"][-1]


@pytest.fixture(scope="module")
def in_float32():
    return accuracies(epochs=9)[1:]


@pytest.mark.parametrize("policy", POLICIES, indirect=True)
def test_mnist_reaches_the_accuracy_of_float32(policy, in_float32):
    model, train, test = accuracies(epochs=9)
    assert train > 0.85
    # Rounding of 16 bits moves a few of 1350 and of 150 digits.
    assert abs(train - in_float32[0]) <= 0.015
    assert abs(test - in_float32[1]) <= 0.03
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    if scaled:
        # No step was skipped for gradients that overflow: the scale is still the first one.
        assert float(model.optimizer.dynamic_scale) >= 2**15
        assert model.optimizer.inner_optimizer.iterations == 9 * 11


def dense(policy="float64"):
    return keras.layers.Dense(2, activation="tanh", dtype=policy)


def functional(dtype, policy="float64"):
    y = keras.Input((2,), dtype=dtype)
    return keras.Model(y, dense(policy)(y))


class Holding(keras.layers.Layer):
    """Calls another layer."""

    def __init__(self, inner, dtype="float64"):
        super().__init__(dtype=dtype)
        self.inner = inner

    def build(self, input_shape):
        self.inner.build(input_shape)

    def call(self, y):
        return self.inner(y)


def of_time(dtype):
    t, y = keras.Input((1,), dtype=dtype), keras.Input((2,), dtype="float64")
    joined = keras.layers.Concatenate(dtype="float64")([t, y])
    return keras.Model([t, y], dense()(joined))


ROUNDING = {
    "functional": lambda: functional("float32"),
    "sequential": lambda: keras.Sequential([keras.Input((2,)), dense()]),
    "inside a layer": lambda: Holding(functional("float32")),
    "inside a sequential": lambda: keras.Sequential([functional("float32"), dense()]),
    "a layer that casts": lambda: Holding(dense(), dtype="float32"),
    "between": lambda: keras.Sequential([keras.layers.Activation("tanh"), dense()]),
    "time": lambda: of_time("float32"),
}


@pytest.mark.parametrize("dynamics", ROUNDING)
def test_a_dynamics_in_which_keras_rounds_a_float64_state_is_an_error_at_build(dynamics):
    layer = NeuralODE(ROUNDING[dynamics](), time_dependent=dynamics == "time", dtype="float64")
    with pytest.raises(ValueError, match=r"rounds its input to float32.*float64"):
        layer.build((None, 2))


KEEPING = {
    "functional": lambda: functional("float64"),
    "sequential": lambda: keras.Sequential([dense(), keras.Sequential([dense()])]),
    "16 bits": lambda: functional("float32", "mixed_float16"),
    "inside a layer": lambda: Holding(keras.Sequential([dense()])),
    "time": lambda: of_time("float64"),
}


@pytest.mark.parametrize("dynamics", KEEPING)
def test_a_dynamics_that_keeps_float64_or_means_16_bits_is_none(dynamics):
    layer = NeuralODE(KEEPING[dynamics](), time_dependent=dynamics == "time", dtype="float64")
    layer.build((None, 2))


@pytest.mark.parametrize("policy", ["mixed_float16", "float32"])
def test_float32_layers_take_any_of_them(policy):
    NeuralODE(functional("float32", policy)).build((None, 2))


def test_a_float64_field_behind_a_float64_input_meets_a_tight_tolerance():
    layer = NeuralODE(
        functional("float64"), rtol=1e-12, atol=1e-12, track_stats=True, dtype="float64"
    )
    layer(np.ones((1, 2)), training=False)
    # With the state rounded to float32 it failed after 6,002.
    assert layer._nfe.result() < 500
