"""A field: f as the solves see it, on flat states, with what it reads and its derivatives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_neuralode.tensors import State, Tensors

_LOW_PRECISION = (tf.float16, tf.bfloat16)

FlatFn = Callable[[tf.Tensor, State, Tensors], State]


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
    """

    f: FlatFn
    params: Tensors = dataclasses.field(default_factory=list)
    others: Sequence[tf.Tensor | tf.Variable] = ()

    def __call__(self, t: tf.Tensor, y: State) -> State:
        return self.f(t, y, self.params)

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
