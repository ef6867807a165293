"""The workloads' field as a Keras model, as a user writes it."""

import keras


def make(workload):
    """A `Sequential` with the workload's weights."""
    layer = _convolution if workload.is_convolution else _dense
    layers = [layer(w.shape[-1]) for w in workload.weights]
    field = keras.Sequential([keras.Input(workload.y0.shape[1:]), *layers])
    field.set_weights(workload.weights)
    return field


def _dense(width):
    return keras.layers.Dense(width, activation="tanh", use_bias=False)


def _convolution(width):
    return keras.layers.Conv2D(width, 3, padding="same", activation="tanh", use_bias=False)
