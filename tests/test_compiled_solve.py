"""What a layer with jit_compile=True keeps is never that of other weights, modes or attributes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_neuralode import NeuralODE, solvers


class Field(keras.layers.Layer):
    """b tanh(a y)."""

    def build(self, state_shape):
        self.a = self.add_weight(name="a", shape=(), initializer=keras.initializers.Constant(0.5))
        self.b = self.add_weight(name="b", shape=(), initializer=keras.initializers.Constant(2.0))

    def call(self, y):
        return self.b * tf.tanh(self.a * y)


def train_b_then_a(jit_compile):
    """Losses of both stages and the weights at the end."""
    field = Field()
    layer = NeuralODE(
        field, solver=solvers.Euler(num_steps=2), gradient="tape", jit_compile=jit_compile
    )
    model = keras.Sequential([keras.Input((1,)), layer])
    x = np.linspace(-1, 1, 16, dtype="float32")[:, np.newaxis]
    losses = []
    for trained, frozen in ((field.b, field.a), (field.a, field.b)):
        trained.trainable, frozen.trainable = True, False
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
        losses += model.fit(x, 1.5 * x, epochs=3, verbose=0).history["loss"]
    return losses, [float(field.a.numpy()), float(field.b.numpy())]


def test_weights_frozen_in_turn_train_as_without_compilation():
    compiled, plain = train_b_then_a(True), train_b_then_a(False)
    # XLA rounds float32 differently, which six steps don't amplify.
    np.testing.assert_allclose(compiled[0], plain[0], rtol=1e-4)
    np.testing.assert_allclose(compiled[1], plain[1], rtol=1e-4)


def compiled_layer(dynamics, **settings):
    layer = NeuralODE(dynamics, solver=solvers.Euler(num_steps=2), jit_compile=True, **settings)
    layer.build((None, 1))
    return layer


def test_eager_calls_see_which_weight_is_frozen():
    layer = compiled_layer(Field())
    y0 = tf.ones([1, 1])
    before = layer(y0).numpy()
    layer.dynamics.a.trainable, layer.dynamics.b.trainable = False, True
    np.testing.assert_allclose(layer(y0), before, rtol=1e-6)
    layer.dynamics.a.trainable, layer.dynamics.b.trainable = True, False
    np.testing.assert_allclose(layer(y0), before, rtol=1e-6)


def test_eager_calls_see_that_batch_normalization_is_frozen():
    normalize = keras.layers.BatchNormalization(center=False, scale=False)
    layer = compiled_layer(normalize)
    y0 = tf.constant([[1.0], [3.0]])
    layer(y0, training=True)
    normalize.trainable = False  # now it uses moving statistics, which have no more weights
    mean = normalize.moving_mean.numpy()
    # No weight is trainable, before or after: its tensors look the same.
    frozen = layer(y0, training=True)
    np.testing.assert_array_equal(normalize.moving_mean, mean)
    np.testing.assert_allclose(frozen, layer(y0, training=False), rtol=1e-6)


class Holder(keras.layers.Layer):
    """y' = x, a tensor that the layer holds."""

    x = None

    def call(self, y):
        return tf.zeros_like(y) + self.x


def test_a_tensor_that_the_dynamics_holds_may_be_replaced():
    holder = Holder()
    holder.x = tf.constant(1.0)
    layer = compiled_layer(holder)
    y0 = tf.zeros([1, 1])
    np.testing.assert_allclose(layer(y0), [[1.0]], rtol=1e-6)
    holder.x = tf.constant(2.0)
    np.testing.assert_allclose(layer(y0), [[2.0]], rtol=1e-6)

    @tf.function
    def conditioned(*contexts):
        states = []
        for x in contexts:
            holder.x = x
            states.append(layer(y0)[0, 0])
        return states

    np.testing.assert_allclose(conditioned(tf.constant(3.0), tf.constant(4.0)), [3, 4], rtol=1e-6)
    np.testing.assert_allclose(tf.function(lambda x: conditioned(x))(5.0), [5.0], rtol=1e-6)
    holder.x = tf.constant(1.0)
    np.testing.assert_allclose(layer(y0), [[1.0]], rtol=1e-6)


def test_a_function_that_is_traced_anew_reads_attributes_anew():
    holder = Holder()
    holder.x = 1.0
    layer = compiled_layer(holder)
    y0 = tf.zeros([1, 1])
    np.testing.assert_allclose(tf.function(lambda y: layer(y))(y0), [[1.0]], rtol=1e-6)
    holder.x = 2.0
    np.testing.assert_allclose(tf.function(lambda y: layer(y))(y0), [[2.0]], rtol=1e-6)


def test_two_layers_that_share_a_dynamics_see_its_weights():
    field = Field()
    layers = [compiled_layer(field), compiled_layer(field, t_span=(0.0, 2.0))]
    y0 = tf.ones([1, 1])
    for b in (2.0, 1.0):
        field.b.assign(b)
        for layer in layers:
            plain = NeuralODE(field, layer.t_span, solver=solvers.Euler(num_steps=2))
            np.testing.assert_allclose(layer(y0), plain(y0), rtol=1e-6)


@pytest.mark.parametrize("in_graph", [False, True], ids=["eager", "graph"])
def test_the_compiled_solve_is_kept_from_call_to_call(in_graph):
    traces = []
    counting = keras.layers.Lambda(lambda y: traces.append(1) or y, output_shape=lambda s: s)
    layer = compiled_layer(counting)
    run = tf.function(lambda y: layer(y)) if in_graph else layer
    run(tf.ones([1, 1]))
    num_traces = len(traces)
    for i in range(3):
        run(i * tf.ones([1, 1]))
    assert len(traces) == num_traces
