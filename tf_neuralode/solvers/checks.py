"""Checks of settings: a clear error at construction, never a TensorFlow stack later."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np
import tensorflow as tf

from tf_neuralode.methods import NAMES as NORM_NAMES


def _is_number(value) -> bool:
    is_real = isinstance(value, numbers.Real | np.floating | np.integer)
    return is_real and not isinstance(value, bool | np.bool_)


def inside(name: str, value, lower: float, upper: float) -> float:
    """`value` as a float, if it lies strictly between the bounds."""
    if not _is_number(value):
        raise TypeError(f"Argument {name} must be a number. Received: {name}={value!r}")
    if not lower < value < upper:
        raise ValueError(
            f"Argument {name} must lie between {lower} and {upper}. Received: {name}={value}"
        )
    return float(value)


def optional_positive(name: str, value) -> float | tf.Tensor | None:
    """`value` as a positive float, `None`, or a scalar tensor whose value isn't known yet."""
    is_tensor = tf.is_tensor(value) and not isinstance(value, tf.Variable)
    if is_tensor and value.shape.rank == 0 and value.dtype.is_floating:
        if not hasattr(value, "numpy"):
            return value
        value = value.numpy()
    if value is None or (_is_number(value) and 0 < value < math.inf):
        return value if value is None else float(value)
    kind = ValueError if _is_number(value) else TypeError
    raise kind(f"Argument {name} must be a positive number or None. Received: {name}={value!r}")


def norm(value):
    """`value`, if it is one of the names of error norms or can be called; "max" for `None`."""
    if value is None:
        return "max"
    if value not in NORM_NAMES and not callable(value):
        kind = ValueError if isinstance(value, str) else TypeError
        raise kind(
            f"Argument norm must be one of {', '.join(map(repr, NORM_NAMES))}, a function, or "
            f"None. Received: norm={value!r}"
        )
    return value


def count(name: str, value) -> int:
    """`value` as an int of at least 0; 0 for `None`."""
    return 0 if value is None else _integer(name, value, 0)


def positive_integer(name: str, value) -> int:
    """`value` as an int of at least 1."""
    return _integer(name, value, 1)


def _integer(name: str, value, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"Argument {name} must be an integer. Received: {name}={value!r}")
    if value < least:
        raise ValueError(f"Argument {name} must be at least {least}. Received: {name}={value}")
    return int(value)


def tolerance(name: str, value: Any) -> Any:
    """A scalar, an array, or a nest of them, all entries positive and finite.

    Tensors whose value isn't known yet pass. Of arrays a copy, which nobody changes.
    """
    if not tf.is_tensor(value) and not tf.nest.flatten(value):
        raise ValueError(f"Argument {name} must not be empty. Received: {name}={value!r}")
    for leaf in tf.nest.flatten(value):
        if tf.is_tensor(leaf) and not hasattr(leaf, "numpy"):
            continue
        array = np.asarray(leaf)
        if array.dtype.kind not in "fiu":
            raise TypeError(f"Argument {name} must be a number. Received: {name}={value!r}")
        if not (np.all(array > 0) and np.all(np.isfinite(array))):
            raise ValueError(
                f"Argument {name} must be positive and finite. Received: {name}={value}"
            )
    return tf.nest.map_structure(lambda x: x.copy() if isinstance(x, np.ndarray) else x, value)


def plain(value: Any) -> Any:
    """A setting as Python numbers and lists, which JSON can hold.

    Raises:
      ValueError: for a tensor whose value isn't known yet.
    """

    def leaf(x):
        if x is None or type(x) in (bool, int, float):  # np.float64 is a float, too
            return x
        if tf.is_tensor(x) and not hasattr(x, "numpy"):
            raise ValueError(f"A tensor inside a tf.function can't be serialized. Received: {x}")
        return np.asarray(x).tolist()

    return tf.nest.map_structure(leaf, value)


def hashable(setting: Any) -> Any:
    """A plain setting as something with a hash, the same for settings that are equal."""
    if isinstance(setting, dict):
        return tuple((name, hashable(setting[name])) for name in sorted(setting))
    if isinstance(setting, list | tuple):
        return tuple(hashable(entry) for entry in setting)
    return setting
