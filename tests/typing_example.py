"""A user's code as mypy sees it: the gate checks this file, nothing runs it.

`warn_unused_ignores` makes an ignore that isn't needed an error, so each of them says that mypy
refuses its line.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from matplotlib.axes import Axes
from typing_extensions import assert_type

from tf_neuralode import (
    Augment,
    NeuralODE,
    fields,
    gradients,
    odeint,
    plotting,
    regularizers,
    solvers,
)
from tf_neuralode.results import DenseSolution, Results

dynamics = keras.Sequential([keras.layers.Dense(2, activation="tanh")])

# The layer

NeuralODE(dynamics, (0.0, 1.0), solver="tsit5", gradient="tape", rtol=1e-4)
NeuralODE(dynamics, t_eval=np.linspace(0.0, 1.0, 5), return_sequences=True, name="ode")
NeuralODE(dynamics, solver=solvers.RK4(num_steps=5), gradient=gradients.Adjoint(rtol=1e-5))
NeuralODE(dynamics, regularizer=regularizers.KineticEnergy(0.1))
NeuralODE(dynamics, regularizer=[regularizers.KineticEnergy(), regularizers.JacobianNorm()])
Augment(dims=3, name="room")
NeuralODE(fields.MLP(64, depth=2, activation=tf.nn.softplus))
NeuralODE(fields.Conv(16, time=True, dtype="float64"), time_dependent=True)

NeuralODE(dynamics, t_span=1.0)  # type: ignore[arg-type]
NeuralODE(dynamics, "tsit5", "tape")  # type: ignore[call-arg, arg-type]
NeuralODE(dynamics, gradient=gradients.Tape)  # type: ignore[arg-type]
NeuralODE(dynamics, on_failure="ignore")  # type: ignore[arg-type]
NeuralODE(dynamics, regularizer=0.1)  # type: ignore[arg-type]
fields.MLP("64", 2)  # type: ignore[arg-type]
fields.Conv(16, data_format="NHWC")  # type: ignore[arg-type]

# The functional interface


def decay(t: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """A field."""
    return -y


results = odeint(decay, np.ones(2), [0.0, 1.0], solver=solvers.Tsit5(), dense_output=True)
assert_type(results, Results)
assert_type(results.solution, DenseSolution | None)
times, states, diagnostics, _ = results
results.solution.evaluate(0.5)  # type: ignore[union-attr]
odeint(decay, np.ones(2), [0.0, 1.0], method="tsit5")  # type: ignore[call-arg]
odeint(1.0, np.ones(2), [0.0, 1.0])  # type: ignore[arg-type]

# Solvers and gradients

assert_type(solvers.names(), tuple[str, ...])
assert_type(gradients.get("tape"), gradients.Gradient)
assert_type(solvers.DormandPrince().copy(rtol=1e-5), solvers.DormandPrince)
assert_type(solvers.Tsit5(1e-5, 1e-8, max_num_steps=200).max_num_steps, int)
solvers.Tsit5(max_steps=200)  # type: ignore[call-arg]
solvers.RK4(num_steps="many")  # type: ignore[arg-type]


class HeunEuler(solvers.AdaptiveRungeKutta):
    """A method of the user's own."""

    order = 2
    tableau = solvers.ButcherTableau(
        c=(0, 1), a=((), (1,)), b=(1 / 2, 1 / 2), b_err=(-1 / 2, 1 / 2)
    )


attempts = solvers.attempted_steps(HeunEuler(rtol=1e-3), decay, np.ones(2), (0.0, 1.0))
assert_type(attempts, solvers.AttemptedSteps)

# Plots

assert_type(plotting.trajectories(times, states, labels=["a", "b"]), Axes)
assert_type(plotting.step_sizes(attempts, color="black"), Axes)
plotting.step_sizes(results)  # type: ignore[arg-type]
