"""The one loop of all fixed-step methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from tf_neuralode.loops import while_loop
from tf_neuralode.solvers import status as status_codes
from tf_neuralode.solvers.integration import Integration, finish
from tf_neuralode.solvers.method import Method
from tf_neuralode.solvers.recording import Recorder, Step
from tf_neuralode.solvers.runge_kutta import OdeFn, State


class _Progress(NamedTuple):
    """Loop variables."""

    t: tf.Tensor
    y: State
    k0: State  # f(t, y)
    h: tf.Tensor
    num_accepted: tf.Tensor
    num_rejected: tf.Tensor
    num_evaluations: tf.Tensor
    saved: tuple


def integrate(
    method: Method,
    f: OdeFn,
    t0: tf.Tensor,
    t1: tf.Tensor,
    y0: State,
    num_steps: tf.Tensor | int,
    recorders: Sequence[Recorder] = (),
) -> Integration:
    """Integrates y' = f(t, y) from `t0` to `t1` in `num_steps` equal steps.

    Where something needs dense output the slope at the end of a step is taken along to the next
    one, as in the adaptive loop; otherwise the last evaluation would be wasted, and isn't made.
    """
    num_steps = tf.convert_to_tensor(num_steps, tf.int32)
    h = (t1 - t0) / tf.cast(num_steps, t0.dtype)
    dense = any(recorder.needs_dense for recorder in recorders)
    start = _Progress(
        t=t0,
        y=y0,
        k0=f(t0, y0) if dense else [],
        h=tf.abs(h),
        num_accepted=tf.constant(0),
        num_rejected=tf.constant(0),
        num_evaluations=tf.constant(int(dense)),
        saved=tuple(recorder.start(t0, y0) for recorder in recorders),
    )

    def step(p: _Progress):
        n = p.num_accepted
        # t0 + n h and not a running sum, which would gather rounding errors.
        t_next = tf.where(tf.equal(n + 1, num_steps), t1, t0 + tf.cast(n + 1, h.dtype) * h)
        if dense:
            taken = method.step(f, p.t, t_next, p.y, p.k0)
            y1, k0 = taken.y1, taken.k[-1]
            coefficients = method.dense_coefficients(f, taken, p.t, t_next, p.y)
            num_evaluations = method.num_evaluations_per_step + len(method.extra_nodes)
        else:
            y1, k0 = method.advance(f, p.t, t_next, p.y), []
            coefficients, num_evaluations = [], method.num_evaluations_to_advance
        described = Step(n, p.t, t_next, p.y, y1, tf.constant(True), coefficients)
        saved = tuple(r.record(s, described) for r, s in zip(recorders, p.saved, strict=True))
        num_evaluations += p.num_evaluations
        return (_Progress(t_next, y1, k0, p.h, n + 1, p.num_rejected, num_evaluations, saved),)

    (end,) = while_loop(
        lambda p: p.num_accepted < num_steps,
        step,
        (start,),
        # XLA differentiates a loop only with a constant bound.
        maximum_iterations=tf.get_static_value(num_steps),
    )
    return finish(end, tf.constant(status_codes.SUCCESS), recorders)
