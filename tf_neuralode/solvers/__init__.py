"""Solvers: how time is stepped. Every one is a `tfp.math.ode.Solver`."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow_probability as tfp

from tf_neuralode.solvers.adaptive_solver import AdaptiveRungeKutta
from tf_neuralode.solvers.attempts import AttemptedSteps, attempted_steps
from tf_neuralode.solvers.checks import plain
from tf_neuralode.solvers.diagnostics import Diagnostics
from tf_neuralode.solvers.fixed_solver import FixedStepRungeKutta
from tf_neuralode.solvers.methods import (
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
from tf_neuralode.solvers.solver import RungeKutta
from tf_neuralode.solvers.tableau import ButcherTableau
from tf_neuralode.spelling import did_you_mean

__all__ = [
    "RK4",
    "AdaptiveRungeKutta",
    "AttemptedSteps",
    "Bosh3",
    "ButcherTableau",
    "Diagnostics",
    "DormandPrince",
    "DormandPrince8",
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
    "plain",
    "serialize",
    "serialize_norm",
]

_BY_NAME = {
    "dormand_prince": DormandPrince,
    "tsit5": Tsit5,
    "verner6": Verner6,
    "sofroniou_spaletta4": SofroniouSpaletta4,
    "bosh3": Bosh3,
    "dormand_prince8": DormandPrince8,
    "euler": Euler,
    "midpoint": Midpoint,
    "heun": Heun,
    "rk4": RK4,
}


def names() -> tuple[str, ...]:
    """The names that `get` knows."""
    return tuple(_BY_NAME)


def get(
    identifier: str | tfp.math.ode.Solver,
    rtol: Any = None,
    atol: Any = None,
    norm: Any = None,
) -> tfp.math.ode.Solver:
    """The solver that a name or an object stands for.

    Args:
      identifier: A name (see `names`) or any `tfp.math.ode.Solver`.
      rtol: Relative tolerance for an adaptive solver given by name.
      atol: Absolute tolerance, likewise.
      norm: Error norm, likewise.

    Raises:
      ValueError: for an unknown name, or tolerances or a norm beside a solver object.
      TypeError: for anything else.
    """
    settings = {"rtol": rtol, "atol": atol, "norm": norm}
    given = {name: value for name, value in settings.items() if value is not None}
    if isinstance(identifier, str):
        if identifier not in _BY_NAME:
            raise ValueError(
                f"Argument solver must be a solver or one of the names {', '.join(names())}. "
                f"Received: solver={identifier!r}{did_you_mean([identifier], names())}"
            )
        solver = _BY_NAME[identifier]
        return solver(**given) if issubclass(solver, AdaptiveRungeKutta) else solver()
    if not isinstance(identifier, tfp.math.ode.Solver):
        raise TypeError(
            "Argument solver must be a name or a tfp.math.ode.Solver. "
            f"Received: solver={identifier!r}"
        )
    if given:
        received = ", ".join(f"{name}={value}" for name, value in given.items())
        raise ValueError(
            "Arguments rtol, atol and norm are for a solver given by name; a solver object carries "
            f"its own. Received: solver={identifier!r}, {received}"
        )
    return identifier


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
