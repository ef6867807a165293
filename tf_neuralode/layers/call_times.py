"""The times that a layer is called with: shared by the batch, or those of each sample."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tf_neuralode.field import Clock, checked, is_resolved, unresolved

# `fit` rounds float64 arrays to float32, and a functional model makes float64 of them again. From
# here on float32 has multiples of 16 only. Times as people take them (seconds, minutes, hours) have
# such a factor only if they are far enough apart to be resolved in float32 all the same.
_FAR = 2.0**27


class CallTimes(NamedTuple):
    """Output times behind the initial one.

    Attributes:
      knots: Times that have elapsed since the initial one, which is the first of them, in the
        state's dtype: `(num_times + 1,)` if the batch shares them, otherwise
        `(num_times + 1, batch)`.
      origin: The initial time.
      direction: 1 if the user's time runs forwards, -1 if it runs backwards.
      last: The last time, where it is known.
      in_order: `(batch,)`, whether a sample's times are finite and in the direction of `t_span`;
        `None` if that is known.
    """

    knots: np.ndarray | tf.Tensor
    origin: float
    direction: float
    last: float | None = None
    in_order: tf.Tensor | None = None

    def clock(self, dtype: tf.DType) -> Clock:
        """Gives the user's time to the time elapsed, in the state's dtype."""
        last = None if self.last is None else np.float64(self.last)
        return Clock(np.float64(self.origin), dtype, last, self.direction)

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
    times = tf.convert_to_tensor(times)
    own = times.dtype
    if not (own.is_floating or own.is_integer):
        raise TypeError(f"Argument times must hold numbers. Received: dtype {own.name}")
    received = lambda: f"Received: times={times}, t_span={t_span}"
    # The initial time as the times' dtype knows it: they may be equal.
    origin = float(own.as_numpy_dtype(t_span[0])) if own.is_floating else t_span[0]
    direction = 1.0 if t_span[1] > t_span[0] else -1.0
    elapsed = Clock(np.float64(origin), y0.dtype, direction=direction).elapsed(times)
    mask = None if mask is None else tf.cast(mask, tf.bool)
    if times.shape.rank == 1 and mask is not None:
        elapsed = tf.broadcast_to(elapsed, tf.shape(mask))
    if elapsed.shape.rank == 1:
        knots = tf.concat([tf.zeros([1], y0.dtype), elapsed], axis=0)
        steps = knots[1:] - knots[:-1]
        in_order = tf.reduce_all(steps >= 0) & tf.math.is_finite(knots[-1])
        message = (
            "Argument times must be monotone in the direction of t_span, and begin at t_span[0] or "
            "behind it. Sort times."
        )
        knots = checked(knots, in_order, message, received, times)
        resolved = _resolved(knots[-1], tf.size(elapsed), origin, own)
        knots = checked(knots, resolved, unresolved("Argument times", own), received, times)
        return CallTimes(
            knots, origin, direction, in_order=tf.fill(tf.shape(y0)[:1], in_order & resolved)
        )
    if mask is not None:
        elapsed = fill_masked(elapsed, mask)
    knots = tf.transpose(tf.pad(elapsed, [[0, 0], [1, 0]]))
    steps = knots[1:] - knots[:-1]
    in_order = tf.reduce_all(steps >= 0, axis=0) & tf.math.is_finite(knots[-1])
    message = (
        "Argument times must be monotone in the direction of t_span for each sample, and begin at "
        "t_span[0] or behind it. Sort each sample's times, and mask those that are padding."
    )
    if strict:
        knots = checked(knots, tf.reduce_all(in_order), message, received, times)
    last = tf.where(in_order, knots[-1], tf.zeros_like(knots[-1]))
    valid = tf.ones_like(elapsed, tf.bool) if mask is None else mask
    num = tf.math.count_nonzero(valid & in_order[:, tf.newaxis], dtype=tf.int32)
    resolved = _resolved(last, num, origin, own)
    if own == tf.float64 and abs(origin) >= _FAR:
        own = tf.float32
        resolved = ~_went_through_float32(times) | _resolved(last, num, origin, own)
    knots = checked(knots, resolved, unresolved("Argument times", own), received, times)
    return CallTimes(knots, origin, direction, in_order=in_order & resolved)


def _went_through_float32(times: tf.Tensor) -> tf.Tensor:
    """Whether float64 `times` are all of them such as float32 holds, of a common factor of 16."""
    return tf.reduce_all(tf.equal(tf.cast(tf.cast(times, tf.float32), times.dtype), times))


def _resolved(last: tf.Tensor, num: tf.Tensor, origin: float, dtype: tf.DType) -> tf.Tensor:
    """`is_resolved` of `num` times up to `last`, of all samples together.

    Together, since one that rests, or that wants the state just behind the start, says nothing.
    """
    return is_resolved(tf.reduce_sum(tf.abs(last)), num, origin, dtype)


def fill_masked(times: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """`times` `(batch, num_times)` with the last valid time, or 0, where `mask` is false."""
    index = tf.range(tf.shape(times)[1])
    # The valid ones moved to the front, in their order: the n-th of them is there when n are past.
    order = tf.argsort(tf.where(mask, index, index + tf.shape(times)[1]), axis=1)
    valid = tf.gather(times, order, batch_dims=1)
    valid = tf.pad(valid, [[0, 0], [1, 0]])
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


def as_tensor_like(name: str, value: Any) -> Any:
    """The argument of a call, numbers and (nested) lists of them as an array; else as it is."""
    _check_dense(name, value)
    if not isinstance(value, list | tuple | bool | int | float):
        return value
    if any(tf.is_tensor(x) for x in tf.nest.flatten(value)):
        return tf.convert_to_tensor(value)
    try:
        array = np.array(value)
    except ValueError:  # rows of different lengths
        array = np.array(None)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"Argument {name} must hold numbers. Received: {name}={value!r}")
    return array


def _check_dense(name: str, value: Any) -> None:
    if isinstance(value, tf.RaggedTensor):
        raise TypeError(
            f"Argument {name} must be a dense tensor. Pad it, {name}.to_tensor(), and say by mask "
            f"which entries count. Received: a RaggedTensor of shape {value.shape}"
        )


def check_call(name: str, y0, times, mask, t_eval) -> None:
    """Raises ValueError or TypeError unless a layer's arguments, tensors or specs, fit."""
    _check_dense("y0", y0)
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


def check_state_mask(name: str, y0, y0_mask) -> None:
    """Raises ValueError unless the mask has the first axes of the state."""
    if y0_mask is None:
        return
    mask, state = tuple(y0_mask.shape), tuple(y0.shape)
    pairs = zip(mask, state, strict=False)
    if not 1 <= len(mask) <= len(state) or any(
        None not in pair and pair[0] != pair[1] for pair in pairs
    ):
        raise ValueError(
            f"The mask of the state of layer {name!r} (NeuralODE) must have the state's first "
            "axes, for example (batch, steps) for (batch, steps, features). "
            f"Received: mask of shape {mask}, state of shape {state}"
        )
