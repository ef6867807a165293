"""Whether XLA will compile what is being traced."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import tensorflow as tf

_known = threading.local()


@contextlib.contextmanager
def compiled_as(xla: bool) -> Iterator[None]:
    """If `xla`, what is traced in this context is inside XLA; if not, its graph tells.

    For a backward pass: where XLA compiles a `tf.function` and something else calls it, as for
    `NeuralODE(jit_compile=True)`, TensorFlow traces the backward pass in a graph without that mark,
    and XLA compiles it just the same.
    """
    before = getattr(_known, "xla", False)
    _known.xla = before or xla
    try:
        yield
    finally:
        _known.xla = before


def asserting(condition: tf.Tensor, data: list) -> contextlib.AbstractContextManager:
    """What is made in this context runs once it is sure that `condition` holds.

    Not under XLA, which drops assertions, and says so on the screen.
    """
    if inside_xla():
        return contextlib.nullcontext()
    return tf.control_dependencies([tf.debugging.Assert(condition, data)])


def inside_xla() -> bool:
    """True while a `tf.function(jit_compile=True)` is traced.

    TensorFlow marks such a graph with a control-flow context, which it has no public way to ask
    for. Where the answer can't be had it is "yes", the cautious one: it costs copies, nothing else.
    """
    if getattr(_known, "xla", False):
        return True
    if tf.executing_eagerly():
        return False
    graph = tf.compat.v1.get_default_graph()
    while graph is not None:
        try:
            context = graph._get_control_flow_context()
            while context is not None:
                if context.IsXLAContext():
                    return True
                context = context.outer_context
        except AttributeError:
            return True
        graph = getattr(graph, "outer_graph", None)
    return False
