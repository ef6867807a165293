"""The times that a layer is called with: shared by the batch, or those of each sample."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_neuralode.field import Clock, checked, is_resolved, unresolved
from tf_neuralode.layers.samples import GoodSamples

# `fit` rounds float64 arrays to float32, and a functional model makes float64 of them again. From
# here on float32 has multiples of 16 only. Times as people take them (seconds, minutes, hours) have
# such a factor only if they are far enough apart to be resolved in float32 all the same.
FAR = 2.0**27


class CallTimes(NamedTuple):
    """Output times behind the initial one.

    Attributes:
      knots: Times that have elapsed since the initial one, which is the first of them, in the
        state's dtype: `(num_times + 1,)` if the batch shares them, otherwise
        `(num_times + 1, batch)`.
      origin: The initial time: a number, or a tensor, a scalar or `(batch,)`.
      direction: 1 if the user's time runs forwards, -1 if it runs backwards.
      last: The last time, where it is known.
      in_order: `(batch,)`, whether a sample's times are finite and in the direction of `t_span`;
        `None` if that is known.
      moving: Times as `knots`, of a batch that shares those, but with the derivatives that they
        have by each sample's origin; `None` if they have none.
    """

    knots: np.ndarray | tf.Tensor
    origin: float | tf.Tensor
    direction: float
    last: float | None = None
    in_order: tf.Tensor | None = None
    moving: tf.Tensor | None = None

    def clock(self, dtype: tf.DType) -> Clock:
        """Gives the user's time to the time elapsed, in the state's dtype."""
        last = None if self.last is None else np.float64(self.last)
        return Clock(_origin(self.origin), dtype, last, self.direction)

    def without_bad(self, samples: GoodSamples) -> CallTimes:
        """The same with the stand-ins for bad samples."""
        own = lambda x: samples.without_bad(x, batch_axis=1)
        changes: dict[str, Any] = {} if self.are_shared else {"knots": own(self.knots)}
        origin: Any = self.origin
        if tf.is_tensor(origin) and origin.shape.rank == 1:
            changes["origin"] = samples.without_bad(origin)
            changes["moving"] = None if self.moving is None else own(self.moving)
        return self._replace(**changes)

    @property
    def are_shared(self) -> bool:
        """Whether all samples have the same times."""
        return len(self.knots.shape) == 1


def _origin(origin: Any) -> Any:
    return origin if tf.is_tensor(origin) else np.float64(origin)


def direction_of(t_span: tuple[float, float]) -> float:
    """1 or -1."""
    return 1.0 if t_span[1] > t_span[0] else -1.0


def times_from(t0: Any, offsets: np.ndarray, y0: tf.Tensor, direction: float) -> CallTimes:
    """Times at `offsets` from `t0`, `(batch,)` or a scalar.

    Args:
      t0: A tensor.
      offsets: `(num_times + 1,)`, elapsed; the first is 0.
      y0: The state.
      direction: Of time.
    """
    clock = Clock(t0, y0.dtype, direction=direction)
    knots = offsets.astype(y0.dtype.as_numpy_dtype)
    # 0, with the derivative by t0.
    start = clock.elapsed(t0)
    column = knots if start.shape.rank == 0 else knots[:, np.newaxis]
    in_order = tf.broadcast_to(tf.math.is_finite(start), tf.shape(y0)[:1])
    return CallTimes(knots, t0, direction, in_order=in_order, moving=start + column)


def call_times(
    times: Any,
    mask: Any,
    y0: tf.Tensor,
    t_span: tuple[float, float],
    strict: bool,
    t0: Any = None,
) -> CallTimes:
    """The arguments `times` and `mask` of a layer as `CallTimes`.

    Args:
      times: `(num_times,)` or `(batch, num_times)`.
      mask: `(batch, num_times)`, or `None`; where false, the time is that before it.
      y0: The state.
      t_span: The layer's.
      strict: Whether times of a sample out of order are an error; `in_order` says so in any case.
      t0: Where each sample begins, `(batch,)` or a scalar; `t_span[0]` if `None`.

    Raises:
      TypeError, ValueError: for shapes and dtypes that don't fit, and values where they are known.
      tf.errors.InvalidArgumentError: for values at run time; not under XLA.
    """
    times = tf.convert_to_tensor(times)
    own = times.dtype
    if not (own.is_floating or own.is_integer):
        raise TypeError(f"Argument times must hold numbers. Received: dtype {own.name}")
    received = lambda: (
        f"Received: times={times}, " + (f"t_span={t_span}" if t0 is None else f"t0={t0}")
    )
    # The initial time as the times' dtype knows it: they may be equal.
    origin = float(own.as_numpy_dtype(t_span[0])) if own.is_floating else t_span[0]
    if t0 is not None:
        origin, own = t0, _coarser(own, t0.dtype)
    of_samples = t0 is not None and t0.shape.rank == 1
    direction = direction_of(t_span)
    mask = None if mask is None else tf.cast(mask, tf.bool)
    if times.shape.rank == 1 and (mask is not None or of_samples):
        shape = tf.stack([tf.shape(y0)[0] if mask is None else tf.shape(mask)[0], tf.size(times)])
        times = tf.broadcast_to(times, shape)
    clock = Clock(_origin(origin), y0.dtype, direction=direction)
    elapsed = clock.elapsed(tf.transpose(times))
    start = tf.zeros_like(elapsed[:1])
    if t0 is not None:
        start += clock.elapsed(t0)  # 0, with the derivative by t0
    if mask is not None:
        elapsed = tf.transpose(fill_masked(tf.transpose(elapsed), mask))
    knots = tf.concat([start, elapsed], axis=0)
    of_each = elapsed.shape.rank == 2
    in_order = tf.reduce_all(knots[1:] >= knots[:-1], axis=0) & tf.math.is_finite(knots[-1])
    message = (
        f"Argument times must be monotone in the direction of t_span{' for each sample' * of_each},"
        " and begin at t_span[0], or t0, or behind it. "
        + "Sort each sample's times, and mask those that are padding." * of_each
        + "Sort times." * (not of_each)
    )
    if strict or not of_each:
        knots = checked(knots, tf.reduce_all(in_order), message, received, times)
    last = tf.where(in_order, knots[-1], tf.zeros_like(knots[-1]))
    valid = tf.ones_like(elapsed, tf.bool) if mask is None else tf.transpose(mask)
    num = tf.math.count_nonzero(valid & in_order, dtype=tf.int32)
    resolved = _resolved(last, num, origin, own)
    if of_each and t0 is None and own == tf.float64 and abs(origin) >= FAR:
        own = tf.float32
        resolved = ~_went_through_float32(times) | _resolved(last, num, origin, own)
    knots = checked(knots, resolved, unresolved("Argument times", own), received, times)
    in_order = tf.broadcast_to(in_order & resolved, tf.shape(y0)[:1])
    return CallTimes(knots, origin, direction, in_order=in_order)


def _coarser(a: tf.DType, b: tf.DType) -> tf.DType:
    """The dtype of the two that rounds times more."""
    if not (a.is_floating and b.is_floating):
        return a if a.is_floating else b
    return a if a.size < b.size else b


def _went_through_float32(times: tf.Tensor) -> tf.Tensor:
    """Whether float64 `times` are all of them such as float32 holds, of a common factor of 16."""
    return tf.reduce_all(tf.equal(tf.cast(tf.cast(times, tf.float32), times.dtype), times))


def _resolved(last: tf.Tensor, num: tf.Tensor, origin: Any, dtype: tf.DType) -> tf.Tensor:
    """`is_resolved` of `num` times up to `last`, of all samples together.

    Together, since one that rests, or that wants the state just behind the start, says nothing.
    """
    if tf.is_tensor(origin):
        is_finite = tf.math.is_finite(tf.cast(origin, tf.float64))
        origin = tf.reduce_max(tf.abs(tf.where(is_finite, origin, tf.zeros_like(origin))))
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
