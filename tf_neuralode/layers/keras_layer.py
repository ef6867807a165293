"""What our layers hand to Keras: the keywords of its constructor, and configs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras

from tf_neuralode.solvers.spelling import did_you_mean

LOW_PRECISION = ("float16", "bfloat16")


def init_keras(layer: Any, init: Callable[..., None], arguments: dict[str, Any]) -> None:
    """Calls Keras' constructor: inputs come as they are, and states are held in 32 bits or more.

    Under a mixed policy what is inside computes in 16 bits.

    Args:
      layer: With its `read_only` names, one of which may be what a keyword was meant to be.
      init: `super().__init__`.
      arguments: Its keywords.
    """
    try:
        # Keras would round float64 times to the layer's dtype in front of `call`.
        init(autocast=False, **arguments)
    except ValueError as error:  # a keyword that Keras doesn't know, either
        raise ValueError(f"{error}{did_you_mean(arguments, layer.read_only)}") from error
    if layer.compute_dtype in LOW_PRECISION:
        layer.dtype_policy = keras.DTypePolicy("float32")


def deserialized(config: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """`config` with objects under those of `names` that hold what stands for them."""
    objects = {
        name: keras.saving.deserialize_keras_object(config[name])
        for name in names
        if isinstance(config.get(name), dict | list)
    }
    return {**config, **objects}
