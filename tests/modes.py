"""The three ways to run TensorFlow code; most bugs live in the one that wasn't tried."""

import tensorflow as tf

MODES = ("eager", "graph", "xla")


def in_mode(function, mode):
    """`function` as it runs in the given mode."""
    if mode == "eager":
        return function
    return tf.function(function, jit_compile=mode == "xla", autograph=False)
