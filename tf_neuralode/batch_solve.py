"""One solve for a batch, as the layer needs it: bad samples set aside, variables' new values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_neuralode.call_times import CallTimes
from tf_neuralode.dynamics import Dynamics
from tf_neuralode.gradients.captures import as_constant
from tf_neuralode.not_finite import nan_unless
from tf_neuralode.odeint import odeint
from tf_neuralode.regularizers import Regularizer, with_cost
from tf_neuralode.results import Results
from tf_neuralode.sample_times import solve_at_sample_times
from tf_neuralode.samples import FiniteSamples
from tf_neuralode.solvers import AdaptiveRungeKutta, Diagnostics
from tf_neuralode.solvers import status as status_codes
from tf_neuralode.solvers.solver import RungeKutta


class BatchSolution(NamedTuple):
    """What a layer gets of a solve.

    Attributes:
      rows: `(num_times + 1, batch, ...)`, the initial state and those at the output times.
      finite: `(batch,)`, which samples were good on entry.
      diagnostics: Of the solve.
      changed: New values of the dynamics' variables, see `Dynamics.updates`.
      cost: What the regularizers add to the loss, a scalar.
    """

    rows: tf.Tensor
    finite: tf.Tensor
    diagnostics: Any
    changed: dict[int, tf.Tensor]
    cost: tf.Tensor


def solve_batch(
    dynamics: Dynamics,
    y0: tf.Tensor,
    times: CallTimes,
    params: list[tf.Tensor],
    constants: list[tf.Tensor],
    noise: tf.Tensor | None = None,
    mask: tf.Tensor | None = None,
    *,
    solver,
    gradient,
    training: bool,
    regularizers: Sequence[Regularizer] = (),
    direction: float = 1.0,
    backward_counter: tf.Tensor | None = None,
    keep_last: bool = False,
) -> BatchSolution:
    """Solves from `y0` through `times`.

    Args:
      dynamics: The field.
      y0: `(batch, ...)`.
      times: Initial and output times.
      params, constants: What `dynamics` reads, see there.
      solver: Any `tfp.math.ode.Solver`.
      gradient: One of `tf_neuralode.gradients`.
      noise: Like `y0`, for the regularizers.
      mask: Of the state, boolean, with the first axes of `y0`.
      training: Whether the regularizers' costs are to be added up.
      regularizers: Of the trajectory.
      direction: 1 if time runs forwards, -1 if it runs backwards.
      backward_counter: As in `odeint`.
      keep_last: Whether a solve that fails ends where it got to, and the rows behind repeat the
        state there, with its gradient. A first solve finds that out. Needs adaptive steps of ours.
    """
    samples = FiniteSamples(y0, times.in_order, mask)
    dynamics = dynamics.with_mask(samples.state_mask)
    constants = [as_constant(x) for x in constants]
    clock = times.clock(y0.dtype)
    f = lambda t, y, params: dynamics(clock.time(t), y, params, constants)
    if isinstance(solver, RungeKutta) and not dynamics.time_dependent:
        solver = solver.for_autonomous_fields()
    start = samples.y
    if training and regularizers:
        f = with_cost(f, regularizers, noise, direction)
        start = (start, tf.zeros_like(start[(slice(None), *[0] * (start.shape.rank - 1))]))
        solver = _of_state_alone(solver)
    knots = times.knots
    if not times.are_shared:
        knots = samples.without_bad(knots, batch_axis=1)

    def solve(start: Any, knots: Any, params: list[tf.Tensor], counter: Any) -> Results:
        if times.are_shared:
            return odeint(
                f,
                start,
                knots,
                params,
                solver=samples.restrict(solver),
                gradient=gradient,
                backward_counter=counter,
                batch_ndims=1,
            )
        solver_of = lambda moving: samples.restrict(solver, moving)
        return solve_at_sample_times(f, start, knots, params, solver_of, gradient, counter)

    first = None
    if keep_last:
        constant = lambda xs: tf.nest.map_structure(tf.stop_gradient, xs)
        first = solve(constant(start), constant(knots), constant(params), None).diagnostics
        knots = _cut(knots, first.final_time, direction)
    results = solve(start, knots, params, backward_counter)
    if first is not None:
        results = results._replace(diagnostics=_after(first, results.diagnostics))
    states, *costs = tf.nest.flatten(results.states)
    ends = ((clock.time(knots[0]), samples.y), (clock.time(knots[-1]), states[-1]))
    success = tf.equal(results.diagnostics.status, status_codes.SUCCESS)
    all_good = tf.reduce_all(samples.finite)
    changed = dynamics.updates(ends, params, constants, success, all_good)
    if dynamics.takes_statistics(changed):
        # So the stand-ins for bad samples moved the good ones.
        spoil = lambda x: tf.where(all_good, x, nan_unless(all_good, x.dtype))
        states, costs = spoil(states), [spoil(cost) for cost in costs]
    diagnostics = results.diagnostics
    if not times.are_shared:
        furthest = tf.reduce_max if direction > 0 else tf.reduce_min
        diagnostics = diagnostics._replace(final_time=furthest(diagnostics.final_time))
    if isinstance(diagnostics, Diagnostics) and times.origin:
        diagnostics = diagnostics._replace(final_time=clock.user_time(diagnostics.final_time))
    return BatchSolution(
        rows=samples.mask(states, batch_axis=1),
        finite=samples.finite,
        diagnostics=diagnostics,
        changed=changed,
        cost=samples.mean(costs[0][-1]) if costs else tf.zeros([], y0.dtype),
    )


def _cut(knots: Any, reached: tf.Tensor, direction: float) -> tf.Tensor:
    """`knots`, those behind the time that was reached, a scalar or `(batch,)`, moved there."""
    knots = tf.convert_to_tensor(knots)
    reached = tf.stop_gradient(tf.cast(reached, knots.dtype))
    return tf.minimum(knots, reached) if direction > 0 else tf.maximum(knots, reached)


def _after(first: Diagnostics, second: Diagnostics) -> Diagnostics:
    """Of a first solve, and of the second, which goes as far: the evaluations of both."""
    num = first.num_ode_fn_evaluations + second.num_ode_fn_evaluations
    return first._replace(num_ode_fn_evaluations=num)


def _of_state_alone(solver):
    """`solver` for states `(y, cost)`: its norm is y's, its tolerances may be arrays that fit y."""
    if not isinstance(solver, AdaptiveRungeKutta):
        return solver
    config = {name: getattr(solver, f"_{name}") for name in ("rtol", "atol")}
    # The cost doesn't count in the error norm, so any number will do.
    tolerances = {name: (value, 1.0) for name, value in config.items()}
    return solver.copy(counted_parts=lambda state: [state[0]], **tolerances)
