"""A field: f as the solves see it, on flat states, with what it reads and its derivatives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_neuralode.tensors import State, Tensors, each

_LOW_PRECISION = (tf.float16, tf.bfloat16)

FlatFn = Callable[..., State]  # f(t, y, params), or with the ends of a step, within=...


def solve_dtype(dtype: tf.DType) -> tf.DType:
    """The dtype in which a solve holds a leaf of the given dtype: at least float32.

    Gradients of parameters, too: they are added up over many steps, and 16 bits would round much
    away.
    """
    return tf.float32 if dtype in _LOW_PRECISION else dtype


class Attempt(NamedTuple):
    """Field and start of an attempt at a step, and what is to be told whether it was accepted."""

    field: Field
    y: State
    carry: State | None
    settle: Callable[[tf.Tensor], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Field:
    """`f(t, y, params)` on flat lists, and what it depends on.

    Attributes:
      f: The function. In a solve time runs forwards, from 0.
      params: What it gets besides time and state.
      others: Tensors and variables that it closes over, and whose gradients are wanted.
      has_jumps: Whether the last of `params` are times, in the solve's, at which it jumps.
      within: The ends of the step that it is evaluated in, if it jumps: not at an end itself, but
        just inside, so that it is what it is on this side of a jump there.
    """

    f: FlatFn
    params: Tensors = dataclasses.field(default_factory=list)
    others: Sequence[tf.Tensor | tf.Variable] = ()
    has_jumps: bool = False
    within: tuple[tf.Tensor, tf.Tensor] | None = None

    def __call__(self, t: tf.Tensor, y: State) -> State:
        if self.within is None:
            return self.f(t, y, self.params)
        return self.f(t, y, self.params, within=self.within)

    @property
    def jumps(self) -> tf.Tensor:
        """Where it jumps, in the solve's time, a constant of differentiation."""
        return tf.stop_gradient(self.params[-1])

    def is_jump(self, t: tf.Tensor) -> tf.Tensor:
        """Whether it jumps at `t`; a boolean scalar."""
        return tf.reduce_any(tf.equal(self.jumps, t))

    def next_jump(self, t: tf.Tensor) -> tf.Tensor:
        """The first one behind `t`, see `first_behind`."""
        return first_behind(self.jumps, t)

    def last_jump(self, t: tf.Tensor) -> tf.Tensor:
        """The last one before `t`, likewise."""
        return -first_behind(-self.jumps, -t)

    def on(self, t: tf.Tensor, t_next: tf.Tensor) -> Field:
        """The field on a step, which may begin or end at a jump."""
        return dataclasses.replace(self, within=(t, t_next)) if self.has_jumps else self

    def behind(self, t: tf.Tensor) -> Field:
        """The field from just behind `t` up to the next jump."""
        return self.on(t, self.next_jump(t)) if self.has_jumps else self

    def before(self, t: tf.Tensor) -> Field:
        """The field from the last jump up to just before `t`."""
        return self.on(self.last_jump(t), t) if self.has_jumps else self

    def d_jumps(self, t: tf.Tensor, y: State, d_y: State, behind: State) -> tf.Tensor:
        """Gradients of the times of jumps, where there is one at `t`; otherwise 0.

        A jump at tau moves the solution: dL/dtau = dL/dy(tau) . (f(tau-, y) - f(tau+, y)).

        Args:
          t, y: Time and state.
          d_y: Cotangent of the state.
          behind: F just behind `t`.
        """

        def product(d: tf.Tensor, k0: tf.Tensor, k1: tf.Tensor) -> tf.Tensor:
            # Of complex numbers that of their real and imaginary parts.
            change = tf.math.conj(d) * (k0 - k1)
            change = tf.math.real(change) if change.dtype.is_complex else change
            return tf.cast(tf.reduce_sum(change), t.dtype)

        d_tau = tf.add_n(each(product, d_y, self.before(t)(t, y), behind))
        return tf.where(tf.equal(self.jumps, t), d_tau, tf.zeros_like(d_tau))

    def moved_by_jump(self, t: tf.Tensor, y: State, before: State, after: State) -> State:
        """`y` at a jump at `t`, as TensorFlow differentiates it; see `kept_activations`."""
        del t, before, after
        return y

    @property
    def sources(self) -> list[tf.Tensor | tf.Variable]:
        """What its slope depends on besides time and state."""
        return [*self.params, *self.others]

    def with_params(self, params: Tensors) -> Field:
        """The same field for other values of the parameters."""
        return dataclasses.replace(self, params=params)

    def reading(self, others: Sequence[tf.Tensor | tf.Variable]) -> Field:
        """The same field, known to close over `others`."""
        return dataclasses.replace(self, others=others)

    def attempt(self, y: State, carry: State | None) -> Attempt:
        """What one attempt at a step from `y` is made with."""
        return Attempt(self, y, carry, lambda accepted: None)

    def open_vjp(self, t: tf.Tensor, y: State) -> tuple[State, Callable[..., tuple[State, State]]]:
        """The slope at `(t, y)`, and its pullback.

        Returns:
          The slope, and a function that maps its cotangent to those of `y` and of `sources`, in the
          dtypes of `zeros_for`; zeros where there is no dependence. `of_state=False` or
          `of_sources=False` leaves a part out, as an empty list. It may be called once.
        """
        # A source that is the state itself, as an object, must not get the state's cotangent too.
        y = [tf.identity(x) for x in y]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([*y, *self.sources])
            slope = self(t, y)

        def pullback(d_slope: State, of_state: bool = True, of_sources: bool = True):
            wanted = [*(y if of_state else []), *(self.sources if of_sources else [])]
            gradients = dense_gradients(tape, slope, wanted, d_slope)
            split = len(y) if of_state else 0
            return gradients[:split], [tf.cast(g, solve_dtype(g.dtype)) for g in gradients[split:]]

        return slope, pullback


def first_behind(times: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
    """The first of `times` behind `t`; if there is none, a time that no solve comes near."""
    never = tf.constant(t.dtype.max, t.dtype)
    return tf.minimum(tf.reduce_min(tf.where(times > t, times, never)), never)


def zeros_for(sources: Sequence[tf.Tensor | tf.Variable]) -> State:
    """Where the gradients of a field's sources are added up."""
    return [tf.zeros_like(x, solve_dtype(x.dtype)) for x in sources]


def dense_gradients(
    tape: tf.GradientTape, results: State, inputs: Sequence[Any], cotangents: State
) -> Tensors:
    """Of `inputs`, from the cotangents of `results`; zeros where there is no dependence.

    Dense (that of tf.gather is sparse) and of the static shapes of `inputs`, for loops.
    """
    gradients = tape.gradient(
        results,
        inputs,
        output_gradients=cotangents,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    gradients = [tf.convert_to_tensor(g) for g in gradients]
    if tf.executing_eagerly():
        return gradients
    return [tf.ensure_shape(g, x.shape) for g, x in zip(gradients, inputs, strict=True)]
