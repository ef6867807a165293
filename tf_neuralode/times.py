"""Checks of the times that a solve is given."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def _as_floats(name: str, value) -> np.ndarray:
    received = f"Received: {name}={value!r}"
    try:
        times = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"Argument {name} must hold numbers. {received}") from None
    if times.ndim != 1 or not np.all(np.isfinite(times)):
        raise ValueError(f"Argument {name} must be a sequence of finite numbers. {received}")
    return times


def check_t_span(t_span) -> tuple[float, float]:
    """`t_span` as two different floats."""
    times = _as_floats("t_span", t_span)
    if len(times) != 2 or times[0] == times[1]:
        raise ValueError(
            f"Argument t_span must hold two different times, (t0, t1). Received: t_span={t_span!r}"
        )
    return float(times[0]), float(times[1])


def check_t_eval(t_eval, t_span: tuple[float, float], return_sequences: bool):
    """`t_eval` as floats, in the direction of `t_span` and inside it; or `None`."""
    if t_eval is None:
        return None
    received = f"Received: t_eval={t_eval!r}, t_span={t_span}"
    times = _as_floats("t_eval", t_eval)
    if not return_sequences:
        raise ValueError(
            "Argument t_eval needs return_sequences=True; without it the layer returns the state "
            f"at t_span[1]. {received}"
        )
    direction = np.sign(t_span[1] - t_span[0])
    if len(times) == 0 or np.any(np.diff(times) * direction <= 0):
        raise ValueError(
            f"Argument t_eval must be strictly monotone in the direction of t_span. {received}"
        )
    if min(times) < min(t_span) or max(times) > max(t_span):
        raise ValueError(f"Argument t_eval must lie inside t_span. {received}")
    if len(times) == 1 and times[0] == t_span[0]:
        raise ValueError(f"Argument t_eval must hold a time behind t_span[0]. {received}")
    return tuple(float(t) for t in times)


def check_distinct(times: np.ndarray, dtype: str) -> None:
    """Raises ValueError unless the monotone `times` are still distinct in `dtype`."""
    if np.any(np.diff(times.astype(dtype)) == 0):
        raise ValueError(
            f"Arguments t_span and t_eval must hold times that differ in {dtype}, the precision of "
            f"the state. Use dtype='float64', or times further apart. Received: {times.tolist()}"
        )


def checked(value: tf.Tensor, condition: tf.Tensor, message: str, received, data: tf.Tensor):
    """`value`, once it is sure that `condition` holds.

    Args:
      value: What to return.
      condition: Boolean scalar.
      message: Argument, rule, and what to do.
      received: What the error shows where the condition is known.
      data: What it shows at run time.

    Raises:
      ValueError: where the condition is known to be false.
      tf.errors.InvalidArgumentError: at run time, and not under XLA, which drops assertions.
    """
    known = tf.get_static_value(condition)
    if known is None:
        with tf.control_dependencies(
            [tf.debugging.Assert(condition, [message, "Received:", data])]
        ):
            return tf.identity(value)
    if not known:
        raise ValueError(f"{message} Received: {received}")
    return value
