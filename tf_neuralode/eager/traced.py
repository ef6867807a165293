"""A user's function where it is traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def with_autograph(f: Callable[..., Any], context: Any) -> Callable[..., Any]:
    """`f`, with autograph where it is traced, as everywhere in a `tf.function`.

    Eagerly it is called as it is: converted, `float(t)` would give a float32 tensor.

    Args:
      f: A user's function.
      context: Of autograph, where that was handed over.
    """
    converted = tf.__internal__.autograph.tf_convert(f, context)

    def called(*arguments: Any) -> Any:
        return (f if tf.executing_eagerly() else converted)(*arguments)

    return called
