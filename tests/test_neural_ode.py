"""The layer in Keras models: any dynamics, any mode, the solution it returns."""

import keras
import numpy as np
import pytest
import scipy.integrate
import tensorflow as tf
import tensorflow_probability as tfp
from all_gradients import ALL_GRADIENTS
from keras import layers
from modes import MODES, in_mode
from small_models import dense_field, make_data, small_model

from tf_neuralode import NeuralODE, gradients, solvers

MODES_OF_A_MODEL = {
    "eager": {"run_eagerly": True},
    "graph": {},
    "xla": {"jit_compile": True},
    "compiled layer": {},
}


def functional_field():
    time, state = keras.Input((1,)), keras.Input((3,))
    hidden = layers.Dense(4, activation="tanh")(layers.Concatenate()([time, state]))
    return keras.Model([time, state], layers.Dense(3)(hidden))


def conv_field():
    return keras.Sequential(
        [
            layers.Conv2D(3, 3, padding="same", activation="tanh"),
            layers.Conv2D(2, 3, padding="same"),
        ]
    )


# Name: (field, shape of a state, whether it depends on time).
FIELDS = {
    "dense": (dense_field, (3,), False),
    "convolution": (conv_field, (5, 4, 2), False),
    "functional": (functional_field, (3,), True),
}


COMPILED_MODES = ("xla", "compiled layer")
# Where any solver will do: without the choice of steps a solve is compiled in half the time.
EQUAL_STEPS = solvers.RK4(num_steps=4)


@pytest.fixture(scope="session")
def losses(once_a_run):
    """Losses of two epochs with a smaller last batch, and of an evaluation."""

    def make(gradient, mode):
        model = small_model(
            gradient=gradient, solver=EQUAL_STEPS, jit_compile=mode == "compiled layer"
        )
        model.compile("sgd", "mse", **MODES_OF_A_MODEL[mode])
        history = model.fit(*make_data(), batch_size=8, epochs=2, shuffle=False, verbose=0)
        return [*history.history["loss"], model.evaluate(*make_data(), verbose=0)]

    return lambda gradient, mode: once_a_run(
        f"losses-{gradient}-{mode}", lambda: make(gradient, mode)
    )


# XLA takes seconds for every gradient: here two, in test_gradients.py all of them.
@pytest.mark.core
@pytest.mark.parametrize(
    ("gradient", "mode"),
    [
        *((gradient, "graph") for gradient in ALL_GRADIENTS),
        *((gradient, mode) for gradient in ("adjoint", "tape") for mode in COMPILED_MODES),
    ],
)
def test_losses_are_those_of_eager_mode(gradient, mode, losses):
    # Rounding of float32 in another order, over four steps of training.
    np.testing.assert_allclose(losses(gradient, mode), losses(gradient, "eager"), rtol=1e-5)


@pytest.mark.parametrize("gradient", [g for g in ALL_GRADIENTS if g != "tape"])
def test_training_learns_the_same_with_every_gradient(gradient, losses):
    # The gradients differ by the solve's error: 1e-3 is far above that of RK4 with steps of 1/4.
    np.testing.assert_allclose(losses(gradient, "graph"), losses("tape", "graph"), rtol=1e-3)


@pytest.mark.parametrize(
    "parent", ["sequential", pytest.param("functional", marks=pytest.mark.core), "without input"]
)
@pytest.mark.parametrize("field", FIELDS)
def test_any_field_trains_evaluates_and_predicts(field, parent):
    make_field, shape, time_dependent = FIELDS[field]
    keras.utils.set_random_seed(0)
    solver = "dormand_prince" if parent == "functional" else EQUAL_STEPS
    stack = [
        NeuralODE(make_field(), solver=solver, time_dependent=time_dependent),
        layers.Flatten(),
        layers.Dense(1),
    ]
    if parent == "functional":
        inputs = outputs = keras.Input(shape)
        for layer in stack:
            outputs = layer(outputs)
        model = keras.Model(inputs, outputs)
    else:
        first = [keras.Input(shape)] if parent == "sequential" else []
        model = keras.Sequential([*first, *stack])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    x = np.random.default_rng(0).normal(size=(10, *shape)).astype("float32")
    y = x.mean(axis=tuple(range(1, x.ndim)))[:, np.newaxis]
    history = model.fit(x, y, batch_size=4, epochs=10, verbose=0).history["loss"]
    assert history[-1] < 0.7 * history[0]
    assert model.evaluate(x, y, batch_size=4, verbose=0) < history[0]
    assert model.predict(x, batch_size=4, verbose=0).shape == (10, 1)
    weights = stack[0].dynamics.trainable_variables
    assert len(weights) == 4
    assert all(np.any(w.numpy() != 0) for w in weights), "a bias starts at 0 and has to move"


@pytest.mark.core
@pytest.mark.parametrize("name", FIELDS)
def test_prediction_is_the_solution_of_scipy(name):
    make_field, shape, time_dependent = FIELDS[name]
    keras.utils.set_random_seed(0)
    keras.config.set_floatx("float64")
    try:
        dynamics = make_field()
        layer = NeuralODE(dynamics, (0.5, 2.0), rtol=1e-8, atol=1e-8, time_dependent=time_dependent)
        x = np.random.default_rng(0).normal(size=(2, *shape))
        actual = tf.function(layer)(x).numpy()
    finally:
        keras.config.set_floatx("float32")

    field = tf.function(dynamics)

    def scipy_field(t, y):
        y = y.reshape(x.shape)
        return np.ravel(field([np.full((2, 1), t), y] if time_dependent else y))

    expected = scipy.integrate.solve_ivp(
        scipy_field, (0.5, 2.0), x.ravel(), "DOP853", rtol=1e-10, atol=1e-10
    ).y[:, -1]
    # A hundred times the tolerance, for what the steps' errors add up to.
    np.testing.assert_allclose(actual.ravel(), expected, atol=1e-6)


def decay(**options):
    """dy/dt = -y / 2 in float64."""
    dynamics = layers.Dense(
        2, use_bias=False, kernel_initializer=keras.initializers.Identity(-0.5), dtype="float64"
    )
    return NeuralODE(dynamics, rtol=1e-9, atol=1e-9, dtype="float64", **options)


@pytest.mark.parametrize(
    ("t_span", "t_eval"),
    [
        ((0.0, 2.0), None),
        ((2.0, -1.0), None),
        ((0.0, 2.0), [0.1, 0.2, 1.7]),
        ((0.0, 2.0), [0.0, 1.0, 2.0]),
        ((1.0, -1.0), [1.0, 0.3, -1.0]),
        ((1.0, -1.0), [-0.9]),
    ],
)
def test_sequences_hold_the_exact_solution_at_their_times(t_span, t_eval):
    y0 = np.array([[1.0, 2.0], [3.0, -4.0], [0.0, 1.0]])
    layer = decay(t_span=t_span, t_eval=t_eval, return_sequences=True)
    times = np.array(t_span if t_eval is None else t_eval)
    assert layer.compute_output_shape((None, 2)) == (None, len(times), 2)
    assert layer(keras.KerasTensor((None, 2))).shape == (None, len(times), 2)
    expected = y0[:, np.newaxis] * np.exp(-(times - t_span[0]) / 2)[:, np.newaxis]
    for run in (layer, tf.function(layer)):
        # A hundred times the tolerance.
        np.testing.assert_allclose(run(y0), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("t_span", [(0.0, 2.0), (2.0, -1.0)])
def test_without_sequences_it_returns_the_exact_state_at_the_end(t_span):
    y0 = np.array([[1.0, 2.0], [3.0, -4.0]])
    expected = y0 * np.exp(-(t_span[1] - t_span[0]) / 2)
    np.testing.assert_allclose(decay(t_span=t_span)(y0), expected, rtol=1e-7)


@pytest.mark.core
def test_sequences_train_in_a_model():
    keras.utils.set_random_seed(0)
    layer = NeuralODE(
        dense_field(), solver=EQUAL_STEPS, t_eval=[0.2, 0.5, 1.0], return_sequences=True
    )
    model = keras.Sequential([keras.Input((3,)), layer])
    model.compile(keras.optimizers.Adam(0.02), "mse")
    x, _ = make_data()
    y = x[:, np.newaxis] * np.exp([[0.2], [0.5], [1.0]])
    history = model.fit(x, y, batch_size=8, epochs=30, verbose=0).history["loss"]
    assert history[-1] < 0.3 * history[0]


def test_gradient_of_the_input_is_a_dense_tensor_and_zero_for_bad_samples():
    layer = NeuralODE(layers.Dense(2), on_failure="nan")
    x = tf.constant([[np.nan, 1.0], [1.0, 2.0]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(layer(x)[1])
    gradient = tape.gradient(loss, x)
    assert tf.is_tensor(gradient)
    np.testing.assert_array_equal(gradient[0], [0.0, 0.0])
    assert np.all(np.isfinite(gradient[1])) and np.all(gradient[1] != 0)


def test_stock_tfp_solver_trains_with_the_adjoint():
    solver = tfp.math.ode.DormandPrince(rtol=1e-5, atol=1e-5)
    stock, ours = small_model(solver=solver), small_model(rtol=1e-5, atol=1e-5)
    results = []
    for model in (stock, ours):
        model.compile("sgd", "mse")
        results.append(model.fit(*make_data(), epochs=3, verbose=0).history["loss"])
    # Ten times the tolerance: each is that far from the exact solution at most.
    np.testing.assert_allclose(results[0], results[1], rtol=1e-4)


def test_stock_bdf_solver_trains_on_batches_of_known_size():
    # TFP's BDF can't be traced for a batch of unknown size.
    def losses(solver):
        keras.utils.set_random_seed(0)
        layer = NeuralODE(dense_field(), solver=solver)
        model = keras.Sequential([keras.Input((3,), batch_size=6), layer])
        model.compile("sgd", "mse")
        x, _ = make_data()
        return model.fit(x, x, batch_size=6, shuffle=False, verbose=0).history["loss"]

    # Ten times the tolerance of 1e-3.
    stock, ours = losses(tfp.math.ode.BDF()), losses(solvers.DormandPrince())
    np.testing.assert_allclose(stock, ours, rtol=1e-2)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gradient", ["adjoint", "tape"])
def test_batch_without_samples_comes_back_empty(gradient, mode):
    layer = NeuralODE(layers.Dense(3), gradient=gradient)
    layer.build((None, 3))

    def run(y0):
        with tf.GradientTape() as tape:
            y1 = layer(y0, training=True)
        return y1, tape.gradient(y1, layer.dynamics.kernel.value)

    y1, d_kernel = in_mode(run, mode)(tf.zeros([0, 3]))
    assert y1.shape == (0, 3)
    np.testing.assert_array_equal(d_kernel, np.zeros([3, 3]))


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("gradient", ALL_GRADIENTS)
def test_state_of_one_number_a_sample_is_solved_and_differentiated(gradient, mode):
    """dy/dt = -y on a state of shape `(batch,)`."""
    layer = NeuralODE(layers.Rescaling(-1.0), gradient=gradient, rtol=1e-6, atol=1e-6)
    layer.build((None,))

    def run(y0):
        with tf.GradientTape() as tape:
            tape.watch(y0)
            y1 = layer(y0)
        return y1, tape.gradient(y1, y0)

    y1, d_y0 = in_mode(run, mode)(tf.constant([1.0, 2.0]))
    # Ten times the tolerance.
    np.testing.assert_allclose(y1, np.exp(-1) * np.array([1.0, 2.0]), rtol=1e-5)
    np.testing.assert_allclose(d_y0, [np.exp(-1)] * 2, rtol=1e-5)


@pytest.mark.parametrize("gradient", [g for g in ALL_GRADIENTS if g != "adjoint"])
def test_stock_tfp_solver_with_another_gradient_is_a_clear_error(gradient):
    with pytest.raises(ValueError, match=r"works with gradient='adjoint'.*Received: solver=BDF"):
        NeuralODE(layers.Dense(2), solver=tfp.math.ode.BDF(), gradient=gradient)


def test_weights_of_the_dynamics_are_those_of_the_layer():
    layer = NeuralODE(dense_field(), track_stats=True)
    layer.build((None, 3))
    assert layer.count_params() == (3 * 4 + 4) + (4 * 3 + 3)
    expected = [id(v) for v in layer.dynamics.trainable_variables]
    assert [id(v) for v in layer.trainable_variables] == expected


@pytest.mark.parametrize("gradient", ALL_GRADIENTS)
@pytest.mark.parametrize("eager", [True, False])
def test_frozen_dynamics_stay_and_the_layers_around_learn(gradient, eager):
    keras.utils.set_random_seed(0)
    dynamics = dense_field()
    dynamics.trainable = False
    before, after = layers.Dense(3), layers.Dense(1)
    layer = NeuralODE(dynamics, gradient=gradient, solver=EQUAL_STEPS)
    model = keras.Sequential([keras.Input((3,)), before, layer, after])
    model.compile("sgd", "mse", run_eagerly=eager)
    old = [w.copy() for w in model.get_weights()]
    model.fit(*make_data(), verbose=0)
    changed = [np.any(a != b) for a, b in zip(old, model.get_weights(), strict=True)]
    assert changed == [True] * 2 + [False] * 4 + [True] * 2
    assert len(model.layers[1].trainable_variables) == 0


@pytest.mark.parametrize("gradient", ["adjoint", "tape"])
def test_dynamics_may_hold_a_neural_ode(gradient):
    """dy/dt = -exp(a) y, since the inner layer solves dz/ds = a z from z(0) = y."""
    options = {"solver": solvers.RK4(num_steps=20), "gradient": gradient}
    inner = NeuralODE(layers.Dense(1, use_bias=False, kernel_initializer="ones"), **options)
    negative = keras.initializers.Constant(-1.0)
    outer = layers.Dense(1, use_bias=False, kernel_initializer=negative)
    layer = NeuralODE(keras.Sequential([inner, outer]), **options)
    layer.build((None, 1))

    @tf.function
    def value_and_gradient():
        with tf.GradientTape() as tape:
            value = layer(tf.constant([[1.0]]))
        return value, tape.gradient(value, inner.trainable_variables[0].value)

    value, gradient = value_and_gradient()
    exact = np.exp(-np.e)
    # RK4 at h = 0.05 has local errors of (e h)^5 / 120, 4e-7. Twenty add up, as many on the way
    # back, and those of the inner solve.
    np.testing.assert_allclose(value, exact, rtol=3e-5)
    np.testing.assert_allclose(gradient, -np.e * exact, rtol=3e-5)


def test_kept_activations_train_in_a_model(losses):
    model = small_model(gradient=gradients.Tape(checkpoint=False), solver=EQUAL_STEPS)
    model.compile("sgd", "mse")
    actual = model.fit(*make_data(), batch_size=8, epochs=2, shuffle=False, verbose=0).history
    # The same gradient in another order of summation.
    np.testing.assert_allclose(actual["loss"], losses("tape", "graph")[:2], rtol=1e-5)
