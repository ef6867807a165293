"""One solve for a batch, as the layer needs it: bad samples set aside, variables' new values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_neuralode.field import FieldPrecision, as_constant
from tf_neuralode.layers.call_times import CallTimes
from tf_neuralode.layers.dynamics import Dynamics
from tf_neuralode.layers.sample_times import solve_at_sample_times
from tf_neuralode.layers.samples import GoodSamples
from tf_neuralode.odeint import solve_from
from tf_neuralode.regularizers import Regularizer, with_cost
from tf_neuralode.results import Results
from tf_neuralode.stepping import Conditions, Diagnostics
from tf_neuralode.stepping import status as status_codes
from tf_neuralode.tensors import or_nan


class BatchSolution(NamedTuple):
    """What a layer gets of a solve.

    Attributes:
      rows: `(num_times + 1, batch, ...)`, the initial state and those at the output times.
      good: `(batch,)`, boolean: the samples that were good on entry.
      diagnostics: Of the solve.
      changed: New values of the dynamics' variables, see `Dynamics.updates`.
      cost: What the regularizers add to the loss, a scalar.
    """

    rows: tf.Tensor
    good: tf.Tensor
    diagnostics: Diagnostics
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
    field: FieldPrecision,
    regularizers: Sequence[Regularizer] = (),
    backward_counter: tf.Tensor | None = None,
    keep_last: bool = False,
    expects_backward: bool = True,
) -> BatchSolution:
    """Solves from `y0` through `times`.

    Args:
      dynamics: The field.
      y0: `(batch, ...)`.
      times: Initial and output times.
      params, constants: What `dynamics` reads, see there.
      solver: As `solvers.stock` adapts it.
      gradient: One of `tf_neuralode.gradients`.
      field: In which precision the dynamics computes.
      noise: Like `y0`, for the regularizers.
      mask: Of the state, boolean, with the first axes of `y0`.
      regularizers: Of the trajectory; in training their costs are added up.
      backward_counter: As in `odeint`.
      keep_last: Whether a solve that fails ends where it got to, and the rows behind repeat the
        state there, with its gradient. A first solve finds that out. Needs adaptive steps of ours.
      expects_backward: Whether a backward pass is to be expected, see `Problem`.
    """
    samples = GoodSamples(y0, times.in_order, mask)
    dynamics = dynamics.with_mask(samples.state_mask)
    constants = [as_constant(x) for x in constants]
    clock = times.clock(y0.dtype)
    f: Callable[..., Any] = clock.forwards(lambda t, y, params: dynamics(t, y, params, constants))
    conditions = Conditions(batch_ndims=1, autonomous=not dynamics.time_dependent, field=field)
    start = samples.y
    if dynamics.training and regularizers:
        f = with_cost(f, regularizers, noise)
        start = (start, tf.zeros_like(start[(slice(None), *[0] * (start.shape.rank - 1))]))
        conditions = conditions.beside_cost()
    knots = times.knots
    if not times.are_shared:
        knots = samples.without_bad(knots, batch_axis=1)
    how = {"solver": solver, "gradient": gradient}
    if times.are_shared:
        how["expects_backward"] = expects_backward
    solve = functools.partial(_solve, f, conditions, samples, times, how)
    if keep_last:
        results = _solve_as_far_as_possible(solve, start, knots, params, backward_counter)
    else:
        results = solve(start, knots, params, backward_counter)
    states, *costs = tf.nest.flatten(results.states)
    ends = ((clock.time(knots[0]), samples.y), (clock.time(knots[-1]), states[-1]))
    success = tf.equal(results.diagnostics.status, status_codes.SUCCESS)
    all_good = tf.reduce_all(samples.good)
    changed = dynamics.updates(ends, params, constants, success, all_good)
    if dynamics.takes_statistics(changed):
        # So the stand-ins for bad samples moved the good ones.
        spoil = lambda x: or_nan(all_good, x)
        states, costs = spoil(states), [spoil(cost) for cost in costs]
    furthest = tf.reduce_max(results.diagnostics.final_time)
    diagnostics = results.diagnostics._replace(final_time=clock.user_time(furthest))
    return BatchSolution(
        rows=samples.mask(states, batch_axis=1),
        good=samples.good,
        diagnostics=diagnostics,
        changed=changed,
        cost=samples.mean(costs[0][-1]) if costs else tf.zeros([], y0.dtype),
    )


def _solve(
    f: Callable[..., Any],
    conditions: Conditions,
    samples: GoodSamples,
    times: CallTimes,
    how: dict[str, Any],
    start: Any,
    knots: Any,
    params: list[tf.Tensor],
    counter: tf.Tensor | None,
) -> Results:
    how = {**how, "backward_counter": counter}
    if not times.are_shared:
        conditions_of = lambda moving: conditions.but(among=samples.among(moving))
        return solve_at_sample_times(f, start, knots, params, conditions_of, **how)
    conditions = conditions.but(among=samples.among())
    return solve_from(f, start, knots, params, conditions=conditions, direction=1.0, **how)


def _solve_as_far_as_possible(
    solve: Callable[..., Results],
    start: Any,
    knots: Any,
    params: list[tf.Tensor],
    counter: tf.Tensor | None,
) -> Results:
    """A first solve finds out how far that is; the second ends there. Evaluations of both."""
    constant = lambda xs: tf.nest.map_structure(tf.stop_gradient, xs)
    first = solve(constant(start), constant(knots), constant(params), None).diagnostics
    results = solve(start, _cut(knots, first.final_time), params, counter)
    num = first.num_ode_fn_evaluations + results.diagnostics.num_ode_fn_evaluations
    return results._replace(diagnostics=first._replace(num_ode_fn_evaluations=num))


def _cut(knots: Any, reached: tf.Tensor) -> tf.Tensor:
    """`knots`, those behind the time that was reached, a scalar or `(batch,)`, moved there."""
    knots = tf.convert_to_tensor(knots)
    return tf.minimum(knots, tf.stop_gradient(tf.cast(reached, knots.dtype)))
