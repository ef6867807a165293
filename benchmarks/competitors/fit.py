"""`model.fit` of the MNIST example, and of the same model with Identity for NeuralODE.

Here a step is a batch of `fit`, callbacks and data pipeline included.
"""

from competitors import tensorflow_field  # noqa: F401, sets the threads

import keras  # isort: skip
import mnist
from competitors.ours import gradient_of
from digits import load_digits
from tf_neuralode import NeuralODE

NUM_EPOCHS = 5  # of one call of fit, so that ten of them are the 500 steps of a first run


def build(workload, gradient, xla):
    del workload
    return Fit(gradient, xla)


class Fit:
    """`gradient=None` is the model with Identity; `xla` is "model", "layer", None or "auto".

    The last leaves it to Keras and to the layer, as the gradient "auto" does.
    """

    def __init__(self, gradient, xla):
        (images, labels), _ = load_digits()
        # Whole batches only: under XLA a smaller one would be compiled for itself.
        count = len(images) // mnist.BATCH_SIZE * mnist.BATCH_SIZE
        self._data = mnist.batches(images[:count], labels[:count], shuffle_seed=0)
        self.steps_per_call = NUM_EPOCHS * (count // mnist.BATCH_SIZE)
        self._gradient, self._xla = gradient, xla
        self._model = None

    def step(self):
        if self._model is None:  # a part of the first step, since it traces the field
            self._model = self._make()
            self._variables = self._model.variables + self._model.optimizer.variables
            self._initial = [variable.numpy() for variable in self._variables]
        self._model.fit(self._data, epochs=NUM_EPOCHS, shuffle=False, verbose=0)

    def reset(self):
        """Makes the model as it was: an overtrained field is stiff."""
        for variable, value in zip(self._variables, self._initial, strict=True):
            variable.assign(value)

    def _make(self):
        keras.utils.set_random_seed(0)
        model = mnist.build_model(
            gradient=gradient_of(self._gradient or "tape"),
            jit_compile="auto" if self._xla == "auto" else self._xla == "model",
        )
        if self._gradient is None or self._xla == "layer":
            model = _replace_layer(model, self._gradient is not None)
        model.optimizer.build(model.trainable_variables)
        return model


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
