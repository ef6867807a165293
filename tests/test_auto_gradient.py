"""The default gradient, and that what nobody differentiates is stored nowhere."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from gradient_problem import FOUR_TIMES, loss_and_gradients, make_inputs
from modes import in_mode
from small_models import dense_field, make_data, small_model
from subprocesses import run_python

from tf_neuralode import NeuralODE, gradients, odeint, solvers

BOSH3 = solvers.Bosh3(1e-4, 1e-4)


def arrays(function, *arguments):
    """How many arrays the graph of `function` makes, its loops included."""
    definition = function.get_concrete_function(*arguments).graph.as_graph_def()
    nodes = [*definition.node, *(n for one in definition.library.function for n in one.node_def)]
    return sum(node.op.startswith(("TensorListReserve", "EmptyTensorList")) for node in nodes)


@pytest.mark.parametrize(
    ("solver", "expected"),
    [(BOSH3, "tape"), (tfp.math.ode.DormandPrince(1e-4, 1e-4), "adjoint")],
    ids=["ours", "stock"],
)
def test_it_is_a_tape_for_our_solvers_and_the_adjoint_for_stock_ones(solver, expected):
    inputs = make_inputs()

    def both(inputs):
        return [
            loss_and_gradients(inputs, FOUR_TIMES, name, solver)[1] for name in ("auto", expected)
        ]

    auto, named = tf.function(both)(inputs)
    for a, b in zip(auto, named, strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_is_the_default_of_odeint_and_of_the_layer():
    layer = NeuralODE(dense_field())
    assert layer.gradient == gradients.get("auto") == gradients.Auto()
    y0 = tf.constant([1.0, 2.0])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(y0)
        default, named = (
            odeint(lambda t, y: -(y**2), y0, [0.0, 1.0], solver=BOSH3, **options).states[-1]
            for options in ({}, {"gradient": "tape"})
        )
    np.testing.assert_array_equal(tape.gradient(default, y0), tape.gradient(named, y0))


def test_it_is_saved_by_its_name(tmp_path):
    model = small_model(solver="bosh3")
    assert model.layers[0].get_config()["gradient"] == "auto"
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].gradient == gradients.Auto()


@pytest.mark.parametrize("gradient", ["auto", "gauss_adjoint"])
def test_a_prediction_stores_nothing_for_a_backward_pass(gradient):
    model = small_model(solver="bosh3", gradient=gradient)
    x, _ = make_data()

    def count(training):
        return arrays(tf.function(lambda x: model(x, training=training)), x)

    assert count(None) == count(False) == 0
    assert count(True) > 0
    assert arrays(tf.function(lambda x: gradient_of(model, x)[0]), x) > 0  # under a tape


def gradient_of(model, x):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(x) ** 2)
    return tape.gradient(loss, model.trainable_variables)


@pytest.mark.parametrize("mode", ["graph", "xla"])
@pytest.mark.parametrize("gradient", ["tape", "gauss_adjoint"])
def test_a_backward_pass_that_was_not_expected_solves_again(gradient, mode):
    model = small_model(solver="bosh3", gradient=gradient, on_failure="nan")
    x, _ = make_data()
    predict = in_mode(lambda x: model(x), mode)
    predict(x)  # traced where no tape records
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(predict(x) ** 2)
    unexpected = tape.gradient(loss, model.trainable_variables)
    expected = gradient_of(model, x)
    for a, b in zip(unexpected, expected, strict=True):
        # The same steps, in float32, whose errors a few products amplify.
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_loaded_export_can_be_differentiated(tmp_path):
    model = small_model(solver="bosh3")
    x = tf.constant(make_data()[0])
    model.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "model"))

    def derivative(function):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(function(x) ** 2)
        return tape.gradient(loss, x)

    np.testing.assert_allclose(derivative(loaded.serve), derivative(model), rtol=1e-4, atol=1e-5)


SOLVE = """
import tensorflow as tf
from tf_neuralode import odeint, solvers
y0 = tf.constant([1.0])
for gradient in ("auto", "adjoint"):
    with tf.GradientTape() as tape:
        tape.watch(y0)
        solver = solvers.Bosh3()
        y1 = odeint(lambda t, y: -y, y0, [0.0, 1.0], solver=solver, gradient=gradient).states[-1]
    tape.gradient(y1, y0)
"""


def test_a_first_use_puts_nothing_on_the_screen(tmp_path):
    done = run_python("-c", SOLVE, cwd=tmp_path, TF_CPP_MIN_LOG_LEVEL="3")
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if "cudart" not in line]
    # What TensorFlow's own C++ says before its logging is set up isn't ours.
    lines = [line for line in lines if not line.startswith(("WARNING: All log", "I0000", "E0000"))]
    assert done.stdout == "" and "back_prop" not in done.stderr and lines == [], lines
