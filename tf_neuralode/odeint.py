"""The functional interface: dynamics, solver and gradient joined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_neuralode import gradients, solvers
from tf_neuralode.eager import check_compile, compiles_itself, solve_compiled, with_autograph
from tf_neuralode.field import (
    Field,
    FlatState,
    captures_of,
    output_times,
    solve_dtype,
    warn_of_tolerance,
)
from tf_neuralode.gradients.gradient import Problem
from tf_neuralode.gradients.time_gradient import attach_times
from tf_neuralode.methods import check_batch_ndims
from tf_neuralode.results import DenseSolution, Results
from tf_neuralode.solvers import checks
from tf_neuralode.solvers.stock import adapted
from tf_neuralode.stepping import Conditions, repeat_rows
from tf_neuralode.tensors import State, Tensors, inside_xla, may_be_recorded, or_nan


def odeint(
    f: Callable[..., Any],
    y0: Any,
    t: Any,
    params: Any = None,
    *,
    solver: str | tfp.math.ode.Solver = "dormand_prince",
    gradient: str | gradients.Gradient = "auto",
    rtol: Any = None,
    atol: Any = None,
    norm: str | Callable[[Any], tf.Tensor] | None = None,
    batch_ndims: int = 0,
    dense_output: bool = False,
    backward_counter: tf.Tensor | tf.Variable | None = None,
    compile: Literal["auto", True, False] = "auto",
) -> Results:
    """Solves dy/dt = f(t, y) or f(t, y, params) with y(t[0]) = y0.

    Args:
      f: Function of a scalar time, a state like `y0` and, if `params` is given, `params`; returns
        the slope, like `y0`. It must be deterministic. Gradients are had for `y0`, `params`, and
        for the `tf.Variable`s and tensors that f closes over: f is traced once a solve to find
        them. Eagerly, if it can't be traced, a gradient that would get lost is a `ValueError`.
      y0: State at `t[0]`: a float or complex tensor of any shape, or a nest of them. Solved in at
        least float32; a tolerance that the dtype of y0, and so of f, can't resolve is a warning,
        and shortens no steps. Complex states have gradients, but not by `"adjoint"`, which is
        TFP's own.
      t: `(num_times,)`, output times, increasing or decreasing; the first is the initial time. They
        may repeat, and so do their rows. If a floating-point tensor, it has gradients: those of the
        exact solution; second ones, too, with `gradients.Tape(checkpoint=False)`. It may have a
        higher precision than the state, or be integer: the solve runs in `t - t[0]`, which is
        subtracted in t's own precision (float64 for Python's numbers), and f gets the time as near
        as the state's dtype allows.
      params: Nest of tensors, or `None`. Real floating-point ones have gradients. Python's numbers
        take the state's dtype.
      solver: Name (`solvers.names()`) or any `tfp.math.ode.Solver`.
      gradient: Name (`gradients.names()`) or one of `tf_neuralode.gradients`; see `gradients.Auto`
        for the default.
      rtol, atol: Tolerances for a solver given by name: scalars, or per component, see
        `solvers.AdaptiveRungeKutta`. 1e-3 and 1e-6 if `None`.
      norm: Error norm of a solver given by name: `"max"`, `"mean"` or a function, see there.
        `"max"` if `None`.
      batch_ndims: How many axes of the state, the first of every leaf, count samples. Each sample
        then gets the accuracy that it would have alone; with 0 the whole state is one sample.
      dense_output: Whether to return the solution at all times between, as `Results.solution`.
      backward_counter: Scalar float tensor or variable whose "gradient" will be the number of
        evaluations of f in the backward pass.
      compile: Whether a call outside of any `tf.function` compiles itself, see the guide. `"auto"`:
        once it has evaluated f 128 times, in one call or several, and where all that f reads is
        known. True: at the first call, and a `ValueError` where that can't be. False: never; f runs
        line by line.

    Returns:
      `Results`. After a failure the states are NaN and `diagnostics.status` says why.

    Raises:
      ValueError, TypeError: for arguments that don't fit.
    """
    # Where autograph is on it converts this function, and no other of ours.
    return _solve(
        tf.__internal__.autograph.control_status_ctx(),
        f,
        y0,
        t,
        params,
        solver_given=(solver, rtol, atol, norm),
        gradient=gradient,
        batch_ndims=batch_ndims,
        dense_output=dense_output,
        backward_counter=backward_counter,
        compile=compile,
    )


@tf.autograph.experimental.do_not_convert
def _solve(
    context: Any,
    f: Callable[..., Any],
    y0: Any,
    t: Any,
    params: Any,
    *,
    solver_given: tuple[Any, ...],
    gradient: Any,
    batch_ndims: Any,
    compile: Any,
    **how: Any,
) -> Results:
    """`odeint`, called in the `context` of autograph; our code has no use for it."""
    check_compile(compile)
    solver = adapted(solvers.get(*solver_given))
    gradient = gradients.get(gradient).chosen(solver)
    if how["dense_output"]:
        solver.check_ours("Argument dense_output needs a solver of tf_neuralode.solvers.")
    conditions = Conditions(batch_ndims=checks.count("batch_ndims", batch_ndims))
    how |= {"solver": solver, "gradient": gradient, "conditions": conditions}

    def as_it_comes(**options: Any) -> Results:
        return solve_from(with_autograph(f, context), y0, t, params, **options)

    if compile and compiles_itself(solver, gradient, how["dense_output"]):
        arguments = (f, y0, t, params)
        return solve_compiled(solve_from, as_it_comes, arguments, compile is True, **how)
    return as_it_comes(**how)


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
    first_h: tf.Tensor | None = None,
    expects_backward: bool = True,
    times_are_constant: bool = False,
) -> Results:
    """As `odeint`, for the package itself.

    Args:
      f, y0, t, params, dense_output, backward_counter: As there.
      solver, gradient: Objects, the solver as `solvers.stock` adapts it.
      conditions: What else the solve is told.
      direction: 1 or -1 where it is known in which direction the times run.
      first_h: Size of the first step, 0 or `None` for "choose one".
      expects_backward: Whether a backward pass is to be expected in a graph, see `Problem`. Eagerly
        one is where a tape records.
      times_are_constant: Whether no gradient is wanted for times that are a tensor.
    """
    flat = FlatState(y0)
    check_batch_ndims(conditions.batch_ndims, tf.nest.flatten(flat.pack(flat.leaves)))
    conditions = conditions.but(pack=flat.pack_as_held).for_field(flat.field_precision)
    warn_of_tolerance(flat.field_precision, solver.tolerances, flat.time_dtype.name)
    times, clock, valid = output_times(t, flat.time_dtype, direction)
    if is_single := times.shape[0] == 1:
        times = (tf if tf.is_tensor(times) else np).repeat(times, 2)
    param_leaves, flat_f = _flatten_params(f, params, flat)
    spoilt = valid is not None and inside_xla()
    y0_leaves = [or_nan(valid, y) for y in flat.leaves] if spoilt else flat.leaves
    captures = captures_of(flat_f, tf.zeros([], flat.time_dtype), y0_leaves, param_leaves)
    if not captures.uses_time:
        conditions = conditions.but(autonomous=True)
    with_gradients_of_times: Callable[[State], State] = lambda rows: rows
    if tf.is_tensor(times) and times.dtype.is_floating and not times_are_constant:
        in_user_time = lambda t, y, p: flat_f(tf.cast(t, flat.time_dtype), y, p)
        y0_leaves, with_gradients_of_times = attach_times(
            in_user_time, captures, times, y0_leaves, param_leaves, gradient.keeps_activations
        )
        times = tf.stop_gradient(times)
    elapsed = clock.elapsed(times)
    problem = Problem(
        field=Field(clock.forwards(flat_f), param_leaves),
        times=elapsed,
        y0=y0_leaves,
        captures=captures,
        counter=_counter(backward_counter),
        solver=solver,
        conditions=conditions,
        flatten=flat.flatten,
        keep_steps=dense_output,
        first_h=first_h,
        expects_backward=may_be_recorded() if tf.executing_eagerly() else expects_backward,
    )
    solution = gradient.solve(problem)
    rows, steps = solution.rows, solution.steps
    dense = None if steps is None else DenseSolution.from_steps(steps, flat.pack, clock)
    if tf.is_tensor(times) or not np.all(np.diff(clock.elapsed_array(times))):
        rows = repeat_rows(rows, y0_leaves, elapsed)
    rows = with_gradients_of_times(rows)
    if is_single:
        times, rows = times[:1], [row[:1] for row in rows]
    times, diagnostics = tf.cast(times, clock.user_dtype), clock.report(solution.diagnostics)
    return Results(times, flat.pack(rows), diagnostics, dense)


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
