"""TFP's built-in adjoint: the state is solved backwards beside the adjoint state."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tf_neuralode.gradients.backward_tolerances import BackwardTolerances
from tf_neuralode.gradients.closure import first_slope
from tf_neuralode.gradients.gradient import Gradient, Problem, Solution
from tf_neuralode.gradients.vjp import once_differentiable
from tf_neuralode.solvers.diagnostics import Diagnostics
from tf_neuralode.solvers.runge_kutta import State
from tf_neuralode.solvers.solver import RungeKutta


@keras.saving.register_keras_serializable("tf_neuralode")
class Adjoint(BackwardTolerances, Gradient):
    """The adjoint of `tfp.math.ode.Solver.solve` [1]: constant memory, any TFP solver.

    Integrates backwards from each output time to the one before it

        y' = f,   lambda' = -f_y^T lambda,   mu' = -f_p^T lambda.

    y is solved again, backwards, which fails where the field contracts strongly; then take `Tape`
    or one of the adjoints on the stored solution.

    Args:
      rtol, atol: Tolerances of the backward solve; the solver's own if `None`. They need a solver
        of ours. The error of mu is left out of the norm (the seminorm of [2]).

    References:
      [1] R. T. Q. Chen et al., Neural ordinary differential equations, NeurIPS 2018.
      [2] P. Kidger et al., "Hey, that's not an ODE": faster ODE adjoints via seminorms, ICML 2021.
    """

    def check_solver(self, solver: tfp.math.ode.Solver) -> None:
        if not isinstance(solver, RungeKutta) and (self._rtol, self._atol) != (None, None):
            raise ValueError(
                "Arguments rtol and atol of gradients.Adjoint need a solver of "
                "tf_neuralode.solvers; give a stock TFP solver make_adjoint_solver_fn instead. "
                f"Received: solver={type(solver).__name__}"
            )

    def solve(self, problem: Problem) -> Solution:
        solver = problem.solver
        self.check_solver(solver)
        times, slope = problem.times, None
        # TFP wants one dtype in its augmented system; what has fewer bits gains by it, too.
        widen_state, narrow_state = _casts(problem.y0, times.dtype)
        widen, narrow = _casts(problem.params, times.dtype)
        if isinstance(solver, RungeKutta):
            span = tf.abs(times[-1] - times[0])
            backward = self.backward_solver(solver.for_adjoint())
            backward = backward.copy(finish_states=_report_evaluations, backward_span=span)
            slope = first_slope(problem)
            slope = None if slope is None else widen_state(slope)
            solver = solver.copy(keep_rows=True, keep_steps=problem.keep_steps, first_slope=slope)
            solver = solver.with_adjoint(backward)
        once = functools.partial(once_differentiable, name=type(self).__name__)
        constants = {"probe": tf.cast(problem.probe, times.dtype)}
        if problem.params:
            constants["params"] = tuple(once(widen(problem.params)))
        if slope is not None:
            constants["first_slope"] = tuple(slope)

        def ode_fn(
            t: tf.Tensor, y: Any, probe: tf.Tensor, params: Any = (), first_slope: Any = ()
        ) -> Any:
            del probe, first_slope
            y = narrow_state(problem.flatten(y))
            return problem.pack(widen_state(problem.f(t, y, narrow(params))))

        y0 = widen_state(problem.y0)
        results = solver.solve(
            ode_fn, times[0], problem.pack(once(y0)), times[1:], constants=constants
        )
        states = problem.flatten(results.states)
        if isinstance(solver, RungeKutta):
            rows = _split_gradients(results.solver_internal_state.rows, y0, states)
        else:
            rows = [tf.concat([y[tf.newaxis], x], axis=0) for y, x in zip(y0, states, strict=True)]
        rows = narrow_state(rows)
        steps = results.solver_internal_state.steps if problem.keep_steps else None
        return Solution(rows, results.diagnostics, steps)


def _casts(
    tensors: State, dtype: tf.DType
) -> tuple[Callable[[State], State], Callable[[State], State]]:
    """Functions that give real tensors `dtype`, and that give them back their own dtypes."""
    own = [x.dtype for x in tensors]

    def cast(tensors: State, dtypes: Sequence[tf.DType]) -> State:
        return [
            x if old.is_complex else tf.cast(x, new)
            for x, old, new in zip(tensors, own, dtypes, strict=True)
        ]

    return lambda xs: cast(xs, [dtype] * len(own)), lambda xs: cast(xs, own)


def _split_gradients(rows: State, y0: State, states: State) -> State:
    """`rows`, the initial state and `states`: not put together again, which would be a copy."""

    def one(row: tf.Tensor, y: tf.Tensor, state: tf.Tensor) -> tf.Tensor:
        @tf.custom_gradient
        def joined(y: tf.Tensor, state: tf.Tensor) -> tuple:
            del y, state
            # In a v1 graph there would be a way through it to the variables that f reads.
            return tf.stop_gradient(row), lambda d: (d[0], d[1:])

        return joined(y, state)

    return [one(*leaf) for leaf in zip(rows, y0, states, strict=True)]


def _report_evaluations(augmented_state: tuple, diagnostics: Diagnostics) -> tuple:
    """Adds the evaluations of a backward solve to the probe, whose derivative is 0 otherwise.

    TFP drops the diagnostics of its backward solves; this is the way out that works in every mode.
    """
    state, adjoint_state, variables, constants = augmented_state
    count = tf.cast(diagnostics.num_ode_fn_evaluations, constants["probe"].dtype)
    constants = {**constants, "probe": constants["probe"] + count}
    return state, adjoint_state, variables, constants
