"""Eager calls of a layer are traced after a while: the same numbers, and never stale ones."""

import gc
import weakref
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_neuralode import NeuralODE, fields, regularizers, solvers

HEUN = solvers.Heun(num_steps=3)
X = np.random.default_rng(0).normal(size=(4, 2)).astype("float32")
# Float32, in another order where the runtime joins operations.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(autouse=True)
def traced_at_once(monkeypatch):
    monkeypatch.setattr("tf_neuralode.layers.eager_solves.NUM_BEFORE_COMPILING", 0)


def make_dense(**options):
    return keras.layers.Dense(2, activation="tanh", **options)


def plain(layer):
    """`layer`, whose calls stay as they come."""

    def called(*arguments, **keywords):
        name = "tf_neuralode.layers.eager_solves.compiles_itself"
        with mock.patch(name, lambda *arguments, **keywords: False):
            return layer(*arguments, **keywords)

    return called


def num_traced(layer):
    return sum(one.function is not None for one in layer._eager_solves._kept.values())


def check_same(layer, *arguments, **keywords):
    traced, losses = layer(*arguments, **keywords), layer.losses
    np.testing.assert_allclose(traced, plain(layer)(*arguments, **keywords), **CLOSE)
    np.testing.assert_allclose(losses, layer.losses, **CLOSE)
    return traced


@pytest.mark.parametrize(
    "make",
    [
        lambda: NeuralODE(make_dense(), solver=HEUN),
        lambda: NeuralODE(fields.MLP(3, 1), t_eval=[0.3, 1.0], return_sequences=True, solver=HEUN),
        lambda: NeuralODE(fields.MLP(3, 1, time=True), time_dependent=True, solver=HEUN),
        lambda: NeuralODE(make_dense(), (1.0, 0.0)),
        lambda: NeuralODE(make_dense(dtype="float64"), dtype="float64", on_failure="last"),
        lambda: NeuralODE(make_dense(), regularizer=regularizers.KineticEnergy(0.1), solver=HEUN),
    ],
)
@pytest.mark.parametrize("training", [None, True])
def test_a_traced_call_returns_what_a_plain_one_does(make, training):
    layer = make()
    for size in (4, 3, 1):
        check_same(layer, X[:size], training=training)
    assert num_traced(layer) == 1


def test_times_of_the_call_and_masks():
    layer = NeuralODE(make_dense(), solver="bosh3")
    for times in ([0.5, 0.7], [0.1, 2.0]):
        check_same(layer, X, np.array(times, "float32"))
    own = np.cumsum(np.full((4, 3), 0.2, "float32"), axis=1)
    check_same(layer, X, own, mask=own < 0.5)
    assert num_traced(layer) == 2


def test_gradients_are_those_of_a_plain_call():
    layer = NeuralODE(make_dense(), solver=HEUN)
    layer(X)

    def gradients(one):
        x = tf.constant(X)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            states = one(x)
            losses = tf.reduce_sum(states), tf.reduce_sum(states**2)
        sources = [x, *layer.trainable_variables]
        jacobian = tape.batch_jacobian(states, x)
        return [g for loss in losses for g in tape.gradient(loss, sources)] + [jacobian]

    for a, b in zip(gradients(layer), gradients(plain(layer)), strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)


def test_second_derivatives_are_refused_as_in_a_plain_call():
    layer, x = NeuralODE(make_dense(), solver=HEUN), tf.constant(X)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            loss = tf.reduce_sum(layer(x) ** 2)
        first = inner.gradient(loss, x)
    with pytest.raises(LookupError, match="second derivatives"):
        outer.gradient(first, x)


def set_activation(dense):
    dense.activation = keras.activations.softplus


def freeze(dense):
    dense.trainable = False


@pytest.mark.parametrize(
    "change",
    [
        lambda dense: dense.set_weights([-w for w in dense.get_weights()]),
        set_activation,
        freeze,
    ],
)
def test_what_a_dynamics_reads_is_never_stale(change):
    dense = make_dense()
    layer = NeuralODE(keras.Sequential([keras.Input((2,)), dense]), solver=HEUN)
    check_same(layer, X)
    change(dense)
    check_same(layer, X)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(X))
    gradients = tape.gradient(loss, [*dense.trainable_variables, *dense.non_trainable_variables])
    assert all(g is not None for g in gradients[: len(dense.trainable_variables)])


class Scaled(keras.layers.Layer):
    scale = 1.0

    def call(self, y):
        return self.scale * y


def test_a_layer_of_the_users_own_stays_as_it_is():
    scaled = Scaled()
    layer = NeuralODE(scaled, solver=HEUN)
    before = layer(X)
    scaled.scale = 2.0
    after = check_same(layer, X)
    assert np.abs(after - before).max() > 0.1
    assert num_traced(layer) == 0


def test_a_function_that_asks_for_shapes_stays_as_it_is():
    layer = NeuralODE(lambda y: -y if y.shape[0] == 1 else y, solver=HEUN)
    dense = keras.layers.Dense(2, activation=lambda x: x if x.shape[0] == 1 else -x)
    for size in (3, 2, 1):
        check_same(layer, X[:size])
        check_same(other := NeuralODE(dense, solver=HEUN), X[:size])
        assert num_traced(layer) == num_traced(other) == 0


def test_a_failed_solve_raises_as_in_a_plain_call():
    layer = NeuralODE(keras.layers.Activation("exponential"), (0.0, 100.0))
    for _ in range(2):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"solve failed|step size|finite"):
            layer(np.abs(X) + 1.0)
    assert num_traced(layer) == 1


def test_one_call_is_not_worth_tracing_for(monkeypatch):
    monkeypatch.undo()
    layer = NeuralODE(make_dense(), solver=HEUN)  # 6 evaluations
    for _ in range(22):
        layer(X)
    assert num_traced(layer) == 0
    layer(X)
    assert num_traced(layer) == 1


def traced_layer():
    layer = NeuralODE(make_dense(), solver=HEUN)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(X))
    tape.gradient(loss, layer.trainable_variables)
    assert num_traced(layer) == 1
    return [weakref.ref(x) for x in (layer, layer.dynamics, layer.dynamics.kernel)]


def test_what_is_traced_keeps_no_layer_alive():
    references = traced_layer()
    gc.collect()
    assert [reference() for reference in references] == [None] * 3
