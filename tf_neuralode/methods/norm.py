"""The norm of a solve: errors of its state, in units of its tolerances."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tf_neuralode.methods.error_norm import ErrorNorm
from tf_neuralode.tensors import State, Tensors, each, scale


@dataclasses.dataclass(frozen=True, eq=False)
class Norm:
    """Maps values like the state to one number a sample, in units of the tolerance.

    Attributes:
      of: The norm of what is scaled by the tolerance.
      rtol, atol: Tolerances of each leaf of the state.
      dtype: Of the time, and so of norms.
      field_epsilon: That of a field with fewer bits than its state, see `precision`, or 0.
      clock_rank: 0 where the state has one clock, 1 where each sample has its own.
    """

    of: ErrorNorm
    rtol: State
    atol: State
    dtype: tf.DType
    field_epsilon: float = 0.0
    clock_rank: int = 0

    @classmethod
    def for_state(
        cls,
        of: ErrorNorm,
        rtol: Any,
        atol: Any,
        y: State,
        dtype: tf.DType,
        field_epsilon: float = 0.0,
        clock_rank: int = 0,
    ) -> Norm:
        """From tolerances as users give them: scalars, arrays, or nests like the state.

        Raises:
          ValueError: if they have another structure, or don't broadcast against the state.
        """
        structure = of.pack(y)
        tolerances = (_leaves("rtol", rtol, y, structure), _leaves("atol", atol, y, structure))
        return cls(of, *tolerances, dtype, field_epsilon, clock_rank)

    def of_samples(
        self, values: Tensors, y: State, y1: State | None = None, noise: State | None = None
    ) -> tf.Tensor:
        """Norm of `|values| / (atol + rtol max(|y|, |y1|) + noise)`, see `ErrorNorm`."""
        return self.of.of_samples(self._scaled(values, y, y1, noise))

    def without_overflow(self, values: Tensors, y: State) -> tf.Tensor:
        """As `of_samples`, where the squares of large values may be more than the dtype holds."""
        scaled = self._scaled(values, y)
        largest = tf.reduce_max([tf.reduce_max(x) for x in scaled])
        # An empty leaf has the maximum -inf.
        usable = tf.math.is_finite(largest) & (largest > 0)
        unit = tf.where(usable, largest, tf.ones_like(largest))
        return unit * self.of.of_samples([x / unit for x in scaled])

    def on_clock(self, norms: tf.Tensor) -> tf.Tensor:
        """What a clock makes of one norm a sample: itself, or, of a shared one, the largest."""
        return norms if self.clock_rank else self.of.largest(norms)

    def noise(self, slope: State, h: tf.Tensor | None = None) -> State | None:
        """What rounding in the field makes of a slope, real; `None` if it has full precision.

        Of each entry alike, as the products of a network's last layer are all rounded at their
        common size. With `h` what it makes of a step.
        """
        if not self.field_epsilon:
            return None
        sizes = self.of.size_of_samples(slope)
        # Rounding is off by half a spacing at most.
        noise = [tf.constant(self.field_epsilon / 2, x.dtype) * x for x in sizes]
        return noise if h is None else [tf.abs(scale(h, x)) for x in noise]

    def _scaled(
        self, values: Tensors, y: State, y1: State | None = None, noise: State | None = None
    ) -> State:
        """Real, in the time's dtype."""

        def one(value, size, rtol, atol, noise=None):
            unit = atol + rtol * size
            return tf.cast(tf.abs(value) / (unit if noise is None else unit + noise), self.dtype)

        sizes = each(tf.abs, y)
        if y1 is not None:
            sizes = each(lambda size, x: tf.maximum(size, tf.abs(x)), sizes, y1)
        further = [] if noise is None else [noise]
        return each(one, values, sizes, self.rtol, self.atol, *further)


def _leaves(name: str, value: Any, y: State, structure: Any) -> State:
    """The tolerance of each leaf, in the leaf's precision."""
    received = f"Received: {name}={value}"
    values = [value] * len(y)
    # For a state that is one tensor a list is an array.
    if isinstance(value, dict) or (tf.nest.is_nested(structure) and tf.nest.is_nested(value)):
        try:
            values = _flatten_up_to(structure, value)
        except (TypeError, ValueError):
            raise ValueError(
                f"Argument {name} must be a number, an array, or have the structure of the state. "
                f"{received}"
            ) from None

    def one(tolerance: Any, held: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        dtype = x.dtype.real_dtype
        to_tensor: Callable = tf.cast if tf.is_tensor(tolerance) else tf.constant
        tolerance = to_tensor(tolerance, dtype)
        try:
            shape = tf.broadcast_static_shape(tolerance.shape, x.shape)
            fits = shape.is_compatible_with(x.shape)
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                f"Argument {name} must broadcast against the state, of shape {x.shape}. {received}"
            )
        if tolerance.shape.rank > 0 and held.shape.rank < x.shape.rank:
            # The state is held as a vector, see `flat_state`.
            tolerance = tf.reshape(tf.broadcast_to(tolerance, tf.shape(x)), [-1])
        return tolerance

    return each(one, values, y, tf.nest.flatten(structure))


def _flatten_up_to(structure: Any, value: Any) -> list[Any]:
    """What `value` holds for each leaf of `structure`: numbers, arrays or lists."""
    if not tf.nest.is_nested(structure):
        raise ValueError("a single tensor has no structure")
    places = tf.nest.pack_sequence_as(structure, range(len(tf.nest.flatten(structure))))
    found: dict[int, Any] = {}
    keras.tree.map_structure_up_to(places, found.__setitem__, places, value)
    return [found[place] for place in sorted(found)]
