"""What `odeint` returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tf_neuralode.field import Clock, SampleClock
from tf_neuralode.methods import interpolation
from tf_neuralode.stepping import Diagnostics, StepHistory
from tf_neuralode.tensors import State, or_nan, quotient_or_zero


@dataclasses.dataclass(frozen=True)
class DenseSolution:
    """The solution at any time of the interval: `solution(t)`, or `solution.evaluate(t)`.

    Attributes:
      times: `(num_steps + 1,)`, ends of the accepted steps; `(num_steps + 1, batch)` where each
        sample has its own times. Under XLA there are `max_num_steps + 1` entries, the room behind
        the valid ones filled with the last.
      states: States there: each leaf `(num_steps + 1, *leaf.shape)`.
      num_accepted_steps: Number of valid steps.
    """

    times: tf.Tensor
    states: Any
    num_accepted_steps: tf.Tensor
    _steps: StepHistory
    _pack: Callable[[State], Any]
    _clock: Clock | SampleClock

    @classmethod
    def from_steps(
        cls, steps: StepHistory, pack: Callable[[State], Any], clock: Clock | SampleClock
    ) -> DenseSolution:
        """From the steps that a solve kept."""
        times = steps.times
        if clock.of_samples:
            times = times[:, tf.newaxis]
        times = clock.user_time(times)
        return cls(times, pack(steps.states), steps.num_accepted, steps, pack, clock)

    def seen_by(self, clock: Clock, change: Callable[[Any], Any]) -> DenseSolution:
        """The same in the time of `clock`, which this one's elapses of, with changed states."""
        return self.from_steps(self._steps, lambda state: change(self._pack(state)), clock)

    def __call__(self, t: Any) -> Any:
        """As `evaluate`."""
        return self.evaluate(t)

    def evaluate(self, t: Any) -> Any:
        """The state at the times `t`.

        NaN at times outside the interval that was solved. As in `odeint`, the initial time is
        subtracted in t's precision. Differentiable, also by t, if the solve was made with the
        gradient `"tape"`, the default, once, or with `gradients.Tape(checkpoint=False)`, to any
        order; the gradient through another raises `LookupError`.

        Args:
          t: A scalar or `(num,)`; where each sample has its own times a scalar or `(..., batch)`.

        Returns:
          Each leaf `(*t.shape, *leaf.shape)`; where each sample has its own times
          `(..., *leaf.shape)`, leaves that begin with the batch.
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
        dense = self._steps.dense
        if self._clock.of_samples:
            index, theta = (tf.reshape(x, tf.shape(t)) for x in (index, theta))
            return self._pack(interpolation.evaluate_samples(dense, index, theta))
        rows = [interpolation.evaluate_rows(tf.gather(leaf, index), theta) for leaf in dense]
        shape = lambda row: tf.concat([tf.shape(t), tf.shape(row)[1:]], axis=0)
        return self._pack([tf.reshape(row, shape(row)) for row in rows])


class Results(NamedTuple):
    """What `odeint` returns.

    Attributes:
      times: `(num_times,)`, or `(num_times, batch)`, the output times, in the wider of their own
        dtype and the state's (float64 for integers and Python's numbers), as are all times that
        are returned.
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
