"""Arrays of states, with a place for each step."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tf_neuralode.tensors import State, inside_xla

# More slots than this aren't reserved where an array can grow.
_MAX_RESERVED = 2**16
# Under XLA it can't: the times alone of so many steps take a gigabyte.
_MAX_UNDER_XLA = 2**27


def room_for(dtype: tf.DType, size: int, element_shape: Any) -> tf.TensorArray:
    """A `TensorArray` of up to `size` items, which takes no more memory than what is written.

    Raises:
      ValueError: under XLA, where all of `size` are allocated, if they are too many.
    """
    grows = isinstance(size, int) and size > _MAX_RESERVED and not inside_xla()
    if isinstance(size, int) and size > _MAX_UNDER_XLA and inside_xla():
        raise ValueError(
            "Argument max_num_steps is room that XLA, whose shapes are fixed, allocates at once: "
            f"{size:,} steps need {size * dtype.size / 2**30:.1f} GiB for one number of each. Take "
            "a smaller max_num_steps, or no XLA"
        )
    return tf.TensorArray(
        dtype,
        1 if grows else size,
        dynamic_size=grows,
        element_shape=element_shape,
        clear_after_read=False,
    )


def state_arrays(y: State, size, leading: tuple[int | None, ...] = ()) -> list[tf.TensorArray]:
    """A `TensorArray` for each leaf, whose items have the leaf's shape behind `leading`."""
    return [room_for(x.dtype, size, [*leading, *x.shape]) for x in y]


def write(arrays: list[tf.TensorArray], index: tf.Tensor, y: State) -> list[tf.TensorArray]:
    """Each leaf of `y` written into its array."""
    return [array.write(index, x) for array, x in zip(arrays, y, strict=True)]


def read(arrays: list[tf.TensorArray], index: tf.Tensor) -> State:
    """The leaves that `write` wrote."""
    return [array.read(index) for array in arrays]
