"""`jit_compile="auto"`: the solve is compiled where that wins, and nowhere else."""

import json
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from small_models import dense_field
from subprocesses import run_python

from tf_neuralode import NeuralODE, gradients, solvers

HERE = pathlib.Path(__file__).parent
MANY = np.linspace(0.1, 1.0, 10)


def sequence_layer(dynamics=None, t_eval=MANY, solver="bosh3", **options):
    keras.utils.set_random_seed(0)
    dynamics = dense_field() if dynamics is None else dynamics
    return NeuralODE(dynamics, solver=solver, t_eval=t_eval, return_sequences=True, **options)


def trained(layer, batch_size=8, shape=(3,), **options):
    """The layer's model after two batches, one of them smaller, and its losses."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input(shape), layers.Dense(shape[-1]), layer])
    model.compile(keras.optimizers.SGD(0.1), "mse", **options)
    x = np.random.default_rng(0).normal(size=(12, *shape)).astype("float32")
    y = np.repeat(np.tanh(x)[:, np.newaxis], layer.compute_output_shape(x.shape)[1], axis=1)
    history = model.fit(x, y, batch_size=batch_size, epochs=2, shuffle=False, verbose=0).history
    return model, history["loss"]


def choice(layer, kind="training"):
    return layer._choices[kind]


def test_a_model_with_many_output_times_trains_as_without_and_is_compiled():
    automatic, told = sequence_layer(), sequence_layer(jit_compile=False)
    losses = [trained(layer)[1] for layer in (automatic, told)]
    # XLA rounds float32 otherwise, which four steps hardly amplify.
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert choice(automatic) == (True, "many steps to save time in: 10 output times")
    assert "XLA in training: yes, many steps" in automatic.explain()
    assert "XLA: no, as the layer was told" in told.explain()


def test_equal_steps_count_as_well():
    layer = NeuralODE(
        dense_field(), solver=solvers.Euler(10), t_eval=[0.5, 1.0], return_sequences=True
    )
    trained(layer)
    assert choice(layer) == (True, "many steps to save time in: 10 equal steps")


class Asserts(layers.Layer):
    def call(self, y):
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(y < 1e9), [y])]):
            return -y


class InPython(layers.Layer):
    def call(self, y):
        return tf.ensure_shape(tf.py_function(lambda y: -y, [y], y.dtype), y.shape)


class TakesRoots(layers.Layer):
    """Linear algebra that XLA doesn't have."""

    def call(self, y):
        root = tf.linalg.sqrtm(tf.eye(3) + y[:, :, tf.newaxis] * y[:, tf.newaxis])
        return -y * root[:, 0, :1]


@pytest.mark.parametrize(
    ("make", "shape", "reason"),
    [
        (lambda: sequence_layer(t_eval=[0.5, 1.0]), (3,), "few steps"),
        (lambda: sequence_layer(Asserts()), (3,), "XLA drops"),
        (lambda: sequence_layer(InPython()), (3,), "XLA drops"),
        (lambda: sequence_layer(TakesRoots()), (3,), "XLA can't compile the dynamics"),
        (
            lambda: sequence_layer(layers.Conv1D(2, 3, padding="same"), solver="euler"),
            (4, 2),
            "slow with here",
        ),
        (
            lambda: sequence_layer(gradient=gradients.Tape(checkpoint=False)),
            (3,),
            "the activations are kept",
        ),
    ],
    ids=["few times", "assertion", "Python", "root", "convolution", "kept"],
)  # fmt: skip
def test_it_stays_a_graph(make, shape, reason):
    layer = make()
    _, losses = trained(layer, shape=shape)
    assert np.isfinite(losses).all()
    xla, why = choice(layer)
    assert not xla and reason in why


def test_a_model_in_xla_compiles_its_layers_itself():
    layer = sequence_layer(solver=solvers.Heun(2))
    trained(layer, jit_compile=True)
    assert choice(layer) == (False, "XLA compiles the model around it")


def test_predictions_exports_and_loops_are_not_compiled(tmp_path):
    layer = sequence_layer(solver=solvers.Heun(2))
    model = keras.Sequential([keras.Input((3,)), layer])
    x = np.ones((4, 3), "float32")
    model.predict(x, verbose=0)
    assert choice(layer, "prediction") == (False, "not in training")
    model.export(tmp_path / "model", verbose=False)
    assert choice(layer, "prediction") == (False, "not in training")
    model(x, training=True)
    assert choice(layer) == (False, "called eagerly")

    @tf.function
    def loop(x):
        return tf.while_loop(
            lambda i, x: i < 2, lambda i, x: (i + 1, layer(x, training=True)[:, -1]), (0, x)
        )[1]

    loop(x)
    assert choice(layer) == (False, "in a loop or a branch")


def test_check_numerics_is_not_lost():
    tf.debugging.enable_check_numerics()
    try:
        layer = sequence_layer(solver=solvers.Heun(2))
        trained(layer)
    finally:
        tf.debugging.disable_check_numerics()
    assert "XLA drops" in choice(layer).reason


def test_errors_are_still_raised():
    explode = layers.Lambda(lambda y: 100 * y**2, output_shape=lambda shape: shape)
    layer = sequence_layer(explode)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(3, "exponential"), layer])
    model.compile("sgd", "mse")
    x = np.ones((4, 3), "float32")
    with pytest.raises(tf.errors.InvalidArgumentError, match="The solve in layer"):
        model.fit(x, np.ones((4, 10, 3), "float32"), verbose=0)
    assert choice(layer).xla


MANY_SIZES = """
import keras, numpy as np, tensorflow as tf
from tf_neuralode import NeuralODE, solvers
keras.utils.set_random_seed(0)
field = keras.layers.Dense(3, activation="tanh")
times = np.linspace(0, 1, 12)
layer = NeuralODE(field, solver=solvers.Heun(2), t_eval=times, return_sequences=True)
model = keras.Sequential([keras.Input((3,)), layer])
model.compile("sgd", "mse")
batches = [np.ones((size, 3), "float32") for size in (5, 3, 5, 4, 6, 2, 1, 3)]
data = tf.data.Dataset.from_generator(
    lambda: ((x, np.ones((len(x), 12, 3), "float32")) for x in batches),
    output_signature=(tf.TensorSpec([None, 3]), tf.TensorSpec([None, 12, 3])),
)
model.fit(data, epochs=2, verbose=0)
print(layer.explain())
"""


def test_it_compiles_for_three_sizes_of_the_batch_at_most(tmp_path):
    done = run_python(
        "-c", MANY_SIZES, cwd=tmp_path,
        TF_CPP_VMODULE="device_compilation_profiler=1", TF_CPP_MIN_LOG_LEVEL="0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "XLA in training: yes" in done.stdout
    times = [int(n) for n in re.findall(r"Compiled \S+ (\d+) times", done.stderr)]
    assert max(times) == 3 and times.count(3) == 2  # forward and backward


def test_it_is_saved_and_a_file_with_false_keeps_it(tmp_path):
    for value in ("auto", False):
        model = keras.Sequential([keras.Input((3,)), sequence_layer(jit_compile=value)])
        model.save(tmp_path / "model.keras")
        assert keras.saving.load_model(tmp_path / "model.keras").layers[0].jit_compile == value


TRAINED_TWICE = """
import json
import keras, numpy as np, tensorflow as tf
from tf_neuralode import NeuralODE
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
keras.utils.set_random_seed(0)
tf.config.experimental.enable_op_determinism()

def trained(strategy):
    keras.utils.set_random_seed(1)
    with strategy.scope():
        parts = [keras.layers.Dense(8, "tanh"), keras.layers.Dropout(0.1), keras.layers.Dense(3)]
        times = np.linspace(0.1, 1, 10)
        dynamics = keras.Sequential(parts)
        layer = NeuralODE(dynamics, solver="heun", t_eval=times, return_sequences=True)
        model = keras.Sequential([keras.Input((3,)), layer])
        model.compile(keras.optimizers.SGD(0.1), "mse")
    x = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")
    model.fit(x, np.ones((20, 10, 3)), batch_size=8, epochs=2, verbose=0)
    assert all(np.isfinite(w).all() for w in model.get_weights())
    bits = [w.tobytes().hex() for w in model.get_weights()]
    return bits, layer.explain().splitlines()[-1]

alone = [trained(tf.distribute.get_strategy()) for _ in range(2)]
mirrored = trained(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
print(json.dumps([*alone, mirrored]))
"""


def test_it_is_deterministic_and_stays_a_graph_on_several_devices(tmp_path):
    done = run_python("-c", TRAINED_TWICE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    first, again, mirrored = json.loads(done.stdout.splitlines()[-1])
    assert first == again and first[1].startswith("XLA in training: yes")
    assert mirrored[1] == "XLA in training: no, on several devices"
