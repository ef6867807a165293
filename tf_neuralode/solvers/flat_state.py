"""A state as users hold it (any nest of tensors) and as the loops hold it (a flat list)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_neuralode.solvers.runge_kutta import OdeFn, State

_LOW_PRECISION = (tf.float16, tf.bfloat16)


def solve_dtype(dtype: tf.DType) -> tf.DType:
    """The dtype in which a solve holds a leaf of the given dtype: at least float32."""
    return tf.float32 if dtype in _LOW_PRECISION else dtype


class FlatState:
    """Flattens and packs states of one structure.

    Args:
      y0: Nest of float or complex tensors.
      name: What the errors call it.

    Raises:
      TypeError: for a leaf that is neither float nor complex.
    """

    def __init__(self, y0: Any, name: str = "y0"):
        y0 = tf.nest.map_structure(tf.convert_to_tensor, y0)
        self._structure = y0
        leaves = tf.nest.flatten(y0)
        for leaf in leaves:
            if not (leaf.dtype.is_floating or leaf.dtype.is_complex):
                raise TypeError(
                    f"Argument {name} must hold floating-point or complex tensors. Cast it, for "
                    f"example with tf.cast({name}, tf.float32). Received: dtype {leaf.dtype.name}"
                )
        self._dtypes = [leaf.dtype for leaf in leaves]
        self.leaves: State = [tf.cast(leaf, solve_dtype(leaf.dtype)) for leaf in leaves]
        # The widest; time and norms are held in it.
        real_dtypes = [leaf.dtype.real_dtype for leaf in self.leaves]
        self.time_dtype = max(real_dtypes, key=lambda dtype: dtype.size, default=tf.float32)

    def pack(self, leaves: State) -> Any:
        """The nest in the user's dtypes; leaves may have further leading axes."""
        cast = [tf.cast(leaf, dtype) for leaf, dtype in zip(leaves, self._dtypes, strict=True)]
        return tf.nest.pack_sequence_as(self._structure, cast)

    def pack_as_held(self, leaves: State) -> Any:
        """The nest in the dtypes of the solve."""
        return tf.nest.pack_sequence_as(self._structure, leaves)

    def flat_fn(self, f: Callable[[tf.Tensor, Any], Any]) -> OdeFn:
        """`f(t, nest) -> nest` as a function on flat lists, its output checked.

        Raises (the function, when it is called):
          ValueError: where f returns another structure, shape or dtype than its state's.
        """

        def flat(t: tf.Tensor, leaves: State) -> State:
            slopes = f(t, self.pack(leaves))
            try:
                tf.nest.assert_same_structure(self._structure, slopes)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"The dynamics must return the structure of the state. Received: {error}"
                ) from None
            return [
                self._checked(slope, leaf, dtype)
                for slope, leaf, dtype in zip(
                    tf.nest.flatten(slopes), leaves, self._dtypes, strict=True
                )
            ]

        return flat

    @staticmethod
    def _checked(slope, leaf, dtype):
        slope = tf.convert_to_tensor(slope)
        if slope.dtype != dtype or not slope.shape.is_compatible_with(leaf.shape):
            raise ValueError(
                "The dynamics must return the shape and dtype of the state. Received: state of "
                f"shape {leaf.shape} and dtype {dtype.name}, output of shape {slope.shape} and "
                f"dtype {slope.dtype.name}"
            )
        return tf.ensure_shape(tf.cast(slope, leaf.dtype), leaf.shape)
