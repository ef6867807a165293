"""Loops that TensorFlow's graph optimizer leaves whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_neuralode.tensors.xla import inside_xla


def while_loop(
    cond: Callable[..., Any], body: Callable[..., Any], loop_vars: Sequence[Any], **options: Any
) -> Any:
    """`tf.while_loop`, whose body may add up tensors.

    Where states are large the optimizer (Grappler's memory optimizer) turns a sum of three or more
    tensors into a temporary variable, made as soon as the first summand's operation has run. If
    that is a loop variable, its operation runs once more than the body, when the loop ends, and the
    variable is left over. The next call then finds it: `AlreadyExistsError`, seen with states of
    10 MB in nested loops (TensorFlow 2.21; issues 23780 and 38906 there). So the body sees its loop
    variables behind an operation that passes them on and isn't pruned as an identity is.
    """
    if tf.executing_eagerly() or inside_xla():
        return tf.while_loop(cond, body, loop_vars, **options)

    def guarded(*variables: Any) -> Any:
        return body(*tf.nest.map_structure(_behind_an_operation, variables))

    return tf.while_loop(cond, guarded, loop_vars, **options)


def _behind_an_operation(variable: Any) -> Any:
    """`TensorArray`s, counters and flags are not added up and stay as they are."""
    if not tf.is_tensor(variable) or not (variable.dtype.is_floating or variable.dtype.is_complex):
        return variable
    return tf.raw_ops.EnsureShape(input=variable, shape=variable.shape)
