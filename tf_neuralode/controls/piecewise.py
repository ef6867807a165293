"""Piecewise polynomials: what all interpolants are once their coefficients are known.

On piece i, between knot t_i and the next, the signal is sum_k c_ik (t - t_i)^k.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from tf_neuralode.controls.missing import Observed, observed
from tf_neuralode.field import checked, refusing_gradients
from tf_neuralode.tensors import Tensors, or_nan

if TYPE_CHECKING:
    from typing_extensions import Self


class Control:
    """Base of the interpolants.

    Make it once, outside of a field; calls are cheap.

    Args:
      times: Knots, strictly rising: `(num_knots,)`, or `(batch, num_knots)` for each sample its
        own.
      values: The signal there: `(num_knots,)`, `(num_knots, channels)` or
        `(batch, num_knots, channels)`, floating point. NaN is missing.
      mask: Boolean, of the shape of `values`, or without its channels: false where a value is
        missing. A channel that begins or ends with missing values holds its nearest one there; of
        one that has none at all the signal is NaN.

    Raises:
      ValueError: for shapes that don't fit, and for knots that don't rise. Where values are known
        only as a graph runs, an `InvalidArgumentError`; under XLA the signal is NaN.

    Attributes:
      times: As the argument.
      rises: Whether they do: boolean, a scalar or `(batch,)`.
    """

    min_knots = 2
    # Whether the last value is held behind the last knot.
    holds_last = False

    def __init__(self, times: Any, values: Any, mask: Any = None) -> None:
        self._interpolate(times, values, mask, strict=True)

    @classmethod
    def or_nan(cls, times: Any, values: Any, mask: Any = None) -> Self:
        """The same, which is NaN where knots don't rise: in a sample, if they are each sample's."""
        control = cls.__new__(cls)
        control._interpolate(times, values, mask, strict=False)
        return control

    def _interpolate(self, times: Any, values: Any, mask: Any, strict: bool) -> None:
        values = tf.convert_to_tensor(values)
        if not values.dtype.is_floating:
            raise ValueError(
                f"Argument values must be floating point. Received: dtype {values.dtype.name}"
            )
        times = tf.convert_to_tensor(times, None if tf.is_tensor(times) else values.dtype)
        self._check_shapes(times, values, mask)
        self._is_scalar = values.shape.rank == 1
        if self._is_scalar:
            values = values[:, tf.newaxis]
            mask = None if mask is None else tf.convert_to_tensor(mask)[:, tf.newaxis]
        self.rises = rises = tf.reduce_all(times[..., 1:] > times[..., :-1], axis=-1)
        if strict:
            message = "Argument times must rise from knot to knot. Sort it, and merge what repeats."
            received = lambda: f"Received: times={times}"
            times = checked(times, tf.reduce_all(rises), message, received, times)
        self.times = times
        # Differences of times in their own precision, the rest in that of the values.
        steps = tf.cast(times[..., 1:] - times[..., :-1], values.dtype)
        data = observed(times, values, mask)
        coefficients = tf.stack(self._coefficients(data, steps[..., tf.newaxis]), axis=-2)
        # ([batch,] num_pieces, degree + 1, channels)
        self._pieces = or_nan(rises[..., tf.newaxis, tf.newaxis, tf.newaxis], coefficients)

    def _coefficients(self, data: Observed, steps: tf.Tensor) -> Tensors:
        """Those of t^0, t^1, ..., each `([batch,] num_pieces, channels)`.

        Args:
          data: The values, filled, and where they were there.
          steps: Lengths of the pieces, `([batch,] num_knots - 1, 1)`.
        """
        raise NotImplementedError

    def __call__(self, t: Any) -> tf.Tensor:
        """The signal at times `t`.

        Args:
          t: A scalar; `(batch,)` for a signal of each sample; any shape for one without a batch.

        Returns:
          `(channels,)`, or `(batch, channels)`, or `(*t.shape, channels)`; without the channels for
          values of shape `(num_knots,)`.

        Raises:
          ValueError: eagerly, for times outside of the knots (behind the last one `Previous` holds
            its last value); in a graph the signal is NaN there.
        """
        s, piece, inside = self._find(t)
        return self._as_given(self._polynomial(s, piece), inside)

    def derivative(self, t: Any) -> tf.Tensor:
        """The signal's derivative by time, as `__call__`; at a knot that of the piece behind it."""
        s, piece, inside = self._find(t)
        return self._as_given(self._derivative(s, piece), inside)

    def _find(self, t: Any) -> tuple[tf.Tensor, Tensors, tf.Tensor]:
        """Time since the knot before, coefficients there, and whether t lies among the knots."""
        dtype = self._pieces.dtype
        t = tf.convert_to_tensor(t, None if tf.is_tensor(t) else self.times.dtype)
        wide = t.dtype if t.dtype.size > self.times.dtype.size else self.times.dtype
        t, times = tf.cast(t, wide), tf.cast(self.times, wide)
        own_pieces, own_times = self._pieces.shape.rank == 4, times.shape.rank == 2
        if own_times:
            t = tf.broadcast_to(t, tf.shape(times)[:1])
            index = tf.searchsorted(times, t[:, tf.newaxis], side="right")[:, 0]
        else:
            flat = tf.searchsorted(times, tf.reshape(t, [-1]), side="right")
            index = tf.reshape(flat, tf.shape(t))
        num = tf.shape(self._pieces)[-3]
        index = tf.clip_by_value(index - 1, 0, num - 1)
        begin = tf.gather(times, index, axis=-1, batch_dims=int(own_times))
        inside = t >= times[..., 0]
        if not self.holds_last:
            inside &= t <= times[..., -1]
        s = tf.cast(t - begin, dtype)
        of_each = own_pieces and t.shape.rank == 1
        piece = tf.gather(self._pieces, index, axis=-3, batch_dims=int(of_each))
        if t.shape.rank:
            s, inside = s[..., tf.newaxis], inside[..., tf.newaxis]
        return s, tf.unstack(piece, axis=-2), inside

    @property
    def tensors(self) -> Tensors:
        """What the signal depends on, and is differentiable in."""
        return [self.times, self._pieces]

    def with_tensors(self, tensors: Tensors) -> Self:
        """The signal for other values of `tensors`."""
        control = copy.copy(self)
        control.times, control._pieces = tensors
        return control

    def without_gradients_of_times(self, message: str) -> Self:
        """The signal, whose gradient by its knots is a `LookupError`; it may depend on them."""
        times, pieces = self.tensors
        if not times.dtype.is_floating:
            return self
        (times,) = refusing_gradients([times], (), LookupError, message, False)
        return self.with_tensors([times, pieces])

    def map_samples(self, function: Callable[[tf.Tensor], tf.Tensor]) -> Self:
        """The signal with `function` of all that is of each sample, `(batch, ...)`."""
        times, pieces = self.tensors
        times = function(times) if times.shape.rank == 2 else times
        return self.with_tensors([times, function(pieces) if pieces.shape.rank == 4 else pieces])

    def covers(self, t: tf.Tensor) -> tf.Tensor:
        """Whether it has a value at `t`, a scalar or `(batch,)`."""
        t = tf.cast(t, self.times.dtype)
        inside = t >= self.times[..., 0]
        return inside if self.holds_last else inside & (t <= self.times[..., -1])

    def is_known(self) -> tf.Tensor:
        """`(batch,)`, or a scalar for a signal without a batch: whether it has a value at all."""
        return tf.reduce_all(tf.math.is_finite(self._pieces), axis=[-3, -2, -1])

    def value_of_samples(self, t: tf.Tensor) -> tf.Tensor:
        """`(batch, channels)`, or `(1, channels)` without a batch; NaN outside of the knots."""
        s, piece, inside = self._find(t)
        value = or_nan(inside, self._polynomial(s, piece))
        return value if value.shape.rank == 2 else value[tf.newaxis]

    def rate_of_samples(self, t: tf.Tensor) -> tf.Tensor:
        """The derivative, as `value_of_samples`."""
        s, piece, inside = self._find(t)
        value = or_nan(inside, self._derivative(s, piece))
        return value if value.shape.rank == 2 else value[tf.newaxis]

    def _derivative(self, s: tf.Tensor, piece: Tensors) -> tf.Tensor:
        value = tf.zeros_like(piece[0])
        for k in reversed(range(1, len(piece))):
            value = tf.constant(float(k), value.dtype) * piece[k] + s * value
        return value

    def _polynomial(self, s: tf.Tensor, piece: Tensors) -> tf.Tensor:
        value = piece[-1]
        for c in reversed(piece[:-1]):
            value = c + s * value
        return value

    def _as_given(self, value: tf.Tensor, inside: tf.Tensor) -> tf.Tensor:
        if tf.executing_eagerly():
            if not tf.reduce_all(inside):
                raise ValueError(
                    f"A {type(self).__name__} control has no value outside of its knots. Give it "
                    f"knots that cover the solve. Received: knots from {self.times[..., 0]} to "
                    f"{self.times[..., -1]}"
                )
        else:
            value = or_nan(inside, value)
        return value[..., 0] if self._is_scalar else value

    def _check_shapes(self, times: tf.Tensor, values: tf.Tensor, mask: Any) -> None:
        rank = values.shape.rank
        received = f"Received: times of shape {times.shape}, values of shape {values.shape}"
        if rank not in (1, 2, 3):
            raise ValueError(
                "Argument values must have shape (num_knots,), (num_knots, channels) or (batch, "
                f"num_knots, channels). {received}"
            )
        knots = values.shape[:1] if rank < 3 else values.shape[1:2]
        shapes = [knots] if rank < 3 else [knots, values.shape[:2]]
        if not any(times.shape.is_compatible_with(shape) for shape in shapes):
            raise ValueError(
                "Argument times must have shape (num_knots,), or (batch, num_knots) where values "
                f"have a batch. {received}"
            )
        if knots[0] is not None and knots[0] < self.min_knots:
            raise ValueError(
                f"A {type(self).__name__} control needs {self.min_knots} knots at least. {received}"
            )
        if mask is not None:
            shape = tf.convert_to_tensor(mask).shape
            fits = [values.shape, values.shape[:-1] if rank > 1 else values.shape]
            if not any(shape.is_compatible_with(fit) for fit in fits):
                raise ValueError(
                    "Argument mask must have the shape of values, or that without the channels. "
                    f"{received}, mask of shape {shape}"
                )
