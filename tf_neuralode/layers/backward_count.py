"""Counts the evaluations of a backward pass in a metric of the layer."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf


def counter_into(metric: keras.metrics.Metric, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
    """The `backward_counter` of a solve, whose "gradient" goes into `metric`.

    Args:
      metric: Updated by a backward pass, wherever it is taken.
      inputs: Tensors that the solve depends on: a backward pass goes only where a tape watches.
    """

    @tf.custom_gradient
    def counter(*inputs):
        def grad(num_evaluations):
            metric.update_state(num_evaluations)
            return [None] * len(inputs)

        return tf.zeros([]), grad

    return counter(*inputs)
