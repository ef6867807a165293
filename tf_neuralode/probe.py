"""What a dynamics does with its variables, found by calling it on placeholders."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import keras
import tensorflow as tf

from tf_neuralode.dynamics import Dynamics


def probe_writes(
    layer: keras.layers.Layer, state_shape, state_dtype: str, time_dependent: bool
) -> tuple[bool, bool]:
    """Whether calls of `layer`, built, may write variables, in inference and in training.

    It is called in a graph that is thrown away. Where that isn't possible (a layer for eager
    execution alone) the answer is yes, which costs evaluations and nothing else.

    Raises:
      ValueError: if `layer` writes a variable that a solve can't write, or if it keeps values of
        its variables or inputs from one call to the next.
    """

    def may_write(training):
        dynamics = Dynamics(layer, time_dependent, training)
        graph = tf.__internal__.FuncGraph("probe")
        with tf.init_scope(), graph.as_default():
            try:
                first, second = (_Call(dynamics, state_shape, state_dtype) for _ in range(2))
            except Exception:  # of the layer's own, which may work elsewhere
                return True
            dynamics.check_written(first.written)
            kept = {*second.reached(first), *_read_around_scope(dynamics, graph)}
            if _calls_functions(graph):
                kept |= _left_out(dynamics, second)
        _check_kept(layer, kept)
        # A layer that is frozen may be set free later, and write then.
        return bool(first.written) or (training and bool(dynamics.constants))

    return may_write(training=False), may_write(training=True)


class _Call:
    """One call on placeholders in the current graph.

    Attributes:
      given: Names of what the placeholders stand for, and these.
      written: The variables that were written.
      sources: Names of all tensors that the slope and what was written are computed from.
    """

    def __init__(self, dynamics: Dynamics, state_shape, state_dtype: str):
        placeholder = tf.compat.v1.placeholder
        t, y = placeholder(state_dtype, []), placeholder(state_dtype, state_shape)
        params = [placeholder(v.dtype, v.shape) for v in dynamics.params]
        constants = [placeholder(v.dtype, v.shape) for v in dynamics.constants]
        slope, scope = dynamics.call_in_scope(t, y, params, constants)
        self.written = list(scope.written.values())
        self.y = y
        names = [v.path for v in [*dynamics.params, *dynamics.constants]]  # perhaps not unique
        names = ["the time", "the state", *names]
        self.given = list(zip(names, [t, y, *params, *constants], strict=True))
        self.sources: set[str] = set()
        waiting = [slope, *(scope.get_current_value(v) for v in self.written)]
        while waiting:
            tensor = waiting.pop()
            if tensor.name not in self.sources:
                self.sources.add(tensor.name)
                waiting += tensor.op.inputs

    def reached(self, other: _Call) -> set[str]:
        """What of the things given to `other` this call depends on."""
        return {name for name, tensor in other.given if tensor.name in self.sources}


def _read_around_scope(dynamics: Dynamics, graph) -> set[str]:
    """Variables that `graph` reads itself, as in a `tf.function` that was traced elsewhere."""
    captured = {id(tensor) for tensor, _ in graph.captures}
    read = set()
    for variable in [*dynamics.params, *dynamics.constants]:
        value = getattr(variable, "_value", None)
        # Under a tf.distribute strategy one has several.
        for one in getattr(value, "values", [value]):
            if isinstance(one, tf.Variable) and id(one.handle) in captured:
                read.add(variable.path)
    return read


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
            inlined = _Call(dynamics, call.y.shape, call.y.dtype)
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
