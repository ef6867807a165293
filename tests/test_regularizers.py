"""Regularizers of the trajectory: their values, gradients, and what they leave alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from all_gradients import ALL_GRADIENTS
from gradient_problem import finite_differences
from keras import layers
from modes import MODES, in_mode
from small_models import dense_field, make_data, small_model

from tf_neuralode import NeuralODE, regularizers, solvers

Y0 = np.array([[1.0, 2.0], [3.0, -4.0], [0.5, 1.0]])
ENERGY = regularizers.KineticEnergy
JACOBIAN = regularizers.JacobianNorm


def linear(matrix, tolerance=1e-9, **options):
    """dy/dt = y A in float64."""
    kernel = keras.initializers.Constant(np.array(matrix))
    dynamics = layers.Dense(2, use_bias=False, kernel_initializer=kernel, dtype="float64")
    return NeuralODE(dynamics, rtol=tolerance, atol=tolerance, dtype="float64", **options)


def loss_of(layer, *arguments):
    layer(*arguments, training=True)
    (loss,) = layer.losses
    return float(loss)


def energy(a, t, y0=Y0):
    """Integral of |a y|^2 over [0, t] for dy/dt = a y: a |y0|^2 (exp(2 a t) - 1) / 2."""
    return a * np.sum(y0**2, axis=-1) * (np.exp(2 * a * t) - 1) / 2


@pytest.mark.parametrize("mode", ["plain", "compiled layer"])
@pytest.mark.parametrize("t_span", [(0.0, 2.0), (2.0, 0.0), (1.0, -0.5)])
def test_kinetic_energy_is_the_exact_integral(t_span, mode):
    a, t = -0.4, t_span[1] - t_span[0]
    layer = linear(
        a * np.eye(2), t_span=t_span, regularizer=ENERGY(0.3), jit_compile=mode != "plain"
    )
    # Backwards it is the integral over |dt|.
    expected = 0.3 * np.mean(energy(a, t)) * np.sign(t)
    np.testing.assert_allclose(loss_of(layer, Y0), expected, rtol=1e-6)


@pytest.mark.parametrize("matrix", [[[1.0, -2.0], [0.0, 0.0]], [[0.5, 0.0], [0.0, -0.2]]])
def test_jacobian_norm_is_exact_where_the_noise_makes_no_difference(matrix):
    # Where the columns of A^T are orthogonal, |noise^T J|^2 is |J|_F^2 whatever the signs.
    matrix = np.array(matrix)
    # The tolerance doesn't matter: the cost's slope is constant.
    layer = linear(matrix, 1e-3, t_span=(0.0, 1.5), regularizer=JACOBIAN(0.2))
    products = [np.sum((matrix @ np.array([1.0, sign])) ** 2) for sign in (1, -1)]
    possible = [
        0.2 * 1.5 * np.mean(c) for c in np.array(np.meshgrid(*[products] * 3)).reshape(3, -1).T
    ]
    loss = loss_of(layer, Y0)
    assert np.min(np.abs(np.array(possible) - loss)) < 1e-8


def test_jacobian_norm_has_the_frobenius_norm_as_its_mean():
    matrix = np.array([[0.5, -0.3], [0.2, 0.1]])
    keras.utils.set_random_seed(0)  # before the layer draws a seed for its noise
    layer = linear(matrix, 1e-3, regularizer=JACOBIAN(1.0))
    y0 = np.random.default_rng(0).normal(size=(20_000, 2))
    # |e^T J|^2 is |J|_F^2 +- 2 * 0.07 here: a standard deviation of 0.14 / sqrt(20000) = 0.001.
    np.testing.assert_allclose(loss_of(layer, y0), np.sum(matrix**2), atol=4e-3)


def test_each_solve_draws_its_own_noise_and_keeps_it():
    matrix = np.array([[0.5, -0.3], [0.2, 0.1]])
    # The tolerance doesn't matter: the cost's slope is constant within a solve.
    layer = linear(matrix, 1e-3, regularizer=JACOBIAN(1.0))
    losses = {round(loss_of(layer, Y0), 9) for _ in range(12)}
    squares = [np.sum((matrix @ np.array([1.0, sign])) ** 2) for sign in (1, -1)]
    # Noise that changed within a solve would give values between.
    possible = {round((n * squares[0] + (3 - n) * squares[1]) / 3, 9) for n in range(4)}
    assert len(losses) > 1 and losses <= possible


@pytest.mark.core
@pytest.mark.parametrize("mode", MODES)
def test_several_regularizers_add_up(mode):
    both = linear(-0.4 * np.eye(2), regularizer=[ENERGY(0.3), JACOBIAN(0.1)])

    def loss(y0):
        both(y0, training=True)
        return both.losses[0]

    both.build((None, 2))
    actual = in_mode(loss, mode)(tf.constant(Y0))
    expected = 0.3 * np.mean(energy(-0.4, 1.0)) + 0.1 * 2 * 0.16
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


# What differs between modes is the solve, which other tests cover; XLA once.
@pytest.mark.parametrize(
    ("gradient", "mode"),
    [*[(g, "graph") for g in ALL_GRADIENTS], ("tape", "xla")],
)
def test_losses_have_gradients_of_finite_differences(gradient, mode):
    kernel = keras.initializers.Constant(np.array([[0.5, -0.3], [0.2, 0.7]]))
    dynamics = layers.Dense(2, activation="tanh", kernel_initializer=kernel, dtype="float64")
    layer = NeuralODE(
        dynamics,
        rtol=1e-8,
        atol=1e-8,
        dtype="float64",
        gradient=gradient,
        regularizer=[ENERGY(0.5), JACOBIAN(0.5)],
    )
    layer.build((None, 2))
    # The same noise, and so the same loss, in each call.
    seed = layer._seed.state.numpy()

    def value_and_gradient(y0, kernel):
        layer._seed.state.assign(seed)
        with tf.GradientTape() as tape:
            tape.watch(y0)
            layer(y0, training=True)
            loss = layer.losses[0]
        return loss, tape.gradient(loss, [y0, dynamics.kernel.value])

    run = in_mode(value_and_gradient, mode)
    start = dynamics.kernel.numpy()
    _, (d_y0, d_kernel) = run(tf.constant(Y0), start)

    def with_kernel(kernel):
        dynamics.kernel.assign(kernel)
        return run(tf.constant(Y0), start)[0]

    # The solve's error of 1e-8 over a difference of 1e-4, and the cost's own, which isn't checked.
    (by_y0,) = finite_differences(lambda y0: run(tf.constant(y0[0]), start)[0], [Y0], 1e-4)
    (by_kernel,) = finite_differences(lambda kernel: with_kernel(kernel[0]), [start], 1e-4)
    np.testing.assert_allclose(d_y0, by_y0, atol=2e-4)
    np.testing.assert_allclose(d_kernel, by_kernel, atol=2e-4)


def test_a_regularizer_leaves_the_steps_and_the_solution_alone():
    plain = linear([[0.5, -3.0], [2.0, 0.1]], 1e-4, track_stats=True)
    costly = linear([[0.5, -3.0], [2.0, 0.1]], 1e-4, track_stats=True, regularizer=ENERGY(100.0))
    np.testing.assert_allclose(costly(Y0, training=True), plain(Y0, training=True), rtol=1e-12)
    assert costly._nfe.result() == plain._nfe.result()


class Uniform(layers.Layer):
    """dy/dt = 1, of kinetic energy 1 a unit of time and feature."""

    def call(self, y):
        return tf.ones_like(y)


LASTS = {
    "t_span": ({}, [], 2.0),
    "t_eval": ({"t_eval": [0.5, 1.0], "return_sequences": True}, [], 1.0),
    "times": ({}, [np.float32([0.5, 1.5])], 1.5),
    "own times": ({}, [np.float32([[0.5, 3.0], [1.0, 1.0]])], 2.0),  # the mean of 3 and 1
}


@pytest.mark.parametrize("last", LASTS)
def test_the_integral_goes_to_the_last_output_time(last):
    options, arguments, length = LASTS[last]
    layer = NeuralODE(Uniform(), (0.0, 2.0), regularizer=ENERGY(1.0), **options)
    # A constant is integrated exactly, up to float32's rounding.
    np.testing.assert_allclose(loss_of(layer, np.ones((2, 1)), *arguments), length, rtol=1e-5)


def test_a_prediction_costs_nothing_and_adds_nothing():
    layer = linear(np.eye(2), regularizer=[ENERGY(), JACOBIAN()])
    layer(Y0)
    assert layer.losses == []


def test_tolerances_by_component_go_with_a_regularizer():
    solver = solvers.DormandPrince(rtol=1e-9, atol=[1e-9, 1e-8])
    layer = linear(-0.4 * np.eye(2), None, regularizer=ENERGY(1.0), solver=solver)
    np.testing.assert_allclose(loss_of(layer, Y0), np.mean(energy(-0.4, 1.0)), rtol=1e-6)


@pytest.mark.parametrize("gradient", ALL_GRADIENTS)
def test_times_of_each_sample_go_with_a_regularizer(gradient):
    a, ends = -0.4, np.array([1.0, 0.2, 3.0])
    layer = linear(a * np.eye(2), 1e-7, regularizer=ENERGY(1.0), gradient=gradient, solver="bosh3")
    times = np.stack([ends / 3, ends], axis=1)

    @tf.function(autograph=False)
    def run(y0):
        with tf.GradientTape() as tape:
            tape.watch(y0)
            layer(y0, times, training=True)
            loss = layer.losses[0]
        return loss, tape.gradient(loss, y0)

    layer.build((None, 2))
    loss, d_y0 = run(tf.constant(Y0))
    np.testing.assert_allclose(loss, np.mean(energy(a, ends)), rtol=1e-5)
    np.testing.assert_allclose(
        d_y0, 2 * (energy(a, ends) / np.sum(Y0**2, -1))[:, None] * Y0 / 3, rtol=1e-4
    )


def test_a_bad_sample_is_left_out_of_the_mean():
    layer = linear(-0.4 * np.eye(2), regularizer=ENERGY(1.0), on_failure="nan")
    y0 = Y0.copy()
    y0[1, 0] = np.nan
    np.testing.assert_allclose(loss_of(layer, y0), np.mean(energy(-0.4, 1.0)[[0, 2]]), rtol=1e-6)


def test_training_with_it_ends_with_less_energy():
    energies = []
    for strength in (1e-6, 1.0):
        regularizer = [ENERGY(strength), JACOBIAN(strength)]
        # Without the choice of steps a solve is compiled in half the time.
        model = small_model(solver=solvers.RK4(num_steps=4), regularizer=regularizer)
        model.compile(keras.optimizers.Adam(0.02), "mse")
        losses = model.fit(*make_data(), batch_size=12, epochs=15, verbose=0).history["loss"]
        assert losses[-1] < losses[0]
        x = make_data()[0]
        energies.append(np.mean(np.sum(model.layers[0].dynamics(x).numpy() ** 2, axis=1)))
    assert energies[1] < 0.3 * energies[0]


@pytest.mark.core
def test_regularizers_are_saved_with_the_model(tmp_path):
    model = small_model(dense_field(), regularizer=[ENERGY(0.2), JACOBIAN(0.1)])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    layer = loaded.layers[0]
    assert [type(one) for one in layer.regularizer] == [ENERGY, JACOBIAN]
    assert [one.strength for one in layer.regularizer] == [0.2, 0.1]
    single = NeuralODE.from_config(NeuralODE(dense_field(), regularizer=ENERGY(0.7)).get_config())
    assert single.regularizer.strength == 0.7
    x, _ = make_data()
    np.testing.assert_array_equal(loaded(x), model(x))


@pytest.mark.parametrize("regularizer", ["l2", keras.regularizers.L2(), [ENERGY(), None]])
def test_another_kind_of_regularizer_is_an_error(regularizer):
    with pytest.raises(
        TypeError, match=r"one of tf_neuralode.regularizers.*Received: regularizer="
    ):
        NeuralODE(dense_field(), regularizer=regularizer)


@pytest.mark.parametrize("strength", [0, -1.0, float("nan"), "big"])
def test_the_strength_is_a_positive_number(strength):
    with pytest.raises((ValueError, TypeError), match="Argument strength"):
        ENERGY(strength)


def test_fixed_steps_carry_the_cost_of_a_decay():
    """y' = -y from 1: the integral of y^2 over (0, 1) is (1 - exp(-2)) / 2."""
    cost = regularizers.KineticEnergy(1.0)
    decay = keras.layers.Dense(
        1, use_bias=False, kernel_initializer=lambda shape, dtype: -tf.ones(shape, dtype)
    )
    layer = NeuralODE(decay, solver=solvers.RK4(20), regularizer=cost)
    layer(tf.ones([2, 1]), training=True)
    # RK4 with 20 steps: (1 / 20)^4, and float32.
    np.testing.assert_allclose(layer.losses[0], (1 - np.exp(-2)) / 2, rtol=1e-4)
