"""TFP's interface of solvers, met by ours: for its `solve`, and for the adjoint that it brings."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from tf_neuralode.field import Clock, Field, FlatState, checked
from tf_neuralode.solvers import checks
from tf_neuralode.stepping import (
    NOTHING_KNOWN,
    AcceptedSteps,
    Conditions,
    Diagnostics,
    Point,
    Recorder,
    output_recorder,
)
from tf_neuralode.tensors import or_nan


class InternalState(NamedTuple):
    """What one solve hands on to the next.

    Attributes:
      step_size: Size of the next step; 0 for "choose one".
    """

    step_size: tf.Tensor


class TFPSolver(tfp.math.ode.Solver):
    """The abstract interface of `tfp.math.ode.Solver`.

    Attributes:
      conditions: What solves are told besides their problems.
      first_h: What the first solve begins with; `None` for "choose one".
      finish: What becomes of the states that a solve returns.
    """

    conditions: Conditions = NOTHING_KNOWN
    first_h: tf.Tensor | None = None
    finish: Callable[[Any, Diagnostics], Any] = staticmethod(lambda states, diagnostics: states)

    def _integrator(self) -> Any:
        """One of our solvers."""
        raise NotImplementedError

    def _solve(
        self,
        ode_fn,
        initial_time,
        initial_state,
        solution_times,
        jacobian_fn=None,
        jacobian_sparsity=None,
        batch_ndims=None,
        previous_solver_internal_state=None,
    ):
        del jacobian_fn, jacobian_sparsity  # for implicit methods
        solver, previous = self._integrator(), previous_solver_internal_state
        flat = FlatState(initial_state, "initial_state")
        conditions = self.conditions.but(pack=flat.pack_as_held).for_field(flat.field_precision)
        if batch_ndims is not None:
            conditions = conditions.but(batch_ndims=checks.count("batch_ndims", batch_ndims))
        by_solver = isinstance(solution_times, tfp.math.ode.ChosenBySolver)
        if by_solver:
            solution_times = [solution_times.final_time]
        t0, times = (tf.cast(t, flat.time_dtype) for t in (initial_time, solution_times))
        # The first output may be the initial time itself, or a later one.
        times = _in_order(tf.concat([[t0], times], axis=0))
        clock = Clock(times[0], flat.time_dtype, times[-1])
        elapsed = clock.elapsed(times)
        recorder: Recorder = output_recorder(elapsed)
        if by_solver:
            recorder = AcceptedSteps(solver.max_num_steps)
        f = clock.forwards(flat.flat_fn(ode_fn))
        result = solver.integrate(
            Field(lambda t, y, _: f(t, y)),
            Point(elapsed[0], flat.leaves, h=None if previous is None else previous.step_size),
            elapsed[-1],
            [recorder],
            conditions,
        )
        (saved,) = result.saved
        if by_solver:
            times, states = clock.user_time(saved.times), saved.states
        else:
            times, states = times[1:], [row[1:] for row in saved]
        report = clock.report(result.diagnostics)
        states = self.finish(flat.pack(states), report)
        return tfp.math.ode.Results(times, states, report, InternalState(result.h))

    def _initialize_solver_internal_state(self, ode_fn, initial_time, initial_state):
        # TFP calls this with the wrong sign of the time; nothing is evaluated here.
        del ode_fn, initial_time
        if self.first_h is not None:
            return InternalState(self.first_h)
        return InternalState(tf.zeros([], FlatState(initial_state).time_dtype))

    def _adjust_solver_internal_state_for_state_jump(
        self, ode_fn, initial_time, initial_state, previous_solver_internal_state, previous_state
    ):
        # The step size still fits on the other side of an output time: a warm start.
        del ode_fn, initial_time, initial_state, previous_state
        return previous_solver_internal_state


class BackwardSolver(TFPSolver):
    """One of our solvers, for the solves of one backward pass of TFP's.

    Args:
      solver: The solver.
      conditions, first_h, finish: See `TFPSolver`.
    """

    def __init__(
        self,
        solver: Any,
        conditions: Conditions,
        first_h: tf.Tensor | None = None,
        finish: Callable[[Any, Diagnostics], Any] | None = None,
    ) -> None:
        # For second derivatives, of a system augmented again: TensorFlow traces them on saving.
        again = lambda: BackwardSolver(solver, conditions.with_seminorm(num_parts=2))
        super().__init__(
            make_adjoint_solver_fn=again,
            validate_args=False,
            name=solver.name,
        )
        self._solver, self.conditions, self.first_h = solver, conditions, first_h
        if finish is not None:
            self.finish = finish

    def _integrator(self) -> Any:
        return self._solver


def _in_order(times: tf.Tensor) -> tf.Tensor:
    """`times`, initial and output times, once it is sure that they are in order; NaN under XLA."""
    steps = times[1:] - times[:-1]
    in_order = tf.reduce_all(steps >= 0) | tf.reduce_all(steps <= 0)
    message = (
        "Argument solution_times must rise, or fall, from initial_time on. Sort it, or solve in "
        "each direction."
    )
    received = lambda: f"Received: times={tf.get_static_value(times)}"
    times = checked(times, in_order, message, received, times)
    if tf.get_static_value(in_order) is None:
        times = or_nan(in_order, times)
    return times


def already_solved(
    solver: tfp.math.ode.Solver,
    solve: Callable[..., tfp.math.ode.Results],
    adjoint_solver: tfp.math.ode.Solver | None = None,
) -> tfp.math.ode.Solver:
    """`solver`, whose solve has been done, and is `solve`, to be differentiated by TFP.

    With `adjoint_solver`, or if that is `None` with the solver's own.
    """
    solver = copy.copy(solver)
    solver._solve = solve
    if adjoint_solver is not None:
        solver._make_adjoint_solver_fn = lambda: adjoint_solver
    return solver
