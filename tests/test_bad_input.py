"""Bad input: a clear error that names argument, rule and what was received."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from all_gradients import ALL_GRADIENTS
from modes import in_mode, pairs

from tf_neuralode import NeuralODE, gradients, odeint, solvers

NAN = float("nan")


def layer(dynamics=None, **settings):
    return NeuralODE(dynamics or keras.layers.Dense(3), **settings)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"t_span": (1.0, 1.0)}, ValueError, r"t_span must hold two different times.*Received"),
        ({"t_span": (0.0, 1.0, 2.0)}, ValueError, r"t_span must hold two.*Received"),
        ({"t_span": (0.0, NAN)}, ValueError, r"t_span must be a sequence of finite.*Received"),
        ({"t_span": "ab"}, TypeError, r"t_span must hold numbers.*Received"),
        ({"solver": "dopri5"}, ValueError, r"dormand_prince, tsit5.*Received: solver='dopri5'"),
        ({"solver": 5}, TypeError, r"solver must be a name.*Received: solver=5"),
        ({"gradient": "adjont"}, ValueError, r"adjoint, tape.*'adjont'.*did you mean 'adjoint'"),
        ({"gradient": 5}, TypeError, r"gradient must be a name.*Received: gradient=5"),
        ({"slover": "rk4"}, ValueError, r"'slover': 'rk4'.*did you mean 'solver'"),
        ({"trainabel": False}, ValueError, r"Unrecognized keyword.*'trainabel': False}$"),
        ({"jit_compile": "on"}, TypeError, r"jit_compile must be True, False or 'auto'.*'on'"),
        ({"rtol": 0.0}, ValueError, r"rtol must be positive.*Received: rtol=0.0"),
        ({"atol": -1e-6}, ValueError, r"atol must be positive.*Received: atol=-1e-06"),
        ({"rtol": NAN}, ValueError, r"rtol must be positive.*Received: rtol=nan"),
        ({"rtol": "tight"}, TypeError, r"rtol must be a number.*Received: rtol='tight'"),
        ({"solver": solvers.Tsit5(), "rtol": 1e-3}, ValueError, r"carries its own.*rtol=0.001"),
        ({"on_failure": "ignore"}, ValueError, r"on_failure must be one of.*'ignore'"),
        ({"t_eval": [0.5]}, ValueError, r"t_eval needs return_sequences=True.*Received"),
        (
            {"t_eval": [0.5, 2.0], "return_sequences": True},
            ValueError,
            r"t_eval must lie inside t_span.*Received",
        ),
        (
            {"t_eval": [0.5, 0.2], "return_sequences": True},
            ValueError,
            r"t_eval must be strictly monotone.*Received",
        ),
        (
            {"jit_compile": True, "gradient": gradients.Tape(checkpoint=False)},
            ValueError,
            r"jit_compile=True can't keep activations.*Received: gradient=Tape",
        ),
        (
            {"solver": tfp.math.ode.DormandPrince(), "gradient": "tape"},
            ValueError,
            r"Tape needs a solver of tf_neuralode.*Received: solver=DormandPrince",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_settings_are_named_at_construction(settings, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        layer(**settings)


@pytest.mark.parametrize("dynamics", [None, 2.0, "dense", keras.layers.Dense])
def test_dynamics_must_be_a_keras_layer(dynamics):
    with pytest.raises(TypeError, match=r"dynamics must be a Keras layer or model.*Received"):
        NeuralODE(dynamics)


def test_a_keras_2_layer_is_named_as_such():
    import tf_keras

    with pytest.raises(TypeError, match=r"tf_keras .Keras 2.*keras.layers"):
        NeuralODE(tf_keras.layers.Dense(3))


def test_dynamics_of_another_shape_than_the_state_is_an_error_at_build():
    message = r"shape of its state input.*\(None, 3\).*\(None, 4\)"
    with pytest.raises(ValueError, match=message):
        layer(keras.layers.Dense(4)).build((None, 3))
    with pytest.raises(ValueError, match=message):
        keras.Sequential([keras.Input((3,)), layer(keras.layers.Dense(4))])


def test_dynamics_of_another_dtype_than_the_state_is_an_error_at_build():
    with pytest.raises(ValueError, match=r"dtype of its state input.*float32.*float64"):
        layer(keras.layers.Dense(3, dtype="float64")).build((None, 3))


def test_dynamics_of_several_outputs_is_an_error_at_build():
    state = keras.Input((3,))
    model = keras.Model(state, [state + 1, state + 2])
    with pytest.raises(ValueError, match="must return a single tensor"):
        layer(model).build((None, 3))


def test_integer_input_is_an_error():
    with pytest.raises(TypeError, match=r"must be floating point.*int32"):
        layer()(tf.constant([[1, 2, 3]]))
    with pytest.raises(TypeError, match=r"must be floating point.*int32"):
        layer()(keras.Input((3,), dtype="int32"))
    with pytest.raises(TypeError, match=r"y0 must hold floating-point.*int32"):
        odeint(lambda t, y: y, tf.constant([1, 2]), [0.0, 1.0])


@pytest.mark.parametrize(
    "t", [[], [0.0, 2.0, 1.0], [0.0, NAN], [NAN], [0.0, np.inf], [[0.0, 1.0]], 1.0], ids=str
)
def test_output_times_must_be_monotone(t):
    with pytest.raises(ValueError, match=r"(?s)Argument t must.*Received"):
        odeint(lambda t, y: -y, tf.constant([1.0]), t)


def test_another_keras_backend_is_one_clear_error_at_import():
    # A stand-in that answers as Keras does under another backend, which need not be installed.
    code = (
        "import keras; keras.backend.backend = lambda: 'jax'\n"
        "try: import tf_neuralode\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=True,
    )
    assert "KERAS_BACKEND=tensorflow" in done.stdout
    assert "Received: backend 'jax'" in done.stdout


def batch_with_bad_rows():
    x = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    bad = x.copy()
    bad[1, 0], bad[4, 2] = np.nan, np.inf
    return x, bad, [0, 2, 3, 5]


# Equal steps are compiled in half the time, adaptive ones, which are few, take less time eagerly.
@pytest.mark.parametrize(
    ("gradient", "mode", "solver"),
    [
        *pairs(ALL_GRADIENTS, ["eager"], ["bosh3"]),
        *pairs(ALL_GRADIENTS, ["graph", "xla"], ["bosh3", "rk4"]),
    ],
)
def test_bad_samples_become_nan_and_leave_the_others_alone(gradient, mode, solver):
    dynamics = keras.layers.Dense(3, activation="tanh")
    ode = layer(dynamics, solver=solver, gradient=gradient, on_failure="nan")
    x, bad, good = batch_with_bad_rows()
    ode.build(x.shape)
    kernel = dynamics.kernel

    def function(x, rows):
        with tf.GradientTape() as tape:
            y = ode(x)
            loss = tf.reduce_sum(tf.gather(y, rows) ** 2)
        return y, tape.gradient(loss, kernel.value)

    run = in_mode(function, mode)
    y, d_kernel = run(tf.constant(bad), tf.constant(good))
    expected, d_expected = run(tf.constant(x[good]), tf.range(len(good)))
    assert np.all(np.isnan(y.numpy()[[1, 4]]))
    # The same steps on the same numbers; float32 sums in another order.
    np.testing.assert_allclose(y.numpy()[good], expected, rtol=1e-5)
    np.testing.assert_allclose(d_kernel, d_expected, rtol=1e-4)


@pytest.mark.core
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_bad_samples_raise_an_error_that_names_layer_and_samples(mode):
    ode = layer(name="flow")
    _, bad, _ = batch_with_bad_rows()
    ode.build(bad.shape)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"(?s)flow.*not finite.*1,? 4"):
        in_mode(ode, mode)(tf.constant(bad))
