"""The functional interface: dynamics, solver and gradient joined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import tensorflow as tf
import tensorflow_probability as tfp

from tf_neuralode import gradients, solvers
from tf_neuralode.eager import check_compile, compiles_itself, solve_compiled, with_autograph
from tf_neuralode.results import Results
from tf_neuralode.solve import solve_from
from tf_neuralode.solvers import checks
from tf_neuralode.solvers.stock import adapted
from tf_neuralode.stepping import Conditions


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
    jump_times: Any = None,
    compile: Literal["auto", True, False] = "auto",
) -> Results:
    """Solves dy/dt = f(t, y) or f(t, y, params) with y(t[0]) = y0.

    Args:
      f: Function of a scalar time (see `t`), a state like `y0` and, if `params` is given, `params`;
        returns the slope, like `y0`. It must be deterministic. Gradients are had for `y0`,
        `params`, and for the `tf.Variable`s and tensors that f closes over: f is traced once a
        solve to find
        them. Eagerly, if it can't be traced, a gradient that would get lost is a `ValueError`.
      y0: State at `t[0]`: a float or complex tensor of any shape, or a nest of them. Solved in at
        least float32; a tolerance that the dtype of y0, and so of f, can't resolve is a warning,
        and shortens no steps. Complex states have gradients, but not by `"adjoint"`, which is
        TFP's own.
      t: `(num_times,)`, output times, increasing or decreasing; the first is the initial time. With
        `batch_ndims=1` also `(num_times, batch)`, of each sample its own, from its own initial time
        on, whichever way; f then gets times `(batch,)`, and one solve serves them all, by dense
        output (with `"adjoint"` and stock solvers a step ends at each row). They may repeat, and so
        do their rows. If a floating-point tensor, it has gradients: those of the exact solution;
        second ones, too, with `gradients.Tape(checkpoint=False)` and shared times. It may have a
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
      jump_times: `(num_jumps,)`, times at which f jumps, in any order: ends of steps, at which f is
        evaluated on either side, never at the jump itself. If a floating-point tensor, it has
        gradients, but not by `"adjoint"`. Needs times that the batch shares, and an adaptive solver
        of this package.
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
        jump_times=jump_times,
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
    if how["jump_times"] is not None:
        _check_takes_jumps(solver)
    if how["dense_output"]:
        solver.check_ours("Argument dense_output needs a solver of tf_neuralode.solvers.")
    conditions = Conditions(batch_ndims=checks.count("batch_ndims", batch_ndims))
    how |= {"solver": solver, "gradient": gradient, "conditions": conditions}

    def as_it_comes(**options: Any) -> Results:
        return solve_from(with_autograph(f, context), y0, t, params, **options)

    returns_numbers = not how["dense_output"] and how["jump_times"] is None
    if compile and returns_numbers and compiles_itself(solver, gradient):
        arguments = (f, y0, t, params)
        return solve_compiled(solve_from, as_it_comes, arguments, compile is True, **how)
    return as_it_comes(**how)


def _check_takes_jumps(solver: Any) -> None:
    solver.check_ours("Argument jump_times needs a solver of tf_neuralode.solvers.")
    if not solver.is_adaptive:
        raise ValueError(
            "Argument jump_times needs an adaptive solver: equal steps end where they end. Solve "
            f"from jump to jump, or take another. Received: solver={solver!r}"
        )
