"""Tensors that have no gradient, and say so."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tf_neuralode.tensors import asserting, nan_unless


def refusing_gradients(
    tensors: Sequence[tf.Tensor],
    depends_on: Sequence[tf.Tensor],
    error: type[Exception],
    message: str,
    shows_in_cotangents: bool = True,
) -> list[tf.Tensor]:
    """`tensors`, the gradient of which is an error.

    Args:
      tensors: Floating-point or complex.
      depends_on: What they depend on, by a way that TensorFlow may not know.
      error: What is raised where a tape asks for the gradient, eagerly or as a graph is made.
      message: Its text.
      shows_in_cotangents: Whether a gradient that is wanted has a cotangent other than 0. If not it
        is NaN, and no error, where it can't be known whether it is wanted.

    Returns:
      The same values. Where a `tf.function` or a loop is differentiated as a whole TensorFlow makes
      the gradients of all that it returns, whether they are wanted or not: there the error is an
      `InvalidArgumentError` as the graph runs, if a cotangent differs from 0; XLA drops that, and
      leaves NaN.
    """
    depends_on = [x for x in depends_on if x.dtype.is_floating]

    def one(tensor: tf.Tensor) -> tf.Tensor:
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()

        @tf.custom_gradient
        def identity(x, *others):
            def grad(d):
                if tf.executing_eagerly() or _is_inside(graph):
                    raise error(message)
                if not shows_in_cotangents:
                    return [nan_unless(tf.zeros_like(a, tf.bool), a.dtype) for a in (x, *others)]
                return _refused_at_run_time(d, [x, *others], message)

            return tf.identity(x), grad

        return identity(tensor, *depends_on)

    return [one(x) for x in tensors]


def _refused_at_run_time(d: tf.Tensor, inputs: Sequence[tf.Tensor], message: str) -> list:
    """Gradients of `inputs`: 0 if `d` is, otherwise NaN and an assertion that fails."""
    unused = tf.reduce_all(tf.equal(d, tf.zeros_like(d)))
    with asserting(unused, [message]):
        unused = tf.identity(unused)

    def poison(x: tf.Tensor) -> tf.Tensor:
        return tf.broadcast_to(nan_unless(unused, x.dtype), tf.shape(x))

    return [poison(x) for x in inputs]


def _is_inside(outer: tf.Graph | None) -> bool:
    """Whether the graph being built is `outer` or one of its branches and loop bodies."""
    graph = tf.compat.v1.get_default_graph()
    while graph is not None:
        if graph is outer:
            return True
        graph = getattr(graph, "outer_graph", None)
    return False
