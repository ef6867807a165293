"""Checks of the arguments that a layer is called with: shapes and dtypes, of tensors or specs."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf


def same_shapes(a: tuple, b: tuple) -> bool:
    """Whether two shapes, with `None` for what isn't known, can be the same."""
    pairs = zip(a, b, strict=False)
    return len(a) == len(b) and all(None in pair or pair[0] == pair[1] for pair in pairs)


def check_shapes(times: tuple, mask: tuple | None) -> None:
    """Raises ValueError unless the shapes of the arguments `times` and `mask` fit."""
    if len(times) not in (1, 2) or times[-1] == 0:
        raise ValueError(
            "Argument times must have the shape (num_times,), shared by the batch, or "
            f"(batch, num_times), with at least one time. Received: times of shape {times}"
        )
    if mask is None:
        return
    if len(mask) != 2 or not same_shapes(mask[-len(times) :], times):
        raise ValueError(
            "Argument mask must have the shape (batch, num_times). "
            f"Received: mask of shape {mask}, times of shape {times}"
        )


def as_tensor_like(name: str, value: Any) -> Any:
    """The argument of a call, numbers and (nested) lists of them as an array; else as it is."""
    _check_dense(name, value)
    if not isinstance(value, list | tuple | bool | int | float):
        return value
    if any(tf.is_tensor(x) for x in tf.nest.flatten(value)):
        return tf.convert_to_tensor(value)
    try:
        array = np.array(value)
    except ValueError:  # rows of different lengths
        array = np.array(None)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"Argument {name} must hold numbers. Received: {name}={value!r}")
    return array


def _check_dense(name: str, value: Any) -> None:
    if isinstance(value, tf.RaggedTensor):
        raise TypeError(
            f"Argument {name} must be a dense tensor. Pad it, {name}.to_tensor(), and say by mask "
            f"which entries count. Received: a RaggedTensor of shape {value.shape}"
        )


def check_call(name: str, y0, times, mask, t_eval) -> None:
    """Raises ValueError or TypeError unless a layer's arguments, tensors or specs, fit."""
    _check_dense("y0", y0)
    if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(y0.dtype)):
        raise TypeError(
            f"The input of layer {name!r} (NeuralODE) must be floating point. Cast it, for "
            f"example with keras.ops.cast(x, 'float32'). Received: dtype {y0.dtype}"
        )
    if times is None:
        return
    check_shapes(tuple(times.shape), None if mask is None else tuple(mask.shape))
    if t_eval is not None:
        raise ValueError(
            f"Layer {name!r} (NeuralODE) has t_eval, so it can't be called with times. Use one of "
            f"the two. Received: t_eval={t_eval}, times={times}"
        )
    if len(times.shape) == 2 and not same_shapes(tuple(times.shape)[:1], tuple(y0.shape)[:1]):
        raise ValueError(
            "Argument times must have a row for each sample, (batch, num_times). Received: "
            f"times of shape {tuple(times.shape)}, y0 of shape {tuple(y0.shape)}"
        )


def check_state_mask(name: str, y0, y0_mask) -> None:
    """Raises ValueError unless the mask has the first axes of the state."""
    if y0_mask is None:
        return
    mask, state = tuple(y0_mask.shape), tuple(y0.shape)
    if not (mask and same_shapes(mask, state[: len(mask)])):
        raise ValueError(
            f"The mask of the state of layer {name!r} (NeuralODE) must have the state's first "
            "axes, for example (batch, steps) for (batch, steps, features). "
            f"Received: mask of shape {mask}, state of shape {state}"
        )


def check_t0(name: str, y0: Any, t0: Any) -> None:
    """Raises ValueError or TypeError unless `t0` is a number, or one for each sample."""
    if t0 is None:
        return
    dtype = keras.backend.standardize_dtype(t0.dtype)
    if not (keras.backend.is_float_dtype(dtype) or keras.backend.is_int_dtype(dtype)):
        raise TypeError(f"Argument t0 must hold numbers. Received: dtype {dtype}")
    shape = tuple(t0.shape)
    if shape and not same_shapes(shape, tuple(y0.shape)[:1]):
        raise ValueError(
            f"Argument t0 of layer {name!r} (NeuralODE) must be a number, or (batch,), one for "
            f"each sample. Received: t0 of shape {shape}, y0 of shape {tuple(y0.shape)}"
        )
