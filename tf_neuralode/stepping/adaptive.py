"""Steps as long as the tolerances allow.

Reference: Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, II.4 (HNW).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_neuralode.field import EPSILON, Field
from tf_neuralode.methods import ErrorNorm, Norm
from tf_neuralode.stepping import status as status_codes
from tf_neuralode.stepping.control import Steps
from tf_neuralode.stepping.first_step import (
    LARGEST_BLIND_STEP,
    LARGEST_KNOWN_STEP,
    first_step_size,
)
from tf_neuralode.stepping.types import Conditions, Point
from tf_neuralode.tensors import all_finite, asserting, or_nan, spacing

# The error of a step that happens to be zero must not become an infinite step; the bounds of the
# factor cut in long before this.
_SMALLEST_ERROR = 1e-10
# As in Hairer's DOPRI5: one lucky step must not hold back the next.
_SMALLEST_PREVIOUS_ERROR = 1e-4
# How much longer a step may be than the last one where nothing is known, see `first_step`.
_BLIND_GROWTH = 3.0


class _Memory(NamedTuple):
    previous_error: tf.Tensor
    after_rejection: tf.Tensor


class AdaptiveSteps(Steps):
    """Proportional-integral control by an error estimate (HNW, II.4; Gustafsson 1991).

    After an accepted step the next one is

        h * clip(safety_factor * error^(-1/q + 0.75 beta) * previous_error^beta,
                 min_step_size_factor, max_step_size_factor),   q = error_order + 1

    and does not grow just after a rejection. After a rejected one the integral part is left out.

    Args:
      settings: An adaptive solver, whose settings these are.
      conditions: Of the solve.
      start: Where it begins.
      t1: Where it ends.
    """

    def __init__(self, settings: Any, conditions: Conditions, start: Point, t1: tf.Tensor) -> None:
        self._settings, self._t1, self._limit = settings, t1, conditions.limit
        self._order = settings.method.error_order
        self._beta = 0.2 / (self._order + 1) if settings.beta is None else settings.beta
        self.max_num_steps = min(settings.max_num_steps + conditions.further_steps, tf.int32.max)
        self.norm = _norm(settings, conditions, start)
        self._first, self._longest = (
            _in_solve(name, getattr(settings, name), start.t.dtype, conditions.unit)
            for name in ("first_step_size", "max_step_size")
        )
        self._length = t1 - start.t
        # Of the interval, or of the one that it is a part of, if the field may depend on time.
        self._span = None
        if not conditions.autonomous:
            whole = conditions.whole_span
            self._span = self._length if whole is None else tf.maximum(self._length, whole)
        # A hopeless fraction of the interval isn't worth the attempts.
        self._hopeless = _smallest_step(_epsilon(start.t) * self._length)

    def first(self, field, start):
        h, num_evaluations = self._first_step(field, start)
        usable = all_finite(start.t, start.y, start.slope) & tf.math.is_finite(h)
        status = tf.where(usable, status_codes.SUCCESS, status_codes.NOT_FINITE)
        memory = _Memory(tf.ones_like(start.t), tf.zeros_like(start.t, tf.bool))
        return h, memory, status, num_evaluations

    def _first_step(self, field: Field, start: Point) -> tuple[tf.Tensor, tf.Tensor]:
        largest = self._length
        if self._longest is not None:
            largest = tf.minimum(largest, self._longest)

        def choose():
            if self._first is not None:
                return tf.minimum(self._first, largest), tf.constant(0)
            h = first_step_size(field, start, largest, self._order, self.norm, self._span)
            return h, tf.constant(1)

        if start.h is None:
            return choose()
        given = tf.minimum(start.h, largest)
        return tf.cond(tf.reduce_all(start.h > 0), lambda: (given, tf.constant(0)), choose)

    def are_left(self, t, num_accepted):
        del num_accepted
        return tf.not_equal(t, self._t1)

    def propose(self, t, h, num_accepted):
        del num_accepted
        end = self._t1
        if self._limit is not None:
            end = tf.minimum(end, self._limit(t))
        remaining = end - t
        # At least so long that t moves: otherwise a step of length 0 would pass for a good one.
        h = tf.maximum(h, _smallest_step(t))
        # Stretched by up to 1 %, so that rounding leaves no sliver to step over (HNW's DOPRI5).
        cut = tf.constant(1.01, h.dtype) * h >= remaining
        if self._longest is not None:
            cut &= remaining <= self._longest
        return tf.where(cut, end, t + h), tf.where(cut, remaining, h), cut

    def judge(self, memory, t, wanted, proposal, step):
        _, h, cut = proposal
        error = step.error
        accepted = error <= 1  # false for NaN
        if step.solved is not None:
            accepted &= step.solved
        # A cut says nothing of the error, so it must not shorten the next step, nor a warm start.
        grown = self._after_accepted(h, error, memory)
        grown = tf.where(cut, tf.maximum(grown, wanted), grown)
        if self._longest is not None:
            grown = tf.minimum(grown, self._longest)
        next_h = tf.where(accepted, grown, self._after_rejected(h, error))
        # Near t = 0 any step moves.
        smallest = tf.maximum(_smallest_step(t), self._hopeless)
        reason = tf.where(
            tf.math.is_finite(error), status_codes.STEP_SIZE_UNDERFLOW, status_codes.NOT_FINITE
        )
        status = tf.where(~accepted & (next_h < smallest), reason, status_codes.SUCCESS)
        memory = _Memory(tf.where(accepted, error, memory.previous_error), ~accepted)
        return accepted, next_h, memory, status

    def _after_accepted(self, h: tf.Tensor, error: tf.Tensor, memory: _Memory) -> tf.Tensor:
        """The step after one of size `h` whose error was at most 1."""
        settings, beta = self._settings, self._beta
        bounded = tf.maximum(error, _SMALLEST_ERROR)
        factor = settings.safety_factor * bounded ** (0.75 * beta - 1 / (self._order + 1))
        if beta:
            factor *= tf.maximum(memory.previous_error, _SMALLEST_PREVIOUS_ERROR) ** beta
        factor = tf.clip_by_value(
            factor, settings.min_step_size_factor, settings.max_step_size_factor
        )
        grown = h * tf.where(memory.after_rejection, tf.minimum(factor, 1.0), factor)
        if self._span is None:
            return grown
        # An error of 0, where the field vanishes or is constant, says nothing of what comes: a step
        # may pass over a pulse that lies between its nodes.
        constant = lambda value: tf.constant(value, h.dtype)
        longest = tf.maximum(constant(_BLIND_GROWTH) * h, constant(LARGEST_BLIND_STEP) * self._span)
        longest = tf.minimum(longest, constant(LARGEST_KNOWN_STEP) * self._span)
        blind = error < constant(_SMALLEST_ERROR)
        return tf.where(blind, tf.minimum(grown, longest), grown)

    def _after_rejected(self, h: tf.Tensor, error: tf.Tensor) -> tf.Tensor:
        """The step after one of size `h` whose error was above 1, or not a number."""
        # What an error of 0, of an accepted step, gives here isn't used.
        error = tf.where(tf.equal(error, 0), tf.ones_like(error), error)
        factor = self._settings.safety_factor * error ** (-1 / (self._order + 1))
        factor = tf.where(tf.math.is_finite(factor), factor, tf.zeros_like(factor))
        return h * tf.clip_by_value(factor, self._settings.min_step_size_factor, 1.0)


def _norm(settings: Any, conditions: Conditions, start: Point) -> Norm:
    rtol = settings.rtol if conditions.rtol is None else conditions.rtol
    atol = settings.atol if conditions.atol is None else conditions.atol
    of = ErrorNorm(
        settings.norm,
        conditions.batch_ndims,
        conditions.pack,
        conditions.governing,
        conditions.among,
    )
    # Errors below the field's rounding are none.
    dtype, epsilon = start.t.dtype, conditions.field.epsilon
    return Norm.for_state(
        of,
        conditions.tolerance(rtol),
        conditions.tolerance(atol),
        start.y,
        dtype,
        field_epsilon=epsilon if epsilon > EPSILON[dtype.name] else 0.0,
        clock_rank=start.t.shape.rank,
    )


def _in_solve(name: str, size: Any, dtype: tf.DType, unit: tf.Tensor | None) -> tf.Tensor | None:
    """A step size of a solver's settings in the solve's time.

    NaN for a tensor that isn't positive, and an assertion that fails, outside of XLA. Where 1 is
    `unit` of the user's time, `(batch,)`, it is that of the sample that goes furthest, which may be
    nowhere, and at most 1, the whole of its way.
    """
    if not tf.is_tensor(size):
        size = None if size is None else tf.constant(size, dtype)
    else:
        # In a loop the steps are constants of differentiation.
        size = tf.stop_gradient(tf.cast(size, dtype))
        positive = (size > 0) & tf.math.is_finite(size)
        message = f"Argument {name} must be a positive number or None. Received:"
        with asserting(positive, [message, size]):
            size = or_nan(positive, size)
    if size is None or unit is None:
        return size
    tiny = tf.constant(np.finfo(dtype.as_numpy_dtype).tiny, dtype)
    parts = size / tf.maximum(tf.reduce_max(unit), tiny)
    return tf.where(parts > 1, tf.ones_like(parts), parts)  # NaN stays


def _epsilon(t: tf.Tensor) -> tf.Tensor:
    return tf.constant(np.finfo(t.dtype.as_numpy_dtype).eps, t.dtype)


def _smallest_step(t: tf.Tensor) -> tf.Tensor:
    """The shortest step that moves t for sure."""
    return spacing(t, 4.0)
