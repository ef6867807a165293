"""What installs a backward pass, and what says that there is no other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_neuralode.field import refusing_gradients
from tf_neuralode.stepping import StepHistory
from tf_neuralode.tensors import State, compiled_as, inside_xla, may_be_recorded


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
      inputs: Tensors: all that the outputs depend on but variables.
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
            # That of tf.gather is sparse.
            dense = [d if d is None else tf.convert_to_tensor(d) for d in d_outputs]
            with compiled_as(xla):
                d_inputs, d_variables = backward(residuals, dense, variables or [])
            values = [tf.convert_to_tensor(v) for v in variables or []]
            # Each of the gradients depends on each of these, though a backward pass can hide it:
            # TFP cuts its own off in a graph, where a second derivative would come out as zero.
            depends_on = [x for x in (*inputs, *values, *dense) if x is not None]
            d_inputs = once_differentiable(d_inputs, depends_on, name)
            d_variables = once_differentiable(d_variables, depends_on, name)
            return (d_inputs, d_variables) if variables is not None else d_inputs

        return outputs, grad

    return solve(*inputs)


def once_differentiable(
    gradients: Sequence[tf.Tensor], depends_on: Sequence[tf.Tensor], name: str
) -> list[tf.Tensor]:
    """`gradients` of a solve, whose differentiation raises `LookupError`; see `refusing_gradients`.

    Args:
      gradients: As a backward pass returns them.
      depends_on: All that they depend on.
      name: Of the method.
    """
    if tf.executing_eagerly() and not may_be_recorded():
        return list(gradients)  # nobody is going to ask
    message = (
        f"second derivatives are not available through {name}, nor any in forward mode; use "
        "gradients.Tape(checkpoint=False)"
    )
    return refusing_gradients(gradients, depends_on, LookupError, message)


def without_gradients(steps: StepHistory, name: str) -> StepHistory:
    """The steps that a solve kept, whose gradient is a `LookupError`: a dense solution has none.

    A backward pass begins with the cotangents of the states at the output times.
    """
    message = (
        f"the gradient of a dense solution is not available through {name}. Ask for the states at "
        "those times in t, use gradients.Tape(checkpoint=False), or tf.stop_gradient"
    )

    def refusing(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        return refusing_gradients(tensors, (), LookupError, message)

    return steps._replace(
        times=tf.stop_gradient(steps.times),
        states=refusing(steps.states),
        dense=refusing(steps.dense),
    )
