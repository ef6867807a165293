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


# What gives the same under XLA, and has no inputs that are errors elsewhere.
_SAME_IN_XLA = set(
    "Placeholder Const Identity Add AddV2 AddN Sub Mul Neg RealDiv Div Pow Square Sqrt Rsqrt Exp "
    "Expm1 Log1p Log Sin Cos Tan Tanh Sigmoid Softplus Relu Elu Sinh Cosh Abs Sign Maximum Minimum "
    "MatMul BatchMatMulV2 Pack Unpack ConcatV2 Reshape ExpandDims Squeeze Transpose Sum Mean Max "
    "Min Shape StridedSlice BroadcastTo Fill ZerosLike OnesLike SelectV2 Greater Less GreaterEqual "
    "LessEqual Einsum BiasAdd Split SplitV NoOp".split()
)


def same_in_xla(graph: tf.Graph) -> bool:
    """Whether all operations in `graph` are such as XLA neither drops nor answers otherwise."""
    constants = {node.name for node in operations(graph) if node.op == "Const"}
    for node in operations(graph):
        if node.op not in _SAME_IN_XLA:
            return False
        if node.op == "StridedSlice" and not {*node.input[1:]} <= constants:
            return False  # what is out of bounds is an error, and not under XLA
        if node.op in ("RealDiv", "Div") and not tf.as_dtype(node.attr["T"].type).is_floating:
            return False
    return True


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
        if definition.is_stateful and node.op not in _PURE and node.op != "Assert":
            found.append(node.op)
    return found
