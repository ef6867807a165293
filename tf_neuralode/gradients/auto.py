"""The default: a gradient that suits the solver."""

from __future__ import annotations

from typing import Any

import keras

from tf_neuralode.gradients.adjoint import Adjoint
from tf_neuralode.gradients.gradient import Gradient
from tf_neuralode.gradients.problem import Problem, Solution
from tf_neuralode.gradients.tape import Tape


@keras.saving.register_keras_serializable("tf_neuralode")
class Auto(Gradient):
    """`Tape` for the solvers of this package, `Adjoint`, which is TFP's own, for stock TFP ones."""

    def chosen(self, solver: Any) -> Gradient:
        """The gradient that is taken with `solver`, as `solvers.stock` adapts it."""
        return Tape() if solver.is_ours else Adjoint()

    def check_solver(self, solver: Any) -> None:
        self.chosen(solver).check_solver(solver)

    def solve(self, problem: Problem) -> Solution:
        return self.chosen(problem.solver).solve(problem)
