"""A function that XLA compiles, kept for as long as what Python decided in it holds."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_neuralode.layers.dynamics import Dynamics


class Compiled:
    """`function` with `jit_compile=True`, traced anew wherever it could be another one.

    A `tf.function` finds again what it has traced by the shapes and dtypes of its tensors alone.
    Which variable each of them is the value of, and whatever else Python reads while it traces,
    would be that of the first call. So one is kept

    - for each graph that calls it, as that is traced anew, too, where anything has changed (Keras
      does so after `compile`);
    - for each `layout` of the dynamics, as eager calls and two calls in one graph can differ.
    """

    def __init__(self, function: Callable[..., Any]):
        self._function = function
        self._in_eager_calls: dict[tuple, Any] = {}
        self._in_graphs: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    def for_dynamics(
        self, layer: keras.layers.Layer, dynamics: Dynamics, *settings: Any
    ) -> Callable[..., Any]:
        """The compiled function, given its first arguments: `dynamics`, of `layer`, and others."""
        kept = self._in_eager_calls
        if not tf.executing_eagerly():
            kept = self._in_graphs.setdefault(tf.compat.v1.get_default_graph(), {})
        key, objects = layout(layer, dynamics)
        key = (*key, *settings)
        function, references = kept.get(key, (None, []))
        # Something new can have the address of something that is gone.
        if function is None or any(reference() is None for reference in references):
            bound = functools.partial(self._function, dynamics, *settings)
            function = tf.function(bound, jit_compile=True, autograph=False)
            kept[key] = function, [weakref.ref(x) for x in objects]
        return function


def layout(layer: keras.layers.Layer, dynamics: Dynamics) -> tuple[tuple, list[Any]]:
    """What Python reads of a dynamics, but for numbers and strings, while a solve is traced.

    Returns:
      A key, and the objects that it tells by their addresses: the variables, the trainable first,
      and each layer inside with the arrays that it holds. Beside them stand whether the layer is
      trainable, which BatchNormalization asks, and its dtype policy; and what `dynamics` is told.
    """
    params, constants = dynamics.params, dynamics.constants
    objects: list[Any] = [*params, *constants]
    about_layers: list[Any] = [len(params), dynamics.training, dynamics.writes]
    for one in layer._flatten_layers():
        objects += [one, *_arrays(one)]
        about_layers += [one.trainable, one.dtype_policy.name]
    return (*map(id, objects), *about_layers), objects


def _arrays(layer: keras.layers.Layer) -> list[Any]:
    """Tensors and arrays among the attributes of `layer`, and in lists and dicts there."""
    found = []
    for value in vars(layer).values():
        values = [value]
        if isinstance(value, dict):
            values = list(value.values())
        elif isinstance(value, list | tuple):
            values = list(value)
        found += [x for x in values if isinstance(x, tf.Tensor | tf.Variable | np.ndarray)]
    return found
