"""Equal steps."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf_neuralode.stepping.control import Steps
from tf_neuralode.stepping.types import Point


class EqualSteps(Steps):
    """`num_steps` equal steps, or, where `start` has a step size, as many of that size as needed.

    Args:
      num_steps: Over the whole interval.
      start: Where the solve begins.
      t1: Where it ends.
    """

    rejects = False

    def __init__(self, num_steps: int | tf.Tensor, start: Point, t1: tf.Tensor) -> None:
        t0 = start.t
        num = tf.convert_to_tensor(num_steps, tf.int32)
        # XLA differentiates a loop only with a constant bound.
        self.max_num_steps = tf.get_static_value(num)
        if start.h is not None:
            # A part of an interval takes its part of the steps (0.01: rounding makes no step).
            tiny = tf.constant(np.finfo(t0.dtype.as_numpy_dtype).tiny, t0.dtype)
            parts = tf.math.ceil((t1 - t0) / tf.maximum(start.h, tiny) - 0.01)
            num = tf.where(start.h > 0, tf.maximum(tf.cast(parts, tf.int32), 1), num)
            self.max_num_steps = None
        self._t0, self._t1 = t0, t1
        self._h = (t1 - t0) / tf.cast(num, t0.dtype)
        self.num_steps = tf.where(tf.equal(t0, t1), 0, num)

    def first(self, field, start):
        del field
        return self._h, (), tf.zeros_like(start.t, tf.int32), 0

    def are_left(self, t, num_accepted):
        del t
        return num_accepted < self.num_steps

    def propose(self, t, h, num_accepted):
        del t
        # t0 + n h and not a running sum, which would gather rounding errors.
        n = num_accepted + 1
        t_next = self._t0 + tf.cast(n, h.dtype) * self._h
        return tf.where(tf.equal(n, self.num_steps), self._t1, t_next), h, None

    def judge(self, memory, t, wanted, proposal, step):
        del proposal
        return step.solved, wanted, memory, tf.zeros_like(t, tf.int32)
