"""What a solve reports of itself: TFP's diagnostics, and what TFP leaves out."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from tf_neuralode.solvers.integration import Integration


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
      num_accepted_steps, num_rejected_steps: Steps that count, and attempts that were too coarse.
      final_time: Time reached; the last output time if `status` is 0.
      status: 0 success, -1 `max_num_steps` reached, -2 step size underflow, -3 not finite.
      success: Whether `status` is 0.
    """

    __slots__ = ()


def diagnostics(result: Integration) -> Diagnostics:
    """The diagnostics of an integration."""
    return Diagnostics(
        num_ode_fn_evaluations=result.num_evaluations,
        num_jacobian_evaluations=tf.constant(0),
        num_matrix_factorizations=tf.constant(0),
        num_accepted_steps=result.num_accepted,
        num_rejected_steps=result.num_rejected,
        final_time=result.t,
        status=result.status,
    )
