"""Vector-Jacobian products inside a backward pass, and the wrapper that installs one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_neuralode.solvers.runge_kutta import OdeFn, State
from tf_neuralode.xla import compiled_as, inside_xla


def open_vjp(
    f: OdeFn, t: tf.Tensor, y: State, sources: Sequence[tf.Tensor | tf.Variable]
) -> tuple[State, Callable[..., tuple[State, State]]]:
    """The slope `f(t, y)`, and its pullback.

    Returns:
      The slope, and a function that maps its cotangent to those of `y` and of `sources`; zeros
      where there is no dependence. `of_state=False` or `of_sources=False` leaves a part out, as an
      empty list. It may be called once.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([*y, *sources])
        slope = f(t, y)

    def pullback(d_slope: State, of_state: bool = True, of_sources: bool = True):
        wanted = [*(y if of_state else []), *(sources if of_sources else [])]
        gradients = tape.gradient(
            slope,
            wanted,
            output_gradients=d_slope,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        # The gradient of tf.gather is sparse.
        gradients = [tf.convert_to_tensor(g) for g in gradients]
        split = len(y) if of_state else 0
        return gradients[:split], gradients[split:]

    return slope, pullback


def with_backward(
    forward: Callable[..., tuple[Sequence[tf.Tensor], Any]],
    backward: Callable[[Any, Sequence[tf.Tensor], Sequence[tf.Variable]], tuple[State, State]],
    inputs: Sequence[tf.Tensor],
    name: str,
) -> Sequence[tf.Tensor]:
    """`forward(*inputs)`, differentiated by `backward`.

    Args:
      forward: Returns `(outputs, residuals)`.
      backward: `backward(residuals, d_outputs, variables)` returns the gradients of the inputs and
        of the `tf.Variable`s that `forward` read.
      inputs: Tensors.
      name: Of the method, for the error below.

    Returns:
      The outputs. Their second derivatives raise `LookupError`: those of a backward pass would be
      wrong, since it uses the solution as a constant.
    """

    @tf.custom_gradient
    def solve(*inputs):
        outputs, residuals = forward(*inputs)
        xla = inside_xla()

        def grad(*d_outputs, variables=None):
            with compiled_as(xla):
                d_inputs, d_variables = backward(residuals, d_outputs, variables or [])
            d_inputs = _without_derivatives(d_inputs, name)
            d_variables = _without_derivatives(d_variables, name)
            return (d_inputs, d_variables) if variables is not None else d_inputs

        return outputs, grad

    return solve(*inputs)


def _without_derivatives(tensors: Sequence[tf.Tensor], name: str) -> list[tf.Tensor]:
    """`tensors`, whose differentiation raises `LookupError`."""
    message = (
        f"second derivatives are not available through {name}; use gradients.Tape(checkpoint=False)"
    )
    return [tf.raw_ops.PreventGradient(input=x, message=message) for x in tensors]


def once_differentiable(tensors: Sequence[tf.Tensor], name: str) -> list[tf.Tensor]:
    """`tensors`, whose gradient can't be differentiated again: that raises `LookupError`."""

    @tf.custom_gradient
    def identity(*inputs):
        def grad(*d_inputs):
            # TFP cuts its backward pass off from the inputs in a graph, where a second derivative
            # would come out as zero. The sum ties the two together again.
            tied = [d + 0 * x for d, x in zip(d_inputs, inputs, strict=True)]
            return _without_derivatives(tied, name)

        return [tf.identity(x) for x in inputs], grad

    return list(identity(*tensors)) if tensors else []
