"""The one loop of all adaptive methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tf_neuralode.loops import while_loop
from tf_neuralode.solvers import status as status_codes
from tf_neuralode.solvers.error_norm import ErrorNorm
from tf_neuralode.solvers.integration import Integration, finish
from tf_neuralode.solvers.method import Method
from tf_neuralode.solvers.recording import Recorder, Step
from tf_neuralode.solvers.runge_kutta import Limit, OdeFn, State, begin_attempt
from tf_neuralode.solvers.step_size import (
    StepSizeController,
    Tolerances,
    first_step_size,
    limit_blind_growth,
)


class AdaptiveSettings(NamedTuple):
    """What the loop needs besides method and problem.

    See `AdaptiveRungeKutta` for the meaning, and `Limit` in `runge_kutta` for that of `limit`.
    """

    controller: StepSizeController
    tolerances: Tolerances
    norm: ErrorNorm
    first_step_size: tf.Tensor | None
    max_step_size: tf.Tensor | None
    max_num_steps: int
    limit: Limit | None = None
    autonomous: bool = False
    whole_span: tf.Tensor | None = None

    def span(self, t0: tf.Tensor, t1: tf.Tensor) -> tf.Tensor:
        """Length of the interval, or of the one that it is a part of."""
        part = tf.abs(t1 - t0)
        return part if self.whole_span is None else tf.maximum(part, self.whole_span)


class _Progress(NamedTuple):
    """Loop variables."""

    t: tf.Tensor
    y: State
    k0: State  # f(t, y)
    h: tf.Tensor  # size of the next step, positive in both directions
    previous_error: tf.Tensor
    after_rejection: tf.Tensor
    num_accepted: tf.Tensor
    num_rejected: tf.Tensor
    num_evaluations: tf.Tensor
    status: tf.Tensor
    saved: tuple


def integrate(
    method: Method,
    settings: AdaptiveSettings,
    f: OdeFn,
    t0: tf.Tensor,
    t1: tf.Tensor,
    y0: State,
    recorders: Sequence[Recorder] = (),
    previous_step_size: tf.Tensor | None = None,
) -> Integration:
    """Integrates y' = f(t, y) from `t0` to `t1`, forwards or backwards.

    Args:
      method: Tableau, order and interpolant.
      settings: Control.
      f: `f(t, y)` on flat lists of tensors; evaluated between t0 and t1 only.
      t0: Initial time, a scalar of the state's real dtype.
      t1: Final time, likewise.
      y0: State at `t0`.
      recorders: What to keep of the steps.
      previous_step_size: Size of the first step, or 0 to choose it; see `first_step_size`.

    Returns:
      `Integration`. Every failure ends within `max_num_steps` attempts.
    """
    direction = tf.sign(t1 - t0)
    k0 = f(t0, y0)
    h, num_evaluations = _first_step(
        method, settings, f, t0, t1, y0, k0, direction, previous_step_size
    )
    h = tf.stop_gradient(h)
    usable = _all_finite(y0, k0) & tf.math.is_finite(h)
    start = _Progress(
        t=t0,
        y=y0,
        k0=k0,
        h=h,
        previous_error=tf.ones_like(t0),
        after_rejection=tf.constant(False),
        num_accepted=tf.constant(0),
        num_rejected=tf.constant(0),
        num_evaluations=num_evaluations,
        status=tf.where(usable, status_codes.SUCCESS, status_codes.NOT_FINITE),
        saved=tuple(recorder.start(t0, y0) for recorder in recorders),
    )

    def unfinished(p: _Progress):
        return tf.equal(p.status, status_codes.SUCCESS) & tf.not_equal(p.t, t1)

    def attempt(p: _Progress):
        return (_attempt(method, settings, f, t0, t1, direction, recorders, p),)

    (end,) = while_loop(unfinished, attempt, (start,), maximum_iterations=settings.max_num_steps)
    status = tf.where(unfinished(end), status_codes.MAX_NUM_STEPS, end.status)
    return finish(end, status, recorders)


def _all_finite(y: State, slope: State) -> tf.Tensor:
    """Whether all entries are; both in one pass over the state."""
    finite = [
        tf.reduce_all(tf.math.is_finite(tf.abs(a)) & tf.math.is_finite(tf.abs(b)))
        for a, b in zip(y, slope, strict=True)
    ]
    return tf.reduce_all(finite)


def _first_step(method, settings, f, t0, t1, y0, k0, direction, previous_step_size):
    """Size of the first step, and how many evaluations of f have been made so far."""
    span = tf.abs(t1 - t0)
    largest = span
    if settings.max_step_size is not None:
        largest = tf.minimum(span, settings.max_step_size)

    def choose():
        if settings.first_step_size is not None:
            return tf.minimum(settings.first_step_size, largest), tf.constant(1)
        h = first_step_size(
            f,
            (t0, y0, k0),
            direction * largest,
            method.error_order,
            settings.tolerances,
            settings.norm,
            None if settings.autonomous else settings.span(t0, t1),
        )
        return h, tf.constant(2)

    if previous_step_size is None:
        return choose()
    return tf.cond(
        previous_step_size > 0,
        lambda: (tf.minimum(previous_step_size, largest), tf.constant(1)),
        choose,
    )


def _attempt(method, settings, f, t0, t1, direction, recorders, p: _Progress) -> _Progress:
    """One attempt at a step: take it, judge it, propose the next."""
    # The step sequence is a constant of differentiation.
    p = p._replace(t=tf.stop_gradient(p.t), h=tf.stop_gradient(p.h))
    end = t1
    if settings.limit is not None:
        limit = settings.limit(p.t)
        end = tf.where((t1 - limit) * direction > 0, limit, t1)
    remaining = tf.abs(end - p.t)
    # At least so long that t moves: otherwise a step of length 0 would pass for a good one.
    h = tf.maximum(p.h, _smallest_step(p.t))
    # Stretched by up to 1 %, so that rounding leaves no sliver to step over (HNW's DOPRI5).
    cut = tf.constant(1.01, h.dtype) * h >= remaining
    if settings.max_step_size is not None:
        cut &= remaining <= settings.max_step_size
    t_next = tf.where(cut, end, p.t + direction * h)
    h = tf.where(cut, remaining, h)

    f, y, k0, settle = begin_attempt(f, p.y, p.k0)
    taken = method.step(f, p.t, t_next, y, k0)
    error = method.error(taken, t_next - p.t, p.y, settings.tolerances, settings.norm)
    error = tf.stop_gradient(error)
    accepted = error <= 1  # false for NaN
    settle(accepted)
    next_h, status = _judge(settings, t0, t1, p, h, cut, error, accepted)
    next_h, t_next = tf.stop_gradient(next_h), tf.stop_gradient(t_next)

    dense: State = []
    num_extra = 0
    if any(recorder.needs_dense for recorder in recorders):
        dense = method.dense_coefficients_if(accepted, f, taken, p.t, t_next, y)
        num_extra = len(method.extra_nodes)
    step = Step(p.num_accepted, p.t, t_next, y, taken.y1, accepted, dense)
    saved = tuple(r.record(s, step) for r, s in zip(recorders, p.saved, strict=True))

    def keep(new, old):
        return [tf.where(accepted, a, b) for a, b in zip(new, old, strict=True)]

    one = tf.cast(accepted, tf.int32)
    return _Progress(
        t=tf.where(accepted, t_next, p.t),
        y=keep(taken.y1, p.y),
        k0=keep(taken.k[-1], p.k0),
        h=next_h,
        previous_error=tf.where(accepted, error, p.previous_error),
        after_rejection=~accepted,
        num_accepted=p.num_accepted + one,
        num_rejected=p.num_rejected + 1 - one,
        num_evaluations=p.num_evaluations + method.num_evaluations_per_step + num_extra * one,
        status=status,
        saved=saved,
    )


def _judge(settings, t0, t1, p: _Progress, h, cut, error, accepted):
    """Size of the next step, and the status: a failure where that size is hopeless."""
    control = settings.controller
    grown = h * control.factor_after_accepted(error, p.previous_error, p.after_rejection)
    if not settings.autonomous:
        grown = limit_blind_growth(grown, h, error, settings.span(t0, t1))
    # A cut says nothing of the error, so it must not shorten the next step, nor a warm start.
    grown = tf.where(cut, tf.maximum(grown, p.h), grown)
    if settings.max_step_size is not None:
        grown = tf.minimum(grown, settings.max_step_size)
    next_h = tf.where(accepted, grown, h * control.factor_after_rejected(error))
    # Near t = 0 any step moves, but a hopeless fraction of the interval isn't worth the attempts.
    smallest = tf.maximum(_smallest_step(p.t), _smallest_step(_epsilon(p.t) * (t1 - t0)))
    reason = tf.where(
        tf.math.is_finite(error), status_codes.STEP_SIZE_UNDERFLOW, status_codes.NOT_FINITE
    )
    return next_h, tf.where(~accepted & (next_h < smallest), reason, p.status)


def _epsilon(t):
    return tf.constant(np.finfo(t.dtype.as_numpy_dtype).eps, t.dtype)


def _smallest_step(t):
    """The shortest step that moves t for sure; a normal number, as denormal ones are flushed."""
    tiny = tf.constant(np.finfo(t.dtype.as_numpy_dtype).tiny, t.dtype)
    return tf.maximum(4 * _epsilon(t) * tf.abs(t), tiny)
