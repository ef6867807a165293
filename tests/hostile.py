"""Hostile inputs, solved in a process of their own: `python hostile.py eager|graph|xla`.

Prints a line of JSON before each case (so that a hang names its case) and one after it. Run by
test_hostile.py, which knows what each case has to give.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from modes import in_mode

from tf_neuralode import NeuralODE, odeint, solvers

MAX_NUM_STEPS = 300
BAD_SAMPLES = (float("nan"), float("inf"), float("-inf"))


@dataclasses.dataclass(frozen=True)
class Case:
    """y' = f(t, y), y(0) = y0 up to `end`; f works on the last axis of y.

    Attributes:
      exact: The state at the end where the solve must succeed, otherwise `None`.
    """

    f: Callable
    y0: tuple[float, ...] = (1.0, 2.0)
    end: float = 1.0
    dtype: str = "float64"
    rtol: float = 1e-3
    atol: float = 1e-6
    exact: tuple[float, ...] | None = None

    @property
    def solver(self):
        return solvers.DormandPrince(self.rtol, self.atol, max_num_steps=MAX_NUM_STEPS)


def _van_der_pol(t, y):
    del t
    a, b = y[..., 0], y[..., 1]
    return tf.stack([b, 1e3 * (1 - a**2) * b - a], axis=-1)


def _decay(t, y):
    del t
    return -y


CASES = {
    "nan in the state": Case(_decay, (float("nan"), 2.0)),
    "inf in the state": Case(_decay, (float("inf"), 2.0)),
    "-inf in the state": Case(_decay, (1.0, float("-inf"))),
    "f becomes nan half-way": Case(lambda t, y: tf.where(t < 0.5, -y, np.nan)),
    "f becomes inf half-way": Case(lambda t, y: tf.where(t < 0.5, -y, np.inf)),
    "f is nan at the start": Case(lambda t, y: y * np.nan),
    "blow-up": Case(lambda t, y: y**2, (1.0, 0.5), end=2.0),
    "blow-up in float32": Case(lambda t, y: y**2, (1.0, 0.5), end=2.0, dtype="float32"),
    "discontinuous f": Case(
        lambda t, y: tf.where(t < 1 / 3, tf.ones_like(y), -2 * tf.ones_like(y)), exact=(0.0, 1.0)
    ),
    "f of 1e30": Case(lambda t, y: 1e30 * tf.ones_like(y), exact=(1e30, 1e30), dtype="float32"),
    "f of 1e30 y": Case(lambda t, y: 1e30 * y, dtype="float32"),
    "f of -1e30 y": Case(lambda t, y: -1e30 * y, dtype="float32"),
    "stiff": Case(_van_der_pol, (2.0, 0.0), end=2000.0),
    "rtol of 1e-15 in float32": Case(_decay, dtype="float32", rtol=1e-15, atol=1e-15),
    "interval of 1e-30": Case(_decay, end=1e-30, dtype="float32", exact=(1.0, 2.0)),
    "interval of 1e-30, f of 1e30 y": Case(
        lambda t, y: -1e30 * y, end=1e-30, dtype="float32", exact=(np.exp(-1), 2 * np.exp(-1))
    ),
    "interval of 1e30": Case(_decay, end=1e30, dtype="float32"),
    "interval of 1e30, f of 1e-30 y": Case(
        lambda t, y: -1e-30 * y, end=1e30, dtype="float32", exact=(np.exp(-1), 2 * np.exp(-1))
    ),
    "y0 of zeros": Case(_decay, (0.0, 0.0), dtype="float32", exact=(0.0, 0.0)),
    "y0 of zeros, f of ones": Case(
        lambda t, y: tf.ones_like(y), (0.0, 0.0), dtype="float32", exact=(1.0, 1.0)
    ),
    "f identically zero": Case(lambda t, y: tf.zeros_like(y), dtype="float32", exact=(1.0, 2.0)),
}


class Field(keras.layers.Layer):
    """A case's f as a layer on [t, y]."""

    def __init__(self, f, **kwargs):
        super().__init__(**kwargs)
        self.f = f

    def call(self, inputs):
        return self.f(*inputs)


def solve(case: Case, mode: str) -> dict:
    y0 = tf.constant([case.y0], case.dtype)

    def run(y0):
        results = odeint(case.f, y0, [0.0, case.end], solver=case.solver)
        return results.states[-1], results.diagnostics._asdict()

    state, diagnostics = in_mode(run, mode)(y0)
    return {
        "state": state.numpy()[0].tolist(),
        **{name: value.numpy().item() for name, value in diagnostics.items()},
    }


def solve_in_layer(case: Case, mode: str) -> dict:
    """The error's text, or the state where there is none."""
    layer = NeuralODE(
        Field(case.f, dtype=case.dtype), (0.0, case.end), solver=case.solver,
        time_dependent=True, dtype=case.dtype, name="hostile",
    )  # fmt: skip
    y0 = tf.constant([case.y0], case.dtype)
    try:
        return {"error": None, "state": in_mode(layer, mode)(y0).numpy()[0].tolist()}
    except tf.errors.InvalidArgumentError as error:
        return {"error": str(error), "state": None}


def solve_batches(mode: str, bad: float) -> dict:
    """A batch with a bad sample and the same batch without it."""
    layer = NeuralODE(Field(lambda t, y: tf.sin(3 * y) - y), time_dependent=True, on_failure="nan")
    good = np.array([[1.0, 2.0], [-1.0, 0.3], [0.1, 0.7]], np.float32)
    with_bad = np.insert(good, 1, [bad, 1.0], axis=0)
    run = in_mode(layer, mode)
    return {
        "with": run(tf.constant(with_bad)).numpy().tolist(),
        "without": run(tf.constant(good)).numpy().tolist(),
    }


def main(mode: str) -> None:
    def report(case, work):
        print(json.dumps({"start": case}), flush=True)
        print(json.dumps({"case": case, **work()}), flush=True)

    for name, case in CASES.items():
        report(name, lambda case=case: solve(case, mode))
        report(f"layer: {name}", lambda case=case: solve_in_layer(case, mode))
    for bad in BAD_SAMPLES:
        report(f"batch: {bad}", lambda bad=bad: solve_batches(mode, bad))


if __name__ == "__main__":
    main(sys.argv[1])
