"""Whether a `tf.GradientTape` is recording."""

from __future__ import annotations

import tensorflow as tf


def may_be_recorded() -> bool:
    """False only where no tape, anywhere in this thread, records what is executed or traced.

    A graph can be differentiated without one, by `tf.gradients`, or from outside of its function.
    TensorFlow has no public way to ask; where the answer can't be had it is "yes".
    """
    try:
        from tensorflow.python.eager import record

        return record.could_possibly_record()
    except (ImportError, AttributeError):
        return True


def may_be_watched(tensor: tf.Tensor) -> bool:
    """False only where no tape watches the eager `tensor`, or anything that it was made of."""
    try:
        from tensorflow.python.eager import record

        return record.should_record_backprop([tensor])
    except (ImportError, AttributeError):
        return True
