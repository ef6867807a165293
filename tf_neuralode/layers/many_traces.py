"""Warns where one graph holds dozens of solves of one layer: a Python loop over time."""

from __future__ import annotations

import warnings
import weakref
from typing import Any

import keras
import tensorflow as tf

_MANY = 24
# For each graph how often each layer was traced into it.
_num_traces: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def warn_of_traces(layer: keras.layers.Layer) -> None:
    """Counts a call of `layer`; at the 24th in one graph, once for each layer, warns."""
    if tf.executing_eagerly():
        return
    counts: Any = _num_traces.setdefault(
        tf.compat.v1.get_default_graph(), weakref.WeakKeyDictionary()
    )
    counts[layer] = counts.get(layer, 0) + 1
    if counts[layer] == _MANY and not getattr(layer, "_has_warned_of_traces", False):
        layer._has_warned_of_traces = True
        warnings.warn(
            f"Layer {layer.name!r} is traced for the {_MANY}th time in one function, as in a "
            "Python loop over time: each is a solve of its own, with its time and memory. Give "
            "it all times in one call, layer(y0, times), or make it part of a cell in a "
            "keras.layers.RNN.",
            stacklevel=2,
        )
