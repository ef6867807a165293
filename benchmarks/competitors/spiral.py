"""The spiral with tf_neuralode: a Keras model and `model.fit`; a call is a whole run.

The first run builds the model, traces and compiles; a later one has the initial weights again.
"""

from competitors import tensorflow_field  # noqa: F401, sets the threads

import keras  # isort: skip
import numpy as np
import tensorflow as tf

from competitors.ours import gradient_of
from tf_neuralode import NeuralODE


def build(workload, gradient="auto", xla="auto", steps_per_execution=1):
    return Spiral(workload, gradient, xla, steps_per_execution)


class Spiral:
    """`xla` is "model", "layer" or `None`; "auto" leaves it to Keras and to the layer."""

    def __init__(self, workload, gradient, xla, steps_per_execution):
        self.steps_per_call = workload.num_steps
        self._workload = workload
        self._layer_settings = {
            "gradient": gradient_of(gradient),
            "jit_compile": "auto" if xla == "auto" else xla == "layer",
        }
        self._fit_settings = {
            "jit_compile": "auto" if xla == "auto" else xla == "model",
            "steps_per_execution": min(steps_per_execution, workload.num_steps),
        }
        series = workload.series[np.newaxis]
        # One epoch: what Keras does at the end of each is no part of a step.
        self._once = tf.data.Dataset.from_tensors((workload.y0, series))
        self._data = self._once.repeat(workload.num_steps)
        self._model = None

    def step(self):
        if self._model is None:
            self._model = self._make()
            self._variables = [*self._model.variables, *self._model.optimizer.variables]
            self._initial = [variable.numpy() for variable in self._variables]
        else:
            self._reset()
        self._model.fit(self._data, shuffle=False, verbose=0)

    def figures(self):
        """The losses after a run and before one."""
        final = self._model.evaluate(self._once, verbose=0)
        self._reset()
        return {"initial_loss": self._model.evaluate(self._once, verbose=0), "final_loss": final}

    def _make(self):
        field = keras.Sequential(
            [
                keras.Input((2,)),
                keras.layers.Lambda(lambda y: y**3),
                keras.layers.Dense(50, activation="tanh"),
                keras.layers.Dense(2),
            ]
        )
        pairs = zip(self._workload.weights, self._workload.biases, strict=True)
        field.set_weights([value for pair in pairs for value in pair])
        times = self._workload.times
        ode = NeuralODE(
            field, times[[0, -1]], t_eval=times, return_sequences=True, **self._layer_settings
        )
        model = keras.Sequential([keras.Input((2,)), ode])
        optimizer = keras.optimizers.Adam(self._workload.learning_rate)
        model.compile(optimizer, "mse", **self._fit_settings)
        optimizer.build(model.trainable_variables)
        return model

    def _reset(self):
        for variable, value in zip(self._variables, self._initial, strict=True):
            variable.assign(value)
