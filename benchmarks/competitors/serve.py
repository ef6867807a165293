"""A Keras model, exported and loaded as a SavedModel, called from NumPy to NumPy."""

import tempfile

from competitors import keras_field, tensorflow_field  # noqa: F401, sets the threads

import keras  # isort: skip
import tensorflow as tf

from tf_neuralode import NeuralODE


def build(workload, layer):
    return Served(workload, layer)


class Served:
    """`layer` is "ode", the default but for its tolerances, or "dense", which is no solver."""

    def __init__(self, workload, layer):
        width = workload.y0.shape[-1]
        layer = {
            "ode": lambda: NeuralODE(
                keras_field.make(workload), workload.times, rtol=workload.rtol, atol=workload.atol
            ),
            "dense": lambda: keras.layers.Dense(width, activation="tanh"),
        }[layer]()
        self.model = keras.Sequential([keras.Input((width,)), layer])
        self._folder = tempfile.TemporaryDirectory()
        self.model.export(self._folder.name, verbose=False)
        self._y0 = workload.y0
        self._loaded = None

    def step(self):
        if self._loaded is None:  # a part of the first call
            self._loaded = tf.saved_model.load(self._folder.name)
        return self._loaded.serve(self._y0).numpy()

    def to_numpy(self, states):
        return [states]
