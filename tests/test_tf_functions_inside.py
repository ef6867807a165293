"""A dynamics with a tf.function inside: refused if that reads variables, for it would keep them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from modes import MODES, in_mode

from tf_neuralode import NeuralODE


class Scale(keras.layers.Layer):
    """y' = w y."""

    def build(self, state_shape):
        self.w = self.add_weight(name="w", shape=(), initializer="ones")

    def call(self, y):
        return self.w * y


class Decorated(Scale):
    @tf.function
    def call(self, y):
        return self.w * y


class Compiled(Scale):
    @tf.function(jit_compile=True)
    def scaled(self, y):
        return self.w * y

    def call(self, y):
        return self.scaled(y)


class TracedOutside(Compiled):
    def build(self, state_shape):
        super().build(state_shape)
        self.scaled.get_concrete_function(tf.TensorSpec((None, 1)))


class Nested(Compiled):
    @tf.function
    def outer(self, y):
        return self.scaled(y)

    def call(self, y):
        return self.outer(y)


class InTraining(Compiled):
    def call(self, y, training=None):
        return self.scaled(y) if training else self.w * y


class DecoratedModel(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    @tf.function
    def call(self, y):
        return self.dense(y)


class NeedsAutograph(Scale):
    @tf.function
    def call(self, y):
        if tf.reduce_sum(y) > 0:
            return self.w * y
        return -self.w * y


class DecoratedModelNeedsAutograph(DecoratedModel):
    @tf.function
    def call(self, y):
        return self.dense(y) if tf.reduce_sum(y) > 0 else -self.dense(y)


class InLoop(Compiled):
    def call(self, y):
        return tf.while_loop(lambda i, y: i < 2, lambda i, y: (i + 1, self.scaled(y)), (0, y))[1]


def around(layer):
    return keras.Sequential([keras.layers.Dense(1), layer])


def functional():
    state = keras.Input((1,))
    return keras.Model(state, Compiled()(state))


@pytest.mark.parametrize(
    "make",
    [
        Decorated, Compiled, TracedOutside, Nested, InTraining, DecoratedModel, functional,
        NeedsAutograph, DecoratedModelNeedsAutograph, InLoop,
        lambda: around(Compiled()), lambda: around(around(Decorated())),
    ],
)  # fmt: skip
def test_a_tf_function_that_reads_variables_is_an_error_at_build(make):
    layer = NeuralODE(make())
    with pytest.raises(ValueError, match=r"Remove the tf\.function.*which keeps .*(w|kernel)"):
        layer.build((None, 1))


class KeepsSquare(Scale):
    """Not a `tf.function`, but as wrong: later calls take what the first has computed of w."""

    def build(self, state_shape):
        super().build(state_shape)
        self.square = None

    def call(self, y):
        if self.square is None:
            self.square = self.w**2
        return self.square * y

    def compute_output_spec(self, y):
        return keras.KerasTensor(y.shape, dtype=y.dtype)


def test_a_layer_that_keeps_what_it_computes_of_its_weights_is_an_error_at_build():
    with pytest.raises(ValueError, match=r"keeps .*w"):
        NeuralODE(KeepsSquare()).build((None, 1))


class TakesWeights(Scale):
    @tf.function
    def scaled(self, y, w):
        return w * y

    def call(self, y):
        return self.scaled(y, self.w.value)


class MadeInCall(Scale):
    def call(self, y):
        return tf.function(lambda y: self.w * y)(y)


class OfNoVariable(Scale):
    @tf.function
    def identity(self, y):
        return tf.cond(tf.reduce_sum(y) > 0, lambda: y, lambda: tf.identity(y))

    def call(self, y):
        return self.w * self.identity(y)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", [TakesWeights, OfNoVariable])
def test_any_other_tf_function_is_right(make, mode):
    check_follows_weight(make(), mode)


def test_a_tf_function_made_in_each_call_is_right():
    check_follows_weight(MadeInCall(), "graph")


def check_follows_weight(dynamics, mode):
    layer = NeuralODE(dynamics, solver="rk4")
    layer.build((None, 1))

    def function(y0):
        with tf.GradientTape() as tape:
            y1 = layer(y0)
        return y1, tape.gradient(y1, layer.trainable_variables)[0]

    run = in_mode(function, mode)
    for w in (1.0, 0.5):
        dynamics.w.assign(w)
        y1, d_w = run(tf.ones([1, 1]))
        # y(1) = exp(w) = dy(1)/dw; ten steps of order 4.
        np.testing.assert_allclose(y1, [[np.exp(w)]], rtol=1e-4)
        np.testing.assert_allclose(d_w, np.exp(w), rtol=1e-4)
