"""The gaps between observation times, as a layer."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_neuralode.layers.check_call import as_tensor_like
from tf_neuralode.layers.gaps import gaps_between
from tf_neuralode.read_only import ReadOnly

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable("tf_neuralode")
class TimeGaps(ReadOnly, keras.layers.Layer):
    """The gap between each observation time and the one before it, as a feature of a sequence.

    For an RNN on irregular series, in front of which it needs no `Lambda`. Times are subtracted in
    the precision that they are given in (integers as integers), before they are cast to the layer's
    dtype: see the guide, "Times far from zero", for what Keras casts on the way.

    Args:
      t0: The time that the first gap is counted from, a number; with `None` the first (valid) time
        of each sample, whose gap is 0 then.

    Call arguments:
      times: Integers or floating point. In another order than rising they have negative gaps.
      mask: `(batch, num_times)`, boolean, false for times that are padding: their gap is 0, and the
        next valid time's is counted from the last valid one. It is handed on.

    Input shape: `(batch, num_times)`, or `(batch, num_times, 1)`.

    Output shape: `(batch, num_times, 1)`.

    Raises:
      ValueError, TypeError: for arguments and shapes that don't fit, and for times in float32 (or
        less) that don't resolve their gaps to 1 %, where there are enough of them to tell.
      tf.errors.InvalidArgumentError: for such times at run time; under XLA the gaps are NaN.

    Example:
    ```python
    x, times = keras.Input((None, 3)), keras.Input((None,), dtype="int64")
    features = keras.layers.Concatenate()([x, TimeGaps(t0=None)(times)])
    model = keras.Model([x, times], keras.layers.GRU(16)(features))
    ```
    """

    read_only = ("t0",)

    def __init__(self, t0: float | None = 0.0, **kwargs: Any) -> None:
        # Keras would round float64 times to the layer's dtype in front of `call`.
        super().__init__(autocast=False, **kwargs)
        self.t0 = _checked(t0)
        self.supports_masking = True

    def call(self, times: Any, mask: Any = None) -> tf.Tensor:
        times, mask = as_tensor_like("times", times), as_tensor_like("mask", mask)
        self.compute_output_shape(times.shape)
        times = tf.convert_to_tensor(times)
        if times.shape.rank == 3:
            times = times[..., 0]
        if mask is not None:
            mask = tf.cast(mask, tf.bool)
            if not mask.shape.is_compatible_with(times.shape):
                raise ValueError(
                    "Argument mask must have the shape (batch, num_times). "
                    f"Received: mask of shape {tuple(mask.shape)}, times of shape "
                    f"{tuple(times.shape)}"
                )
        return gaps_between(times, mask, self.t0, self.compute_dtype)[..., tf.newaxis]

    def compute_output_shape(self, input_shape: Any) -> Shape:
        shape = tuple(input_shape)
        if len(shape) not in (2, 3) or shape[2:] not in ((), (1,)):
            raise ValueError(
                f"The input of layer {self.name!r} (TimeGaps) must be times of shape (batch, "
                f"num_times) or (batch, num_times, 1). Received: input of shape {shape}"
            )
        return (*shape[:2], 1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "t0": self.t0}


def _checked(t0: Any) -> float | None:
    """The argument `t0` as Python's number, integers as integers."""
    if t0 is None:
        return None
    value = np.asarray(None if tf.is_tensor(t0) else t0)
    if value.ndim or value.dtype.kind not in "iuf" or not np.isfinite(value):
        raise TypeError(f"Argument t0 must be a finite number or None. Received: t0={t0!r}")
    return value.item()
