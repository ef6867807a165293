"""How finely a field is resolved that computes in fewer bits than its state is held in.

Its rounding makes the error estimate noisy by about epsilon |h k|, however short the step: a
tolerance below that would shorten the steps without end and gain no digit.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

# Hand on what they are given; the dtype that they were made with means nothing.
_CONTAINERS = (keras.Function, keras.Sequential, keras.layers.InputLayer)
# Spacing of the numbers above 1.
EPSILON = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}
_TF32 = 2.0**-10


class FieldPrecision(NamedTuple):
    """The arithmetic of a field: what it is called, and its spacing of numbers above 1."""

    name: str = "float64"
    epsilon: float = 0.0


def of_state(dtypes: Iterable[str]) -> FieldPrecision:
    """That of a field of a state of these dtypes: the finest, whose part must not be loosened."""
    return min(_known(dtypes), key=lambda one: one.epsilon, default=FieldPrecision())


def of_layer(layer: keras.layers.Layer) -> FieldPrecision:
    """The coarsest of a layer, once it is built, and of all layers in it."""
    computing = [one for one in layer._flatten_layers() if not isinstance(one, _CONTAINERS)]
    found = max(
        _known(one.compute_dtype for one in computing),
        key=lambda one: one.epsilon,
        default=FieldPrecision(),
    )
    multiplies = any(len(weight.shape) > 1 for weight in layer.weights)
    if found.name == "float32" and multiplies and _uses_tf32():
        return FieldPrecision("TF32", _TF32)
    return found


def _known(dtypes: Iterable[str]) -> list[FieldPrecision]:
    return [FieldPrecision(dtype, EPSILON[dtype]) for dtype in dtypes if dtype in EPSILON]


def _uses_tf32() -> bool:
    """Whether products of float32 matrices are rounded to TF32: on newer GPUs, if allowed."""
    if not tf.config.experimental.tensor_float_32_execution_enabled():
        return False
    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return any(one.get("compute_capability", (0, 0)) >= (8, 0) for one in details)


def warn_of_tolerance(field: FieldPrecision, tolerances: Any, held_in: str) -> None:
    """Warns, once, if both rtol and atol (or `None`) are finer than the field's precision."""
    if tolerances is None or field.epsilon <= EPSILON[held_in]:
        return
    if any(tf.is_tensor(x) and not hasattr(x, "numpy") for x in tf.nest.flatten(tolerances)):
        return
    loosest = [max(float(np.max(x)) for x in tf.nest.flatten(one)) for one in tolerances]
    # Over a solution that changes by its own size the rounding leaves about this.
    resolved = field.epsilon / 8
    if max(loosest) >= resolved:
        return
    advice = "float32 or float64"
    if field.name == "TF32":
        advice = "tf.config.experimental.enable_tensor_float_32_execution(False)"
    warnings.warn(
        f"The dynamics computes in {field.name} (epsilon {field.epsilon:.1e}), too coarse for the "
        f"tolerances: its errors will be about {resolved:.0e} or more, and the steps no shorter. "
        f"Take a larger rtol, or {advice}. Received: rtol={loosest[0]:g}, atol={loosest[1]:g}",
        stacklevel=2,
    )
