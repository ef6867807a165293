"""The protocol of a method: one step, its dense output, and the transposes of both.

A step takes `(y, carry)` at its start to `(y1, carry1)` at its end. What `carry` is belongs to the
method: the slope that two steps share, of an explicit method; what is handed on is differentiated
like the state. `t` and `t_next` are clock values, see `tensors.algebra`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from tf_neuralode.field import Field, dense_gradients, solve_dtype
from tf_neuralode.methods.norm import Norm
from tf_neuralode.tensors import State, Tensors, add, while_loop, zeros_like


class Step(NamedTuple):
    """One step, as it was taken.

    Attributes:
      y1: State at its end.
      carry: What the next step begins with; `None` if the step was to hand nothing on.
      error: In units of the tolerance, a clock value: a step with at most 1 is good enough. `None`
        without a norm.
      solved: Whether the equations of its stages were, boolean, a clock value; `None` for always.
      stages: The slopes that `dense` is made of.
      num_evaluations: Evaluations of f.
    """

    y1: State
    carry: State | None
    error: tf.Tensor | None
    solved: tf.Tensor | None
    stages: list[State]
    num_evaluations: int | tf.Tensor


class StepCotangents(NamedTuple):
    """Cotangents of what went into a step.

    Attributes:
      y: Of the state.
      carry: Of the carry; `None` if there was none.
      sources: Of the field's sources, added to those so far.
      num_evaluations: Evaluations of f.
    """

    y: State
    carry: State | None
    sources: Tensors
    num_evaluations: int | tf.Tensor


class Method:
    """Base class; a subclass defines `step` and `dense`.

    Attributes:
      error_order: Order of the solution that the error estimate compares with.
      num_coefficients: Items of a step's dense solution, see `interpolation`.
      num_evaluations: Evaluations of f that a step makes, about.
      num_dense_evaluations: Evaluations of f that `dense` makes.
      needs_carry: Whether every step needs a carry. If not, a step without one takes what it needs
        from f, hands none on, and makes the fewest evaluations: what equal steps and replays want.
    """

    error_order: int
    num_coefficients: int
    num_evaluations: int = 1
    num_dense_evaluations: int = 0
    needs_carry: bool = True

    def start(self, field: Field, t: tf.Tensor, y: State) -> State:
        """The carry of a first step, from one evaluation of f; it begins with the slope."""
        return field(t, y)

    def behind_step(
        self, field: Field, t: tf.Tensor, y: State, carry: State | None
    ) -> tuple[State, State | None, Any]:
        """What the next step begins with at `t`, where a step ended with state and carry.

        Behind a jump of the field that is a carry of its own. Where a step is taken again, or
        transposed, the same happens behind it.

        Returns:
          State and carry, and how many evaluations of f that took.
        """
        if carry is None or not field.has_jumps:
            return y, carry, 0
        jumped = field.is_jump(t)

        def behind() -> tuple[State, State]:
            num, fresh = len(y), self.start(field.behind(t), t, y)
            moved = field.moved_by_jump(t, y, carry[:num], fresh[:num])
            return moved, fresh if moved is y else self.start(field.behind(t), t, moved)

        y, fresh = tf.cond(jumped, behind, lambda: (y, carry))
        return list(y), list(fresh), tf.cast(jumped, tf.int32)

    def behind_step_vjp(
        self, field: Field, t: tf.Tensor, y: State, d_y: State, d_carry: State, d_sources: Tensors
    ) -> tuple[State, State, Tensors, tf.Tensor]:
        """The transpose of `behind_step`, at a time between the first and the last.

        Args:
          field, t, y: As there.
          d_y, d_carry: Cotangents of what the step behind `t` began with.
          d_sources: Gradients of `field.sources` so far.

        Returns:
          Cotangents of state and carry, sources, and how many evaluations of f that took.
        """
        if not (d_carry and field.has_jumps):
            return d_y, d_carry, d_sources, tf.constant(0)
        num_others = len(field.others)

        def back(i: tf.Tensor, d_y: State, d_carry: State, d_sources: Tensors) -> tuple:
            jumped = field.behind(t)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                inputs = [tf.identity(x) for x in y]
                tape.watch([*inputs, *field.sources])
                fresh = self.start(jumped, t, inputs)
            gradients = dense_gradients(tape, fresh, [*inputs, *field.sources], d_carry)
            d_y = add(d_y, gradients[: len(y)])
            more = [tf.cast(g, solve_dtype(g.dtype)) for g in gradients[len(y) :]]
            d_sources = add(d_sources, more)
            d_sources[-1 - num_others] += field.d_jumps(t, y, d_y, fresh[: len(y)])
            return i + 1, d_y, zeros_like(d_carry), d_sources

        num = tf.cast(field.is_jump(t), tf.int32)
        # A loop and no branch, in which a tape would see copies of what it watches.
        _, d_y, d_carry, d_sources = while_loop(
            lambda i, *_: i < num, back, (tf.constant(0), d_y, d_carry, d_sources)
        )
        return d_y, d_carry, d_sources, 2 * num

    def zero_carry(self, y: State) -> State:
        """Zeros like the carry of a step from `y`."""
        return zeros_like(y)

    def step(
        self,
        field: Field,
        t: tf.Tensor,
        t_next: tf.Tensor,
        y: State,
        carry: State | None,
        norm: Norm | None = None,
    ) -> Step:
        """The step from `t` to `t_next`.

        Args:
          field: What is solved.
          t, t_next: Its ends.
          y, carry: At `t`; the carry may be `None`, unless `needs_carry`.
          norm: Of errors; without one there is no estimate, as where a step is taken again.
        """
        raise NotImplementedError

    def dense(
        self,
        field: Field,
        t: tf.Tensor,
        t_next: tf.Tensor,
        y: State,
        step: Step,
        needed: tf.Tensor | None = None,
    ) -> State:
        """The step's dense solution: for each leaf `(num_coefficients, *leaf.shape)`.

        Where f would be evaluated for it, but `needed` is given and nowhere true, it is zeros.
        """
        raise NotImplementedError

    def step_vjp(
        self,
        field: Field,
        t: tf.Tensor,
        t_next: tf.Tensor,
        y: State,
        carry: State | None,
        d_y1: State,
        d_carry: State | None,
        d_dense: State | None,
        d_sources: Tensors,
    ) -> StepCotangents:
        """Vector-Jacobian product of `step`, and of `dense` where its cotangent is given.

        This one puts a tape around the step. One that goes stage by stage holds less at a time.

        Args:
          field: What is solved.
          t, t_next, y, carry: As in `step`.
          d_y1, d_carry, d_dense: Cotangents; `None` for what was not made.
          d_sources: Gradients of `field.sources` so far.
        """
        y, carry = [tf.identity(x) for x in y], [tf.identity(x) for x in carry or []]
        inputs = [*y, *carry, *field.sources]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            step = self.step(field, t, t_next, y, carry or None)
            results, cotangents = [*step.y1, *(step.carry or [])], [*d_y1, *(d_carry or [])]
            if d_dense is not None:
                results += self.dense(field, t, t_next, y, step)
                cotangents += d_dense
        gradients = dense_gradients(tape, results, inputs, cotangents)
        num, num_carried = len(y), len(y) + len(carry)
        num_evaluations = step.num_evaluations
        if d_dense is not None:
            num_evaluations += self.num_dense_evaluations
        return StepCotangents(
            gradients[:num],
            gradients[num:num_carried] if carry else None,
            add(d_sources, [tf.cast(g, solve_dtype(g.dtype)) for g in gradients[num_carried:]]),
            num_evaluations,
        )
