"""Trains for many steps on batches of changing sizes: `python soak.py num_steps`.

Prints, in JSON, the memory after a fifth of the steps and at the end, the number of traces at both,
and how long it took.
"""

import json
import sys
import time

import keras
import numpy as np
import psutil
import tensorflow as tf
from test_tracing import CountsCalls

from tf_neuralode import NeuralODE, regularizers

SIZES = (16, 3, 32, 1, 7, 24, 12)


def make_model(counter):
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense
    dynamics = keras.Sequential([dense(16, activation="tanh"), counter, dense(4)])
    layers = [
        NeuralODE(
            dynamics,
            gradient="tape",
            regularizer=regularizers.KineticEnergy(),
            track_stats=True,
        ),
        dense(1),
    ]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    return model


def batches():
    """Without end; the sizes come in an order that doesn't repeat."""
    rng = np.random.default_rng(0)
    while True:
        x = rng.normal(size=(rng.choice(SIZES), 4)).astype("float32")
        yield x, np.sin(x.sum(axis=1, keepdims=True))


def main(num_steps):
    counter = CountsCalls()
    model = make_model(counter)
    data = tf.data.Dataset.from_generator(
        batches,
        output_signature=(
            tf.TensorSpec((None, 4), tf.float32),
            tf.TensorSpec((None, 1), tf.float32),
        ),
    )
    memory = psutil.Process().memory_info
    steps_per_epoch = num_steps // 5
    warm_up = model.fit(data, steps_per_epoch=steps_per_epoch, verbose=0)
    before, traces_before, start = memory().rss, counter.num_calls, time.perf_counter()
    history = model.fit(data, epochs=4, steps_per_epoch=steps_per_epoch, verbose=0)
    figures = {
        "before": before,
        "after": memory().rss,
        "traces_before": traces_before,
        "traces_after": counter.num_calls,
        "losses": warm_up.history["loss"] + history.history["loss"],
        "seconds": time.perf_counter() - start,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(int(sys.argv[1]))
