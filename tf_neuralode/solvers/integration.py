"""What a solve returns: the same of both loops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_neuralode.not_finite import nan_unless
from tf_neuralode.solvers import status as status_codes
from tf_neuralode.solvers.recording import Recorder
from tf_neuralode.solvers.runge_kutta import State


class Integration(NamedTuple):
    """Result of one integration.

    Attributes:
      t: Time reached.
      y: State at the final time; NaN after a failure.
      step_size: Size of the next step that the control would take, or of the fixed steps.
      num_accepted, num_rejected, num_evaluations, status: Integer scalars.
      saved: What each recorder kept.
    """

    t: tf.Tensor
    y: State
    step_size: tf.Tensor
    num_accepted: tf.Tensor
    num_rejected: tf.Tensor
    num_evaluations: tf.Tensor
    status: tf.Tensor
    saved: tuple[Any, ...]


def finish(end, status, recorders: Sequence[Recorder]) -> Integration:
    """Closes a loop that ended with the variables `end`."""
    # A state may overflow in a step whose slopes and error are finite.
    finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(tf.abs(x))) for x in end.y])
    status = tf.where(
        finite | tf.not_equal(status, status_codes.SUCCESS),
        status,
        tf.constant(status_codes.NOT_FINITE),
    )
    success = tf.equal(status, status_codes.SUCCESS)
    y = [tf.where(success, x, nan_unless(success, x.dtype)) for x in end.y]
    saved = tuple(
        recorder.finish(s, end.t, y, end.num_accepted)
        for recorder, s in zip(recorders, end.saved, strict=True)
    )
    return Integration(
        t=end.t,
        y=y,
        step_size=end.h,
        num_accepted=end.num_accepted,
        num_rejected=end.num_rejected,
        num_evaluations=end.num_evaluations,
        status=status,
        saved=saved,
    )
