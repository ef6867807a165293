"""Layers inside the dynamics that draw random numbers or keep statistics."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from modes import MODES, in_mode

from digits import load_digits
from tf_neuralode import NeuralODE, gradients


def inputs():
    return tf.constant(np.random.default_rng(0).normal(size=(16, 4)).astype("float32"))


def ode(*layers, **settings):
    layer = NeuralODE(keras.Sequential([*layers, keras.layers.Dense(4)]), **settings)
    layer.build((None, 4))
    return layer


@pytest.mark.parametrize("mode", MODES)
def test_a_call_draws_one_dropout_mask_and_the_next_another(mode):
    # y' = mask * y + bias-free identity: y(1) = y0 exp(2) where the mask (rate 1/2) keeps, else y0.
    layer = NeuralODE(keras.layers.Dropout(0.5, seed=1), rtol=1e-6, atol=1e-6)
    layer.build((None, 4))
    run = in_mode(lambda y: layer(y, training=True), mode)
    y0 = tf.ones([16, 4])
    first, second = run(y0).numpy(), run(y0).numpy()
    for y in (first, second):
        kept = np.isclose(y, np.exp(2), rtol=1e-4)  # float32 at a tolerance of 1e-6
        # With a new mask at every evaluation there would be values between.
        assert np.all(kept | np.isclose(y, 1.0, rtol=1e-6))
        assert 0 < kept.sum() < kept.size
    assert not np.allclose(first, second)
    np.testing.assert_allclose(layer(y0, training=False), np.full([16, 4], np.e), rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gradient", gradients.names())
def test_the_backward_pass_sees_the_same_dropout_mask(gradient, mode):
    layer = NeuralODE(keras.layers.Dropout(0.5, seed=1), rtol=1e-6, atol=1e-6, gradient=gradient)
    layer.build((None, 4))

    def function(y0):
        with tf.GradientTape() as tape:
            tape.watch(y0)
            y1 = layer(y0, training=True)
        return y1, tape.gradient(y1, y0)

    # The field is linear, so dy1/dy0 = y1 / y0 where both see one mask.
    y0 = tf.ones([16, 4])
    y1, d_y0 = in_mode(function, mode)(y0)
    np.testing.assert_allclose(d_y0, y1 / y0, rtol=1e-4)


def moving_statistics(mode="graph", training=True, tolerance=1e-3, gradient="adjoint"):
    keras.utils.set_random_seed(0)
    normalize = keras.layers.BatchNormalization(momentum=0.9)
    layer = ode(normalize, gradient=gradient, rtol=tolerance, atol=tolerance)

    def function(y0):
        with tf.GradientTape() as tape:
            tape.watch(y0)
            y1 = layer(y0, training=training)
        return y1, tape.gradient(y1, y0)

    y1, _ = in_mode(function, mode)(inputs())
    return y1, normalize.moving_mean.numpy(), normalize.moving_variance.numpy()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gradient", gradients.names())
def test_moving_statistics_get_one_update_from_the_two_ends(gradient, mode):
    y1, mean, variance = moving_statistics(mode=mode, gradient=gradient)
    ends = [inputs().numpy(), y1.numpy()]
    # One step with momentum 0.9 from the initial 0 and 1; float32.
    expected = 0.1 * np.mean([end.mean(axis=0) for end in ends], axis=0)
    np.testing.assert_allclose(mean, expected, atol=1e-6)
    expected = 0.9 + 0.1 * np.mean([end.var(axis=0) for end in ends], axis=0)
    np.testing.assert_allclose(variance, expected, rtol=1e-5)


def test_moving_statistics_do_not_depend_on_the_number_of_evaluations():
    loose, tight = moving_statistics(tolerance=1e-2), moving_statistics(tolerance=1e-6)
    # The ends differ by the tolerance, and a tenth of them goes into the statistics.
    np.testing.assert_allclose(loose[1], tight[1], atol=1e-3)
    np.testing.assert_allclose(loose[2], tight[2], atol=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_evaluation_leaves_moving_statistics_alone(mode):
    _, mean, variance = moving_statistics(mode=mode, training=False)
    np.testing.assert_array_equal(mean, np.zeros(4))
    np.testing.assert_array_equal(variance, np.ones(4))


def test_weight_regularizers_of_the_dynamics_count_and_activity_regularizers_do_no_harm():
    regularized = keras.layers.Dense(4, kernel_regularizer="l2", activity_regularizer="l2")
    layer = ode(regularized)
    layer(inputs(), training=True)
    (loss,) = layer.losses
    np.testing.assert_allclose(loss, 0.01 * np.sum(regularized.kernel.numpy() ** 2), rtol=1e-5)


def test_frozen_dynamics_keep_their_weights_and_pass_gradients_on():
    layer = ode(keras.layers.Dense(4))
    layer.dynamics.trainable = False
    y0 = inputs()
    with tf.GradientTape() as tape:
        tape.watch(y0)
        loss = tf.reduce_sum(layer(y0, training=True))
    assert layer.trainable_variables == []
    assert np.all(np.isfinite(tape.gradient(loss, y0)))


@pytest.mark.parametrize("gradient", gradients.names())
def test_batch_normalization_evaluates_as_well_as_it_trains(gradient):
    keras.utils.set_random_seed(0)
    (x, y), _ = load_digits("subset")
    dynamics = keras.Sequential(
        [
            keras.layers.Dense(10, activation="tanh"),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.Dense(20, activation="tanh"),
        ]
    )
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(20, activation="tanh"),
            NeuralODE(dynamics, gradient=gradient, rtol=1e-3, atol=1e-3),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=128, epochs=9, verbose=0)
    accuracy = lambda training: float(
        np.mean(np.argmax(model(x[:1280], training=training), axis=1) == y[:1280])
    )
    # In training mode the whole set is one batch, whose statistics are exact.
    training, evaluation = accuracy(True), accuracy(False)
    assert training > 0.8
    assert abs(training - evaluation) <= 0.03


def with_a_bad_row():
    x = inputs().numpy()[:4]
    bad = x.copy()
    bad[2, 1] = np.nan
    return x, bad


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gradient", ["adjoint", "tape"])
def test_a_bad_row_spoils_a_batch_whose_statistics_are_taken_and_leaves_no_trace_in_them(
    gradient, mode
):
    x, bad = with_a_bad_row()
    layer = ode(keras.layers.BatchNormalization(), gradient=gradient, on_failure="nan")
    run = in_mode(lambda y, training: layer(y, training=training), mode)
    before = [v.numpy() for v in layer.non_trainable_variables]
    assert np.all(np.isnan(run(bad, True)))
    for variable, old in zip(layer.non_trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, old)
    predicted = run(bad, False)
    good = [0, 1, 3]
    np.testing.assert_allclose(predicted.numpy()[good], run(x[good], False), rtol=1e-5, atol=1e-6)
    # And a good batch does change them.
    assert np.all(np.isfinite(run(x, True)))
    assert any(
        np.any(variable.numpy() != old)
        for variable, old in zip(layer.non_trainable_variables, before, strict=True)
    )


def test_a_bad_row_beside_dropout_spoils_itself_alone():
    _, bad = with_a_bad_row()
    output = ode(keras.layers.Dropout(0.5), on_failure="nan")(bad, training=True)
    assert np.all(np.isfinite(output.numpy()[[0, 1, 3]]))


class ToTheMean(keras.layers.Layer):
    """Pulls each sample to the mean of the batch."""

    def call(self, y):
        return keras.ops.mean(y, axis=0, keepdims=True) - y


def test_a_dynamics_that_couples_samples_sees_a_good_row_in_the_place_of_a_bad_one():
    x, bad = with_a_bad_row()
    layer = NeuralODE(ToTheMean(), on_failure="nan")
    stand_in = x.copy()
    stand_in[2] = x[0]
    good = [0, 1, 3]
    actual = layer(bad, training=True).numpy()[good]
    # The copy counts in the mean and not in the norm, which may change the steps.
    np.testing.assert_allclose(actual, layer(stand_in, training=True).numpy()[good], rtol=1e-3)
