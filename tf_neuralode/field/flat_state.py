"""A state as users hold it (any nest of tensors) and as the loops hold it (a flat list).

Under XLA the loops hold each leaf as a vector, which costs nothing: a reshape moves no data there.
On a CPU XLA makes one loop of each axis, and the code for a short last axis, one after the other,
has no vector instructions: dense output of 128 x 20 entries takes four times as long.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_neuralode.field.field import solve_dtype
from tf_neuralode.field.precision import of_state
from tf_neuralode.tensors import State, each, inside_xla


def _sizes(leaf: tf.Tensor) -> list[int] | None:
    """What gives a leaf its shape again that is held as a vector; `None` if it isn't."""
    if not inside_xla() or (leaf.shape.rank or 0) < 2:
        return None
    sizes = [-1 if size is None else size for size in leaf.shape]
    return None if sizes.count(-1) > 1 or 0 in sizes else sizes


class FlatState:
    """Flattens and packs states of one structure.

    Args:
      y0: Nest of float or complex tensors.
      name: What the errors call it.

    Raises:
      TypeError: for a leaf that is neither float nor complex.
    """

    def __init__(self, y0: Any, name: str = "y0"):
        if any(isinstance(x, tf.RaggedTensor) for x in tf.nest.flatten(y0)):
            raise TypeError(
                f"Argument {name} must hold dense tensors. Pad it, {name}.to_tensor(), and let f "
                "be 0 in the padding. Received: a RaggedTensor"
            )
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
        # A field computes in the dtypes that it gets.
        self.field_precision = of_state(dtype.real_dtype.name for dtype in self._dtypes)
        self._sizes = [_sizes(leaf) for leaf in leaves]
        self.leaves: State = self.flatten([tf.cast(x, solve_dtype(x.dtype)) for x in leaves])
        # The widest; time and norms are held in it.
        real_dtypes = [leaf.dtype.real_dtype for leaf in self.leaves]
        self.time_dtype = max(real_dtypes, key=lambda dtype: dtype.size, default=tf.float32)

    def as_parameter(self, x: Any) -> tf.Tensor:
        """A leaf of `params` as a tensor: Python's numbers take the state's real dtype."""
        is_number = isinstance(x, int | float) and not isinstance(x, bool)
        return tf.convert_to_tensor(x, self.time_dtype if is_number else None)

    def pack(self, leaves: State) -> Any:
        """The nest in the user's dtypes; leaves may have further leading axes."""
        cast = [tf.cast(leaf, dtype) for leaf, dtype in zip(leaves, self._dtypes, strict=True)]
        return self.pack_as_held(cast)

    def pack_as_held(self, leaves: State) -> Any:
        """The nest in the dtypes of the solve; leaves may have further leading axes."""
        shaped = [
            leaf if sizes is None else _with_last_axes(leaf, 1, sizes)
            for leaf, sizes in zip(leaves, self._sizes, strict=True)
        ]
        return tf.nest.pack_sequence_as(self._structure, shaped)

    def flatten(self, nest: Any) -> State:
        """The inverse of `pack_as_held`."""
        return [
            leaf if sizes is None else _with_last_axes(leaf, len(sizes), [-1])
            for leaf, sizes in zip(tf.nest.flatten(nest), self._sizes, strict=True)
        ]

    def flat_fn(self, f: Callable[[tf.Tensor, Any], Any]) -> Callable[[tf.Tensor, State], State]:
        """`f(t, nest) -> nest` as a function on flat lists, its output checked.

        Raises (the function, when it is called):
          ValueError: where f returns another structure, shape or dtype than its state's.
        """

        def flat(t: tf.Tensor, leaves: State) -> State:
            y = self.pack(leaves)
            slopes = self._as_state(self._call(f, t, y))
            try:
                tf.nest.assert_same_structure(self._structure, slopes)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"The dynamics must return the structure of the state. Received: {error}"
                ) from None
            return self.flatten(each(_checked, tf.nest.flatten(slopes), tf.nest.flatten(y)))

        return flat

    def _call(self, f: Callable[[tf.Tensor, Any], Any], t: tf.Tensor, y: Any) -> Any:
        try:
            return f(t, y)
        except TypeError as error:
            if isinstance(y, list) and all(leaf.shape.rank == 0 for leaf in y):
                raise TypeError(
                    "The state that f gets is a list of scalars, as the initial state is. If f "
                    "computes with a vector, give it one, for example tf.constant(y0). "
                    f"Received: {error}"
                ) from error
            raise

    def _as_state(self, slopes: Any) -> Any:
        """What f returned; a list of numbers and tensors as a tensor, where the state is one."""
        if slopes is None:
            raise ValueError(
                "The dynamics must return the slope, like its state. Received: None; perhaps it "
                "has no return"
            )
        if tf.is_tensor(self._structure) and isinstance(slopes, list | tuple):
            # Other lists have another structure, and are an error.
            with contextlib.suppress(TypeError, ValueError, tf.errors.InvalidArgumentError):
                return tf.convert_to_tensor(slopes, self._structure.dtype)
        return slopes


def _checked(slope: Any, leaf: tf.Tensor) -> tf.Tensor:
    """A slope in the dtype of the solve."""
    if isinstance(slope, int | float):
        slope = tf.constant(slope, leaf.dtype)
    slope = tf.convert_to_tensor(slope)
    if slope.dtype != leaf.dtype or not slope.shape.is_compatible_with(leaf.shape):
        raise ValueError(
            "The dynamics must return the shape and dtype of the state. Received: state of "
            f"shape {leaf.shape} and dtype {leaf.dtype.name}, output of shape {slope.shape} and "
            f"dtype {slope.dtype.name}"
        )
    return tf.ensure_shape(tf.cast(slope, solve_dtype(leaf.dtype)), leaf.shape)


def _with_last_axes(leaf: tf.Tensor, num: int, sizes: list[int]) -> tf.Tensor:
    """`leaf`, its last `num` axes reshaped to `sizes`, of which one may be -1."""
    if leaf.shape.rank == num:
        return tf.reshape(leaf, sizes)
    return tf.reshape(leaf, tf.concat([tf.shape(leaf)[:-num], sizes], axis=0))
