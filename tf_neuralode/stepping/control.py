"""The interface of step controls: how long the steps of one solve are, and what is good enough.

A solver, which holds settings alone, makes one for each solve; the loop joins it with a method.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tf_neuralode.field import Field
from tf_neuralode.methods import Step
from tf_neuralode.stepping.types import Point


class Steps:
    """Base class. All that is about time is a clock value, see `tensors.algebra`.

    Attributes:
      max_num_steps: The most attempts that there can be; `None` if that isn't known.
      norm: The `Norm` of errors, or `None` if none is estimated.
      rejects: Whether an attempt may be rejected.
      num_steps: How many steps there are, if that is known beforehand, else `None`.
    """

    max_num_steps: int | None
    norm: Any = None
    rejects: bool = True
    num_steps: tf.Tensor | None = None

    def first(self, field: Field, start: Point) -> tuple[tf.Tensor, Any, tf.Tensor, Any]:
        """What the loop begins with at `start`, which has its carry, if there is to be one.

        Returns:
          Size of the first step; what the control remembers from step to step, a nest of clock
          values; 0, or the status of a solve that can't begin; number of evaluations of f.
        """
        raise NotImplementedError

    def are_left(self, t: tf.Tensor, num_accepted: tf.Tensor) -> tf.Tensor:
        """Whether there are steps to take from `t`, which was reached in so many."""
        raise NotImplementedError

    def propose(
        self, t: tf.Tensor, h: tf.Tensor, num_accepted: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, Any]:
        """Where the next attempt goes, from `t`, where a step of size `h` is wanted.

        Returns:
          The time; how long the step is; whether it was cut, and ends where it must.
        """
        raise NotImplementedError

    def judge(
        self, memory: Any, t: tf.Tensor, wanted: tf.Tensor, proposal: tuple, step: Step
    ) -> tuple[Any, tf.Tensor, Any, tf.Tensor]:
        """Judges the attempt `proposal`, made as `step` where the size `wanted` was.

        Returns:
          Whether it is accepted, `None` for always; size of the next one; what is remembered; 0, or
          the status of a solve that can't go on.
        """
        raise NotImplementedError
