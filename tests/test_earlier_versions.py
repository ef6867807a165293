"""Files that an earlier version wrote load, and give what they gave.

`saved_by_0_1_0/make.py` made them with version 0.1.0.
"""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from saved_by_0_1_0 import make

from tf_neuralode import gradients, solvers

FILES = Path(make.FOLDER)
OUTPUTS = np.load(FILES / "outputs.npz")
SETTINGS = json.loads((FILES / "settings.json").read_text())
# Of float32, after solves at a tolerance of 1e-6; the norm of errors in a batch is another now.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def test_model_predicts_and_trains():
    model = keras.saving.load_model(FILES / "model.keras")
    x, y = OUTPUTS["x"], OUTPUTS["y"]
    np.testing.assert_allclose(model.predict(x, verbose=0), y, **CLOSE)
    assert [type(layer.gradient).__name__ for layer in model.layers[2:]] == [
        "Adjoint",
        "GaussAdjoint",
        "Tape",
    ]
    model.compile("adam", "mse")
    logs = model.fit(x, np.zeros_like(y), verbose=0).history
    assert np.isfinite(logs["loss"]).all() and logs["nfe"][0] > 0


def test_weights_load_into_a_model_that_is_made_now():
    model = make.model()
    model.load_weights(FILES / "model.weights.h5")
    np.testing.assert_allclose(model.predict(OUTPUTS["x"], verbose=0), OUTPUTS["y"], **CLOSE)


def test_exported_model_serves():
    served = tf.saved_model.load(str(FILES / "exported"))
    np.testing.assert_allclose(served.serve(OUTPUTS["x"]), OUTPUTS["of_export"], **CLOSE)


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_solvers_and_gradients_stay(name):
    config = SETTINGS[name]
    loaded = keras.saving.deserialize_keras_object(config)
    kinds = solvers.RungeKutta, gradients.Gradient
    assert isinstance(loaded, kinds) and type(loaded).__name__ == config["class_name"]
    kept = loaded.get_config()
    # A setting that came later has its default.
    assert {key: kept[key] for key in config["config"]} == config["config"]
