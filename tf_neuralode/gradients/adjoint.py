"""TFP's built-in adjoint: the state is solved backwards beside the adjoint state."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tf_neuralode.gradients.backward_tolerances import BackwardTolerances
from tf_neuralode.gradients.gradient import Gradient, Problem, Solution
from tf_neuralode.gradients.vjp import like, with_backward, without_gradients
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
        if (self._rtol, self._atol) == (None, None):
            return
        if not isinstance(solver, RungeKutta):
            raise ValueError(
                "Arguments rtol and atol of gradients.Adjoint need a solver of "
                "tf_neuralode.solvers; give a stock TFP solver make_adjoint_solver_fn instead. "
                f"Received: solver={type(solver).__name__}"
            )
        if solver.given_adjoint() is not None:
            raise ValueError(
                "Arguments rtol and atol of gradients.Adjoint are for a solver without "
                "make_adjoint_solver_fn, which gives the backward solve its own. Use one of the "
                f"two. Received: solver={type(solver).__name__} with make_adjoint_solver_fn"
            )

    def solve(self, problem: Problem) -> Solution:
        solver = problem.solver
        self.check_solver(solver)
        if isinstance(solver, RungeKutta):
            span = tf.abs(problem.times[-1] - problem.times[0])
            adjoint_solver = solver.given_adjoint() or self.backward_solver(solver.for_adjoint())
            if isinstance(adjoint_solver, RungeKutta):
                adjoint_solver = adjoint_solver.as_part_of(span).copy(
                    finish_states=_report_evaluations, backward_span=span
                )
            solver = solver.copy(keep_rows=True, keep_steps=problem.keep_steps)
            solver = solver.with_adjoint(adjoint_solver)
        structure: list[Any] = []

        def forward(*given: Any) -> tuple:
            # What surrounding tapes record of it is nothing.
            inputs = [tf.stop_gradient(x) for x in given]
            results, rows = _solve_by_tfp(problem, solver, inputs)
            steps = [results.solver_internal_state.steps] if problem.keep_steps else []
            structure[:] = [(rows, results.diagnostics, steps)]
            return tf.nest.flatten(structure[0]), (inputs, results)

        def backward(residuals: Any, d_outputs: Any, variables: Any) -> tuple:
            if any(y.dtype.is_complex for y in problem.y0):
                raise NotImplementedError(
                    "gradient='adjoint' is TFP's own, which has no gradients of complex states. "
                    "Take another, 'tape' for example, or solve for real and imaginary part: "
                    "y0=(tf.math.real(y), tf.math.imag(y)). "
                    f"Received: a state of dtype {[y.dtype.name for y in problem.y0]}"
                )
            inputs, results = residuals
            inputs = [tf.identity(x) for x in inputs]
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                solved = _solved(solver, results, variables)
                states = problem.flatten(_solve_by_tfp(problem, solved, inputs)[0].states)
            d_rows = tf.nest.pack_sequence_as(structure[0], d_outputs)[0]
            gradients = tape.gradient(
                states,
                [*inputs, *variables],
                output_gradients=[
                    tf.cast(d[1:], x.dtype) for d, x in zip(d_rows, states, strict=True)
                ],
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            d_probe, *d_inputs = gradients[: len(inputs)]
            num = len(d_rows)
            d_y0 = [a + d[0] for a, d in zip(d_inputs[:num], d_rows, strict=True)]
            return [d_probe, *d_y0, *d_inputs[num:]], gradients[len(inputs) :]

        inputs = [problem.probe, *problem.y0, *problem.params, *problem.captures.tensors]
        name = type(self).__name__
        outputs = with_backward(forward, backward, inputs, name)
        rows, diagnostics, steps = tf.nest.pack_sequence_as(structure[0], list(outputs))
        return Solution(rows, diagnostics, without_gradients(steps[0], name) if steps else None)


def _solve_by_tfp(
    problem: Problem, solver: tfp.math.ode.Solver, inputs: State
) -> tuple[tfp.math.ode.Results, State]:
    """TFP's solve, and the rows of all times.

    Args:
      problem: What to solve.
      solver: With what.
      inputs: What the results' states have gradients for: the probe, y0, params and the tensors
        that f closes over.
    """
    times, num_leaves, num_params = problem.times, len(problem.y0), len(problem.params)
    probe, y0, rest = inputs[0], inputs[1:][:num_leaves], inputs[1:][num_leaves:]
    # TFP wants one dtype in its augmented system; what has fewer bits gains by it, too.
    widen_state, narrow_state = _casts(problem.y0, times.dtype)
    widen, narrow = _casts(problem.params, times.dtype)
    constants: dict[str, Any] = {"probe": tf.cast(probe, times.dtype)}
    if num_params:
        constants["params"] = tuple(widen(rest[:num_params]))
    if problem.captures.tensors:
        constants["captured"] = tuple(tf.cast(x, times.dtype) for x in rest[num_params:])

    def ode_fn(t: tf.Tensor, y: Any, probe: tf.Tensor, params: Any = (), captured: Any = ()) -> Any:
        del probe
        y = narrow_state(problem.flatten(y))
        return problem.pack(widen_state(_slope(problem, t, y, narrow(params), captured)))

    y0 = widen_state(y0)
    results = solver.solve(ode_fn, times[0], problem.pack(y0), times[1:], constants=constants)
    if isinstance(solver, RungeKutta):
        rows = list(results.solver_internal_state.rows)
    else:
        states = problem.flatten(results.states)
        rows = [tf.concat([y[tf.newaxis], x], axis=0) for y, x in zip(y0, states, strict=True)]
    return results, narrow_state(rows)


def _solved(
    solver: tfp.math.ode.Solver, results: tfp.math.ode.Results, variables: Sequence[tf.Variable]
) -> tfp.math.ode.Solver:
    """`solver`, whose solve has been done: it returns `results`, to be differentiated by TFP."""

    def solve(**arguments: Any) -> tfp.math.ode.Results:
        del arguments
        for variable in variables:
            tf.convert_to_tensor(variable)  # TFP's backward pass is for variables that were read
        # The graph of a backward pass can be another than that of the solve.
        return tf.nest.map_structure(tf.identity, results)

    solver = copy.copy(solver)
    solver._solve = solve
    return solver


def _slope(
    problem: Problem, t: tf.Tensor, y: State, params: State, values: Sequence[tf.Tensor]
) -> State:
    """`problem.f`, as a function of the `values` of the tensors that it closes over, too.

    It refers to those tensors, while TFP differentiates with respect to what it hands over.
    """
    captured = list(problem.captures.tensors)
    if not captured:
        return problem.f(t, y, params)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(captured)
        slope = problem.f(t, y, params)

    @tf.custom_gradient
    def attached(*slope_and_values: Any) -> tuple:
        def grad(*d_slope: Any) -> list:
            gradients = tape.gradient(
                slope,
                captured,
                output_gradients=list(d_slope),
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            pairs = zip(gradients, values, strict=True)
            return [*d_slope, *(tf.cast(like(g, x), x.dtype) for g, x in pairs)]

        return [tf.identity(k) for k in slope_and_values[: len(slope)]], grad

    return list(attached(*slope, *values))


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


def _report_evaluations(augmented_state: tuple, diagnostics: Diagnostics) -> tuple:
    """Adds the evaluations of a backward solve to the probe, whose derivative is 0 otherwise.

    TFP drops the diagnostics of its backward solves; this is the way out that works in every mode.
    """
    state, adjoint_state, variables, constants = augmented_state
    count = tf.cast(diagnostics.num_ode_fn_evaluations, constants["probe"].dtype)
    constants = {**constants, "probe": constants["probe"] + count}
    return state, adjoint_state, variables, constants
