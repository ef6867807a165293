"""The error of a failed solve."""

from __future__ import annotations

import tensorflow as tf

from tf_neuralode.stepping import status as status_codes
from tf_neuralode.tensors import inside_xla


def check_success(states: tf.Tensor, good: tf.Tensor, diagnostics, layer_name: str) -> tf.Tensor:
    """`states`, once it is sure that the solve succeeded and every sample was finite.

    Args:
      states: What the layer is going to return.
      good: `(batch,)`, boolean: the samples that were good on entry.
      diagnostics: Of the solve.
      layer_name: For the error.

    Raises:
      tf.errors.InvalidArgumentError: when it is run, and not under XLA, which drops assertions.
    """
    if inside_xla():
        return states
    status = diagnostics.status
    where = f"The solve in layer {layer_name!r} (NeuralODE) failed"
    reached = ["Time reached:", diagnostics.final_time]
    assertions = [
        tf.debugging.Assert(
            tf.not_equal(status, code), [f"{where}, status {code}: {reason}.", *reached]
        )
        for code, reason in status_codes.REASONS.items()
    ]
    message = (
        f"{where}, status {status_codes.NOT_FINITE}: samples of its input are not finite. Clean "
        "the data, or use on_failure='nan', which gives NaN for those samples alone. Time "
        "reached: the initial one. Samples that are not finite:"
    )
    bad = tf.reshape(tf.where(~good), [-1])
    assertions.append(tf.debugging.Assert(tf.reduce_all(good), [message, bad], summarize=10))
    with tf.control_dependencies([a for a in assertions if a is not None]):
        return tf.identity(states)
