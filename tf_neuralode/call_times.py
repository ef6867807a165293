"""The times that a layer is called with: shared by the batch, or those of each sample."""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tf_neuralode.times import checked


class CallTimes(NamedTuple):
    """Output times behind the initial one.

    Attributes:
      knots: Initial time and output times: `(num_times + 1,)` if the batch shares them, otherwise
        `(num_times + 1, batch)`.
      in_order: `(batch,)`, whether a sample's times are finite and in the direction of `t_span`;
        `None` if that is known.
    """

    knots: np.ndarray | tf.Tensor
    in_order: tf.Tensor | None = None

    @property
    def are_shared(self) -> bool:
        """Whether all samples have the same times."""
        return len(self.knots.shape) == 1


def call_times(times, mask, y0: tf.Tensor, t_span: tuple[float, float], strict: bool) -> CallTimes:
    """The arguments `times` and `mask` of a layer as `CallTimes`.

    Args:
      times: `(num_times,)` or `(batch, num_times)`.
      mask: `(batch, num_times)`, or `None`; where false, the time is that before it.
      y0: The state.
      t_span: The layer's.
      strict: Whether times of a sample out of order are an error; `in_order` says so in any case.

    Raises:
      TypeError, ValueError: for shapes and dtypes that don't fit, and values where they are known.
      tf.errors.InvalidArgumentError: for values at run time; not under XLA.
    """
    received, dtype = times, y0.dtype
    times = tf.convert_to_tensor(times)
    if not (times.dtype.is_floating or times.dtype.is_integer):
        raise TypeError(f"Argument times must hold numbers. Received: dtype {times.dtype.name}")
    times = tf.cast(times, dtype)
    mask = None if mask is None else tf.cast(mask, tf.bool)
    t0 = tf.constant(t_span[0], dtype)
    direction = tf.constant(1.0 if t_span[1] > t_span[0] else -1.0, dtype)
    if times.shape.rank == 1 and mask is not None:
        times = tf.broadcast_to(times, tf.shape(mask))
    if times.shape.rank == 1:
        steps = direction * (times - tf.concat([t0[tf.newaxis], times[:-1]], axis=0))
        in_order = tf.reduce_all(steps[1:] > 0) & (steps[0] >= 0) & tf.math.is_finite(times[-1])
        message = (
            "Argument times must be strictly monotone in the direction of t_span, and begin at "
            "t_span[0] or behind it. Sort times and drop repeated ones; times of each sample, "
            "(batch, num_times), may repeat."
        )
        times = checked(times, in_order, message, f"times={received}, t_span={t_span}", times)
        return CallTimes(
            tf.concat([t0[tf.newaxis], times], axis=0), tf.fill(tf.shape(y0)[:1], in_order)
        )
    if mask is not None:
        times = fill_masked(times, mask, t0)
    num_rows = tf.shape(times)[0]
    knots = tf.transpose(tf.concat([tf.fill([num_rows, 1], t0), times], axis=1))
    steps = direction * (knots[1:] - knots[:-1])
    in_order = tf.reduce_all(steps >= 0, axis=0) & tf.math.is_finite(knots[-1])
    message = (
        "Argument times must be monotone in the direction of t_span for each sample, and begin at "
        "t_span[0] or behind it. Sort each sample's times, and mask those that are padding."
    )
    if strict:
        knots = checked(
            knots, tf.reduce_all(in_order), message, f"times={received}, t_span={t_span}", times
        )
    return CallTimes(knots, in_order)


def fill_masked(times: tf.Tensor, mask: tf.Tensor, t0: tf.Tensor) -> tf.Tensor:
    """`times` `(batch, num_times)` with the last valid time, or `t0`, where `mask` is false."""
    index = tf.range(tf.shape(times)[1])
    # The valid ones moved to the front, in their order: the n-th of them is there when n are past.
    order = tf.argsort(tf.where(mask, index, index + tf.shape(times)[1]), axis=1)
    valid = tf.gather(times, order, batch_dims=1)
    valid = tf.concat([tf.fill([tf.shape(times)[0], 1], t0), valid], axis=1)
    num_past = tf.cumsum(tf.cast(mask, tf.int32), axis=1)
    return tf.ensure_shape(tf.gather(valid, num_past, batch_dims=1), times.shape)


def check_shapes(times: tuple, mask: tuple | None) -> None:
    """Raises ValueError unless the shapes of the arguments `times` and `mask` fit."""
    if len(times) not in (1, 2) or times[-1] == 0:
        raise ValueError(
            "Argument times must have the shape (num_times,), shared by the batch, or "
            f"(batch, num_times), with at least one time. Received: times of shape {times}"
        )
    if mask is None:
        return
    pairs = zip(reversed(mask), reversed(times), strict=False)
    if len(mask) != 2 or any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise ValueError(
            "Argument mask must have the shape (batch, num_times). "
            f"Received: mask of shape {mask}, times of shape {times}"
        )


def check_call(name: str, y0, times, mask, t_eval) -> None:
    """Raises ValueError or TypeError unless a layer's arguments, tensors or specs, fit."""
    if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(y0.dtype)):
        raise TypeError(
            f"The input of layer {name!r} (NeuralODE) must be floating point. Cast it, for "
            f"example with keras.ops.cast(x, 'float32'). Received: dtype {y0.dtype}"
        )
    if times is None:
        return
    check_shapes(tuple(times.shape), None if mask is None else tuple(mask.shape))
    if t_eval is not None:
        raise ValueError(
            f"Layer {name!r} (NeuralODE) has t_eval, so it can't be called with times. Use one of "
            f"the two. Received: t_eval={t_eval}, times={times}"
        )
    if len(times.shape) == 2 and None not in (batches := (y0.shape[0], times.shape[0])):
        if batches[0] != batches[1]:
            raise ValueError(
                "Argument times must have a row for each sample, (batch, num_times). Received: "
                f"times of shape {tuple(times.shape)}, y0 of shape {tuple(y0.shape)}"
            )
