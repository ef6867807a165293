"""One trace per input signature over a whole training run, and nothing traced that is not used."""

import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from all_gradients import ALL_GRADIENTS
from subprocesses import run_python

from tf_neuralode import NeuralODE, solvers

HERE = pathlib.Path(__file__).parent

BATCH_SIZE = 16


class CountsCalls(keras.layers.Layer):
    """The identity; counts how often Python runs it, which in a graph is at tracing only."""

    def __init__(self):
        super().__init__()
        self.num_calls = 0

    def call(self, inputs):
        self.num_calls += 1
        return inputs


@pytest.mark.parametrize(
    ("model_jit", "layer_jit"), [(False, False), (True, False), (False, True)],
    ids=["graph", "model in XLA", "layer in XLA"],
)  # fmt: skip
def test_nothing_is_traced_again_after_the_first_epoch(model_jit, layer_jit):
    counter = CountsCalls()
    dynamics = keras.Sequential([keras.layers.Dense(4, activation="tanh"), counter])
    layer = NeuralODE(dynamics, gradient="tape", jit_compile=layer_jit)
    model = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(1)])
    model.compile("adam", "mse", jit_compile=model_jit)
    # Full batches and a last, smaller one.
    x = np.random.default_rng(0).normal(size=(2 * BATCH_SIZE + 5, 4)).astype("float32")
    y = x[:, :1]

    def epoch():
        model.fit(x, y, batch_size=BATCH_SIZE, verbose=0)
        model.evaluate(x, y, batch_size=BATCH_SIZE, verbose=0)
        model.predict(x, batch_size=BATCH_SIZE, verbose=0)
        return counter.num_calls

    after_first = epoch()
    assert after_first > 0
    # Python runs the dynamics while it is traced, and never again.
    assert [epoch() for _ in range(3)] == [after_first] * 3


@pytest.mark.parametrize(
    ("gradient", "what", "num"),
    [*((gradient, "layer", 2) for gradient in ALL_GRADIENTS), ("auto", "model", 1)],
)
def test_a_solve_in_xla_is_compiled_once_whatever_steps_it_takes(gradient, what, num):
    # TensorFlow tells of each compilation where it is asked to log the file that counts them.
    done = run_python(
        HERE / "xla_compilations.py", gradient, what, cwd=HERE.parent,
        TF_CPP_VMODULE="device_compilation_profiler=1", TF_CPP_MIN_LOG_LEVEL="0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    compiled = re.findall(r"Compiled (\w+) \d+ times", done.stderr)
    assert len(compiled) == num, compiled  # forward and backward apart, or one training step


def test_a_loop_over_time_in_python_is_a_warning_once():
    layer = NeuralODE(keras.layers.Dense(2), solver=solvers.Euler(1))
    inputs = keras.Input((2,))
    state = inputs
    for _ in range(30):
        state = layer(state)
    model = keras.Model(inputs, state)
    model.compile("sgd", "mse")
    x = np.ones((2, 2), "float32")
    with pytest.warns(UserWarning, match=r"traced for the 24th time.*keras.layers.RNN") as caught:
        model.predict(x, verbose=0)
        model.fit(x, x, verbose=0)
    assert len(caught) == 1


@pytest.mark.parametrize("jit_compile", [False, "auto", True])
def test_keras_traces_a_training_step_twice_and_a_solve_once(jit_compile, monkeypatch):
    solves = []
    solve = NeuralODE._solve
    monkeypatch.setattr(
        NeuralODE, "_solve", lambda *arguments: solves.append(1) or solve(*arguments)
    )
    steps = []

    class Counted(keras.Sequential):
        def train_step(self, data):
            steps.append(1)
            return super().train_step(data)

    layer = NeuralODE(
        keras.layers.Dense(2), t_eval=np.linspace(0.1, 1.0, 12).tolist(), return_sequences=True,
        jit_compile=jit_compile,
    )  # fmt: skip
    model = Counted([keras.Input((2,)), layer])
    model.compile("adam", "mse")
    solves.clear()
    model.fit(np.ones((4, 2)), np.ones((4, 12, 2)), verbose=0)
    assert (len(steps), len(solves)) == (2, 1)


class Times(keras.layers.Layer):
    factor = 1.0

    def call(self, y):
        return self.factor * y


def test_a_number_changed_between_two_calls_in_one_trace_is_seen():
    times = Times()
    times.factor = 1.0
    layer, x = NeuralODE(times), tf.ones([1, 2])

    @tf.function
    def both(x):
        call = lambda x: layer(x, training=True)
        first = tf.function(call)(x)
        times.factor = 2.0
        return first, tf.function(call)(x)

    first, second = both(x)
    np.testing.assert_allclose(first, np.full([1, 2], np.exp(1.0)), rtol=1e-3)
    np.testing.assert_allclose(second, np.full([1, 2], np.exp(2.0)), rtol=1e-2)
