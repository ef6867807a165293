"""Trains with a bad batch in the middle of an epoch: `python training_faults.py graph|xla`.

Prints a line of JSON before each case (so that a hang names its case) and one after it. Run by
test_faults.py, which knows what each case has to give.
"""

import json
import sys

import keras
import numpy as np
from small_models import make_data

from tf_neuralode import NeuralODE

BATCH_SIZE, NUM_BATCHES, BAD_BATCH = 4, 6, 3
# What the bad batch's second sample becomes. The field blows up where the state is large.
FAULTS = {"nan": np.nan, "inf": np.inf, "blow-up": 100.0}


def make_model(**options):
    keras.utils.set_random_seed(0)
    # y' = (y A)^2 / 10: from states of order 1 to t = 1 it is tame, from 100 it blows up.
    dynamics = keras.Sequential(
        [
            keras.layers.Dense(3, use_bias=False),
            keras.layers.Lambda(lambda y: y**2 / 10, output_shape=lambda shape: shape),
        ]
    )
    layer = NeuralODE(dynamics, solver="bosh3", name="flow", **options)
    return keras.Sequential([keras.Input((3,)), layer, keras.layers.Dense(1)])


class Watch(keras.callbacks.Callback):
    """Counts the batches that end, and keeps the weights from before the bad one."""

    def __init__(self):
        super().__init__()
        self.num_ended = 0

    def on_train_batch_begin(self, batch, logs=None):
        if batch == BAD_BATCH:
            self.before = self.model.get_weights()

    def on_train_batch_end(self, batch, logs=None):
        self.num_ended += 1


def train(fault, jit_compile, terminate, **options):
    x, y = make_data(BATCH_SIZE * NUM_BATCHES)
    x = 0.5 * x
    x[BAD_BATCH * BATCH_SIZE + 1] = FAULTS[fault]
    model, watch = make_model(**options), Watch()
    model.compile(keras.optimizers.SGD(1e-3), "mse", jit_compile=jit_compile)
    callbacks = [watch, *([keras.callbacks.TerminateOnNaN()] if terminate else [])]
    error, losses = None, []
    try:
        history = model.fit(
            x, y, BATCH_SIZE, epochs=2, shuffle=False, callbacks=callbacks, verbose=0
        )
        losses = history.history["loss"]
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    weights = model.get_weights()
    return {
        "error": error,
        "losses": losses,
        "num_ended": watch.num_ended,
        "unchanged": all(map(np.array_equal, weights, watch.before)),
    }


# (mode, fault, on_failure, whether TerminateOnNaN watches)
CASES = [
    *[("graph", fault, "raise", False) for fault in FAULTS],
    *[("graph", fault, "nan", True) for fault in FAULTS],
    ("graph", "nan", "nan", False),
    # XLA compiles each for some seconds, so one of each kind.
    ("xla", "nan", "raise", False),
    ("xla", "blow-up", "raise", True),
    ("xla", "inf", "nan", True),
]


def main(mode):
    for case in CASES:
        if case[0] != mode:
            continue
        _, fault, on_failure, terminate = case
        print(json.dumps({"start": case}), flush=True)
        found = train(fault, mode == "xla", terminate, on_failure=on_failure)
        print(json.dumps({"case": case, **found}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
