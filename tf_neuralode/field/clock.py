"""The time in which a solve runs: since its initial time, forwards, in the precision of the state.

A float32 holds a Unix timestamp of 1.7e9 to 128 s. So the initial time is subtracted in the times'
own precision, before anything is cast, and a field that asks for the time gets it as near as the
state's dtype allows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_neuralode.tensors import State, spacing


class Clock:
    """Time that has elapsed since an origin, and the user's time, which may run backwards.

    Args:
      origin: The user's initial time: a NumPy scalar, or a tensor, a scalar or `(batch,)`.
      dtype: Of the solve, at least float32.
      last: The user's last time, likewise, or `None` if it isn't one.
      direction: 1 or -1: where the user's time runs. From origin to last, or forwards, if `None`.
    """

    def __init__(
        self, origin: Any, dtype: tf.DType, last: Any = None, direction: float | None = None
    ) -> None:
        self._dtype = dtype
        self._direction: Any = direction
        if direction is None:
            self._direction = 1.0 if last is None else _direction(origin, last)
        if tf.is_tensor(origin):
            origin = tf.stop_gradient(origin)
            last = None if last is None else tf.stop_gradient(last)
        self._origin, self._last = origin, last
        self._starts_at_zero = not tf.is_tensor(origin) and origin == 0
        self._coarse, self._fine = _split(origin, dtype)
        self._bounds = None if last is None else _sorted(origin, last, dtype)

    @property
    def of_samples(self) -> bool:
        """Whether each sample has an origin of its own."""
        return tf.is_tensor(self._origin) and self._origin.shape.rank == 1

    @property
    def user_dtype(self) -> tf.DType:
        """The wider of the times' and the solve's dtype; float64 for integer times."""
        return _wider(_float_dtype(self._origin), self._dtype)

    def time(self, elapsed: tf.Tensor) -> tf.Tensor:
        """The user's time in the dtype of the solve, as f gets it, never behind the last time."""
        elapsed = self.signed(elapsed)
        if self._starts_at_zero:
            return elapsed
        # Not in the times' own precision: that would bring float64 into loops on a GPU.
        time = elapsed if self._fine is None else self._fine + elapsed
        time = self._coarse + time
        return time if self._bounds is None else tf.clip_by_value(time, *self._bounds)

    def user_time(self, elapsed: tf.Tensor) -> tf.Tensor:
        """The user's time in `user_dtype`."""
        dtype = self.user_dtype
        signed = tf.cast(self.signed(elapsed), dtype)
        if self._starts_at_zero:
            return signed
        time = tf.cast(self._origin, dtype) + signed
        if self._last is None:
            return time
        # Rounding must not move the end.
        is_last = tf.equal(elapsed, self.elapsed(self._last))
        return tf.where(is_last, tf.cast(self._last, dtype), time)

    def forwards(self, f: Callable[..., State]) -> Callable[..., State]:
        """`f(t, y, ...)`, in the user's time, as a field in the time elapsed."""

        def field(elapsed: tf.Tensor, *arguments: Any, within: Any = None) -> State:
            time = self.time(elapsed)
            if within is not None:
                time = self._inside(time, within)
            return tf.nest.map_structure(self.signed, f(time, *arguments))

        return field

    def _inside(self, time: tf.Tensor, within: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """The user's `time`, moved by a rounding error if it is an end of an interval."""
        ends = [self.time(elapsed) for elapsed in within]
        lower, upper = tf.reduce_min(ends, axis=0), tf.reduce_max(ends, axis=0)
        return tf.clip_by_value(time, lower + spacing(lower), upper - spacing(upper))

    def signed(self, x: tf.Tensor) -> tf.Tensor:
        """`x` in the user's direction, of elapsed time; and back."""
        if tf.is_tensor(self._direction):
            return tf.cast(self._direction, x.dtype) * x
        return x if self._direction > 0 else -x

    def report(self, diagnostics: Any) -> Any:
        """`diagnostics` of a solve in the time elapsed, with the user's final time."""
        return diagnostics._replace(final_time=self.user_time(diagnostics.final_time))

    def elapsed(self, time: Any) -> tf.Tensor:
        """The user's `time`, a tensor, an array or a number, since the origin.

        Subtracted in the precision given, integers as integers, then cast.
        """
        return self.signed(self._difference(time))

    def _difference(self, time: Any) -> tf.Tensor:
        if not tf.is_tensor(time):
            if not tf.is_tensor(self._origin):
                return tf.constant(self._array_difference(np.asarray(time)))
            time = tf.constant(np.asarray(time))
        origin = self._origin
        if time.dtype.is_integer:
            time = tf.cast(time, tf.int64)
            if tf.is_tensor(origin) and origin.dtype.is_integer:
                return tf.cast(time - tf.cast(origin, tf.int64), self._dtype)
            if not tf.is_tensor(origin):
                whole = int(np.floor(origin))
                rest = tf.constant(float(origin - whole), tf.float64)
                return tf.cast(tf.cast(time - whole, tf.float64) - rest, self._dtype)
        dtype = _wider(_float_dtype(time), self.user_dtype)
        return tf.cast(tf.cast(time, dtype) - tf.cast(origin, dtype), self._dtype)

    def elapsed_array(self, time: np.ndarray) -> np.ndarray:
        """As `elapsed`, for an array where the origin is known."""
        return self._direction * self._array_difference(time)

    def _array_difference(self, time: np.ndarray) -> np.ndarray:
        difference: np.ndarray
        if time.dtype.kind in "iu" and isinstance(self._origin, np.integer):
            difference = time.astype(np.int64) - np.int64(self._origin)
        else:
            difference = time.astype(np.float64) - np.float64(self._origin)
        return difference.astype(self._dtype.as_numpy_dtype)


def _direction(origin: Any, last: Any) -> Any:
    if tf.is_tensor(origin) or tf.is_tensor(last):
        forwards = last >= origin
        known = tf.get_static_value(forwards)
        if known is None:
            return tf.where(last < origin, -1.0, 1.0)
        return 1.0 if known else -1.0
    return -1.0 if last < origin else 1.0


def _sorted(a: Any, b: Any, dtype: tf.DType) -> tuple:
    if tf.is_tensor(a):
        a, b = tf.cast(a, dtype), tf.cast(b, dtype)
        return tf.minimum(a, b), tf.maximum(a, b)
    return tuple(dtype.as_numpy_dtype(x) for x in sorted([a, b]))


def _split(origin: Any, dtype: tf.DType) -> tuple:
    """`origin` as two numbers of `dtype`, whose sum has twice its digits; `None` for a second 0."""
    if tf.is_tensor(origin):
        coarse = tf.cast(origin, dtype)
        if origin.dtype.is_floating and origin.dtype.size <= dtype.size:
            return coarse, None
        return coarse, tf.cast(origin - tf.cast(coarse, origin.dtype), dtype)
    coarse = dtype.as_numpy_dtype(origin)
    # Python's integers hold any difference; those of floats are exact in float64.
    exact = int if isinstance(origin, np.integer) else float
    fine = dtype.as_numpy_dtype(exact(origin) - exact(coarse))
    return coarse, None if fine == 0 else fine


def _float_dtype(x: Any) -> tf.DType:
    dtype = tf.as_dtype(x.dtype)
    return dtype if dtype.is_floating else tf.float64


def _wider(a: tf.DType, b: tf.DType) -> tf.DType:
    # Of float16 and bfloat16 neither holds the other; all else has float32 beside it.
    return a if a.size > b.size else b


def is_resolved(total: Any, num: Any, origin: Any, dtype: tf.DType) -> Any:
    """Whether times of `dtype` tell how far it is from one to the next, to 1 % in the mean.

    A time is rounded by about eps times itself. Neighbours may be closer by chance, or because an
    output is wanted just there: those are no further off than the others. One that is the initial
    time itself is meant; several may be so for want of bits. float64 is never asked: its times are
    resolved, or repeat.

    Args:
      total: Sum of the times' distances.
      num: Number of them.
      origin: The initial time.
      dtype: That the times were given in.
    """
    if not dtype.is_floating or dtype.size >= 8:
        return True
    eps = 2.0**-7 if dtype == tf.bfloat16 else np.finfo(dtype.as_numpy_dtype).eps
    if not tf.is_tensor(total):
        is_meant = total == 0 and num <= 1
        return is_meant or total >= 100 * float(eps) * abs(float(origin)) * num
    if not tf.is_tensor(origin):
        origin = tf.constant(float(origin), total.dtype)
    bound = tf.constant(100 * float(eps), total.dtype) * tf.abs(tf.cast(origin, total.dtype))
    is_meant = tf.equal(total, 0) & (num <= 1)
    return is_meant | (total >= bound * tf.cast(num, total.dtype))
