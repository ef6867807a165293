"""TFP's built-in adjoint: the state is solved backwards beside the adjoint state."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tf_neuralode.field import dense_gradients
from tf_neuralode.gradients.backward_tolerances import BackwardTolerances
from tf_neuralode.gradients.gradient import Gradient
from tf_neuralode.gradients.problem import Problem, Solution
from tf_neuralode.gradients.segments import solve_in_segments
from tf_neuralode.solvers.stock import adapted
from tf_neuralode.solvers.tfp_face import BackwardSolver, already_solved
from tf_neuralode.stepping import NOTHING_KNOWN, Diagnostics
from tf_neuralode.tensors import State, Tensors, add, casts, each


@keras.saving.register_keras_serializable("tf_neuralode")
class Adjoint(BackwardTolerances, Gradient):
    """The adjoint of `tfp.math.ode.Solver.solve` [1]: constant memory, any TFP solver.

    Integrates backwards from each output time to the one before it

        y' = f,   lambda' = -f_y^T lambda,   mu' = -f_p^T lambda.

    Where each sample has output times of its own, a step ends at every one of them.

    y is solved again, backwards, which fails where the field contracts strongly; then take `Tape`
    or one of the adjoints on the stored solution.

    Args:
      rtol, atol: Tolerances of the backward solve; the solver's own if `None`. They need a solver
        of ours. The error of mu is left out of the norm (the seminorm of [2]).

    References:
      [1] R. T. Q. Chen et al., Neural ordinary differential equations, NeurIPS 2018.
      [2] P. Kidger et al., "Hey, that's not an ODE": faster ODE adjoints via seminorms, ICML 2021.
    """

    has_gradients_of_jumps = False

    def check_solver(self, solver: Any) -> None:
        if self._rtol is None and self._atol is None:
            return
        solver.check_ours(
            "Arguments rtol and atol of gradients.Adjoint need a solver of "
            "tf_neuralode.solvers; give a stock TFP solver make_adjoint_solver_fn instead."
        )
        if solver.given_adjoint() is not None:
            raise ValueError(
                "Arguments rtol and atol of gradients.Adjoint are for a solver without "
                "make_adjoint_solver_fn, which gives the backward solve its own. Use one of the "
                f"two. Received: solver={type(solver).__name__} with make_adjoint_solver_fn"
            )

    def solve(self, problem: Problem) -> Solution:
        self.check_solver(problem.solver)
        if problem.times.shape.rank > 1:
            return solve_in_segments(problem, self.solve, type(self).__name__)

        def solve(inputs: list[tf.Tensor]) -> tuple[Solution, Any]:
            # What surrounding tapes record of it is nothing.
            inputs = [tf.stop_gradient(x) for x in inputs]
            y0, params = problem.y0_and_params(inputs)
            solution, _ = problem.integrate(problem.field.with_params(params), y0)
            return solution, (inputs, solution)

        def backward(residuals: Any, d_rows: State, variables: Sequence[tf.Variable]) -> tuple:
            if any(y.dtype.is_complex for y in problem.y0):
                raise NotImplementedError(
                    "gradient='adjoint' is TFP's own, which has no gradients of complex states. "
                    "Take another, 'tape' for example, or solve for real and imaginary part: "
                    "y0=(tf.math.real(y), tf.math.imag(y)). "
                    f"Received: a state of dtype {[y.dtype.name for y in problem.y0]}"
                )
            inputs, solution = residuals
            inputs = [tf.identity(x) for x in inputs]
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                solved = self._already_solved(problem, solution, variables)
                states = problem.flatten(_solve_by_tfp(problem, solved, inputs).states)
            with _without_notice():
                gradients = tape.gradient(
                    states,
                    [*inputs, *variables],
                    output_gradients=each(lambda d, x: tf.cast(d[1:], x.dtype), d_rows, states),
                    unconnected_gradients=tf.UnconnectedGradients.ZERO,
                )
            d_counter, *d_inputs = gradients[: len(inputs)]
            num = len(d_rows)
            d_y0 = add(d_inputs[:num], [d[0] for d in d_rows])
            return [d_counter, *d_y0, *d_inputs[num:]], gradients[len(inputs) :]

        return problem.differentiated(solve, backward, type(self).__name__)

    def _already_solved(
        self, problem: Problem, solution: Solution, variables: Sequence[tf.Variable]
    ) -> tfp.math.ode.Solver:
        """A solver whose solve is `solution`, to be differentiated by TFP."""
        times = problem.times

        def solve(**arguments: Any) -> tfp.math.ode.Results:
            del arguments
            for variable in variables:
                tf.convert_to_tensor(variable)  # TFP's backward pass is for what was read
            widen, _ = casts(solution.rows, times.dtype)
            states = [row[1:] for row in widen(solution.rows)]
            # The graph of a backward pass can be another than that of the solve.
            results = tf.nest.map_structure(tf.identity, (times[1:], states, solution.diagnostics))
            times_, states, report = results
            states = problem.conditions.pack(states)
            return tfp.math.ode.Results(times_, states, report, ())

        solver = problem.solver
        given = solver.given_adjoint()
        if given is not None and not adapted(given).is_ours:
            return already_solved(given, solve, given)
        span = times[-1] - times[0]
        if given is None:
            # TFP goes backwards in its own time, in which jumps of the field are elsewhere. How
            # many steps the forward solve was given says nothing of this one.
            conditions = problem.conditions.but(limit=None, further_steps=0)
            conditions = self.backward(solver, conditions).part_of(span)
            conditions = conditions.with_seminorm(num_parts=2)
        else:
            # As it is: with a norm over the whole augmented system, whose parameters' parts have no
            # axis of samples.
            conditions, solver = NOTHING_KNOWN.part_of(span), given
        h = solver.step_size_of_parts(span) if problem.first_h is None else problem.first_h
        backward = BackwardSolver(solver, conditions, h, _report_evaluations)
        return already_solved(backward, solve, backward)


@contextlib.contextmanager
def _without_notice() -> Iterator[None]:
    """Keeps from the screen that TFP uses an argument which TensorFlow deprecates."""
    logger, keep = tf.get_logger(), lambda record: "back_prop=False" not in record.getMessage()
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _solve_by_tfp(
    problem: Problem, solver: tfp.math.ode.Solver, inputs: Tensors
) -> tfp.math.ode.Results:
    """TFP's solve: states at all times but the first, which have gradients for `inputs`."""
    times, num_leaves, num_params = problem.times, len(problem.y0), len(problem.field.params)
    counter, y0, rest = inputs[0], inputs[1:][:num_leaves], inputs[1:][num_leaves:]
    # TFP wants one dtype in its augmented system; what has fewer bits gains by it, too.
    widen_state, narrow_state = casts(problem.y0, times.dtype)
    widen, narrow = casts(problem.field.params, times.dtype)
    constants: dict[str, Any] = {"counter": tf.cast(counter, times.dtype)}
    if num_params:
        constants["params"] = tuple(widen(rest[:num_params]))
    if problem.captures.tensors:
        constants["captured"] = tuple(tf.cast(x, times.dtype) for x in rest[num_params:])

    def ode_fn(
        t: tf.Tensor, y: Any, counter: tf.Tensor, params: Any = (), captured: Any = ()
    ) -> Any:
        del counter
        y = narrow_state(problem.flatten(y))
        pack = problem.conditions.pack
        return pack(widen_state(_slope(problem, t, y, narrow(params), captured)))

    y0 = problem.conditions.pack(widen_state(y0))
    return solver.solve(ode_fn, times[0], y0, times[1:], constants=constants)


def _slope(
    problem: Problem, t: tf.Tensor, y: State, params: Tensors, values: Sequence[tf.Tensor]
) -> State:
    """`problem.f`, as a function of the `values` of the tensors that it closes over, too.

    It refers to those tensors, while TFP differentiates with respect to what it hands over.
    """
    captured = list(problem.captures.tensors)
    if not captured:
        return problem.field.f(t, y, params)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(captured)
        slope = problem.field.f(t, y, params)

    @tf.custom_gradient
    def attached(*slope_and_values: Any) -> tuple:
        def grad(*d_slope: Any) -> list:
            gradients = dense_gradients(tape, slope, captured, list(d_slope))
            return [*d_slope, *each(lambda g, x: tf.cast(g, x.dtype), gradients, values)]

        return [tf.identity(k) for k in slope_and_values[: len(slope)]], grad

    return list(attached(*slope, *values))


def _report_evaluations(augmented_state: tuple, diagnostics: Diagnostics) -> tuple:
    """Adds the evaluations of a backward solve to the counter, whose derivative is 0 otherwise.

    TFP drops the diagnostics of its backward solves; this is the way out that works in every mode.
    """
    state, adjoint_state, variables, constants = augmented_state
    count = tf.cast(diagnostics.num_ode_fn_evaluations, constants["counter"].dtype)
    constants = {**constants, "counter": constants["counter"] + count}
    return state, adjoint_state, variables, constants
