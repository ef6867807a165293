"""Piecewise polynomials: what all interpolants are once their coefficients are known.

On piece i, between knot t_i and the next, the signal is sum_k c_ik (t - t_i)^k.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tf_neuralode.controls.missing import Observed, observed
from tf_neuralode.field import checked
from tf_neuralode.tensors import Tensors, or_nan


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
    """

    min_knots = 2
    # Whether the last value is held behind the last knot.
    holds_last = False

    def __init__(self, times: Any, values: Any, mask: Any = None) -> None:
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
        rises = tf.reduce_all(times[..., 1:] > times[..., :-1])
        message = "Argument times must rise from knot to knot. Sort it, and merge what repeats."
        self._times = checked(times, rises, message, lambda: f"Received: times={times}", times)
        # Differences of times in their own precision, the rest in that of the values.
        steps = tf.cast(self._times[..., 1:] - self._times[..., :-1], values.dtype)
        data = observed(self._times, values, mask)
        coefficients = [or_nan(rises, c) for c in self._coefficients(data, steps[..., tf.newaxis])]
        self._pieces = tf.stack(
            coefficients, axis=-2
        )  # ([batch,] num_pieces, degree + 1, channels)

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
        value = piece[-1]
        for c in reversed(piece[:-1]):
            value = c + s * value
        return self._as_given(value, inside)

    def derivative(self, t: Any) -> tf.Tensor:
        """The signal's derivative by time, as `__call__`; at a knot that of the piece behind it."""
        s, piece, inside = self._find(t)
        value = tf.zeros_like(piece[0])
        for k in reversed(range(1, len(piece))):
            value = tf.constant(float(k), value.dtype) * piece[k] + s * value
        return self._as_given(value, inside)

    def _find(self, t: Any) -> tuple[tf.Tensor, Tensors, tf.Tensor]:
        """Time since the knot before, coefficients there, and whether t lies among the knots."""
        dtype = self._pieces.dtype
        t = tf.convert_to_tensor(t, None if tf.is_tensor(t) else self._times.dtype)
        wide = t.dtype if t.dtype.size > self._times.dtype.size else self._times.dtype
        t, times = tf.cast(t, wide), tf.cast(self._times, wide)
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

    def _as_given(self, value: tf.Tensor, inside: tf.Tensor) -> tf.Tensor:
        if tf.executing_eagerly():
            if not tf.reduce_all(inside):
                raise ValueError(
                    f"A {type(self).__name__} control has no value outside of its knots. Give it "
                    f"knots that cover the solve. Received: knots from {self._times[..., 0]} to "
                    f"{self._times[..., -1]}"
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
