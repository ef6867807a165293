"""Models are saved, loaded, exported, and served without this package."""

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from all_gradients import ALL_GRADIENTS
from subprocesses import run_python

from tf_neuralode import NeuralODE, gradients, solvers

OPTIONS = [
    {},
    {"solver": "tsit5", "gradient": "tape", "rtol": 1e-4, "atol": [1e-5, 1e-6, 1e-7]},
    {
        "solver": solvers.DormandPrince8(1e-5, 1e-7, first_step_size=0.1, max_num_steps=50),
        "gradient": gradients.GaussAdjoint(rtol=1e-4, checkpoint=False),
        "t_span": (1.0, -0.5),
        "t_eval": (0.5, -0.5),
        "return_sequences": True,
        "on_failure": "nan",
    },
    {"solver": solvers.RK4(num_steps=7), "gradient": gradients.Tape(checkpoint=False)},
    {"jit_compile": True, "track_stats": True},
]


def make_model(**options):
    keras.utils.set_random_seed(0)
    dynamics = keras.Sequential([keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(3)])
    return keras.Sequential([keras.Input((3,)), NeuralODE(dynamics, **options)])


def as_json(layer):
    """The config, where Keras 3.11 turns tuples of the dynamics' into lists when it loads them."""
    return json.dumps(layer.get_config())


def inputs(num):
    return np.random.default_rng(num).normal(size=(num, 3)).astype("float32")


@pytest.mark.core
@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_a_loaded_model_predicts_as_the_saved_one(options, tmp_path):
    model = make_model(**options)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(inputs(4)), model(inputs(4)))
    assert as_json(loaded.layers[-1]) == as_json(model.layers[-1])


@pytest.mark.core
def test_a_config_holds_settings_and_json_holds_the_config():
    layer = make_model(**OPTIONS[2]).layers[-1]
    twin = NeuralODE.from_config(json.loads(as_json(layer)))
    assert twin.solver == layer.solver
    assert twin.gradient == layer.gradient
    assert as_json(twin) == as_json(layer)


@pytest.mark.core
def test_weights_alone_can_be_saved(tmp_path):
    model = make_model()
    model.save_weights(tmp_path / "model.weights.h5")
    other = make_model()
    for variable in other.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other(inputs(4)), model(inputs(4)))


def test_a_stock_solver_can_not_be_saved_and_says_what_to_do(tmp_path):
    model = make_model(solver=tfp.math.ode.DormandPrince())
    with pytest.raises(ValueError, match="save its weights, or export"):
        model.save(tmp_path / "model.keras")


# Runs where tf_neuralode can't be imported: the finder refuses it by name.
SERVE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tf_neuralode", "tensorflow_probability"):
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
try:
    import tf_neuralode
except ImportError:
    pass
else:
    raise SystemExit("tf_neuralode can be imported")
import numpy as np
import tensorflow as tf

for folder in sys.argv[2:]:
    loaded = tf.saved_model.load(folder)
    data = np.load(sys.argv[1])
    result = {}
    for name in data:
        x = tf.constant(data[name])
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = loaded.serve(x)
            loss = tf.reduce_sum(y**2)
        result["y" + name] = y
        result["g" + name] = tape.gradient(loss, x)
    np.savez(folder + ".npz", **result)
"""


@pytest.mark.parametrize(
    ("jit_compile", "names"),
    [
        pytest.param(False, ALL_GRADIENTS, id="graph", marks=pytest.mark.core),
        # Compiled programs are exported alike, whatever is in them; all of them by hand.
        pytest.param(True, ALL_GRADIENTS[:2], id="layer in XLA"),
        pytest.param(True, ALL_GRADIENTS[2:], id="stored adjoints", marks=pytest.mark.slow),
    ],
)
def test_an_exported_model_is_served_and_differentiated_without_the_package(
    jit_compile, names, tmp_path
):
    # All gradients in one process, which takes seconds to start. Each gradient has adaptive steps
    # either here or there, and equal ones, which are compiled in half the time, in the other case.
    chosen = [{"solver": "bosh3", "rtol": 1e-5, "atol": 1e-5}, {"solver": solvers.RK4(10)}]
    models = {
        name: make_model(gradient=name, jit_compile=jit_compile, **chosen[(i + jit_compile) % 2])
        for i, name in enumerate(ALL_GRADIENTS)
        if name in names
    }
    for name, model in models.items():
        model.export(tmp_path / name, verbose=False)
    batches = {"a": inputs(1), "b": inputs(5)}
    if not jit_compile:  # which compiles anew for each size
        batches["c"] = inputs(8)
    np.savez(tmp_path / "in.npz", **batches)
    done = subprocess.run(
        [sys.executable, "-c", SERVE, tmp_path / "in.npz", *(tmp_path / name for name in models)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for gradient, model in models.items():
        served = np.load(tmp_path / f"{gradient}.npz")
        for name, x in batches.items():
            x = tf.constant(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = model(x)
                loss = tf.reduce_sum(y**2)
            np.testing.assert_allclose(served["y" + name], y, atol=1e-5, err_msg=gradient)
            # Float32, and ten times the tolerance where rounding changes the steps.
            np.testing.assert_allclose(
                served["g" + name], tape.gradient(loss, x), atol=1e-4, err_msg=gradient
            )


def test_saved_model_cli_serves_an_exported_model(tmp_path):
    model = make_model()
    model.export(tmp_path / "exported", verbose=False)
    np.save(tmp_path / "x.npy", inputs(5))
    arguments = f"run --dir {tmp_path}/exported --tag_set serve --signature_def serving_default"
    arguments += f" --inputs keras_tensor={tmp_path}/x.npy --outdir {tmp_path}/out"
    shown = cli(f"show --dir {tmp_path}/exported --tag_set serve --signature_def serving_default")
    (name,) = [line.split("'")[1] for line in shown.splitlines() if "inputs[" in line]
    cli(arguments.replace("keras_tensor", name))
    (written,) = pathlib.Path(tmp_path / "out").glob("*.npy")
    np.testing.assert_allclose(np.load(written), model(inputs(5)), atol=1e-5)


def cli(arguments):
    command = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli"]
    script = pathlib.Path(sys.executable).with_name("saved_model_cli")
    if script.exists():
        command = [script]
    done = subprocess.run(
        [*command, *arguments.split()], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


TRAIN_LOADED = """
import sys, tensorflow as tf
for folder in sys.argv[1:]:
    module = tf.saved_model.load(folder)
    print(*[float(module.train(tf.constant([[1.0, 2.0]]))) for _ in range(3)])
"""


class Trained(tf.Module):
    """A layer with a step of gradient descent."""

    def __init__(self, **settings):
        super().__init__()
        dynamics = keras.layers.Dense(2, "tanh", kernel_initializer="ones")
        self.layer = NeuralODE(dynamics, **settings)
        self.layer.build((None, 2))
        self.values = [v.value for v in self.layer.trainable_variables]

    @tf.function(input_signature=[tf.TensorSpec([None, 2])])
    def train(self, x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(self.layer(x) ** 2)
        for value, gradient in zip(self.values, tape.gradient(loss, self.values), strict=True):
            value.assign_sub(0.01 * gradient)
        return loss


@pytest.mark.parametrize("solver", ["bosh3", "midpoint"])
def test_a_saved_train_function_trains_on_in_another_process(solver, tmp_path):
    modules = {name: Trained(solver=solver, gradient=name) for name in ALL_GRADIENTS}
    for name, module in modules.items():
        tf.saved_model.save(module, tmp_path / name)
    # One process, which takes seconds to start.
    folders = [tmp_path / name for name in modules]
    done = run_python("-c", TRAIN_LOADED, *folders, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    for (name, module), line in zip(modules.items(), done.stdout.splitlines(), strict=True):
        expected = [float(module.train(tf.constant([[1.0, 2.0]]))) for _ in range(3)]
        # The same graph.
        losses = [float(x) for x in line.split()]
        np.testing.assert_allclose(losses, expected, rtol=1e-6, err_msg=name)
