"""Shapes and dtypes of what a dynamics gets behind the state: known when the layer is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_neuralode.layers.check_call import same_shapes
from tf_neuralode.layers.inputs import Inputs


def specs_of(inputs: Inputs, dtype: str) -> tuple[Any, ...]:
    """`KerasTensor`s of what a dynamics gets behind the state: control, then context."""
    specs: list[Any] = []
    if inputs.control:
        values = inputs.control[1]
        batch = values.shape[0] if len(values.shape) > 2 else None
        channels = 1 if len(values.shape) == 1 else values.shape[-1]
        specs.append(keras.KerasTensor((batch, channels), dtype=dtype))
    if not _is_empty(inputs.context):

        def one(x: Any) -> keras.KerasTensor:
            own = keras.backend.standardize_dtype(x.dtype)
            own = dtype if keras.backend.is_float_dtype(own) else own
            return keras.KerasTensor(x.shape, dtype=own)

        specs.append(keras.tree.map_structure(one, inputs.context))
    return tuple(specs)


def ones_like_specs(specs: Sequence[Any]) -> list[Any]:
    """Tensors of such shapes; axes of unknown length get one entry."""
    one = lambda x: tf.ones([n or 1 for n in x.shape], x.dtype)
    return list(keras.tree.map_structure(one, list(specs)))


def _is_empty(nest: Any) -> bool:
    return not keras.tree.flatten(nest)


def check_like(name: str, built: Sequence[Any], given: Sequence[Any]) -> None:
    """Raises ValueError unless a layer is called with what it was built for."""
    a, b = _shapes_by_path(built), _shapes_by_path(given)
    if a.keys() != b.keys() or not all(same_shapes(a[path][1:], b[path][1:]) for path in a):
        raise ValueError(
            f"Layer {name!r} (NeuralODE) must be called with the control and context that it was "
            f"built with, of shapes {list(a.values())}. Received: shapes {list(b.values())}"
        )


def _shapes_by_path(nest: Any, path: tuple = ()) -> dict[tuple, tuple]:
    if not isinstance(nest, dict | list | tuple):
        return {path: tuple(nest.shape)}
    found: dict[tuple, tuple] = {}
    for key, value in nest.items() if isinstance(nest, dict) else enumerate(nest):
        found |= _shapes_by_path(value, (*path, key))
    return found


def serialized(nest: Any) -> Any:
    """Specs, in a nest, as JSON can hold them."""
    if isinstance(nest, keras.KerasTensor):
        return {"tensor": {"shape": list(nest.shape), "dtype": nest.dtype}}
    if isinstance(nest, dict):
        return {"dict": {name: serialized(x) for name, x in nest.items()}}
    return {"list": [serialized(x) for x in nest]}


def deserialized(config: dict[str, Any]) -> Any:
    """The inverse; a tuple becomes a list."""
    ((kind, value),) = config.items()
    if kind == "tensor":
        return keras.KerasTensor(value["shape"], dtype=value["dtype"])
    if kind == "dict":
        return {name: deserialized(x) for name, x in value.items()}
    return [deserialized(x) for x in value]
