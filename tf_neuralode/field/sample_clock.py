"""The time of a solve in which each sample of a batch has times of its own.

Sample b goes from its own t_b0 to its own last time T_b while the solve's time u goes from 0 to 1:

    t_b = t_b0 + u (T_b - t_b0),   dy_b/du = (T_b - t_b0) f(t_b, y_b)

so that one solve serves all of them, however many output times there are, and whichever way each of
them runs. A sample whose times are one and the same rests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_neuralode.field.clock import Clock
from tf_neuralode.tensors import State, infinite_if, quotient_or_zero, scale


class SampleClock:
    """Answers what `Clock` answers, of times `(batch,)`.

    Args:
      clock: The time elapsed in each sample, not turned forwards.
      last: `(batch,)`, the last times.

    Attributes:
      lengths: `(batch,)`, how far each sample goes, in the dtype of the solve; signed, a constant
        of differentiation.
    """

    of_samples = True

    def __init__(self, clock: Clock, last: Any) -> None:
        self._clock = clock
        self.lengths = tf.stop_gradient(clock.elapsed(last))

    @property
    def user_dtype(self) -> tf.DType:
        """As of `Clock`."""
        return self._clock.user_dtype

    @property
    def moving(self) -> tf.Tensor:
        """`(batch,)`, boolean: which samples don't rest."""
        return tf.not_equal(self.lengths, 0)

    @property
    def longest(self) -> tf.Tensor:
        """How far the sample goes that goes furthest, a scalar; 0 for an empty batch."""
        return tf.maximum(tf.reduce_max(tf.abs(self.lengths)), tf.zeros([], self.lengths.dtype))

    def time(self, u: tf.Tensor) -> tf.Tensor:
        """The user's times `(batch,)` at `u`, a scalar or `(batch,)`, in the solve's dtype."""
        return self._clock.time(u * self.lengths)

    def user_time(self, u: tf.Tensor) -> tf.Tensor:
        """The user's times in `user_dtype`: `(batch,)`, or with further axes of `u` in front."""
        return self._clock.user_time(u * self.lengths)

    def forwards(self, f: Callable[..., State]) -> Callable[..., State]:
        """`f(t, y, ...)`, in the user's time, as a field in u."""

        def field(u: tf.Tensor, *arguments: Any) -> State:
            slope = f(self.time(u), *arguments)
            return tf.nest.map_structure(lambda k: scale(self.lengths, k), slope)

        return field

    def report(self, diagnostics: Any) -> Any:
        """`diagnostics` of a solve in u, with the user's final times."""
        return diagnostics._replace(final_time=self.user_time(diagnostics.final_time))

    def elapsed(self, times: Any) -> tf.Tensor:
        """The place u of the user's `times`, `(..., batch)`: exactly 0 and 1 at both ends.

        Infinite at other times than its own for a sample that rests.
        """
        elapsed = self._clock.elapsed(times)
        u = quotient_or_zero(elapsed, self.lengths)
        is_last = tf.equal(elapsed, self.lengths) & self.moving
        # A quotient may be rounded; it has a derivative here as well.
        u = tf.where(is_last, tf.ones_like(u) + (u - tf.stop_gradient(u)), u)
        return u + infinite_if(~self.moving & tf.not_equal(elapsed, 0), u.dtype)
