"""The method of an adaptive solver, with equal steps."""

from __future__ import annotations

from typing import Any

import keras

from tf_neuralode.solvers.by_name import get, names
from tf_neuralode.solvers.fixed_solver import FixedStepRungeKutta
from tf_neuralode.solvers.spelling import did_you_mean


@keras.saving.register_keras_serializable("tf_neuralode")
class EqualSteps(FixedStepRungeKutta):
    """Steps of one of our methods, all of one size: `EqualSteps("bosh3", num_steps=10)`.

    Args:
      method_of: Name of the solver whose method it is (`solvers.names()`).
      num_steps: Number of steps, a positive integer.
      **kwargs: As in `FixedStepRungeKutta`.

    Raises:
      ValueError, TypeError: for an unknown name, or a number of steps that isn't one.
    """

    read_only = ("method_of", "num_steps")

    def __init__(self, method_of: str, num_steps: int = 20, **kwargs: Any) -> None:
        super().__init__(num_steps, **kwargs)
        if method_of not in names():
            kind = ValueError if isinstance(method_of, str) else TypeError
            close = did_you_mean([method_of], names()) if kind is ValueError else ""
            raise kind(
                f"Argument method_of must be one of the names {', '.join(names())}. "
                f"Received: method_of={method_of!r}{close}"
            )
        self.method_of = method_of
        solver = get(method_of)
        self.order, self.method = solver.order, solver.method
