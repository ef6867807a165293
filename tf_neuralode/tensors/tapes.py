"""Whether a `tf.GradientTape` is recording."""

from __future__ import annotations


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
