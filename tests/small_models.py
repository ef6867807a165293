"""Small Keras models around a NeuralODE, and data for them."""

import keras
import numpy as np
from keras import layers

from tf_neuralode import NeuralODE


def dense_field(width=3, **options):
    """A field on states of `(batch, width)`."""
    return keras.Sequential(
        [layers.Dense(4, activation="tanh", **options), layers.Dense(width, **options)]
    )


def make_data(num_samples=12):
    """Inputs `(num_samples, 3)` and targets `(num_samples, 1)`."""
    x = np.random.default_rng(0).normal(size=(num_samples, 3)).astype("float32")
    return x, np.sin(x.sum(axis=1, keepdims=True))


def small_model(dynamics=None, seed=0, **options):
    """A solve of a `(batch, 3)` state followed by a Dense layer; same seed, same weights."""
    keras.utils.set_random_seed(seed)
    if dynamics is None:
        dynamics = dense_field()
    return keras.Sequential([keras.Input((3,)), NeuralODE(dynamics, **options), layers.Dense(1)])
