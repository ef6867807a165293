"""One bad sample must not spoil a batch: samples that are not finite are set aside."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tf_neuralode.tensors import along, or_nan


class GoodSamples:
    """The samples of a batch that are good, and a stand-in for the others.

    A bad sample is replaced by the first good one, so that the dynamics is evaluated only where it
    would be anyway, and it is left out of a mean of errors, so that the steps are those of the good
    samples alone.

    Args:
      y: `(batch, ...)`; a sample that is not finite is bad.
      usable: Booleans, `(batch,)` or scalars, false for samples that are bad for another reason;
        or `None`.
      mask: Of y, boolean, with its first axes; what is masked has no slope and is in no norm.

    Attributes:
      good: `(batch,)`, boolean.
      y: As the argument, without the bad samples.
      state_mask: As the argument `mask`, likewise, or `None`.
    """

    def __init__(
        self,
        y: tf.Tensor,
        usable: Sequence[tf.Tensor | None] = (),
        mask: tf.Tensor | None = None,
    ):
        axes = list(range(1, y.shape.rank))
        self.good = tf.reduce_all(tf.math.is_finite(y), axis=axes)
        for one in usable:
            self.good = self.good if one is None else self.good & one
        # One more at the end, since an empty batch has no first sample.
        bad = tf.concat([tf.cast(~self.good, tf.int32), [1]], axis=0)
        first = tf.argmin(bad, output_type=tf.int32)
        self._source = tf.where(self.good, tf.range(tf.shape(y)[0]), first)
        self.y = self.without_bad(y)
        self.state_mask = None if mask is None else self.without_bad(mask)

    def without_bad(self, x: tf.Tensor, batch_axis: int = 0) -> tf.Tensor:
        """`x` with the first good sample in the place of the bad ones."""
        stand_in = tf.gather(tf.stop_gradient(x), self._source, axis=batch_axis)
        stand_in = tf.ensure_shape(stand_in, x.shape)
        return tf.where(along(self.good, x, batch_axis), x, stand_in)

    def mask(self, states: tf.Tensor, batch_axis: int = 0) -> tf.Tensor:
        """`states` with NaN for the bad samples."""
        return or_nan(along(self.good, states, batch_axis), states)

    def mask_last(self, states: tf.Tensor) -> tf.Tensor:
        """As `mask`, of states with any number of axes in front of the batch."""
        return self.mask(states, batch_axis=states.shape.rank - self.y.shape.rank)

    def mean(self, x: tf.Tensor) -> tf.Tensor:
        """Mean of `x`, `(batch,)`, over the good samples; 0 if there are none."""
        num = tf.reduce_sum(tf.cast(self.good, x.dtype))
        total = tf.reduce_sum(tf.where(self.good, x, tf.zeros_like(x)))
        return total / tf.maximum(num, tf.ones_like(num))

    def among(self) -> tf.Tensor:
        """The samples, or entries, that count in a mean of errors: those of good samples.

        The largest of the samples' norms needs no such care: a stand-in is a copy.
        """
        if self.state_mask is None:
            return self.good
        return along(self.good, self.state_mask) & self.state_mask
