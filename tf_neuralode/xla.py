"""Whether XLA will compile what is being traced."""

from __future__ import annotations

import tensorflow as tf


def inside_xla() -> bool:
    """True while a `tf.function(jit_compile=True)` is traced.

    TensorFlow marks such a graph with a control-flow context, which it has no public way to ask
    for. Where the answer can't be had it is "yes", the cautious one: it costs copies, nothing else.
    """
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
