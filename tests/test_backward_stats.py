"""`track_stats`: evaluations of the backward passes in the logs of `fit`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from all_gradients import ALL_GRADIENTS
from small_models import dense_field, make_data, small_model

from tf_neuralode import NeuralODE, gradients, odeint, solvers

COMPILE = {"graph": {}, "xla": {"jit_compile": True}, "eager": {"run_eagerly": True}}


def logs_of(model, **compile_options):
    model.compile("sgd", "mse", **compile_options)
    return model.fit(*make_data(), batch_size=6, shuffle=False, verbose=0).history


@pytest.mark.parametrize("mode", [*COMPILE, "compiled layer"])
@pytest.mark.parametrize("gradient", ALL_GRADIENTS)
def test_logs_hold_the_evaluations_of_a_backward_pass(gradient, mode):
    # Four equal steps of four evaluations: what each gradient makes of them can be counted.
    solver = solvers.RK4(4)
    model = small_model(
        solver=solver, gradient=gradient, track_stats=True, jit_compile=mode == "compiled layer"
    )
    (logged,) = logs_of(model, **COMPILE.get(mode, {}))["nfe_backward"]

    calls = []

    def f(t, y):
        calls.append(t)
        return tf.tanh(y)

    with tf.GradientTape() as tape:
        y0 = tf.ones([2, 3])
        tape.watch(y0)
        end = odeint(f, y0, [0.0, 1.0], solver=solver, gradient=gradient).states[-1]
    num_forward = len(calls)
    tape.gradient(end, y0)
    assert len(calls) > num_forward
    assert logged == len(calls) - num_forward


def test_frozen_dynamics_count_by_way_of_their_input():
    dynamics = dense_field()
    dynamics.trainable = False
    layer = NeuralODE(dynamics, track_stats=True, gradient="tape", solver=solvers.Euler(5))
    x = tf.ones([2, 3])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    gradient = tape.gradient(y, x)
    assert np.all(np.isfinite(gradient))
    (metric,) = [m for m in layer.metrics if m.name == "nfe_backward"]
    assert metric.result() == 5


@pytest.mark.parametrize("gradient", ALL_GRADIENTS)
def test_times_of_each_sample_count_their_segments(gradient):
    calls = []

    class Field(keras.layers.Layer):
        def call(self, y):
            if tf.executing_eagerly():  # not where the solve looks what f closes over
                calls.append(1)
            return tf.tanh(y)

    layer = NeuralODE(Field(), gradient=gradient, solver=solvers.RK4(6), track_stats=True)
    x = tf.ones([2, 3])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, tf.constant([[0.5, 1.0], [1.0, 2.0]]), training=True)
        num_forward = len(calls)
    tape.gradient(y, x)
    (metric,) = [m for m in layer.metrics if m.name == "nfe_backward"]
    assert metric.result() == len(calls) - num_forward > 0


def test_kept_activations_evaluate_nothing_again():
    model = small_model(gradient=gradients.Tape(checkpoint=False), track_stats=True)
    assert logs_of(model)["nfe_backward"] == [0]


def test_stock_solver_whose_evaluations_nobody_counts_has_no_such_log():
    model = small_model(solver=tfp.math.ode.DormandPrince(), track_stats=True)
    logs = logs_of(model)
    assert "nfe" in logs and "nfe_backward" not in logs
