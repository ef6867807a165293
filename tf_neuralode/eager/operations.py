"""What a traced field does: whether XLA can compile it, and whether that is worth it."""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow as tf

# XLA drops assertions and prints, and knows no strings, tables and Python functions.
_NOT_FOR_XLA = ("Assert", "Print", "CheckNumerics", "DebugNumericSummary", "PyFunc", "EagerPyFunc")
# On a CPU its convolutions take 7 to 14 times as long as the graph runtime's.
_SLOW_ON_CPU = ("Conv", "DepthwiseConv", "MaxPool", "AvgPool")
# Stateful in name: what they do depends on their inputs alone.
_PURE = {
    "While", "StatelessWhile", "If", "StatelessIf", "PartitionedCall", "StatefulPartitionedCall",
    "Placeholder", "ReadVariableOp", "Case", "StatelessCase",
}  # fmt: skip


def operations(graph: tf.Graph) -> Iterator[tf.compat.v1.NodeDef]:
    """All operations in `graph`, in its loops, branches and functions."""
    definition = graph.as_graph_def()
    yield from definition.node
    for function in definition.library.function:
        yield from function.node_def


def suits_xla(graph: tf.Graph) -> bool:
    """Whether a field that was traced into `graph` is one that XLA should compile."""
    on_cpu = not tf.config.list_logical_devices("GPU")
    for node in operations(graph):
        if node.op.startswith(_NOT_FOR_XLA) or "String" in node.op or "Table" in node.op:
            return False
        if on_cpu and node.op.startswith(_SLOW_ON_CPU):
            return False
    return True


def stateful(graph: tf.Graph) -> list[str]:
    """Types of operations in `graph` that draw random numbers, or do what else isn't a function."""
    found = []
    for node in operations(graph):
        definition = graph.op_def_for_type(node.op)
        if definition.is_stateful and node.op not in _PURE and node.op not in _NOT_FOR_XLA:
            found.append(node.op)
    return found
