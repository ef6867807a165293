"""Warns where layers that share one dynamics are saved: Keras will load them with one each."""

import gc
import warnings
import weakref

import keras

# For each dynamics the layers that hold it.
_holders: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def hold(layer: keras.layers.Layer, dynamics: keras.layers.Layer) -> None:
    """Notes that `layer` holds `dynamics`."""
    _holders.setdefault(dynamics, weakref.WeakSet()).add(layer)


def warn_if_shared(dynamics: keras.layers.Layer) -> None:
    """Warns if more than one layer holds `dynamics`.

    Whether they are parts of one model a layer can't tell.
    """
    if len(_holders[dynamics]) > 1:
        gc.collect()  # a model that is no longer used is in circles
    if len(names := sorted(layer.name for layer in _holders[dynamics])) > 1:
        warnings.warn(
            f"Layers {', '.join(names)} share one dynamics, {dynamics.name}. Keras makes two of it "
            "from a config, and can't load a .keras file of a model with both. Save the weights "
            "(model.save_weights), make the model in code, and load them (model.load_weights).",
            stacklevel=2,
        )
