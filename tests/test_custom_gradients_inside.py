"""A dynamics with a custom gradient inside: refused if that reads variables, and loses them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from all_gradients import ALL_GRADIENTS
from keras import layers

from tf_neuralode import NeuralODE, odeint

REFUSED = r"Drop the rematerialization.*custom gradient that reads .*"


class Field(layers.Layer):
    """A field of a dense layer, `self.of`, called by the function `how`."""

    def __init__(self, how):
        super().__init__(dtype="float64")
        self.how = how
        self.of = layers.Dense(2, "tanh", dtype="float64")
        self.drop = layers.Dropout(0.5, dtype="float64")

    def build(self, state_shape):
        self.of.build(state_shape)

    def compute_output_shape(self, state_shape):
        return state_shape

    def call(self, y, training=None):
        return self.how(self, y, training)


def plain(self, y, training):
    return self.of(y)


def recomputed(self, y, training):
    return tf.recompute_grad(lambda y: self.of(y))(y)


def rematerialized(self, y, training):
    return keras.remat(self.of)(y)


def in_part(self, y, training):
    """Each weight has a gradient, which is half the right one."""
    return self.of(y) + tf.recompute_grad(lambda y: self.of(y))(y)


def in_a_loop(self, y, training):
    return tf.while_loop(lambda i, y: i < 2, lambda i, y: (i + 1, recomputed(self, y, 0)), (0, y))[
        1
    ]


def in_a_branch(self, y, training):
    return tf.cond(tf.reduce_sum(y) > 0, lambda: recomputed(self, y, training), lambda: y)


def in_training(self, y, training):
    return recomputed(self, y, training) if training else self.of(y)


def own(self, y, training):
    @tf.custom_gradient
    def product(y):
        w = tf.convert_to_tensor(self.of.kernel)

        def grad(d, variables=None):
            return d @ tf.transpose(w), [tf.transpose(y) @ d] * len(variables or [])

        return y @ w, grad

    return product(y) + self.of.bias + self.of(y)


def own_without_variables(self, y, training):
    @tf.custom_gradient
    def product(y):
        w = tf.convert_to_tensor(self.of.kernel)
        return y @ w, lambda d: d @ tf.transpose(w)

    return product(y)


def with_dropout_again(self, y, training):
    """Its recomputation draws other numbers."""
    return self.of(tf.recompute_grad(lambda y: self.drop(y, training=training))(y))


def remat_scope():
    with keras.RematScope(mode="full"):
        return keras.Sequential([layers.Dense(4, "tanh"), layers.Dense(2)])


def remat_scope_with_training():
    """TensorFlow has custom gradients with keywords in eager calls alone."""
    with keras.RematScope(mode="full"):
        return keras.Sequential([layers.Dense(4), layers.Dropout(0.1), layers.Dense(2)])


def remat_scope_of_parts():
    state = keras.Input((2,))
    with keras.RematScope(mode="full"):
        parts = [layers.Dense(4, "tanh"), layers.Dense(2)]
    return keras.Model(state, parts[1](parts[0](state)))


@pytest.mark.parametrize(
    "make",
    [
        *[lambda how=how: Field(how) for how in (
            recomputed, rematerialized, in_part, in_a_loop, in_a_branch, in_training, own,
            own_without_variables,
        )],
        remat_scope, remat_scope_with_training, remat_scope_of_parts,
    ],
)  # fmt: skip
def test_a_custom_gradient_that_reads_weights_is_an_error_at_build(make):
    dtype = make().dtype
    with pytest.raises(ValueError, match=REFUSED + "kernel"):
        NeuralODE(make(), dtype=dtype).build((None, 2))


def test_a_recomputation_that_draws_random_numbers_is_an_error_at_build():
    with pytest.raises(ValueError, match=REFUSED + "seed"):
        NeuralODE(Field(with_dropout_again), dtype="float64").build((None, 2))


def weights_as_arguments(self, y, training):
    @tf.custom_gradient
    def product(y, w):
        return y @ w, lambda d: (d @ tf.transpose(w), tf.transpose(y) @ d)

    return tf.tanh(product(y, self.of.kernel) + self.of.bias)


def of_the_state_alone(self, y, training):
    return self.of(tf.nn.silu(y))


def straight_through(self, y, training):
    """Rounds to codes that no gradient flows to; the weights' own is another's."""

    @tf.custom_gradient
    def rounded(y):
        codes = tf.convert_to_tensor(self.of.kernel)
        near = tf.argmin(tf.abs(y[:, :, tf.newaxis] - codes[0]), axis=-1)

        def grad(d, variables=None):
            return d, [None] * len(variables or [])

        return tf.gather(codes[0], near), grad

    return self.of(rounded(y))


def stopped(self, y, training):
    w = tf.stop_gradient(tf.convert_to_tensor(self.of.kernel))

    @tf.custom_gradient
    def product(y):
        return y @ w, lambda d: d @ tf.transpose(w)

    return product(y) + self.of(y)


def nothing_of_the_weights(self, y, training):
    return tf.recompute_grad(tf.tanh)(y) * self.of(y)


@pytest.mark.parametrize(
    "how",
    [
        weights_as_arguments, of_the_state_alone, straight_through, stopped,
        nothing_of_the_weights,
    ],
)  # fmt: skip
def test_other_custom_gradients_are_no_error(how):
    NeuralODE(Field(how), dtype="float64").build((None, 2))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
def test_frozen_weights_in_a_custom_gradient_are_an_error_once_they_are_set_free(compiled):
    layer = NeuralODE(Field(recomputed), gradient="tape", dtype="float64")
    layer.dynamics.trainable = False
    call = tf.function(layer) if compiled else layer
    y0 = tf.constant([[0.3, -0.2]], tf.float64)
    call(y0)
    layer.dynamics.trainable = True
    with pytest.raises(ValueError, match=REFUSED + "kernel"):
        # Keras traces anew after `compile`.
        (tf.function(layer) if compiled else layer)(y0)


def test_a_solve_inside_a_dynamics_is_no_error():
    inner = NeuralODE(Field(plain), dtype="float64")
    NeuralODE(keras.Sequential([inner]), dtype="float64").build((None, 2))


@pytest.mark.parametrize("gradient", ALL_GRADIENTS)
def test_weights_that_are_arguments_of_a_custom_gradient_get_the_plain_one(gradient):
    found = []
    for how in (plain, weights_as_arguments):
        keras.utils.set_random_seed(0)
        layer = NeuralODE(Field(how), solver="rk4", gradient=gradient, dtype="float64")
        layer.build((None, 2))

        @tf.function
        def of_weights(y0, layer=layer):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(y0) ** 2)
            return tape.gradient(loss, [v.value for v in layer.trainable_variables])

        found.append(of_weights(tf.constant([[0.3, -0.2], [1.0, 0.5]], tf.float64)))
    for right, got in zip(*found, strict=True):
        # The same field, evaluated by other operations.
        np.testing.assert_allclose(got, right, rtol=1e-10)


def test_odeint_gives_recomputed_variables_their_gradients():
    field = Field(plain)
    field.build((None, 2))
    y0 = tf.constant([[0.3, -0.2]], tf.float64)
    found = []
    for of in (field.of, tf.recompute_grad(field.of)):
        with tf.GradientTape() as tape:
            end = odeint(lambda t, y, of=of: of(y), y0, [0.0, 1.0], gradient="tape").states[-1]
        found.append(tape.gradient(end, [v.value for v in field.trainable_variables]))
    for right, got in zip(*found, strict=True):
        np.testing.assert_allclose(got, right, rtol=1e-10)
