"""One solve for a batch, as the layer needs it: bad samples set aside, variables' new values."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_neuralode.field import Clock, FieldPrecision, as_constant
from tf_neuralode.layers.call_times import CallTimes
from tf_neuralode.layers.dynamics import Dynamics
from tf_neuralode.layers.inputs import Breaks, Inputs, InputsAt, SolveInputs
from tf_neuralode.layers.samples import GoodSamples
from tf_neuralode.regularizers import Regularizer, with_cost
from tf_neuralode.results import DenseSolution, Results
from tf_neuralode.solve import solve_from
from tf_neuralode.stepping import Conditions, Diagnostics
from tf_neuralode.stepping import status as status_codes
from tf_neuralode.tensors import or_nan


class BatchSolution(NamedTuple):
    """What a layer gets of a solve.

    Attributes:
      rows: `(num_times + 1, batch, ...)`, the initial state and those at the output times; of a
        layer's solve what the layer returns.
      good: `(batch,)`, boolean: the samples that were good on entry.
      diagnostics: Of the solve.
      changed: New values of the dynamics' variables, see `Dynamics.updates`.
      cost: What the regularizers add to the loss, a scalar.
      solution: The dense one, if it is wanted.
    """

    rows: tf.Tensor
    good: tf.Tensor
    diagnostics: Diagnostics
    changed: dict[int, tf.Tensor]
    cost: tf.Tensor
    solution: DenseSolution | None = None


class Settings(NamedTuple):
    """What a layer's solves have in common.

    Attributes:
      solver: As `solvers.stock` adapts it.
      gradient: One of `tf_neuralode.gradients`.
      precision: In which the dynamics computes.
      control: How a control is interpolated; `None` if there is none.
      of_rate: Whether the dynamics gets its derivative, as that of a controlled equation does.
      regularizers: Of the trajectory; in training their costs are added up.
      on_failure: As in `NeuralODE`. With `"last"` a solve that fails ends where it got to, and the
        rows behind repeat the state there, with its gradient; a first solve finds that out. With
        `"raise"` inputs and times that don't fit are an error.
    """

    solver: Any
    gradient: Any
    precision: FieldPrecision
    control: str | None
    of_rate: bool
    regularizers: Sequence[Regularizer]
    on_failure: str


@dataclasses.dataclass(frozen=True)
class _Field:
    """The dynamics in the time elapsed, a function of `(params, tensors)`, see `SolveInputs.at`."""

    dynamics: Dynamics
    clock: Clock
    constants: list[tf.Tensor]
    further: InputsAt

    def at(self, elapsed: tf.Tensor, tensors: list[tf.Tensor]) -> tuple[tf.Tensor, list[Any]]:
        """The user's time, and the inputs there."""
        return self.clock.time(elapsed), self.further(self.clock.signed(elapsed), tensors)

    def __call__(self, elapsed: tf.Tensor, y: tf.Tensor, values: Any) -> tf.Tensor:
        params, tensors = values
        t, inputs = self.at(elapsed, tensors)
        return self.clock.signed(self.dynamics(t, y, params, self.constants, inputs))

    def updates(
        self,
        ends: Sequence[tuple[tf.Tensor, tf.Tensor]],
        params: list[tf.Tensor],
        tensors: list[tf.Tensor],
        success: tf.Tensor,
        all_good: tf.Tensor,
    ) -> dict[int, tf.Tensor]:
        """As `Dynamics.updates`, where `ends` are times elapsed and states."""
        if not self.dynamics.writes:
            return {}
        given = [(y, *self.at(t, tensors)) for t, y in ends]
        return self.dynamics.updates(given, params, self.constants, success, all_good)


def solve_batch(
    settings: Settings,
    dynamics: Dynamics,
    y0: tf.Tensor,
    times: CallTimes,
    inputs: Inputs,
    params: list[tf.Tensor],
    constants: list[tf.Tensor],
    noise: tf.Tensor | None,
    counter: tf.Tensor | None,
    mask: tf.Tensor | None,
    expects_backward: bool,
    wanted: Sequence[str],
    dense_output: bool = False,
) -> BatchSolution:
    """Solves from `y0` through `times`.

    Args:
      settings: Of the layer.
      dynamics: The field.
      y0: `(batch, ...)`.
      times: Initial and output times.
      inputs: What the dynamics gets besides.
      params, constants: What `dynamics` reads, see there.
      noise: Like `y0`, for the regularizers.
      counter: `backward_counter`, as in `odeint`.
      mask: Of the state, boolean, with the first axes of `y0`.
      expects_backward: Whether a backward pass is to be expected, see `Problem`.
      wanted: Which of `"times"` and `"inputs"` gradients may be asked for.
      dense_output: Whether the dense solution is wanted, of times that the batch shares.
    """
    given = SolveInputs(inputs, settings, times, y0.dtype)
    samples = GoodSamples(y0, [times.in_order, given.usable], mask)
    times = times.without_bad(samples)
    clock = times.clock(y0.dtype)
    dynamics = dynamics.with_mask(samples.state_mask)
    constants = [as_constant(x) for x in constants]
    given = given.without_bad(samples)
    breaks = given.breaks(times, settings.solver, "inputs" in wanted)
    tensors, further = given.at("inputs" in wanted, breaks)
    field = _Field(dynamics, clock, constants, further)
    f, start, conditions = _with_cost(field, samples, breaks, settings, noise)
    solve = functools.partial(
        solve_from,
        f,
        solver=settings.solver,
        gradient=settings.gradient,
        conditions=conditions,
        are_elapsed=True,
        expects_backward=expects_backward,
        times_are_constant="times" not in wanted,
        moving=times.moving if "times" in wanted else None,
        jump_times=breaks.jumps,
        dense_output=dense_output,
    )
    how = _solve_as_far_as_possible if settings.on_failure == "last" else _solve_once
    results = how(solve, start, times.knots, (params, tensors), counter)
    states, *costs = tf.nest.flatten(results.states)
    ends = ((times.knots[0], samples.y), (times.knots[-1], states[-1]))
    success = tf.equal(results.diagnostics.status, status_codes.SUCCESS)
    changed = field.updates(ends, params, tensors, success, tf.reduce_all(samples.good))
    if dynamics.takes_statistics(changed):
        # So the stand-ins for bad samples moved the good ones.
        spoil = lambda x: or_nan(tf.reduce_all(samples.good), x)
        states, costs = spoil(states), [spoil(cost) for cost in costs]
    furthest = clock.user_time(tf.reduce_max(results.diagnostics.final_time))
    return BatchSolution(
        rows=samples.mask(states, batch_axis=1),
        good=samples.good,
        diagnostics=results.diagnostics._replace(final_time=furthest),
        changed=changed,
        cost=samples.mean(costs[0][-1]) if costs else tf.zeros([], y0.dtype),
        solution=results.solution and results.solution.seen_by(clock, samples.mask_last),
    )


def _with_cost(
    field: _Field,
    samples: GoodSamples,
    breaks: Breaks,
    settings: Settings,
    noise: tf.Tensor | None,
) -> tuple[Callable[..., Any], Any, Conditions]:
    """Field, initial state and conditions, of a state beside its cost if there is one."""
    y, dynamics = samples.y, field.dynamics
    conditions = Conditions(
        batch_ndims=1,
        among=samples.among(),
        autonomous=not dynamics.time_dependent and settings.control is None,
        field=settings.precision,
        limit=None if breaks.kinks is None else breaks.limit,
    )
    if not (dynamics.training and settings.regularizers):
        return field, y, conditions
    cost = tf.zeros_like(y[(slice(None), *[0] * (y.shape.rank - 1))])
    return with_cost(field, settings.regularizers, noise), (y, cost), conditions.beside_cost()


def _solve_once(
    solve: Callable[..., Results],
    start: Any,
    knots: Any,
    values: Any,
    counter: tf.Tensor | None,
) -> Results:
    return solve(start, knots, values, backward_counter=counter)


def _solve_as_far_as_possible(
    solve: Callable[..., Results],
    start: Any,
    knots: Any,
    values: Any,
    counter: tf.Tensor | None,
) -> Results:
    """A first solve finds out how far that is; the second ends there. Evaluations of both."""
    constant = lambda xs: tf.nest.map_structure(tf.stop_gradient, xs)
    first = solve(constant(start), constant(knots), constant(values)).diagnostics
    knots = _cut(knots, first.final_time)
    results = solve(start, knots, values, backward_counter=counter)
    num = first.num_ode_fn_evaluations + results.diagnostics.num_ode_fn_evaluations
    return results._replace(diagnostics=first._replace(num_ode_fn_evaluations=num))


def _cut(knots: Any, reached: tf.Tensor) -> tf.Tensor:
    """`knots`, those behind the time that was reached, a scalar or `(batch,)`, moved there."""
    knots = tf.convert_to_tensor(knots)
    return tf.minimum(knots, tf.stop_gradient(tf.cast(reached, knots.dtype)))
