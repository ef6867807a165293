"""Wrote the files in this folder, run with version 0.1.0 of the package (of 25 November 2026)."""

import json
from pathlib import Path

import keras
import numpy as np

from tf_neuralode import Augment, ConcatTime, NeuralODE, gradients, regularizers, solvers

FOLDER = Path(__file__).parent
TIGHT = {"rtol": 1e-6, "atol": 1e-6}


def field(*first):
    hidden = keras.layers.Dense(8, activation="tanh")
    return keras.Sequential([*first, hidden, keras.layers.Dense(3)])


def model():
    x = keras.Input((2,))
    y = Augment(1)(x)
    cost = regularizers.KineticEnergy(0.1)
    y = NeuralODE(field(), **TIGHT, regularizer=cost, track_stats=True)(y)
    solver = solvers.DormandPrince8(**TIGHT, first_step_size=0.1, safety_factor=0.8)
    gradient = gradients.GaussAdjoint(rtol=1e-4)
    y = NeuralODE(field(), (0.0, -1.0), solver=solver, gradient=gradient, on_failure="nan")(y)
    y = NeuralODE(
        field(ConcatTime()),
        solver="rk4",
        gradient="tape",
        time_dependent=True,
        t_eval=[0.0, 0.5, 1.0],
        return_sequences=True,
    )(y)
    return keras.Model(x, y)


def settings():
    """Configs of solvers and gradients, as Keras serializes them."""
    adaptive = {"first_step_size": 0.1, "max_num_steps": 50, "max_step_size": 0.5}
    made = {}
    for name in solvers.names():
        solver = type(solvers.get(name))
        made[name] = solver(**adaptive) if hasattr(solver(), "_rtol") else solver(num_steps=7)
    for name in gradients.names():
        made[name] = gradients.get(name)
    made["tape_that_keeps"] = gradients.Tape(checkpoint=False)
    return {name: keras.saving.serialize_keras_object(x) for name, x in made.items()}


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    made, x = model(), np.random.default_rng(0).normal(size=(4, 2)).astype("float32")
    made.save(FOLDER / "model.keras")
    made.save_weights(FOLDER / "model.weights.h5")
    small = keras.Sequential([keras.Input((2,)), NeuralODE(keras.layers.Dense(2), gradient="tape")])
    small.export(FOLDER / "exported", verbose=False)
    outputs = {"y": made.predict(x, verbose=0), "of_export": small.predict(x, verbose=0)}
    np.savez(FOLDER / "outputs.npz", x=x, **outputs)
    (FOLDER / "settings.json").write_text(json.dumps(settings(), indent=1) + "\n")
