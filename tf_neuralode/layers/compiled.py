"""A solve as a function of its own, kept for as long as what Python decided in it holds."""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_neuralode.layers.dynamics import Dynamics
from tf_neuralode.tensors import compiled_as, inside_xla

# Compiling for another size takes half a second or more.
_MAX_SIZES = 3


class Compiled:
    """`function` as a `tf.function`, by XLA or not, traced anew wherever it could be another one.

    A `tf.function` finds again what it has traced by the shapes and dtypes of its tensors alone.
    Which variable each of them is the value of, and whatever else Python reads while it traces,
    would be that of the first call. So one is kept

    - for each outermost graph that it is called in, as that is traced anew, too, where anything has
      changed (Keras does so after `compile`). Within one Keras traces a training step twice;
    - for each `layout` of the dynamics, as eager calls and two calls in one graph can differ.
    """

    def __init__(self, function: Callable[..., Any]):
        self._function = function
        self._in_eager_calls: dict[tuple, Any] = {}
        self._in_graphs: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
        self._sizes: Any = None  # of batches that it was compiled for, where they are bounded

    def for_dynamics(
        self,
        layer: keras.layers.Layer,
        dynamics: Dynamics,
        *settings: Any,
        xla: bool = True,
        bounded: bool = False,
    ) -> Callable[..., Any]:
        """The function, given its first arguments: `dynamics`, of `layer`, and others.

        Args:
          layer: A layer.
          dynamics: It, as it is called.
          settings: Further first arguments.
          xla: Whether XLA compiles it.
          bounded: Whether it does so for the first few sizes of the batch alone.
        """
        kept = self._in_eager_calls
        if not tf.executing_eagerly():
            kept = self._in_graphs.setdefault(outermost_graph(), {})
        key, objects = layout(layer, dynamics)
        key = (*key, *settings, xla, inside_xla())
        function, references = kept.get(key, (None, []))
        # Something new can have the address of something that is gone.
        if function is None or any(reference() is None for reference in references):
            bound = functools.partial(self._function, dynamics, *settings)
            if bounded:
                function = self._for_few_sizes(bound)
            else:
                function = tf.function(bound, jit_compile=xla or None, autograph=False)
            kept[key] = function, [weakref.ref(x) for x in objects]
        return function

    def _for_few_sizes(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function(y0, ...)`, by XLA for the first sizes of y0's batch, for others without.

        Traced once for both: what XLA would compile runs without it as well, if more slowly.
        """
        # Inlined, the branch that isn't taken would be optimized and walked through, too.
        alone = {"_noinline": True}
        traced = tf.function(function, autograph=False, experimental_attributes=alone)
        by_xla = tf.function(lambda *inputs: traced(*inputs), jit_compile=True, autograph=False)
        if self._sizes is None:
            with tf.init_scope():
                self._sizes = tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, 0)
        sizes = self._sizes

        def chosen(y0: tf.Tensor, *inputs: Any) -> Any:
            size = tf.shape(y0, out_type=tf.int64)[0]
            fits = (sizes.lookup(size) > 0) | (sizes.size() < _MAX_SIZES)
            one = tf.constant(1, tf.int64)
            with (
                tf.control_dependencies([tf.cond(fits, lambda: sizes.insert(size, one), tf.no_op)]),
                compiled_as(True),
            ):
                return tf.cond(fits, lambda: by_xla(y0, *inputs), lambda: traced(y0, *inputs))

        return chosen


class OncePerTrace:
    """Values that are made once for each outermost graph and key, and are forgotten with it."""

    def __init__(self) -> None:
        self._kept: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make()` returned where it was called for this key."""
        kept = self._kept.setdefault(outermost_graph(), {})
        if key not in kept:
            kept[key] = make()
        return kept[key]


def outermost_graph() -> Any:
    """The graph of the function that is traced here, or of that which traces it, and so on."""
    graph = tf.compat.v1.get_default_graph()
    while isinstance(outer := getattr(graph, "outer_graph", None), tf.__internal__.FuncGraph):
        graph = outer
    return graph


def layout(layer: keras.layers.Layer, dynamics: Dynamics) -> tuple[tuple, list[Any]]:
    """What Python reads of a dynamics while a solve is traced.

    Returns:
      A key, and the objects that it tells by their addresses: the variables, the trainable first,
      and each layer inside with the arrays and functions that it holds. Beside them stand its
      numbers and strings, whether it is trainable, which BatchNormalization asks, and its dtype
      policy; and what `dynamics` is told.
    """
    params, constants = dynamics.params, dynamics.constants
    objects: list[Any] = [*params, *constants]
    about_layers: list[Any] = [len(params), dynamics.training, dynamics.writes]
    for one in layer._flatten_layers():
        objects += [one, *_held(one, _BY_ADDRESS)]
        about_layers += [one.trainable, one.dtype_policy.name, *map(repr, _held(one, _BY_VALUE))]
    return (*map(id, objects), *about_layers), objects


_BY_ADDRESS = (tf.Tensor, tf.Variable, np.ndarray, types.FunctionType)
_BY_VALUE = (int, float, complex, str, type(None), np.generic)


def _held(layer: keras.layers.Layer, kinds: tuple[type, ...]) -> list[Any]:
    """Objects of these kinds among the attributes of `layer`, and in lists and dicts there."""
    found = []
    for value in vars(layer).values():
        values = [value]
        if isinstance(value, dict):
            values = list(value.values())
        elif isinstance(value, list | tuple):
            values = list(value)
        found += [x for x in values if isinstance(x, kinds)]
    return found
