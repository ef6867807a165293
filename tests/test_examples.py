"""The MNIST example, run as a newcomer runs it, and the code of the README."""

import os
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from all_gradients import ALL_GRADIENTS
from pictures import assert_shows_curves
from subprocesses import ROOT, run_python

import digits
import mnist

EXAMPLES = ROOT / "examples"

# As if the machine had no network; Python imports a module of this name by itself at its start.
SITECUSTOMIZE = """
import socket

def refuse(*args, **kwargs):
    raise OSError("no network")

socket.socket.connect = socket.getaddrinfo = refuse
"""


def run_example(*arguments, cwd, **environment):
    """Runs examples/mnist.py in a process of its own."""
    # A newcomer's path; the folder of a script is always on it.
    environment = {"PYTHONPATH": str(ROOT), **environment}
    return run_python(EXAMPLES / "mnist.py", *arguments, cwd=cwd, **environment)


def run_one_epoch(tmp_path, *arguments):
    """Runs one epoch in this process; returns it."""
    epochs_of = mnist.main(["--epochs", "1", "--plot", str(tmp_path / "curves.png"), *arguments])
    ((epoch,),) = epochs_of.values()
    return epoch


# The experiment


def test_model_has_16450_weights():
    assert mnist.build_model().count_params() == 16_450


def test_warm_up_leaves_weights_and_optimizer_as_they_were():
    train, test = digits.load_digits("subset")
    model = mnist.build_model()
    model.optimizer.build(model.trainable_variables)
    variables = model.variables + model.optimizer.variables
    before = [variable.numpy() for variable in variables]
    mnist.warm_up(model, train, test)
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


@pytest.mark.parametrize(
    # All of them take minutes.
    "names",
    [("tape",), pytest.param(ALL_GRADIENTS, marks=pytest.mark.slow)],
    ids=len,
)
def test_nine_epochs_reach_the_reference_with_every_gradient(names, tmp_path):
    run = run_example("--gradient", "all" if len(names) > 1 else names[0], cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert re.findall(r"^(\w+): 16,450 weights", run.stdout, re.MULTILINE) == [*names]
    row = r"^\[(\d+)/9\] \d+\.\d\d s  train (0\.\d{3}|1\.000)  test (0\.\d{3}|1\.000)$"
    rows = re.findall(row, run.stdout, re.MULTILINE)
    assert [int(epoch) for epoch, _, _ in rows] == list(range(1, 10)) * len(names)
    for _, train, test in rows[8::9]:
        assert float(train) >= 0.87
        assert float(test) >= 0.82
    assert_shows_curves(tmp_path / "mnist.png")
    if len(names) == 1:  # and no table
        return
    # Columns are two spaces or more apart.
    header, *table = [re.split("  +", line) for line in run.stdout.splitlines()[-1 - len(names) :]]
    assert header == [
        "gradient", "train", "test", "s/epoch", "forward evals/step", "backward evals/step",
        "peak memory",
    ]  # fmt: skip
    assert [line[0] for line in table] == [*names]
    for line, last in zip(table, rows[8::9], strict=True):
        cells = dict(zip(header, line, strict=True))
        assert (cells["train"], cells["test"]) == last[1:]
        # Two evaluations to choose the first step and six a step; backwards a step or more.
        assert float(cells["forward evals/step"]) >= 8
        assert float(cells["backward evals/step"]) >= 6
        assert re.fullmatch(r"[1-9]\d* MB", cells["peak memory"])


def test_every_gradient_starts_from_the_same_weights(tmp_path, monkeypatch):
    starts = []

    def only_look(model, *args):
        starts.append(model.get_weights())
        return []

    monkeypatch.setattr(mnist, "train_model", only_look)
    for gradient in ALL_GRADIENTS:
        mnist.run(gradient, mnist.parse_arguments(["--gradient", gradient]))
    for weights in starts[1:]:
        for weight, first in zip(weights, starts[0], strict=True):
            np.testing.assert_array_equal(weight, first)


# The stored adjoints are compared by mode on smaller fields, in test_gradients.py.
BY_HAND = [pytest.param(name, marks=pytest.mark.slow) for name in ALL_GRADIENTS[2:]]


@pytest.mark.parametrize("gradient", ["adjoint", "tape", *BY_HAND])
def test_training_steps_are_the_same_eagerly_in_a_graph_and_under_xla(gradient):
    (images, labels), _ = digits.load_digits("subset")

    def losses(mode):
        keras.utils.set_random_seed(0)
        # Four stages, where the default has seven, are compiled sooner.
        model = mnist.build_model("bosh3", gradient=gradient, jit_compile=mode == "xla")
        model.run_eagerly = mode == "eager"
        steps = [slice(i, i + mnist.BATCH_SIZE) for i in (0, mnist.BATCH_SIZE, 0)]
        return [model.train_on_batch(images[step], labels[step])[0] for step in steps]

    eager = losses("eager")
    assert eager[2] < eager[0]
    for mode in ("graph", "xla"):
        # Rounding of float32 in another order, over three steps.
        np.testing.assert_allclose(losses(mode), eager, rtol=1e-5)


@pytest.fixture(scope="module")
def saved_epoch(tmp_path_factory):
    """An epoch with seed 0, and the folder of the exported model."""
    folder = tmp_path_factory.mktemp("saved")
    return run_one_epoch(folder, "--save", str(folder / "digits")), folder / "digits"


def test_same_seed_gives_the_same_accuracies(saved_epoch, tmp_path):
    first, _ = saved_epoch
    second, other = (run_one_epoch(tmp_path, "--seed", seed) for seed in "01")
    assert first.train_accuracy == second.train_accuracy != other.train_accuracy


def test_compiled_by_xla_it_learns_as_well(saved_epoch, tmp_path):
    (plain, _), compiled = saved_epoch, run_one_epoch(tmp_path, "--jit")
    # Its rounding differs, and a few digits on the edge may fall to the other side.
    assert compiled.train_accuracy == pytest.approx(plain.train_accuracy, abs=10 / 1350)


def test_saved_model_predicts_as_the_trained_one(saved_epoch):
    epoch, folder = saved_epoch
    loaded = tf.saved_model.load(str(folder))
    _, (images, labels) = digits.load_digits("subset")
    accuracy = np.mean(np.argmax(loaded.serve(images), axis=-1) == labels)
    assert accuracy == pytest.approx(epoch.test_accuracy, abs=1e-6)


def test_code_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # it saves and exports
    keras.utils.set_random_seed(0)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(block, names)
    model, x = names["model"], names["x"]
    assert model.evaluate(x, names["inside"], verbose=0, return_dict=True)["accuracy"] > 0.9
    # The steps are chosen for a batch as a whole: in other batches results agree to rtol only. In
    # the same one an early step's error of 3e-7 is rounding in float32, which the optimizer of each
    # graph does in another order: the next step is 2 % longer, and the result moves within a tenth
    # of rtol.
    predictions = model.predict(x, batch_size=len(x), verbose=0)
    np.testing.assert_allclose(names["loaded"].serve(x), predictions, atol=1e-4)
    keras.saving.load_model("circle.keras")


# The whole of MNIST


def test_whole_mnist_comes_from_tfds(tmp_path, monkeypatch):
    asked = []
    load = tfds.load
    monkeypatch.setattr(
        tfds, "load", lambda name, **kwargs: asked.append(name) or load(name, **kwargs)
    )
    with tfds.testing.mock_data(num_examples=200):
        epoch = run_one_epoch(tmp_path, "--dataset", "mnist")
    assert asked == ["mnist"]
    assert 0 <= epoch.test_accuracy <= 1
    assert_shows_curves(tmp_path / "curves.png")


def test_without_network_whole_mnist_ends_in_one_clear_line(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE, encoding="utf-8")
    run = run_example(
        "--dataset",
        "mnist",
        cwd=tmp_path,
        PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]),
        TFDS_DATA_DIR=str(tmp_path / "no_data"),
    )
    assert run.returncode == 1
    assert run.stdout == ""
    # TensorFlow's own start-up messages apart ("I0000 ...", and a warning that they come early).
    tensorflow = re.compile(r"[IWE]\d{4} |WARNING: All log messages before absl")
    (line,) = [line for line in run.stderr.splitlines() if not tensorflow.match(line)]
    assert line.startswith("error: MNIST is not on this machine and can't be downloaded")
    assert "--dataset subset" in line


# Bad arguments


def test_absent_device_ends_in_one_clear_line(tmp_path):
    with pytest.raises(SystemExit, match=r"^error: no device 'gpu:99' here\. Found: cpu"):
        run_one_epoch(tmp_path, "--device", "gpu:99")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gradient", "none"], "invalid choice: 'none'"),
        (["--solver", "none"], "invalid choice: 'none'"),
        (["--epochs", "0"], "--epochs must be at least 1. Received: 0"),
        (["--gradient", "all", "--save", "x"], "--save needs one gradient, not all."),
    ],
)
def test_bad_argument_names_what_is_wrong(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_info:
        mnist.main(arguments)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err
