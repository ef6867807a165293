"""The one loop: steps from one point to another, by any method, of any control.

All that is about time (time, step size, error, acceptance, status, counts) is a clock value, see
`tensors.algebra`: a scalar where the state has one clock, `(batch,)` where each sample has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_neuralode.field import Attempt, Field
from tf_neuralode.methods import Method, Step
from tf_neuralode.stepping import status as status_codes
from tf_neuralode.stepping.control import Steps
from tf_neuralode.stepping.diagnostics import Diagnostics
from tf_neuralode.stepping.types import Point, Recorder, Slot
from tf_neuralode.tensors import State, all_finite, along, each, keep, or_nan, while_loop


class Solved(NamedTuple):
    """Where a solve ended, and what it kept.

    Attributes:
      y: State at the time reached; NaN after a failure.
      h: Size of the next step that the control would take, or of equal steps.
      diagnostics: Of clock values, but for the number of evaluations.
      saved: What each recorder kept.
    """

    y: State
    h: tf.Tensor
    diagnostics: Diagnostics
    saved: tuple[Any, ...]


class _Progress(NamedTuple):
    """Loop variables."""

    t: tf.Tensor
    y: State
    carry: State
    h: tf.Tensor
    memory: Any  # the control's
    num_slots: Any  # of own clocks; with one clock they are the accepted steps
    num_accepted: tf.Tensor
    num_rejected: tf.Tensor
    num_evaluations: tf.Tensor
    status: tf.Tensor
    saved: tuple


def solve(
    method: Method, steps: Steps, field: Field, start: Point, recorders: Sequence[Recorder] = ()
) -> Solved:
    """Steps from `start` to the end that `steps` knows.

    Args:
      method: How a step is made.
      steps: How long it is, and what is good enough.
      field: What is solved; evaluated between the two ends only.
      start: With a carry, or without, which takes an evaluation of f where one is needed.
      recorders: What to keep of the steps.

    Returns:
      `Solved`. Every failure ends within `steps.max_num_steps` attempts.
    """
    loop = _Loop(method, steps, field, start, recorders)
    (end,) = while_loop(
        lambda p: tf.reduce_any(loop.unfinished(p)),
        lambda p: (loop.attempt(p),),
        (loop.begin(start),),
        maximum_iterations=steps.max_num_steps,
    )
    return loop.finish(end)


class _Loop:
    """Start, body and end of the loop."""

    def __init__(
        self,
        method: Method,
        steps: Steps,
        field: Field,
        start: Point,
        recorders: Sequence[Recorder],
    ) -> None:
        self._method, self._steps, self._field = method, steps, field
        self._recorders = recorders
        self._own_clocks = start.t.shape.rank > 0
        self._accepts_all = False  # until an attempt tells
        self._wants_dense = any(recorder.needs_dense for recorder in recorders)
        # Without need the last evaluation of a solve would be made for nothing.
        self._carries = method.needs_carry or steps.rejects or self._wants_dense

    def begin(self, start: Point) -> _Progress:
        num_evaluations = 0
        if self._carries and start.carry is None:
            field = self._field.behind(start.t)
            start = start._replace(carry=self._method.start(field, start.t, start.y))
            num_evaluations = 1
        h, memory, status, num_more = self._steps.first(self._field.behind(start.t), start)
        zero = tf.zeros_like(start.t, tf.int32)
        return _Progress(
            t=start.t,
            y=start.y,
            carry=start.carry or [],
            h=tf.stop_gradient(h),
            memory=memory,
            num_slots=tf.constant(0) if self._own_clocks else (),
            num_accepted=zero,
            num_rejected=zero,
            num_evaluations=tf.convert_to_tensor(num_evaluations + num_more),
            status=status,
            saved=tuple(recorder.start(start) for recorder in self._recorders),
        )

    def unfinished(self, p: _Progress) -> tf.Tensor:
        return tf.equal(p.status, status_codes.SUCCESS) & self._steps.are_left(p.t, p.num_accepted)

    def attempt(self, p: _Progress) -> _Progress:
        """One attempt at a step: take it, judge it, propose the next."""
        # The step sequence is a constant of differentiation.
        p = p._replace(t=tf.stop_gradient(p.t), h=tf.stop_gradient(p.h))
        active = self.unfinished(p) if self._own_clocks else None
        proposal = self._steps.propose(p.t, p.h, p.num_accepted)
        t_next = tf.stop_gradient(self._where(active, proposal[0], p.t))
        at = Attempt(self._field, p.y, p.carry if self._carries else None, lambda accepted: None)
        if self._steps.rejects:
            at = self._field.attempt(at.y, at.carry)
        at = at._replace(field=at.field.on(p.t, t_next))
        step = self._method.step(at.field, p.t, t_next, at.y, at.carry, self._steps.norm)
        if step.error is not None:
            step = step._replace(error=tf.stop_gradient(step.error))
        accepted, *after = self._steps.judge(p.memory, p.t, p.h, proposal, step)
        self._accepts_all = accepted is None
        h, memory, status = self._where(active, after, [p.h, p.memory, p.status])
        one = tf.ones_like(p.num_accepted)
        if active is not None:
            accepted = active if accepted is None else active & accepted
            one = tf.cast(active, tf.int32)
        at.settle(accepted)
        y, carry = keep(accepted, step.y1, p.y), keep(accepted, step.carry or [], p.carry)
        if self._own_clocks:
            step = step._replace(y1=y)
        slot, num_evaluations = self._slot(p, at, t_next, step, accepted)
        if self._carries and self._field.has_jumps:
            y, carry, num_behind = self._behind(slot, y, carry)
            num_evaluations += num_behind
        num_accepted = one if accepted is None else tf.cast(accepted, tf.int32)
        records = zip(self._recorders, p.saved, strict=True)
        return _Progress(
            t=slot.end,
            y=y,
            carry=carry,
            h=tf.stop_gradient(h),
            memory=memory,
            num_slots=p.num_slots + tf.reduce_max(num_accepted) if self._own_clocks else (),
            num_accepted=p.num_accepted + num_accepted,
            num_rejected=p.num_rejected + one - num_accepted,
            num_evaluations=p.num_evaluations + num_evaluations,
            status=status,
            saved=tuple(recorder.record(saved, slot) for recorder, saved in records),
        )

    def _behind(self, slot: Slot, y: State, carry: State) -> tuple[State, State, Any]:
        """As `Method.behind_step`, where an attempt got somewhere."""
        behind = lambda: self._method.behind_step(self._field, slot.end, y, carry)
        return tf.cond(slot.accepted, behind, lambda: (y, carry, tf.constant(0)))

    @staticmethod
    def _where(active: tf.Tensor | None, new: Any, old: Any) -> Any:
        """`new`, nests of clock values, of those who are active; `None` is all."""
        if active is None:
            return new
        return tf.nest.map_structure(lambda a, b: tf.where(active, a, b), new, old)

    def _slot(
        self,
        p: _Progress,
        at: Attempt,
        t_next: tf.Tensor,
        step: Step,
        accepted: tf.Tensor | None,
    ) -> tuple[Slot, Any]:
        """What recorders get, and how many evaluations of f the attempt took."""
        dense: State = []
        num_evaluations = step.num_evaluations
        if self._wants_dense:
            dense = self._method.dense(at.field, p.t, t_next, at.y, step, accepted)
            num_dense: Any = self._method.num_dense_evaluations
            if num_dense and accepted is not None:
                num_dense *= tf.cast(tf.reduce_any(accepted), tf.int32)
            num_evaluations += num_dense
        slot = Slot(
            index=p.num_slots if self._own_clocks else p.num_accepted,
            t=p.t,
            t_next=t_next,
            end=t_next if accepted is None else tf.where(accepted, t_next, p.t),
            accepted=tf.ones_like(p.t, tf.bool) if accepted is None else accepted,
            y=at.y,
            carry=at.carry,
            y1=step.y1,
            dense=dense,
        )
        return slot, num_evaluations

    def finish(self, end: _Progress) -> Solved:
        status = tf.where(self.unfinished(end), status_codes.MAX_NUM_STEPS, end.status)
        # A state may overflow in a step whose slopes and error are finite.
        overflow = tf.equal(status, status_codes.SUCCESS) & ~all_finite(end.t, end.y)
        status = tf.where(overflow, status_codes.NOT_FINITE, status)
        success = tf.equal(status, status_codes.SUCCESS)
        y = each(lambda x: or_nan(along(success, x), x), end.y)
        if self._accepts_all and self._steps.num_steps is not None and not self._own_clocks:
            # Not counted: where XLA knows the number, loops over the steps need ask nobody.
            end = end._replace(num_accepted=self._steps.num_steps)
        num_slots = end.num_slots if self._own_clocks else end.num_accepted
        diagnostics = Diagnostics(
            num_ode_fn_evaluations=end.num_evaluations,
            num_jacobian_evaluations=tf.constant(0),
            num_matrix_factorizations=tf.constant(0),
            num_accepted_steps=end.num_accepted,
            num_rejected_steps=end.num_rejected,
            final_time=end.t,
            status=status,
        )
        ends = zip(self._recorders, end.saved, strict=True)
        saved = tuple(recorder.finish(saved, end.t, y, num_slots) for recorder, saved in ends)
        return Solved(y, end.h, diagnostics, saved)
