"""Layers inside the dynamics that draw random numbers or keep statistics."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from all_gradients import ALL_GRADIENTS
from modes import MODES, in_mode

from digits import load_digits
from tf_neuralode import NeuralODE, solvers


def inputs():
    return tf.constant(np.random.default_rng(0).normal(size=(16, 4)).astype("float32"))


# Without the choice of steps a solve is compiled in half the time.
EQUAL_STEPS = {"solver": solvers.RK4(num_steps=4)}


def ode(*layers, **settings):
    settings = settings if "rtol" in settings else {**EQUAL_STEPS, **settings}
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
@pytest.mark.parametrize("gradient", ALL_GRADIENTS)
def test_the_backward_pass_sees_the_same_dropout_mask(gradient, mode):
    solver = solvers.RK4(num_steps=20)  # its error is 2e-6 here
    layer = NeuralODE(keras.layers.Dropout(0.5, seed=1), solver=solver, gradient=gradient)
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


def moving_statistics(mode="graph", training=True, gradient="adjoint", **tolerances):
    keras.utils.set_random_seed(0)
    normalize = keras.layers.BatchNormalization(momentum=0.9)
    layer = ode(normalize, gradient=gradient, **tolerances)

    def function(y0):
        with tf.GradientTape() as tape:
            tape.watch(y0)
            y1 = layer(y0, training=training)
        return y1, tape.gradient(y1, y0)

    y1, _ = in_mode(function, mode)(inputs())
    return y1, normalize.moving_mean.numpy(), normalize.moving_variance.numpy()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gradient", ALL_GRADIENTS)
def test_moving_statistics_get_one_update_from_the_two_ends(gradient, mode):
    y1, mean, variance = moving_statistics(mode=mode, gradient=gradient)
    ends = [inputs().numpy(), y1.numpy()]
    # One step with momentum 0.9 from the initial 0 and 1; float32.
    expected = 0.1 * np.mean([end.mean(axis=0) for end in ends], axis=0)
    np.testing.assert_allclose(mean, expected, atol=1e-6)
    expected = 0.9 + 0.1 * np.mean([end.var(axis=0) for end in ends], axis=0)
    np.testing.assert_allclose(variance, expected, rtol=1e-5)


def test_moving_statistics_do_not_depend_on_the_number_of_evaluations():
    loose, tight = (moving_statistics(rtol=x, atol=x) for x in (1e-2, 1e-6))
    # The ends differ by the tolerance, and a tenth of them goes into the statistics.
    np.testing.assert_allclose(loose[1], tight[1], atol=1e-3)
    np.testing.assert_allclose(loose[2], tight[2], atol=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_evaluation_leaves_moving_statistics_alone(mode):
    _, mean, variance = moving_statistics(mode=mode, training=False)
    np.testing.assert_array_equal(mean, np.zeros(4))
    np.testing.assert_array_equal(variance, np.ones(4))


class TwoOfOneName(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.a = keras.layers.BatchNormalization(momentum=0.5, name="normalize")
        self.b = keras.layers.BatchNormalization(momentum=0.5, name="normalize")

    def call(self, y, training=None):
        return 0 * (self.a(y, training=training) + self.b(y + 10, training=training))


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "layer in XLA"])
def test_two_layers_of_one_path_keep_their_own_statistics(jit_compile):
    dynamics = TwoOfOneName()
    layer = NeuralODE(dynamics, solver="euler", jit_compile=jit_compile)
    layer(tf.zeros([4, 2]), training=True)
    assert dynamics.a.moving_mean.path == dynamics.b.moving_mean.path
    # From 0 half way to 0 and to 10.
    np.testing.assert_allclose(dynamics.a.moving_mean, [0, 0], atol=1e-6)
    np.testing.assert_allclose(dynamics.b.moving_mean, [5, 5], rtol=1e-6)


class Counter(keras.layers.Layer):
    """Counts its calls, whatever `training` is, in numbers of several kinds."""

    def build(self, state_shape):
        settings = {"shape": (), "initializer": "zeros", "trainable": False}
        self.calls = self.add_weight(name="calls", **settings)
        self.integer = self.add_weight(name="integer", dtype="int32", **settings)
        self.mean = keras.metrics.Mean(name="mean")

    def call(self, y):
        self.calls.assign_add(1.0)
        self.integer.assign_add(1)
        self.mean.update_state(y)
        return tf.ones_like(y)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("training", [False, True])
def test_a_call_of_the_layer_writes_once_in_training_and_prediction(training, mode):
    layer = NeuralODE(Counter(), solver=solvers.Euler(num_steps=2))
    layer.build((None, 2))
    run = in_mode(lambda y: layer(y, training=training), mode)
    for i in range(1, 3):
        run(tf.zeros([4, 2]))
        counter = layer.dynamics
        assert [int(v.numpy()) for v in (counter.calls, counter.integer)] == [i, i]
        # The state goes from 0 to 1.
        np.testing.assert_allclose(counter.mean.result(), 0.5, rtol=1e-6)


class Evaluations(keras.layers.Layer):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.num = inner, 0

    def call(self, y, training=None):
        self.num += tf.executing_eagerly()  # not in the trace for what the field closes over
        return self.inner(y, training=training)


@pytest.mark.parametrize(
    ("make", "more"),
    [
        (lambda: keras.layers.Dense(2), 0),
        (lambda: keras.layers.Dropout(0.5), 0),
        (keras.layers.BatchNormalization, 0),
        (lambda: AlwaysNoisy(), 1),
    ],
    ids=["Dense", "Dropout", "BatchNormalization", "draws in prediction"],
)
def test_a_prediction_costs_no_evaluation_more_where_nothing_is_written(make, more):
    layer = NeuralODE(Evaluations(make()), solver=solvers.Euler(num_steps=3), on_failure="nan")
    layer.build((None, 2))
    before = layer.dynamics.num
    layer(tf.ones([4, 2]), training=False)
    assert layer.dynamics.num - before == 3 + more  # one a step


class AlwaysNoisy(keras.layers.Layer):
    """Adds noise to the slope 0, from two generators, whatever `training` is."""

    def __init__(self):
        super().__init__()
        self.generators = [keras.random.SeedGenerator(seed) for seed in (1, 2)]

    def call(self, y):
        one, two = (keras.random.normal(keras.ops.shape(y), seed=s) for s in self.generators)
        return one + 100.0 * two


def predictions(run):
    """Four of the noise alone; a slope that doesn't change is y(1) - y(0)."""
    return [float(np.squeeze(run(tf.zeros([1, 1])))) for _ in range(4)]


def noisy_layer(dynamics=None, **settings):
    dynamics = dynamics or AlwaysNoisy()
    layer = NeuralODE(dynamics, solver=solvers.Euler(num_steps=2), **settings)
    layer.build((None, 1))
    return layer


@pytest.mark.parametrize("mode", [*MODES, "layer in XLA"])
def test_noise_in_predictions_is_drawn_anew_in_each_call(mode):
    in_xla = mode == "layer in XLA"
    layer = noisy_layer(jit_compile=in_xla)
    run = layer if in_xla else in_mode(lambda y: layer(y), mode)
    alone = AlwaysNoisy()  # XLA draws other numbers
    expected = predictions(in_mode(lambda y: alone(y), "xla" if in_xla else mode))
    assert len(set(expected)) == 4
    np.testing.assert_allclose(predictions(run), expected, rtol=1e-5)


@pytest.mark.parametrize("functional", [False, True], ids=["sequential", "functional"])
def test_noise_is_drawn_anew_in_predict_and_in_an_export(functional, tmp_path):
    expected = predictions(AlwaysNoisy())
    noisy = AlwaysNoisy()
    dynamics = keras.Sequential([noisy])
    if functional:
        state = keras.Input((1,))
        dynamics = keras.Model(state, noisy(state))
    model = keras.Sequential([keras.Input((1,)), noisy_layer(dynamics)])
    model.export(tmp_path / "noisy", verbose=False)
    served = tf.saved_model.load(tmp_path / "noisy")
    np.testing.assert_allclose(predictions(served.serve), expected, rtol=1e-5)
    predict = lambda y: model.predict(y, verbose=0)
    np.testing.assert_allclose(predictions(predict), expected, rtol=1e-5)


def test_noise_is_drawn_anew_after_a_failed_solve():
    layer = NeuralODE(AlwaysNoisy(), solver=solvers.Bosh3(max_num_steps=1), on_failure="nan")
    before = [g.state.numpy().tolist() for g in layer.dynamics.generators]
    assert before == [[1, 0], [2, 0]]
    layer(tf.constant([[0.0]]), tf.constant([[0.0, 0.0]]))
    assert [g.state.numpy().tolist() for g in layer.dynamics.generators] == [[1, 1], [2, 1]]


def test_noise_of_keras_global_generator_is_an_error_at_build():
    layer = NeuralODE(keras.layers.Lambda(lambda y: y + keras.random.normal(keras.ops.shape(y))))
    with pytest.raises(ValueError, match=r"SeedGenerator.*seed_generator_state"):
        layer.build((None, 2))


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: keras.Sequential([x])])
def test_a_dynamics_that_writes_trainable_variables_is_an_error_at_build(wrap):
    spectral = keras.layers.SpectralNormalization(keras.layers.Dense(2, name="inner"))
    with pytest.raises(ValueError, match=r"must not write a trainable variable.*inner/kernel"):
        NeuralODE(wrap(spectral)).build((None, 2))


def test_a_dynamics_may_write_frozen_variables_and_not_once_they_are_set_free():
    spectral = keras.layers.SpectralNormalization(keras.layers.Dense(2, use_bias=False))
    spectral.trainable = False
    layer = NeuralODE(spectral, solver=solvers.Euler(num_steps=1))
    for _ in range(20):
        layer(tf.ones([4, 2]), training=True)
    # The power iteration has converged meanwhile.
    norm = np.linalg.norm(spectral.layer.kernel.numpy(), ord=2)
    np.testing.assert_allclose(norm, 1.0, rtol=1e-3)
    spectral.trainable = spectral.layer.trainable = True
    with pytest.raises(ValueError, match="must not write a trainable variable"):
        layer(tf.ones([4, 2]), training=True)


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


@pytest.mark.parametrize("gradient", ALL_GRADIENTS)
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
            NeuralODE(dynamics, gradient=gradient, **EQUAL_STEPS),
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
