"""Layers that a function may read: Keras' own, and ours; their settings and their variables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tf_neuralode.eager.constants import Unguarded

# What each kind of layer reads of itself in a call, but for its variables and layers inside.
_SETTINGS: dict[type, tuple[str, ...]] = {
    keras.layers.Dense: ("units", "use_bias", "activation"),
    keras.layers.Activation: ("activation",),
    keras.layers.ReLU: ("negative_slope", "max_value", "threshold"),
    keras.layers.LeakyReLU: ("negative_slope",),
    keras.layers.Concatenate: ("axis",),
    keras.layers.Add: (),
    keras.layers.Multiply: (),
    keras.layers.Reshape: ("target_shape",),
    keras.layers.Flatten: ("data_format",),
    keras.layers.Rescaling: ("scale", "offset"),
    keras.Sequential: (),
}
# Of which any makes a layer another one, as an attribute of the object itself.
_CODE = {"call", "__call__", "compute_mask", "quantized_call"}
# As they were imported; somebody may put others in their place.
_CALLS: dict[type, Any] = {kind: getattr(kind, "call") for kind in _SETTINGS}  # noqa: B009


def add_kind(kind: type, *settings: str) -> None:
    """Layers of type `kind` read `settings`, attributes of theirs, and layers inside."""
    _SETTINGS[kind], _CALLS[kind] = settings, getattr(kind, "call")  # noqa: B009


class Parts(NamedTuple):
    """What a layer reads.

    Attributes:
      settings: Numbers, names and functions, a tuple of tuples.
      variables: Of it and of the layers inside, in order.
    """

    settings: tuple
    variables: tuple[keras.Variable, ...]


def parts_of(layer: keras.layers.Layer) -> Parts:
    """Those of `layer` and of the layers inside.

    Raises:
      Unguarded: for other kinds of layers, and for what acts on more than its output.
    """
    layers = _with_those_inside(layer)
    named = [(name, x) for one in layers for name, x in _variables(one)]
    variables = tuple(x for _, x in named)
    settings = (
        tuple(_settings(one) for one in layers),
        tuple(name for name, _ in named),
        # Which are one and the same.
        _first_places(layers),
        _first_places(variables),
    )
    return Parts(settings, variables)


def _variables(layer: keras.layers.Layer) -> list[tuple[str, keras.Variable]]:
    return [(name, x) for name, x in vars(layer).items() if isinstance(x, keras.Variable)]


def _first_places(objects: Sequence[Any]) -> tuple[int, ...]:
    ids = [id(x) for x in objects]
    return tuple(ids.index(x) for x in ids)


def with_values(
    layer: keras.layers.Layer, variables: tuple[keras.Variable, ...], values: list[tf.Tensor]
) -> Callable[..., Any]:
    """`layer`, with `values` for those of its `variables`."""

    def called(*arguments: Any, **keywords: Any) -> Any:
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            return layer(*arguments, **keywords)

    return called


def _with_those_inside(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    inside = layer.layers if isinstance(layer, keras.Sequential) else layer._layers
    return [layer, *(x for one in inside for x in _with_those_inside(one))]


def _settings(layer: keras.layers.Layer) -> tuple:
    name, policy = type(layer).__name__, layer.dtype_policy
    known = type(layer) in _SETTINGS and type(layer).call is _CALLS[type(layer)]
    if not known or not _CODE.isdisjoint(vars(layer)):
        raise Unguarded(f"it calls a layer of type {name}")
    acts = layer.activity_regularizer or getattr(layer, "quantization_mode", None)
    if not layer.built or acts or getattr(layer, "lora_enabled", False):
        raise Unguarded(f"it calls a layer that isn't built, or does more: {layer.name}")
    if type(policy) is not keras.DTypePolicy:
        raise Unguarded(f"it calls a layer with the dtype policy {policy}")
    inputs = layer.inputs if isinstance(layer, keras.Sequential) else ()
    return (
        name,
        tuple((x.dtype, x.shape) for x in inputs or ()),
        *(getattr(layer, setting) for setting in _SETTINGS[type(layer)]),
        policy.compute_dtype,
        policy.variable_dtype,
        layer.autocast,
        layer.trainable,
        layer.supports_masking,
    )
