"""Tolerances of a backward solve, apart from the forward ones."""

from __future__ import annotations

from typing import Any

from tf_neuralode.solvers import checks
from tf_neuralode.solvers.solver import RungeKutta
from tf_neuralode.stepping import Conditions


class BackwardTolerances:
    """Mixin of the gradients that integrate backwards.

    Args:
      rtol, atol: Tolerances of the backward solve, positive; the solver's own if `None`.
    """

    def __init__(self, rtol: Any = None, atol: Any = None) -> None:
        self._rtol = None if rtol is None else checks.tolerance("rtol", rtol)
        self._atol = None if atol is None else checks.tolerance("atol", atol)

    def backward(self, solver: RungeKutta, conditions: Conditions) -> Conditions:
        """`conditions` of a solve with `solver`, for the backward solve."""
        if self._rtol is None and self._atol is None:
            return conditions
        if not solver.is_adaptive:
            raise ValueError(
                f"Arguments rtol and atol of gradients.{type(self).__name__} need an adaptive "
                f"solver. Received: solver={type(solver).__name__}"
            )
        given = {"rtol": self._rtol, "atol": self._atol}
        return conditions.but(**{name: x for name, x in given.items() if x is not None})

    def get_config(self) -> dict[str, Any]:
        plain = lambda value: None if value is None else checks.plain(value)
        return {"rtol": plain(self._rtol), "atol": plain(self._atol)}
