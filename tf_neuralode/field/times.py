"""Checks of the times that a solve is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_neuralode.field.clock import Clock, is_resolved
from tf_neuralode.field.sample_clock import SampleClock
from tf_neuralode.tensors import asserting


def _as_floats(name: str, value) -> np.ndarray:
    received = f"Received: {name}={value!r}"
    leaves = value if isinstance(value, list | tuple) else [value]
    if any(tf.is_tensor(x) or isinstance(x, tf.Variable | keras.Variable) for x in leaves):
        raise TypeError(
            f"Argument {name} must hold numbers, which are constants of the layer. Call the layer "
            f"with tensors and variables instead, layer(y0, times): those are followed and have "
            f"gradients. {received}"
        )
    try:
        times = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"Argument {name} must hold numbers. {received}") from None
    if times.ndim != 1 or not np.all(np.isfinite(times)):
        raise ValueError(f"Argument {name} must be a sequence of finite numbers. {received}")
    given = np.asarray(value)
    if given.dtype.kind in "iu" and any(
        int(t) != int(x) for t, x in zip(times, given, strict=True)
    ):
        raise ValueError(
            f"Argument {name} must hold integers that float64 holds. Count time from a nearer "
            f"origin. {received}"
        )
    if given.dtype.kind == "f" and len(times) > 1:
        own, total = tf.as_dtype(given.dtype), abs(times[-1] - times[0])
        if not is_resolved(total, len(times) - 1, times[0], own):
            raise ValueError(f"{unresolved(f'Argument {name}', own)} {received}")
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
    if np.any(np.diff((times - times[0]).astype(dtype)) == 0):
        raise ValueError(
            f"Arguments t_span and t_eval must hold times that differ in {dtype}, the precision of "
            f"the state. Use dtype='float64', or times further apart. Received: {times.tolist()}"
        )


def checked(
    value: tf.Tensor,
    condition: tf.Tensor,
    message: str,
    received: Callable[[], str],
    data: tf.Tensor,
):
    """`value`, once it is sure that `condition` holds.

    Args:
      value: What to return.
      condition: Boolean scalar.
      message: Argument, rule, and what to do.
      received: Gives the end of the error where the condition is known.
      data: What it shows at run time.

    Raises:
      ValueError: where the condition is known to be false.
      tf.errors.InvalidArgumentError: at run time, and not under XLA, which drops assertions.
    """
    known = tf.get_static_value(condition)
    if known is None:
        with asserting(condition, [message, "Received:", data]):
            return tf.identity(value)
    if not known:
        raise ValueError(f"{message} {received()}")
    return value


def as_times(t: Any) -> Any:
    """`t` as a tensor, if it is one or holds some, otherwise as an array."""
    parts = t if isinstance(t, list | tuple) else [t]
    has_tensors = any(tf.is_tensor(x) or isinstance(x, tf.Variable) for x in parts)
    return tf.convert_to_tensor(t) if has_tensors else np.asarray(t)


def output_times(
    t: Any, dtype: tf.DType, direction: float | None = None, are_elapsed: bool = False
) -> tuple[Any, Clock | SampleClock, tf.Tensor | None]:
    """The argument `t` of `odeint`, checked.

    Args:
      t: `(num_times,)`, or `(num_times, batch)`.
      dtype: In which the solve holds its time.
      direction: 1 or -1 where it is known in which direction the times run that are shared.
      are_elapsed: Whether they are counted from the initial time on, forwards.

    Returns:
      The times in their own dtype, a tensor or an array as `t` is, their clock, and whether they
      are valid where that is known at run time only, otherwise `None`.

    Raises:
      TypeError, ValueError: for another shape or dtype, and for values where they are known.
      tf.errors.InvalidArgumentError: for values at run time; not under XLA.
    """
    received = lambda: f"Received: t={t}"  # to print an array takes longer than to check it
    times = as_times(t)
    own = tf.as_dtype(times.dtype)
    if not (own.is_floating or own.is_integer):
        raise TypeError(f"Argument t must hold real numbers. {received()}")
    if len(times.shape) not in (1, 2):
        raise ValueError(
            "Argument t must be one-dimensional, or (num_times, batch) for times of each sample. "
            f"{received()}"
        )
    if times.shape[0] == 0:
        raise ValueError(f"Argument t must hold an initial time at least. {received()}")
    if len(times.shape) == 2:
        return _times_of_samples(tf.convert_to_tensor(times), dtype, are_elapsed, received)
    origin, last = (own.as_numpy_dtype(0), None) if are_elapsed else (times[0], times[-1])
    clock = Clock(origin, dtype, last, 1.0 if are_elapsed else direction)
    elapsed = clock.elapsed(times) if tf.is_tensor(times) else clock.elapsed_array(times)
    steps = elapsed[1:] - elapsed[:-1]
    all_of = tf.reduce_all if tf.is_tensor(times) else np.all
    # False for NaN, too.
    is_finite = tf.math.is_finite if tf.is_tensor(times) else np.isfinite
    monotone = all_of(steps >= 0) & all_of(is_finite(elapsed))
    message = "Argument t must be finite, and increasing or decreasing from the first on. Sort t."
    num = tf.size(times) - 1 if tf.is_tensor(times) else times.size - 1
    resolved = is_resolved(elapsed[-1], num, origin, own)
    times, valid = _checked_times(times, monotone, message, resolved, received)
    return times, clock, valid


def _times_of_samples(
    times: tf.Tensor, dtype: tf.DType, are_elapsed: bool, received: Callable[[], str]
) -> tuple[tf.Tensor, SampleClock, tf.Tensor | None]:
    """As `output_times`, of `(num_times, batch)`."""
    own = times.dtype
    if are_elapsed:
        of_elapsed = Clock(own.as_numpy_dtype(0), dtype, direction=1.0)
    else:
        of_elapsed = Clock(times[0], dtype, times[-1], direction=1.0)
    clock = SampleClock(of_elapsed, times[-1])
    elapsed = of_elapsed.elapsed(times)
    steps = (elapsed[1:] - elapsed[:-1]) * tf.sign(clock.lengths)
    # Times that come back to where they began have no direction.
    returns = ~clock.moving & tf.reduce_any(tf.not_equal(elapsed, 0), axis=0)
    monotone = tf.reduce_all(steps >= 0) & tf.reduce_all(tf.math.is_finite(elapsed))
    monotone &= ~tf.reduce_any(returns)
    message = (
        "Argument t must be finite, and increasing or decreasing from the first on, for each "
        "sample. Sort each column of t."
    )
    total = tf.reduce_sum(tf.abs(clock.lengths))
    origin = tf.reduce_sum(tf.abs(tf.cast(tf.zeros([]) if are_elapsed else times[0], dtype)))
    resolved = is_resolved(total, tf.shape(times)[0] - 1, origin, own)
    times, valid = _checked_times(times, monotone, message, resolved, received)
    return times, clock, valid


def _checked_times(
    times: Any, monotone: Any, message: str, resolved: Any, received: Callable[[], str]
) -> tuple[Any, tf.Tensor | None]:
    """`times`, once they are sure to be good, and whether they are, as of `output_times`."""
    own = tf.as_dtype(times.dtype)
    times = checked(times, monotone, message, received, times)
    times = checked(times, resolved, unresolved("Argument t", own), received, times)
    valid = monotone & resolved
    return times, None if tf.get_static_value(valid) is not None else valid


def unresolved(what: str, dtype: tf.DType) -> str:
    """The message for times that are too close to each other for their dtype."""
    return (
        f"{what} must be resolved to 1 %, but {dtype.name} rounds times so far from 0 by as much "
        "as that of the distance between two of them. Give times as float64 (Keras' fit casts "
        "arrays of it to floatx, but not datasets) or integers, or count them from a nearer origin."
    )
