"""Finds gradients that would get lost: those of variables that a custom gradient reads.

During a solve a layer gets tensors in the place of its variables. A custom gradient
(`tf.custom_gradient`, and so `tf.recompute_grad`, `keras.remat` and layers made in a
`keras.RematScope`) has gradients for its arguments and for the `tf.Variable`s that it reads; for a
tensor that it reads it has none. And what is computed again in the backward pass is so outside of
the scope of those tensors, with seeds that have moved on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import keras
import tensorflow as tf

from tf_neuralode.layers.dynamics import Dynamics
from tf_neuralode.layers.input_specs import ones_like_specs


def captured(variables: Iterable[keras.Variable], graph) -> dict[str, str]:
    """Paths of those of `variables` that `graph` reads itself, by the names of their handles."""
    names = {id(outside): inside.name for outside, inside in graph.captures}
    found = {}
    for variable in variables:
        value = getattr(variable, "_value", None)
        # Under a tf.distribute strategy one has several.
        for one in getattr(value, "values", [value]):
            if isinstance(one, tf.Variable) and id(one.handle) in names:
                found[names[id(one.handle)]] = variable.path
    return found


def read_by_custom_gradients(dynamics: Dynamics, graph, inputs: tuple, written: list) -> set[str]:
    """Paths of the variables that custom gradients in `dynamics` read; best effort.

    Frozen weights don't count, nor what a custom gradient gives `None` for. A custom gradient of
    several results counts by the first.

    Args:
      dynamics: Of a layer that can be called in `graph`.
      graph: The current one, to be thrown away, in which it has been called.
      inputs: `(t, y, params, constants, further)`, placeholders in `graph`.
      written: Variables that a call writes.
    """
    t, y, params, constants, further = inputs
    places = {x.name: v for x, v in zip(params, dynamics.params, strict=True)}
    places |= {
        x.name: v
        for x, v in zip(constants, dynamics.constants, strict=True)
        if any(v is one for one in written)
    }
    read_as_tensors = _closed_over(graph, places)
    if not read_as_tensors and not _nested_that_read(graph):
        return set()
    given = _Call(graph, lambda: dynamics.call_in_scope(*inputs)[0])
    if any(v is one for v in read_as_tensors for one in written):
        # Those are read again only by what computes again.
        _gradients(given.slope, [y, *params])
    found = set(captured([*dynamics.params, *written], graph).values())
    try:
        read = _Call(graph, lambda: dynamics.call_in_scope(t, y, None, constants, further)[0])
    except Exception as error:
        return found | _told(error, dynamics)
    if read.num_tensors == given.num_tensors:
        return found
    found |= _with_gradients(read.operations, captured(dynamics.params, graph))
    if read.num_nested > given.num_nested:
        # Of what computes again in a loop a graph has no gradient at all.
        d_params = _gradients(given.slope, params) or [None] * len(params)
        d_read = _gradients(read.slope, [v._value for v in dynamics.params]) or params
        found |= _lost(dynamics, d_params, d_read)
    return found


def _lost(dynamics: Dynamics, given: Sequence, read: Sequence) -> set[str]:
    """Paths of the weights that have no gradient as tensors, and one as variables."""
    pairs = zip(dynamics.params, given, read, strict=True)
    return {v.path for v, given, read in pairs if given is None and read is not None}


def read_in_eager_call(dynamics: Dynamics, error: Exception, shape, dtype: str) -> set[str]:
    """The same, partly, for a layer whose call in a graph raised `error`.

    TensorFlow raises one for custom gradients with keyword arguments, such as `training`, which a
    `keras.RematScope` gives them.

    Args:
      shape, dtype: The state's; axes of unknown length get one entry.
    """
    if "custom_gradient" not in str(error) or not tf.executing_eagerly():
        return set()
    try:
        with keras.StatelessScope(), tf.GradientTape(persistent=True) as tape:
            t, y = tf.zeros([], dtype), tf.ones([n or 1 for n in shape], dtype)
            params, constants = dynamics.read_params(), dynamics.read_constants()
            tape.watch(params)
            further = ones_like_specs(dynamics.further)
            given, _ = dynamics.call_in_scope(t, y, params, constants, further)
            read, _ = dynamics.call_in_scope(t, y, None, constants, further)
            with tape.stop_recording():
                d_params = tape.gradient(given, params)
                d_read = tape.gradient(read, [v._value for v in dynamics.params])
    except Exception as error_of_eager_call:
        return _told(error_of_eager_call, dynamics)
    return _lost(dynamics, d_params, d_read)


class _Call:
    """A call in `graph`, and the operations of custom gradients that it adds there.

    Attributes:
      slope: What the call returns.
      operations: Those in `graph` itself.
      num_nested: How many tensors pass through others, in loops and branches. In a custom gradient
        these are its results, its arguments and the variables that it reads.
      num_tensors: How many pass through all of them.
    """

    def __init__(self, graph, call: Callable[[], tf.Tensor]):
        num_operations, num_nested = len(graph.get_operations()), _num_nested(graph)
        self.slope = call()
        added = graph.get_operations()[num_operations:]
        self.operations = [op for op in added if _is_custom(op.node_def)]
        self.num_nested = _num_nested(graph) - num_nested
        self.num_tensors = self.num_nested + sum(len(op.inputs) for op in self.operations)


def _is_custom(node) -> bool:
    return node.op == "IdentityN" and "_gradient_op_type" in node.attr


def _num_nested(graph) -> int:
    functions = graph.as_graph_def().library.function
    nested = [node for one in functions for node in one.node_def if _is_custom(node)]
    return sum(len(node.attr["T"].list.type) for node in nested)


def _closed_over(graph, places: dict[str, keras.Variable]) -> list[keras.Variable]:
    """The variables, by the names of their tensors in `graph`, that custom gradients read there."""
    found = set()
    for op in graph.get_operations():
        if _is_custom(op.node_def):
            found |= _read(list(op.inputs))
    return [places[name] for name in found if name in places]


def _nested_that_read(graph) -> bool:
    """Whether custom gradients in loops and branches read what these get from outside."""
    for function in graph.as_graph_def().library.function:
        nodes = {node.name: node for node in function.node_def}
        outside = {argument.name for argument in function.signature.input_arg}

        def inputs_of(name: str, nodes: dict = nodes, outside: set = outside) -> list[str]:
            return [] if name in outside else _data_inputs(nodes[name.split(":")[0]])

        for node in filter(_is_custom, function.node_def):
            if _read(_data_inputs(node), lambda name: name, inputs_of) & outside:
                return True
    return False


def _data_inputs(node) -> list[str]:
    return [name for name in node.input if not name.startswith("^")]


def _name(tensor: tf.Tensor) -> str:
    return tensor.name


def _inputs(tensor: tf.Tensor) -> list[tf.Tensor]:
    return list(tensor.op.inputs)


def _read(inputs: list, name_of: Callable = _name, inputs_of: Callable = _inputs) -> set[str]:
    """Names of what the first result of a custom gradient is computed from, but for its arguments.

    Args:
      inputs: Of its operation: its results, and behind them its arguments.
      name_of, inputs_of: Of one of `inputs`, or of what it is computed from.
    """
    first, *others = inputs
    return names_behind([first], name_of, inputs_of, {name_of(x) for x in others})


def names_behind(
    results: list,
    name_of: Callable = _name,
    inputs_of: Callable = _inputs,
    without: Iterable[str] = (),
) -> set[str]:
    """Names of `results` and of all that they are computed from, not past those in `without`."""
    found: set[str] = set()
    waiting = list(results)
    while waiting:
        x = waiting.pop()
        if name_of(x) not in without and name_of(x) not in found:
            found.add(name_of(x))
            waiting += inputs_of(x)
    return found


def _gradients(slope: tf.Tensor | list, sources: list) -> Sequence[tf.Tensor | None] | None:
    """As `tf.gradients`; `None` where that fails, as for an operation without a gradient."""
    try:
        # What is computed again must write nothing.
        with keras.StatelessScope():
            return tf.gradients(slope, sources)
    except Exception:
        return None


def _with_gradients(operations: list, paths: dict[str, str]) -> set[str]:
    """Paths of the variables among the inputs of `operations` that get a gradient there."""
    found = set()
    for op in operations:
        results = [x for x in op.outputs if x.dtype.is_floating or x.dtype.is_complex]
        for x in op.inputs:
            if x.op.type != "ReadVariableOp" or x.op.inputs[0].name not in paths:
                continue
            if any(d is not None for d in _gradients(results, [x]) or ()):
                found.add(paths[x.op.inputs[0].name])
    return found


def _told(error: Exception, dynamics: Dynamics) -> set[str]:
    """What TensorFlow's error says of a custom gradient without an argument `variables`."""
    if "custom_gradient" not in str(error):
        return set()
    paths = {v.path for v in dynamics.params}
    return {path for path in paths if path in str(error)} or paths
