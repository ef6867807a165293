"""What a dynamics does with its variables, found by calling it on placeholders."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator

import keras
import tensorflow as tf

from tf_neuralode.layers.custom_gradients import (
    captured,
    names_behind,
    read_by_custom_gradients,
    read_in_eager_call,
)
from tf_neuralode.layers.dynamics import Dynamics


def probe_writes(dynamics: Dynamics, state_shape, state_dtype: str) -> tuple[bool, bool]:
    """Whether calls of a dynamics, built, may write variables, in inference and in training.

    It is called in a graph that is thrown away. Where that isn't possible (a layer for eager
    execution alone) the answer is yes, which costs evaluations and nothing else.

    Raises:
      ValueError: if it writes a variable that a solve can't write, if it keeps values of its
        variables or inputs from one call to the next, or if a custom gradient in it reads them.
    """
    given, layer = dynamics, dynamics.layer

    def may_write(training):
        dynamics = dataclasses.replace(given, training=training)
        graph = tf.__internal__.FuncGraph("probe")
        with tf.init_scope(), graph.as_default():
            try:
                calls = [_Call(dynamics, state_shape, state_dtype) for _ in range(2)]
            except Exception as error:  # of the layer's own, which may work elsewhere
                calls, failure = [], error
            else:
                _check_in_graph(dynamics, graph, *calls)
        if not calls:
            read = read_in_eager_call(dynamics, failure, state_shape, state_dtype)
            _check_custom_gradients(layer, read)
            return True
        # A layer that is frozen may be set free later, and write then.
        return bool(calls[0].written) or (training and bool(dynamics.constants))

    return may_write(training=False), may_write(training=True)


def _check_in_graph(dynamics: Dynamics, graph, first: _Call, second: _Call) -> None:
    """Raises the errors of `probe_writes`, from two calls in `graph`."""
    dynamics.check_written(first.written)
    kept = {*second.reached(first), *_read_around_scope(dynamics, graph)}
    if _calls_functions(graph):
        kept |= _left_out(dynamics, second)
    _check_kept(dynamics.layer, kept)
    read = read_by_custom_gradients(dynamics, graph, second.inputs, second.written)
    _check_custom_gradients(dynamics.layer, read)


class _Call:
    """One call on placeholders in the current graph.

    Attributes:
      inputs: The placeholders, `(t, y, params, constants, further)`.
      given: Names of what the placeholders stand for, and these.
      written: The variables that were written.
      sources: Names of all tensors that the slope and what was written are computed from.
    """

    def __init__(self, dynamics: Dynamics, state_shape, state_dtype: str):
        placeholder = tf.compat.v1.placeholder
        t, y = placeholder(state_dtype, []), placeholder(state_dtype, state_shape)
        params = [placeholder(v.dtype, v.shape) for v in dynamics.params]
        constants = [placeholder(v.dtype, v.shape) for v in dynamics.constants]
        like = lambda x: placeholder(x.dtype, x.shape)
        further = list(keras.tree.map_structure(like, dynamics.further))
        self.inputs = (t, y, params, constants, further)
        slope, scope = dynamics.call_in_scope(*self.inputs)
        self.written = list(scope.written.values())
        names = [v.path for v in [*dynamics.params, *dynamics.constants]]  # perhaps not unique
        others = keras.tree.flatten(further)
        names = ["the time", "the state", *names, *["the context or control"] * len(others)]
        self.given = list(zip(names, [t, y, *params, *constants, *others], strict=True))
        results = [slope, *(scope.get_current_value(v) for v in self.written)]
        self.sources = names_behind(results)

    def reached(self, other: _Call) -> set[str]:
        """What of the things given to `other` this call depends on."""
        return {name for name, tensor in other.given if tensor.name in self.sources}


def _read_around_scope(dynamics: Dynamics, graph) -> set[str]:
    """Variables that `graph` reads itself, as in a `tf.function` that was traced elsewhere."""
    return set(captured([*dynamics.params, *dynamics.constants], graph).values())


def _calls_functions(graph) -> bool:
    definition = graph.as_graph_def()
    functions = definition.library.function
    nodes = [*definition.node, *(node for one in functions for node in one.node_def)]
    return any(node.op.endswith("PartitionedCall") for node in nodes)


def _left_out(dynamics: Dynamics, call: _Call) -> set[str]:
    """What `call` doesn't depend on, but would without the `tf.function`s inside.

    Traced before the variables had values, as Keras traces a model that builds itself in its call,
    a `tf.function` holds the initializers in their place.
    """
    used = call.reached(call)
    try:
        with _functions_inlined():
            y = call.inputs[1]
            inlined = _Call(dynamics, y.shape, y.dtype)
    except Exception:  # It may need autograph.
        params = {v.path for v in dynamics.params}
        return set() if used & params else params
    return inlined.reached(inlined) - used


_inlining = threading.RLock()  # a layer may be built within the call of another


@contextlib.contextmanager
def _functions_inlined() -> Iterator[None]:
    """Runs the bodies of `tf.function`s as if they weren't decorated, in other threads, too."""
    with _inlining:
        before = tf.config.functions_run_eagerly()
        tf.config.run_functions_eagerly(True)
        try:
            yield
        finally:
            tf.config.run_functions_eagerly(before)


def _check_kept(layer: keras.layers.Layer, kept: set[str]) -> None:
    if kept:
        raise ValueError(
            "Argument dynamics must compute its output from its inputs and variables anew in each "
            "call: a tf.function inside it keeps the values that they had when it was traced, in "
            "another solve. Remove the tf.function; the solve is compiled as a whole by "
            "NeuralODE(jit_compile=True), or in a tf.function around the layer. "
            f"Received: dynamics={layer.name}, which keeps {', '.join(sorted(kept))}"
        )


def _check_custom_gradients(layer: keras.layers.Layer, read: set[str]) -> None:
    if read:
        raise ValueError(
            "Argument dynamics must not read its variables in a custom gradient "
            "(tf.custom_gradient, tf.recompute_grad, keras.remat, keras.RematScope): a solve gives "
            "it tensors in their place, which get no gradients there. Drop the rematerialization: "
            "gradient='tape' and the adjoints compute activations again anyway. To a function of "
            "your own with tf.custom_gradient pass the weights as arguments. "
            f"Received: dynamics={layer.name}, with a custom gradient that reads "
            f"{', '.join(sorted(read))}"
        )
