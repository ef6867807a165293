"""One solve, for the package itself: state, times and parameters made flat, and a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_neuralode import gradients
from tf_neuralode.field import (
    Clock,
    Field,
    FlatState,
    SampleClock,
    captures_of,
    jumps_between,
    output_times,
    solve_dtype,
    warn_of_tolerance,
)
from tf_neuralode.gradients.problem import Problem, Solution
from tf_neuralode.gradients.time_gradient import attach_times
from tf_neuralode.methods import check_batch_ndims
from tf_neuralode.results import DenseSolution, Results
from tf_neuralode.stepping import Conditions, repeat_rows
from tf_neuralode.tensors import State, Tensors, inside_xla, may_be_recorded, or_nan


def solve_from(
    f: Callable[..., Any],
    y0: Any,
    t: Any,
    params: Any,
    *,
    solver: Any,
    gradient: gradients.Gradient,
    conditions: Conditions,
    dense_output: bool = False,
    backward_counter: tf.Tensor | tf.Variable | None = None,
    direction: float | None = None,
    are_elapsed: bool = False,
    expects_backward: bool = True,
    times_are_constant: bool = False,
    moving: tf.Tensor | None = None,
    jump_times: Any = None,
) -> Results:
    """As `odeint`, for the package itself.

    Args:
      f, y0, t, params, dense_output, backward_counter: As there.
      solver, gradient: Objects, the solver as `solvers.stock` adapts it.
      conditions: What else the solve is told.
      direction: 1 or -1 where it is known in which direction the times run that are shared.
      are_elapsed: Whether they are counted from the initial time on, forwards.
      expects_backward: Whether a backward pass is to be expected in a graph, see `Problem`. Eagerly
        one is where a tape records.
      times_are_constant: Whether no gradient is wanted for times that are a tensor.
      moving: What has the gradients of the times, if not `t`: the same values, of each sample.
      jump_times: As in `odeint`; of shared times, and an adaptive solver of ours.
    """
    flat, conditions = _flat_state(y0, conditions, solver.tolerances)
    times, clock, valid = output_times(t, flat.time_dtype, direction, are_elapsed)
    if is_single := times.shape[0] == 1:
        times = (tf if tf.is_tensor(times) else np).repeat(times, 2, axis=0)
    if isinstance(clock, SampleClock):
        _check_samples(conditions.batch_ndims, times, flat.pack(flat.leaves))
        conditions = conditions.but(unit=tf.abs(clock.lengths)).among_also(clock.moving)
    params, flat_f = _flatten_params(f, params, flat)
    if jump_times is not None:
        jumps = jumps_between(jump_times, clock, times, gradient.has_gradients_of_jumps)
        params, flat_f = [*params, jumps], _without_last(flat_f)
    field = Field(clock.forwards(flat_f), params, has_jumps=jump_times is not None)
    y0 = flat.leaves if valid is None else _or_nan(valid, flat.leaves)
    captures = captures_of(flat_f, clock.time(tf.zeros([], flat.time_dtype)), y0, params)
    conditions = conditions.but(
        autonomous=conditions.autonomous or not captures.uses_time,
        limit=field.next_jump if field.has_jumps else conditions.limit,
    )
    moving, moved = times if moving is None else moving, lambda rows: rows
    if tf.is_tensor(moving) and moving.dtype.is_floating and not times_are_constant:
        y0, moved = attach_times(
            flat_f, captures, moving, y0, params, flat.time_dtype, gradient.keeps_activations
        )
    times = tf.stop_gradient(times) if tf.is_tensor(times) else times
    problem = Problem(
        field=field,
        times=clock.elapsed(times),
        y0=y0,
        captures=captures,
        counter=_counter(backward_counter),
        solver=solver,
        conditions=conditions,
        flatten=flat.flatten,
        keep_steps=dense_output,
        expects_backward=may_be_recorded() if tf.executing_eagerly() else expects_backward,
    )
    solution = gradient.solve(problem)
    rows = solution.rows
    if _may_repeat(times, clock):
        rows = repeat_rows(rows, y0, problem.times)
    return _results(solution, moved(rows), times[: 1 if is_single else None], flat, clock)


def _flat_state(y0: Any, conditions: Conditions, tolerances: Any) -> tuple[FlatState, Conditions]:
    """The state, and the conditions of its solve, which may warn of the tolerances."""
    flat = FlatState(y0)
    check_batch_ndims(conditions.batch_ndims, tf.nest.flatten(flat.pack(flat.leaves)))
    warn_of_tolerance(flat.field_precision, tolerances, flat.time_dtype.name)
    return flat, conditions.but(pack=flat.pack_as_held).for_field(flat.field_precision)


def _or_nan(valid: tf.Tensor, y: State) -> State:
    """`y`, which XLA, that can raise no error, is to make NaN of where times aren't valid."""
    return [or_nan(valid, x) for x in y] if inside_xla() else y


def _results(
    solution: Solution, rows: State, times: Any, flat: FlatState, clock: Clock | SampleClock
) -> Results:
    """What is returned of a solution, whose rows are those of `times`, and perhaps one more."""
    dense, num = None, times.shape[0]
    rows = [row[:num] for row in rows] if num == 1 else rows
    if solution.steps is not None:
        dense = DenseSolution.from_steps(solution.steps, flat.pack, clock)
    times = tf.cast(times, clock.user_dtype)
    return Results(times, flat.pack(rows), clock.report(solution.diagnostics), dense)


def _without_last(flat_f: Callable[..., State]) -> Callable[..., State]:
    """The function for one parameter more, which it doesn't read."""
    return lambda t, y, params: flat_f(t, y, params[:-1])


def _check_samples(batch_ndims: int, times: tf.Tensor, y0: Any) -> None:
    """Raises ValueError unless the state has the samples that `times` has a column for."""
    received = f"Received: t of shape {times.shape}"
    if batch_ndims != 1:
        raise ValueError(
            "Argument t must be one-dimensional; (num_times, batch), times of each sample, needs "
            "batch_ndims=1. "
            f"{received}, batch_ndims={batch_ndims}"
        )
    shapes = [leaf.shape for leaf in tf.nest.flatten(y0)]
    if any(not times.shape[1:].is_compatible_with(shape[:1]) for shape in shapes):
        raise ValueError(
            "Argument t of shape (num_times, batch) must have a column for each sample. "
            f"{received}, a state of shape {', '.join(map(str, shapes))}"
        )


def _may_repeat(times: Any, clock: Clock | SampleClock) -> bool:
    """Whether rows may have to be made one; those of own times are what they are."""
    if isinstance(clock, SampleClock):
        return False
    return tf.is_tensor(times) or not np.all(np.diff(clock.elapsed_array(times)))


def _counter(backward_counter: tf.Tensor | tf.Variable | None) -> tf.Tensor:
    """What gets the number of evaluations of a backward pass for its gradient."""
    if backward_counter is None:
        return tf.zeros([], tf.float32)
    return tf.cast(tf.convert_to_tensor(backward_counter), tf.float32)


def _flatten_params(
    f: Callable[..., Any], params: Any, flat: FlatState
) -> tuple[State, Callable[[tf.Tensor, State, Tensors], State]]:
    """The parameters that can have gradients, and f on flat lists of state and of those."""
    structure = () if params is None else tf.nest.map_structure(flat.as_parameter, params)
    leaves = tf.nest.flatten(structure)
    differentiable = [i for i, leaf in enumerate(leaves) if leaf.dtype.is_floating]
    # Gradients are sums over many steps, which 16 bits would round away.
    held = [tf.cast(leaves[i], solve_dtype(leaves[i].dtype)) for i in differentiable]

    def flat_f(t: tf.Tensor, y: State, values: Tensors) -> State:
        if params is None:
            return flat.flat_fn(f)(t, y)
        # Integer parameters, seeds for example, are constants of the solve.
        all_leaves = list(leaves)
        for i, value in zip(differentiable, values, strict=True):
            all_leaves[i] = tf.cast(value, leaves[i].dtype)
        packed = tf.nest.pack_sequence_as(structure, all_leaves)
        return flat.flat_fn(lambda t, y: f(t, y, packed))(t, y)

    return held, flat_f
