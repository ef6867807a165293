"""What a solve reports of itself: TFP's diagnostics, and what TFP leaves out."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp


class _Fields(NamedTuple):
    num_ode_fn_evaluations: tf.Tensor
    num_jacobian_evaluations: tf.Tensor
    num_matrix_factorizations: tf.Tensor
    num_accepted_steps: tf.Tensor
    num_rejected_steps: tf.Tensor
    final_time: tf.Tensor
    status: tf.Tensor


class Diagnostics(_Fields, tfp.math.ode.Diagnostics):
    """What a solve did.

    Attributes:
      num_ode_fn_evaluations: How often the dynamics was evaluated.
      num_jacobian_evaluations, num_matrix_factorizations: 0, TFP's interface has them.
      num_accepted_steps, num_rejected_steps: Steps that count, and attempts that were too coarse;
        -1 for a stock TFP solver, which doesn't tell.
      final_time: Time reached; the last output time if `status` is 0. NaN where a stock TFP solver
        failed.
      status: 0 success, -1 `max_num_steps` reached, -2 step size underflow, -3 not finite.
      success: Whether `status` is 0.
    """

    __slots__ = ()
