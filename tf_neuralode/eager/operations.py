"""What a traced field does: whether XLA can compile it, and whether that is worth it."""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow as tf

# XLA drops assertions and prints, and knows no strings, tables and Python functions.
_NOT_FOR_XLA = ("Assert", "Print", "CheckNumerics", "DebugNumericSummary", "PyFunc", "EagerPyFunc")
# On a CPU its convolutions take 7 to 14 times as long as the graph runtime's.
_SLOW_ON_CPU = ("Conv", "DepthwiseConv", "MaxPool", "AvgPool")
# In a graph, too, TensorFlow takes max(sqrt(x)) for sqrt(max(x)), so that a NaN gets lost.
_LOSES_NAN = {"Max", "Min", "ArgMax", "ArgMin", "MaxPool", "MaxPool3D"}
# Stateful in name: what they do depends on their inputs alone.
_PURE = {"Placeholder", "ReadVariableOp"}


def operations(graph: tf.Graph) -> Iterator[tf.compat.v1.NodeDef]:
    """All operations in `graph`, in its loops, branches and functions."""
    definition = graph.as_graph_def()
    yield from definition.node
    for function in definition.library.function:
        yield from function.node_def


# What gives the same under XLA, and has no inputs that are errors elsewhere. Maxima and minima drop
# NaN there, on a CPU.
_SAME_IN_XLA = set(
    "Placeholder Const Identity Add AddV2 AddN Sub Mul Neg RealDiv Div Pow Square Sqrt Rsqrt Exp "
    "Expm1 Log1p Log Sin Cos Tan Tanh Sigmoid Softplus Relu Elu Sinh Cosh Abs Sign "
    "MatMul BatchMatMulV2 Pack Unpack ConcatV2 Reshape ExpandDims Squeeze Transpose Sum Mean "
    "Shape StridedSlice BroadcastTo Fill ZerosLike OnesLike SelectV2 Greater Less GreaterEqual "
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
    # exp(a) / exp(b) becomes exp(a - b) there, and log(exp(a)) a: finite where the others overflow.
    kinds = [node.op for node in operations(graph)]
    powers = kinds.count("Exp") + kinds.count("Pow")
    return powers == 0 or (powers == 1 and not {"Log", "RealDiv", "Div"} & {*kinds})


def suits_xla(graph: tf.Graph) -> bool:
    """Whether a field that was traced into `graph` is one that XLA should compile."""
    on_cpu = not tf.config.list_logical_devices("GPU")
    for node in operations(graph):
        if node.op.startswith(_NOT_FOR_XLA) or "String" in node.op or "Table" in node.op:
            return False
        if on_cpu and node.op.startswith(_SLOW_ON_CPU):
            return False
    return True


def not_a_formula(graph: tf.Graph) -> str | None:
    """What in `graph` is more than a function of its inputs that Python sees in full.

    That is what draws random numbers, or acts on something else; what has loops or branches; and
    tensors of which a graph doesn't know the shape, but an eager call does.
    """
    for operation in graph.get_operations():
        definition = operation.op_def
        if definition.is_stateful and operation.type not in _PURE and operation.type != "Assert":
            return f"runs {operation.type}"
        if operation.type in _LOSES_NAN:
            return f"runs {operation.type}, which can lose a NaN in a graph"
        if any(not x.shape.is_fully_defined() for x in operation.outputs):
            return "makes tensors whose shapes depend on values"
    if len(graph.as_graph_def().library.function):
        return "has loops or branches of TensorFlow's"
    return None
