"""One truth: settings are those of the constructor, and a config says what a layer does."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_neuralode import Augment, ConcatTime, NeuralODE, regularizers, solvers

OTHERS = {
    "dynamics": keras.layers.Dense(2),
    "t_span": (0, 2),
    "solver": solvers.Euler(),
    "gradient": "tape",
    "rtol": 1e-7,
    "atol": 1e-7,
    "norm": "mean",
    "t_eval": [0.5],
    "return_sequences": True,
    "time_dependent": True,
    "regularizer": regularizers.KineticEnergy(),
    "on_failure": "nan",
    "track_stats": True,
    "jit_compile": True,
    "control": "linear",
}


def test_every_argument_of_a_layer_is_tried():
    assert set(OTHERS) == set(NeuralODE.read_only)
    config = NeuralODE(keras.layers.Dense(2)).get_config()
    assert set(config) - set(OTHERS) == {"name", "trainable", "dtype"}


@pytest.mark.parametrize("name", OTHERS)
def test_a_layers_settings_are_read_only(name):
    layer = NeuralODE(keras.layers.Dense(2))
    with pytest.raises(AttributeError, match=rf"NeuralODE\.{name} is fixed .*from_config"):
        setattr(layer, name, OTHERS[name])
    with pytest.raises(AttributeError, match="is fixed"):
        delattr(layer, name)


def test_a_layer_with_another_setting_has_the_same_weights():
    layer = NeuralODE(keras.layers.Dense(2), rtol=1e-6, atol=1e-6)
    y0 = np.ones((1, 2), "float32")
    layer(y0)
    config = {**layer.get_config(), "dynamics": layer.dynamics, "t_span": (0.0, 2.0)}
    longer = NeuralODE.from_config(config)
    np.testing.assert_allclose(longer(y0), layer(layer(y0)), rtol=1e-4)
    assert longer.weights[0] is layer.weights[0]


def test_what_is_keras_own_can_be_changed():
    layer = NeuralODE(keras.layers.Dense(2))
    layer.trainable = False
    layer.trainable = True
    assert layer.trainable


@pytest.mark.parametrize(
    ("thing", "name"),
    [(regularizers.KineticEnergy(), "strength"), (Augment(1), "dims"), (ConcatTime(), "axis")],
    ids=["regularizer", "Augment", "ConcatTime"],
)
def test_settings_of_the_small_things_are_read_only(thing, name):
    with pytest.raises(AttributeError, match=f"{name} is fixed"):
        setattr(thing, name, 2)


def test_a_list_of_regularizers_can_not_grow_behind_the_layers_back():
    given = [regularizers.KineticEnergy()]
    layer = NeuralODE(keras.layers.Dense(2), regularizer=given)
    given.append(regularizers.JacobianNorm())
    assert layer.regularizer == tuple(given[:1])
    assert len(layer.get_config()["regularizer"]) == 1


@pytest.mark.parametrize("one", [tf.Variable(1.0), keras.Variable(1.0), tf.constant(1.0)])
def test_tensors_and_variables_as_fixed_times_are_an_error_that_names_times(one):
    with pytest.raises(TypeError, match=r"t_span must hold numbers.*layer\(y0, times\)"):
        NeuralODE(keras.layers.Dense(2), (0.0, one))
    with pytest.raises(TypeError, match=r"t_eval must hold numbers.*layer\(y0, times\)"):
        NeuralODE(keras.layers.Dense(2), (0.0, 2.0), t_eval=[0.5, one], return_sequences=True)
