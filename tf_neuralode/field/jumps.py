"""Times at which a field jumps: ends of steps, where its slope is taken afresh."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tf_neuralode.field.clock import Clock
from tf_neuralode.field.refusal import refusing_gradients
from tf_neuralode.field.sample_clock import SampleClock
from tf_neuralode.field.times import as_times, checked


def jumps_between(
    jump_times: Any, clock: Clock | SampleClock, times: Any, differentiable: bool
) -> tf.Tensor:
    """The argument `jump_times` of `odeint` in the solve's time; those outside of it never come.

    Args:
      jump_times: `(num_jumps,)`, in any order.
      clock: Of the solve, whose times are shared.
      times: First and last of them are the solve's ends.
      differentiable: Whether there are gradients for them, if they are a tensor.

    Raises:
      TypeError, ValueError: for another shape or dtype, times that aren't finite, and times of each
        sample.
      tf.errors.InvalidArgumentError: for values at run time; not under XLA, where the jumps, and so
        the solution, are NaN.
    """
    given = tf.convert_to_tensor(as_times(jump_times))
    received = lambda: f"Received: jump_times={jump_times}"
    if not (given.dtype.is_floating or given.dtype.is_integer):
        raise TypeError(f"Argument jump_times must hold real numbers. {received()}")
    if given.shape.rank != 1:
        raise ValueError(f"Argument jump_times must be one-dimensional. {received()}")
    if isinstance(clock, SampleClock):
        raise ValueError(
            "Argument jump_times needs times that the batch shares, t of shape (num_times,): those "
            f"of each sample pass a jump at different steps. {received()}"
        )
    jumps = clock.elapsed(given)
    is_finite = tf.math.is_finite(jumps)
    message = "Argument jump_times must be finite."
    jumps = checked(jumps, tf.reduce_all(is_finite), message, received, given)
    if not differentiable:
        message = (
            "gradient='adjoint' is TFP's own, which has no gradient of jump_times. Take another, "
            "'tape' for example, or pass them through tf.stop_gradient"
        )
        # f doesn't read them: TFP's gradient would be 0.
        (jumps,) = refusing_gradients([jumps], (), NotImplementedError, message, False)
    passed = (jumps > 0) & (jumps < clock.elapsed(times[-1]))
    never = tf.constant(jumps.dtype.max, jumps.dtype)
    return tf.where(passed, jumps, tf.where(is_finite, never, jumps))
