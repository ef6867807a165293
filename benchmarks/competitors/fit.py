"""`model.fit` of the MNIST example, and of the same model with Identity for NeuralODE.

Here a step is a batch of `fit`, callbacks and data pipeline included.
"""

from competitors import tensorflow_field  # noqa: F401, sets the threads

import keras  # isort: skip
import mnist
from digits import load_digits
from tf_neuralode import NeuralODE, gradients

NUM_EPOCHS = 3  # of one call of fit


def build(workload, gradient, xla):
    del workload
    return Fit(gradient, xla)


class Fit:
    """`gradient=None` is the model with Identity; `xla` is "model", "layer" or None."""

    def __init__(self, gradient, xla):
        keras.utils.set_random_seed(0)
        if gradient == "tape_kept":
            gradient = gradients.Tape(checkpoint=False)
        (images, labels), _ = load_digits()
        # Whole batches only: under XLA a smaller one would be compiled for itself.
        count = len(images) // mnist.BATCH_SIZE * mnist.BATCH_SIZE
        self._data = mnist.batches(images[:count], labels[:count], shuffle_seed=0)
        self.steps_per_call = NUM_EPOCHS * (count // mnist.BATCH_SIZE)
        self._model = mnist.build_model(gradient=gradient or "tape", jit_compile=xla == "model")
        if gradient is None or xla == "layer":
            self._model = _replace_layer(self._model, gradient is not None)

    def step(self):
        self._model.fit(self._data, epochs=NUM_EPOCHS, shuffle=False, verbose=0)


def _replace_layer(model, compile_layer):
    """The same model with Identity for NeuralODE, or with a NeuralODE that XLA compiles."""
    layers = []
    for layer in model.layers:
        if isinstance(layer, NeuralODE):
            config = {**layer.get_config(), "jit_compile": True}
            layer = NeuralODE.from_config(config) if compile_layer else keras.layers.Identity()
        layers.append(layer)
    replaced = keras.Sequential([keras.Input(model.input_shape[1:]), *layers])
    replaced.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss=model.loss,
        metrics=["accuracy"],
        jit_compile=model.jit_compile,
    )
    return replaced
