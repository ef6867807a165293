"""Butcher tableaux: the coefficients that define a Runge-Kutta method."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

# Coefficients are float64, so a sum that is exact on paper is off by a few units in the last
# place, times the size of the terms.
_ROUNDING = 1e-13


@dataclasses.dataclass(frozen=True)
class ButcherTableau:
    """The coefficients of an explicit Runge-Kutta method; checks itself.

    With stages `i = 0 .. s-1`:

        k_i   = f(t + c_i h, y + h sum_{j<i} a_ij k_j)
        y1    = y + h sum_i b_i k_i
        error =     h sum_i b_err_i k_i

    Args:
      c: Nodes, one for each of the `s` stages; the first is 0, none lies outside [0, 1].
      a: Rows of the stage weights; row `i` has `i` entries and sums to `c[i]`.
      b: Weights of the solution, `s` of them, which sum to 1.
      b_err: Weights of the error estimate (`b` minus the weights of the embedded solution), which
        sum to 0. `None` for a method without an error estimate, which can only take fixed steps.

    Raises:
      ValueError: if the lengths or the sums don't fit.

    Reference: Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, II.1.
    """

    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    b_err: tuple[float, ...] | None = None

    def __post_init__(self) -> None:

        def as_floats(row: Sequence[float]) -> tuple[float, ...]:
            return tuple(float(x) for x in row)

        object.__setattr__(self, "c", as_floats(self.c))
        object.__setattr__(self, "a", tuple(as_floats(row) for row in self.a))
        object.__setattr__(self, "b", as_floats(self.b))
        if self.b_err is not None:
            object.__setattr__(self, "b_err", as_floats(self.b_err))
        self._check_lengths()
        self._check_sums()

    def _check_lengths(self) -> None:
        num_stages = len(self.c)
        lengths = {"a": len(self.a), "b": len(self.b)}
        if self.b_err is not None:
            lengths["b_err"] = len(self.b_err)
        for name, length in lengths.items():
            if length != num_stages:
                raise ValueError(
                    f"Tableau entry {name} must have one item for each of the {num_stages} nodes "
                    f"in c. Received: {length} items"
                )
        for i, row in enumerate(self.a):
            if len(row) != i:
                raise ValueError(
                    "Row i of tableau entry a must have i items (the method is explicit). "
                    f"Received: row {i} with {len(row)} items"
                )

    def _check_sums(self) -> None:
        if any(not 0 <= node <= 1 for node in self.c) or self.c[0] != 0:
            raise ValueError(
                f"Tableau nodes c must start at 0 and lie in [0, 1]. Received: {self.c}"
            )
        expected = [(f"row {i} of a", row, self.c[i]) for i, row in enumerate(self.a)]
        expected.append(("b", self.b, 1.0))
        if self.b_err is not None:
            expected.append(("b_err", self.b_err, 0.0))
        for name, row, total in expected:
            if abs(sum(row) - total) > _ROUNDING * (1 + sum(abs(x) for x in row)):
                raise ValueError(f"Tableau {name} must sum to {total}. Received: {sum(row)}")

    @property
    def num_stages(self) -> int:
        """Number of stages, the last one of an FSAL method included."""
        return len(self.c)

    @property
    def fsal(self) -> bool:
        """Whether the last stage is f at the end of the step (first same as last)."""
        return self.c[-1] == 1 and self.a[-1] == self.b[:-1] and self.b[-1] == 0

    @functools.cached_property
    def with_fsal(self) -> ButcherTableau:
        """The same method with f at the end of the step as its last stage.

        The next step starts from that value and cubic Hermite output needs it, so a loop that
        knows only FSAL methods wastes an evaluation for the others on a rejected step alone.
        """
        if self.fsal:
            return self
        return ButcherTableau(
            c=(*self.c, 1.0),
            a=(*self.a, self.b),
            b=(*self.b, 0.0),
            b_err=None if self.b_err is None else (*self.b_err, 0.0),
        )

    @functools.cached_property
    def hermite_weights(self) -> np.ndarray:
        """Weights `p` of cubic Hermite output: y(theta) = y + h sum_ij k_i p_ij theta^(j+1).

        From y, y1 and the slopes at both ends (the stages of `with_fsal`), with
        y1 - y = h sum b k (HNW, II.6, equation 6.7):

            y(theta) = y + theta^2 (3 - 2 theta) (y1 - y)
                         + theta (theta - 1)^2 h k_first + theta^2 (theta - 1) h k_last
        """
        tableau = self.with_fsal
        weights = np.outer(tableau.b, [0.0, 3.0, -2.0])
        weights[0] += [1.0, -2.0, 1.0]
        weights[-1] += [0.0, -1.0, 1.0]
        return weights
