"""What every gradient method offers: a solve that can be differentiated."""

from __future__ import annotations

from typing import Any

from tf_neuralode.gradients.problem import Problem, Solution
from tf_neuralode.solvers import checks


class Gradient:
    """Base class: how a solve is differentiated. Settings are those of the constructor."""

    keeps_activations = False
    """Whether TensorFlow differentiates the solve itself, from the activations of its loop."""

    has_gradients_of_jumps = True
    """Whether the times at which a field jumps have gradients."""

    def solve(self, problem: Problem) -> Solution:
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Gradient:
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash((type(self), checks.hashable(self.get_config())))

    def __repr__(self) -> str:
        settings = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({settings})"

    def chosen(self, solver: Any) -> Gradient:
        """The gradient that is taken with `solver`, see `solvers.stock`: this one, mostly."""
        del solver
        return self

    def check_solver(self, solver: Any) -> None:
        """Raises ValueError if this gradient can't differentiate `solver`, see `solvers.stock`."""
        solver.check_ours(
            f"gradient {type(self).__name__} needs a solver of tf_neuralode.solvers; a stock "
            "TFP solver works with gradient='adjoint'."
        )
