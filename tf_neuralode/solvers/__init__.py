"""Solvers: how time is stepped. Every one is a `tfp.math.ode.Solver`."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow_probability as tfp

from tf_neuralode.methods import ButcherTableau
from tf_neuralode.solvers.adaptive_solver import AdaptiveRungeKutta
from tf_neuralode.solvers.attempts import AttemptedSteps, attempted_steps
from tf_neuralode.solvers.by_name import get, names
from tf_neuralode.solvers.catalogue import (
    RK4,
    Bosh3,
    DormandPrince,
    DormandPrince8,
    Euler,
    Heun,
    Midpoint,
    SofroniouSpaletta4,
    Tsit5,
    Verner6,
)
from tf_neuralode.solvers.equal_steps import EqualSteps
from tf_neuralode.solvers.fixed_solver import FixedStepRungeKutta
from tf_neuralode.solvers.solver import RungeKutta
from tf_neuralode.stepping import Diagnostics

__all__ = [
    "RK4",
    "AdaptiveRungeKutta",
    "AttemptedSteps",
    "Bosh3",
    "ButcherTableau",
    "Diagnostics",
    "DormandPrince",
    "DormandPrince8",
    "EqualSteps",
    "Euler",
    "FixedStepRungeKutta",
    "Heun",
    "Midpoint",
    "RungeKutta",
    "SofroniouSpaletta4",
    "Tsit5",
    "Verner6",
    "attempted_steps",
    "get",
    "names",
    "serialize",
    "serialize_norm",
]


def serialize(identifier: str | tfp.math.ode.Solver) -> str | dict[str, Any]:
    """What `keras.saving.deserialize_keras_object` or `get` makes the solver from again.

    Raises:
      ValueError: for a stock TFP solver.
    """
    if isinstance(identifier, str):
        return identifier
    if isinstance(identifier, RungeKutta):
        return keras.saving.serialize_keras_object(identifier)
    raise ValueError(
        "A layer with a stock TFP solver can't be serialized; save its weights, or export the "
        f"model. Received: solver={type(identifier).__name__}"
    )


def serialize_norm(norm: Any) -> str | None:
    """The argument `norm` of a layer, for its config.

    Raises:
      ValueError: for a function.
    """
    if callable(norm):
        raise ValueError(
            "A layer with a function norm can't be serialized. Take 'max' or 'mean', save its "
            f"weights, or export the model. Received: norm={norm!r}"
        )
    return norm
