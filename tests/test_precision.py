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
