"""A compiled function under gradient tapes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_neuralode.gradients.vjp import once_differentiable


def recorded_once(
    call: Callable[[list[tf.Tensor]], list[tf.Tensor]],
    inputs: list[tf.Tensor],
    num_differentiable: int,
    name: str,
    tracing: Callable[[], Any] = contextlib.nullcontext,
) -> list[tf.Tensor]:
    """`call(inputs)`, with the gradient that TensorFlow derives of it.

    Surrounding tapes record it as one operation, and nothing of its inside: for two tapes, or one
    that is persistent, TensorFlow would derive the function again and again.

    Args:
      call: Calls a compiled function.
      inputs: What it takes.
      num_differentiable: How many of its results, the first, have gradients.
      name: Of the gradient, for the error that a second derivative is.
      tracing: A context for the derivation.
    """
    wanted = [i for i, x in enumerate(inputs) if x.dtype.is_floating or x.dtype.is_complex]
    others: list[tf.Tensor] = []

    # For what has gradients alone: TensorFlow handles each argument and result by itself.
    @tf.custom_gradient
    def first(*given: tf.Tensor) -> tuple:
        with tf.init_scope():  # no tape records there, not even that they are the same
            own = [tf.identity(x) for x in given]
        values = list(inputs)
        for i, x in zip(wanted, own, strict=True):
            values[i] = x

        # Not persistent: for such a tape, too, TensorFlow derives the function again and again.
        def record() -> tuple[tf.GradientTape, list[tf.Tensor]]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(own)
                outputs = call(values)
            return tape, outputs

        recorded = [record()]
        outputs = recorded[0][1]
        others[:] = outputs[num_differentiable:]

        def grad(*d_results: tf.Tensor) -> list[tf.Tensor | None]:
            d_results = tuple(tf.convert_to_tensor(d) for d in d_results)
            # Asked for once more, by a persistent tape of the user's, it is solved again.
            tape, outputs = recorded.pop() if recorded else record()
            # A Jacobian is traced, and what is there must not be lifted out.
            unseen = tf.init_scope if tf.executing_eagerly() else contextlib.nullcontext
            with tracing(), unseen():
                gradients = tape.gradient(
                    outputs[:num_differentiable],
                    own,
                    output_gradients=d_results,
                )
            present = [g for g in gradients if g is not None]
            refusing = iter(once_differentiable(present, [*given, *d_results], name))
            return [None if g is None else next(refusing) for g in gradients]

        return outputs[:num_differentiable], grad

    return [*first(*[inputs[i] for i in wanted]), *others]
