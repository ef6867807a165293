"""What f closes over, learnt from one trace of it: gradients are wanted for that, too."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

from tf_neuralode.field.refusal import refusing_gradients
from tf_neuralode.tensors import State, Tensors

FlatField = Callable[[tf.Tensor, State, Tensors], State]


@dataclasses.dataclass(frozen=True)
class Captures:
    """What f reads besides its arguments.

    f goes on to be called as it is, and refers to these very objects: a tape that watches them
    sees what a slope owes to them.

    Attributes:
      tensors: Floating-point tensors that may have gradients.
      variables: Trainable variables.
      uses_time: Whether f may depend on t; false only if it surely doesn't.
    """

    tensors: Sequence[tf.Tensor] = ()
    variables: Sequence[tf.Variable] = ()
    uses_time: bool = True


def captures_of(f: FlatField, t: tf.Tensor, y: State, params: Tensors) -> Captures:
    """Traces `f(t, y, params)` once, on placeholders, and lists what it captured.

    Where f can't be traced (eagerly it may read values, as `float(t)` does) its captures can't be
    known. Then `tensors` are a stand-in whose gradient is a `ValueError`, if f's slope depends on
    something that a surrounding tape watches.
    """
    graph = tf.__internal__.FuncGraph("captures")
    try:
        with graph.as_default(), tf.GradientTape() as tape:
            time, *rest = [tf.compat.v1.placeholder(x.dtype, x.shape) for x in (t, *y, *params)]
            f(time, rest[: len(y)], rest[len(y) :])
    except Exception as error:
        # In a graph the solve itself can only trace f: what went wrong goes wrong there, too.
        if not tf.executing_eagerly():
            raise
        return _alarmed(f, t, y, params, error)
    tensors = [outside for outside, _ in graph.captures if _may_have_gradient(outside)]
    return Captures(tensors, tape.watched_variables(), bool(time.consumers()))


def as_constant(tensor: tf.Tensor) -> tf.Tensor:
    """`tensor`, which f may close over, and for which no gradient is taken: none is wanted."""
    tensor = tf.stop_gradient(tensor)
    tensor._tf_neuralode_constant = True  # as Keras marks tensors with their masks
    return tensor


def _may_have_gradient(tensor: tf.Tensor) -> bool:
    return tensor.dtype.is_floating and not hasattr(tensor, "_tf_neuralode_constant")


def _alarmed(f: FlatField, t: tf.Tensor, y: State, params: Tensors, error: Exception) -> Captures:
    """Captures of an f that can't be traced: its slope, as an error to be asked for.

    f is evaluated in sight of the surrounding tapes, with the state and the parameters as
    constants: what a tape then records of it depends on something else that it watches. Where f
    reads variables, which get their gradients, these can't be told from it, and nothing is said.
    """
    y, params = ([tf.stop_gradient(x) for x in leaves] for leaves in (y, params))
    with tf.GradientTape() as tape:
        slope = f(t, y, params)
    if tape.watched_variables():
        return Captures()
    message = (
        "f closes over a tensor that a GradientTape watches, or that depends on one, and can't be "
        "traced, so that its gradient would get lost. Write f in TensorFlow operations, pass the "
        "tensor in params, or through tf.stop_gradient if no gradient is wanted. Tracing f gave "
        f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    )
    real = [x for x in slope if x.dtype.is_floating]
    return Captures(refusing_gradients(real, (), ValueError, message))
