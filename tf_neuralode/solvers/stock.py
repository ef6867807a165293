"""A solver of TFP's own, or of a user, behind what the package asks of a solver of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tf_neuralode.field import Field
from tf_neuralode.solvers.tfp_face import TFPSolver
from tf_neuralode.stepping import Conditions, Diagnostics
from tf_neuralode.stepping import status as status_codes
from tf_neuralode.tensors import State, casts, each, or_nan


class StockSolver:
    """Answers for `solver` what `RungeKutta` answers for itself.

    Its steps are its own affair: it can be solved with and differentiated by TFP, and that is all.
    """

    is_ours = False
    is_adaptive = False
    tolerances = None

    def __init__(self, solver: tfp.math.ode.Solver) -> None:
        self._solver = solver

    def check_ours(self, what: str) -> None:
        """Raises a ValueError that says what needs a solver of ours."""
        raise ValueError(f"{what} Received: solver={type(self._solver).__name__}")

    def step_size_of_parts(self, whole: tf.Tensor, warm: tf.Tensor | None = None) -> tf.Tensor:
        """It chooses itself, always."""
        del warm
        return tf.zeros_like(whole)

    def given_adjoint(self) -> tfp.math.ode.Solver:
        """What TFP's backward pass is to solve with."""
        return self._solver._make_adjoint_solver_fn()

    def rows(
        self,
        field: Field,
        y0: State,
        times: tf.Tensor,
        conditions: Conditions,
        flatten: Callable[[Any], State],
    ) -> tuple[State, Diagnostics]:
        """States at all `times`, and diagnostics; the arguments are those of a `Problem`."""
        # TFP wants one dtype in a system; what has fewer bits gains by it, too.
        widen, narrow = casts(y0, times.dtype)

        def ode_fn(t: tf.Tensor, y: Any) -> Any:
            return conditions.pack(widen(field(t, narrow(flatten(y)))))

        packed = conditions.pack(widen(y0))
        results = self._solver.solve(ode_fn, times[0], packed, times[1:])
        rows = each(
            lambda y, x: tf.concat([y[tf.newaxis], tf.cast(x, y.dtype)], axis=0),
            y0,
            flatten(results.states),
        )
        return rows, _with_our_fields(results.diagnostics, times)


def _with_our_fields(report: tfp.math.ode.Diagnostics, times: tf.Tensor) -> Diagnostics:
    """TFP's diagnostics, with -1 for counts that they don't have."""
    unknown = tf.constant(-1)
    success = tf.equal(report.status, status_codes.SUCCESS)
    return Diagnostics(
        num_ode_fn_evaluations=report.num_ode_fn_evaluations,
        num_jacobian_evaluations=report.num_jacobian_evaluations,
        num_matrix_factorizations=report.num_matrix_factorizations,
        num_accepted_steps=unknown,
        num_rejected_steps=unknown,
        final_time=or_nan(success, times[-1]),
        status=report.status,
    )


def adapted(solver: tfp.math.ode.Solver) -> Any:
    """`solver` if it is ours, otherwise a `StockSolver`."""
    return solver if isinstance(solver, TFPSolver) else StockSolver(solver)
