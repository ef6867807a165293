"""What every gradient method offers: a solve that can be differentiated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tf_neuralode.gradients.captures import Captures
from tf_neuralode.solvers import Diagnostics, checks
from tf_neuralode.solvers.recording import StepHistory
from tf_neuralode.solvers.runge_kutta import State
from tf_neuralode.solvers.solver import RungeKutta


@dataclasses.dataclass(frozen=True)
class Problem:
    """An initial value problem on flat lists of tensors.

    Attributes:
      f: `f(t, y, params)`; `y` and `params` are lists.
      times: `(num_times,)`, sorted; the first is the initial time.
      y0: State at `times[0]`.
      params: Floating-point parameters, those that f's gradient is wanted for.
      captures: What f reads besides its arguments; its gradient is wanted, too.
      probe: Scalar whose gradient is the number of evaluations of f in the backward pass.
      solver: Any `tfp.math.ode.Solver`.
      pack: Gives a flat state the user's structure, for norms.
      flatten: The inverse of `pack`. Both leave alone what axes there are in front of a state's.
      keep_steps: Whether the solution's accepted steps are wanted.
    """

    f: Callable[[tf.Tensor, State, State], State]
    times: tf.Tensor
    y0: State
    params: State
    captures: Captures
    probe: tf.Tensor
    solver: tfp.math.ode.Solver
    pack: Callable[[State], Any]
    flatten: Callable[[Any], State]
    keep_steps: bool = False

    @property
    def has_interior_times(self) -> bool:
        """Whether there are output times between the first and the last (or may be)."""
        return self.times.shape[0] is None or self.times.shape[0] > 2


@dataclasses.dataclass(frozen=True)
class Solution:
    """What a differentiable solve returns.

    Attributes:
      rows: For each leaf of the state `(num_times, *leaf.shape)`.
      diagnostics: `Diagnostics`, or those of a stock TFP solver.
      steps: `StepHistory` if the problem asked for it.
    """

    rows: State
    diagnostics: Diagnostics | tfp.math.ode.Diagnostics
    steps: StepHistory | None = None


class Gradient:
    """Base class: how a solve is differentiated. Settings are those of the constructor."""

    keeps_activations = False
    """Whether TensorFlow differentiates the solve itself, from the activations of its loop."""

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

    def check_solver(self, solver: tfp.math.ode.Solver) -> None:
        """Raises ValueError if this gradient can't differentiate `solver`."""
        if not isinstance(solver, RungeKutta):
            raise ValueError(
                f"gradient {type(self).__name__} needs a solver of tf_neuralode.solvers; a stock "
                "TFP solver works with gradient='adjoint'. "
                f"Received: solver={type(solver).__name__}"
            )
