"""What `odeint` returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tf_neuralode.field import Clock
from tf_neuralode.methods import interpolation
from tf_neuralode.stepping import Diagnostics, StepHistory
from tf_neuralode.tensors import State, or_nan, quotient_or_zero


@dataclasses.dataclass(frozen=True)
class DenseSolution:
    """The solution at any time of the interval: `solution(t)`, or `solution.evaluate(t)`.

    Attributes:
      times: `(num_steps + 1,)`, ends of the accepted steps. Under XLA there are
        `max_num_steps + 1` entries, the room behind the valid ones filled with the last.
      states: States there: each leaf `(num_steps + 1, *leaf.shape)`.
      num_accepted_steps: Number of valid steps.
    """

    times: tf.Tensor
    states: Any
    num_accepted_steps: tf.Tensor
    _steps: StepHistory
    _pack: Callable[[State], Any]
    _clock: Clock

    @classmethod
    def from_steps(
        cls, steps: StepHistory, pack: Callable[[State], Any], clock: Clock
    ) -> DenseSolution:
        """From the steps that a solve kept."""
        times = clock.user_time(steps.times)
        return cls(times, pack(steps.states), steps.num_accepted, steps, pack, clock)

    def __call__(self, t: Any) -> Any:
        """As `evaluate`."""
        return self.evaluate(t)

    def evaluate(self, t: Any) -> Any:
        """The state at the times `t`, a scalar or `(num,)`: each leaf `(*t.shape, *leaf.shape)`.

        NaN at times outside the interval that was solved. As in `odeint`, the initial time is
        subtracted in t's precision. Differentiable, also by t, if the solve was made with
        `gradients.Tape(checkpoint=False)`; the gradient through another raises `LookupError`: ask
        for those times in `odeint`'s t instead.
        """
        t, times = self._clock.elapsed(t), self._steps.times
        flat = tf.reshape(t, [-1])
        first, last = times[0], tf.gather(times, self.num_accepted_steps)
        index = tf.searchsorted(times[1:], flat)
        index = tf.clip_by_value(index, 0, tf.maximum(self.num_accepted_steps - 1, 0))
        # A solve without a step has one time, and here a step of no length.
        next_index = tf.minimum(index + 1, self.num_accepted_steps)
        start, end = tf.gather(times, index), tf.gather(times, next_index)
        theta = quotient_or_zero(flat - start, end - start)
        inside = (flat >= first) & (flat <= last)
        theta = or_nan(inside, theta)
        rows = []
        for leaf in self._steps.dense:
            chosen = tf.gather(leaf, index)
            row = interpolation.evaluate_rows(chosen, theta)
            rows.append(tf.reshape(row, tf.concat([tf.shape(t), tf.shape(row)[1:]], axis=0)))
        return self._pack(rows)


class Results(NamedTuple):
    """What `odeint` returns.

    Attributes:
      times: `(num_times,)`, the output times, in the wider of their own dtype and the state's
        (float64 for integers and Python's numbers), as are all times that are returned.
      states: State at each of them: each leaf `(num_times, *leaf.shape)`; NaN where the solve
        didn't get to.
      diagnostics: `solvers.Diagnostics`: `num_ode_fn_evaluations`, `num_accepted_steps`,
        `num_rejected_steps`, `final_time`, `status`, `success`. Of a stock TFP solver the counts of
        steps are -1: it doesn't tell.
      solution: `DenseSolution` with `dense_output=True`, otherwise `None`.
    """

    times: tf.Tensor
    states: Any
    diagnostics: Diagnostics
    solution: DenseSolution | None = None
