"""Graphs of TensorFlow 1, in which TFP's own tests run: `==` of tensors is Python's identity."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from all_gradients import ALL_GRADIENTS

import tf_neuralode
from tf_neuralode import NeuralODE, gradients, odeint, solvers
from tf_neuralode.stepping import status

GRADIENTS = [*ALL_GRADIENTS, gradients.Tape(checkpoint=False)]
SOLVERS = [solvers.DormandPrince(1e-8, 1e-8), solvers.DormandPrince8(1e-8, 1e-8), solvers.RK4(64)]
PACKAGE = pathlib.Path(tf_neuralode.__file__).parent
TIMES = np.array([0.0, 0.5, 2.0])


def in_v1_graph(build):
    """What the tensors are that `build` returns, with the variables to initialise beside them."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tensors, variables = build()
        session.run([variable.initializer for variable in variables])
        return session.run(tensors)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
@pytest.mark.parametrize("gradient", GRADIENTS, ids=str)
def test_solve_in_a_v1_graph_has_the_exact_states_and_gradients(gradient, solver):
    def build():
        rate, y0 = tf.constant(0.7, tf.float64), tf.constant([1.0, 2.0], tf.float64)
        f = lambda t, y, rate: -rate * y
        results = odeint(f, y0, TIMES, rate, solver=solver, gradient=gradient)
        loss = tf.reduce_sum(results.states[1:])
        return (results.states, results.diagnostics, tf.gradients(loss, [rate, y0])), []

    states, diagnostics, (d_rate, d_y0) = in_v1_graph(build)
    decay = np.exp(-0.7 * TIMES)
    # The local tolerance is 1e-8; a solve takes some ten steps.
    np.testing.assert_allclose(states, np.outer(decay, [1.0, 2.0]), atol=1e-7)
    np.testing.assert_allclose(d_rate, -3 * np.sum(TIMES * decay), atol=1e-6)
    np.testing.assert_allclose(d_y0, np.full(2, np.sum(decay[1:])), atol=1e-6)
    assert diagnostics.status == status.SUCCESS and diagnostics.final_time == TIMES[-1]


@pytest.mark.parametrize("gradient", GRADIENTS, ids=str)
def test_variables_get_their_gradients_in_a_v1_graph(gradient):
    def build():
        rate = tf.Variable(0.7, dtype=tf.float64)
        one = tf.ones([], tf.float64)
        f = lambda t, y: -rate * y
        results = odeint(f, one, TIMES, solver=SOLVERS[0], gradient=gradient)
        return tf.gradients(results.states[-1], [rate]), [rate]

    # The local tolerance is 1e-8; a solve takes some ten steps.
    np.testing.assert_allclose(in_v1_graph(build)[0], -2 * np.exp(-1.4), atol=1e-7)


@pytest.mark.parametrize("settings", [{"max_num_steps": 3}, {"first_step_size": 0.1}, {}])
def test_failure_in_a_v1_graph_has_its_status(settings):
    def build():
        y0 = tf.constant(1.0 if settings else float("nan"), tf.float64)
        solver = solvers.DormandPrince(1e-8, 1e-8, **settings)
        # Blows up at t = 1.
        results = odeint(lambda t, y: y**2, y0, [0.0, 0.5, 2.0], solver=solver)
        return (results.states, results.diagnostics.status), []

    states, code = in_v1_graph(build)
    expected = status.MAX_NUM_STEPS if "max_num_steps" in settings else None
    expected = expected or (status.STEP_SIZE_UNDERFLOW if settings else status.NOT_FINITE)
    assert code == expected and np.isnan(states[-1])


@pytest.mark.parametrize(
    ("gradient", "times"), [("adjoint", None), ("tape", [[0.5, 1.0], [0.2, 0.7], [0.3, 0.4]])]
)
def test_layer_in_a_v1_graph_predicts_and_trains_as_it_does_in_a_tf_function(gradient, times):
    x = np.array([[0.3, -0.2], [1.0, 0.5], [-0.7, 0.1]], np.float32)

    def make_layer():
        start = lambda shape, dtype: tf.cos(
            tf.reshape(tf.range(np.prod(shape), dtype=dtype), shape)
        )
        dense = [keras.layers.Dense(n, "tanh", kernel_initializer=start) for n in (4, 2)]
        settings = {"solver": "bosh3", "rtol": 1e-5, "atol": 1e-5, "gradient": gradient}
        layer = NeuralODE(keras.Sequential(dense), return_sequences=times is not None, **settings)
        layer.build(x.shape)
        return layer

    def loss_and_gradients(layer):
        given = None if times is None else tf.constant(times)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(tf.constant(x), times=given) ** 2)
        return [loss, *tape.gradient(loss, layer.trainable_variables)]

    def build():
        layer = make_layer()
        return loss_and_gradients(layer), [w.value for w in layer.trainable_variables]

    expected = tf.function(loss_and_gradients, autograph=False)(make_layer())
    # The same operations, in an order of their own.
    for a, b in zip(in_v1_graph(build), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_no_code_of_the_package_compares_tensors_by_pythons_operators():
    # See conftest.py, which watches all tests.
    code = compile("tensor == 1", str(PACKAGE / "nowhere.py"), "eval")
    with pytest.raises(AssertionError, match=r"nowhere.py, line 1.*tf\.equal"):
        eval(code, {"tensor": tf.constant(1)})
    assert tf.constant(1) == 1
