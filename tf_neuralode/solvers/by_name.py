"""What the name of a solver stands for."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow_probability as tfp

from tf_neuralode.solvers.adaptive_solver import AdaptiveRungeKutta
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
from tf_neuralode.solvers.spelling import did_you_mean

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
        numbers = all(type(value) in (int, float, str) for value in given.values())
        return (_kept if numbers else _made)(identifier, **given)
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


def _made(identifier: str, **given: Any) -> tfp.math.ode.Solver:
    solver = _BY_NAME[identifier]
    return solver(**given) if issubclass(solver, AdaptiveRungeKutta) else solver()


# A solver never changes, and eager calls ask for the same one again and again.
_kept = functools.lru_cache(maxsize=256, typed=True)(_made)
