"""A model file of a stranger runs none of its code, and a damaged one gives an error."""

import json
import zipfile

import keras
import numpy as np
import pytest
from small_models import make_data, small_model
from subprocesses import run_python

from tf_neuralode import gradients, regularizers, solvers


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved model with an object in each place that can hold one, and a prediction of it."""
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    model = small_model(
        solver=solvers.Tsit5(),
        gradient=gradients.GaussAdjoint(),
        regularizer=[regularizers.KineticEnergy()],
    )
    model.save(path)
    return path, model.predict(make_data()[0], verbose=0)


def rewritten(path, target, change):
    """A copy of the file, its NeuralODE's config changed by `change(config)`."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json":
                config = json.loads(content)
                layers = config["config"]["layers"]
                (ode,) = [layer for layer in layers if layer["class_name"] == "NeuralODE"]
                change(ode["config"])
                content = json.dumps(config).encode()
            copy.writestr(name, content)
    return target


def test_a_file_is_loaded_in_safe_mode(saved, tmp_path):
    path, expected = saved
    # In a process of its own, where nothing but the import has registered anything.
    code = (
        "import sys, keras, numpy as np, tf_neuralode\n"
        "from small_models import make_data\n"
        "model = keras.saving.load_model(sys.argv[1], safe_mode=True)\n"
        "np.save(sys.argv[2], model.predict(make_data()[0], verbose=0))\n"
    )
    done = run_python("-c", code, path, tmp_path / "y.npy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)


def evil_lambda(marker):
    """A Lambda layer whose marshalled code makes a file, as Keras itself would write it."""
    code = f"lambda y: (open({str(marker)!r}, 'w').close(), y)[1]"
    layer = keras.layers.Lambda(eval(code), output_shape=(3,))
    config = keras.saving.serialize_keras_object(layer)
    assert config["config"]["function"]["class_name"] == "__lambda__"  # marshalled, not a name
    return config


def os_system(marker):
    """A call of os.system in the form of an object's config."""
    return {
        "module": "os",
        "class_name": "system",
        "config": {"command": f"touch {marker}"},
        "registered_name": None,
        "build_config": None,
    }


def function_of_os(marker):
    """The same as a function."""
    return {**os_system(marker), "class_name": "function", "config": "system"}


def popen(marker):
    """A class whose constructor runs a program."""
    config = {"args": ["touch", str(marker)]}
    return {**os_system(marker), "module": "subprocess", "class_name": "Popen", "config": config}


def named_as_ours(marker):
    """The same under a name that this package could have registered."""
    return {**popen(marker), "registered_name": "tf_neuralode>Popen"}


def code_in_the_name(marker):
    """A name where an object is expected."""
    return f"__import__('os').system('touch {marker}')"


@pytest.mark.core
@pytest.mark.parametrize("place", ["dynamics", "solver", "gradient", "regularizer"])
@pytest.mark.parametrize(
    "crafted",
    [evil_lambda, os_system, function_of_os, popen, named_as_ours, code_in_the_name],
    ids=lambda function: function.__name__,
)
def test_a_crafted_file_is_refused_and_runs_nothing(crafted, place, saved, tmp_path):
    marker = tmp_path / "ran"
    thing = crafted(marker)
    for number, value in enumerate([thing, [thing]]):
        change = lambda config, value=value: config.update({place: value})
        path = rewritten(saved[0], tmp_path / f"{number}.keras", change)
        with pytest.raises((TypeError, ValueError)) as raised:
            keras.saving.load_model(path)
        assert str(raised.value)
        assert not marker.exists()


@pytest.mark.core
def test_the_crafted_lambda_would_have_run_outside_safe_mode(saved, tmp_path):
    # So that the refusals above are refusals of something.
    marker = tmp_path / "ran"
    change = lambda config: config.update(dynamics=evil_lambda(marker))
    path = rewritten(saved[0], tmp_path / "model.keras", change)
    keras.saving.load_model(path, safe_mode=False).predict(make_data()[0], verbose=0)
    assert marker.exists()


def damaged(content, kind, part):
    """The file cut at, with zeros from, or with one bit turned at a part of its length."""
    place = int(part * len(content))
    if kind == "cut":
        return content[:place]
    if kind == "zeros":
        return content[:place] + bytes(len(content) - place)
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("part", [0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999])
def test_a_cut_file_gives_an_error(part, saved, tmp_path):
    content = saved[0].read_bytes()
    path = tmp_path / "model.keras"
    for kind in ("cut", "zeros"):
        changed = damaged(content, kind, part)
        if changed == content:  # an archive ends with two zeros
            continue
        path.write_bytes(changed)
        with pytest.raises((ValueError, OSError, KeyError, zipfile.BadZipFile)) as raised:
            keras.saving.load_model(path)
        assert str(raised.value)


def test_a_turned_bit_gives_an_error_or_the_same_model(saved, tmp_path):
    content, expected = saved[0].read_bytes(), saved[1]
    path = tmp_path / "model.keras"
    num_errors = 0
    parts = np.linspace(0.0, 0.999, 60)
    for part in parts:
        path.write_bytes(damaged(content, "bit", part))
        try:
            model = keras.saving.load_model(path)
        except Exception as error:
            assert str(error)
            num_errors += 1
            continue
        # Bits of the archive that nobody reads: its dates, for one. All else has a checksum.
        np.testing.assert_array_equal(model.predict(make_data()[0], verbose=0), expected)
    assert num_errors > len(parts) / 2


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_cut_weights_in_a_whole_archive_give_an_error(part, saved, tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(saved[0]) as source, zipfile.ZipFile(path, "w") as copy:
        for name in source.namelist():
            content = source.read(name)
            if name == "model.weights.h5":
                content = damaged(content, "cut", part)
            copy.writestr(name, content)
    with pytest.raises((ValueError, OSError, KeyError)) as raised:
        keras.saving.load_model(path)
    assert str(raised.value)
