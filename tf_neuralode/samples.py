"""One bad sample must not spoil a batch: samples that are not finite are set aside."""

from __future__ import annotations

import tensorflow as tf
import tensorflow_probability as tfp

from tf_neuralode.solvers import AdaptiveRungeKutta


class FiniteSamples:
    """The samples of a batch that are finite, and a stand-in for the others.

    A bad sample is replaced by the first good one, so that the dynamics is evaluated only where it
    would be anyway, and it is left out of the error norm, so that the steps are those of the good
    samples alone.

    Args:
      y: `(batch, ...)`.

    Attributes:
      finite: `(batch,)`, boolean.
      y: As the argument, without the bad samples.
    """

    def __init__(self, y: tf.Tensor):
        axes = list(range(1, y.shape.rank))
        self.finite = tf.reduce_all(tf.math.is_finite(y), axis=axes)
        # With one more behind, for an empty batch has no first sample to look up.
        rows = tf.concat([tf.cast(self.finite, tf.int32), [0]], axis=0)
        first = tf.argmax(rows, output_type=tf.int32)
        source = tf.where(self.finite, tf.range(tf.shape(y)[0]), first)
        stand_in = tf.gather(tf.stop_gradient(y), source)
        self.y = tf.where(self._broadcast(y, 0), y, tf.ensure_shape(stand_in, y.shape))

    def mask(self, states: tf.Tensor, batch_axis: int = 0) -> tf.Tensor:
        """`states` with NaN for the bad samples."""
        nan = tf.constant(float("nan"), states.dtype)
        return tf.where(self._broadcast(states, batch_axis), states, nan)

    def restrict(self, solver: tfp.math.ode.Solver) -> tfp.math.ode.Solver:
        """`solver` with an error norm over the good samples; a stock TFP solver as it is."""
        if not isinstance(solver, AdaptiveRungeKutta):
            return solver
        num = tf.reduce_sum(tf.cast(self.finite, tf.int32))

        def norm(scaled: tf.Tensor):
            squares = tf.where(self._broadcast(scaled, 0), tf.square(scaled), 0)
            size = tf.size(scaled) // tf.maximum(tf.shape(scaled)[0], 1) * num
            return tf.sqrt(tf.reduce_sum(squares) / tf.cast(tf.maximum(size, 1), scaled.dtype))

        return solver.with_norm(norm)

    def _broadcast(self, like: tf.Tensor, batch_axis: int) -> tf.Tensor:
        shape = [1] * batch_axis + [-1] + [1] * (like.shape.rank - batch_axis - 1)
        return tf.reshape(self.finite, shape)
