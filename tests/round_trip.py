"""Models on their way to disk and back."""

import keras
import tensorflow as tf


def saved_and_exported(model, folder):
    """`model` loaded from a .keras file, and from an export; both are written into `folder`."""
    model.save(folder / "model.keras")
    model.export(folder / "exported", verbose=False)
    loaded = keras.saving.load_model(folder / "model.keras")
    return loaded, tf.saved_model.load(folder / "exported")
