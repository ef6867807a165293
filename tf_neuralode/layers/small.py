"""Small layers that stand beside a NeuralODE."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tf_neuralode.eager import add_kind
from tf_neuralode.read_only import ReadOnly
from tf_neuralode.solvers import checks

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable("tf_neuralode")
class Augment(ReadOnly, keras.layers.Layer):
    """Pads the last axis with zeros: dimensions through which trajectories can pass each other [1].

    Args:
      dims: How many features to add, a positive integer.

    Call arguments:
      inputs: The state.

    Input shape: `(batch, ..., features)`.

    Output shape: `(batch, ..., features + dims)`.

    Raises:
      ValueError, TypeError: if `dims` isn't a positive integer.

    Example:
    ```python
    model = keras.Sequential([keras.Input((2,)), Augment(3), NeuralODE(dynamics_of_5_features)])
    ```

    Reference:
      [1] E. Dupont, A. Doucet, Y. W. Teh, Augmented neural ODEs, NeurIPS 2019.
    """

    read_only = ("dims",)

    def __init__(self, dims: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dims = checks.positive_integer("dims", dims)
        self.supports_masking = True

    def call(self, inputs: Any) -> tf.Tensor:
        return ops.pad(inputs, [(0, 0)] * (len(inputs.shape) - 1) + [(0, self.dims)])

    def compute_output_shape(self, input_shape: Any) -> Shape:
        features = None if input_shape[-1] is None else input_shape[-1] + self.dims
        return (*input_shape[:-1], features)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dims": self.dims}


@keras.saving.register_keras_serializable("tf_neuralode")
class ConcatInputs(ReadOnly, keras.layers.Layer):
    """Joins what a dynamics is called on, `[t, y, control, context]` or some, as further features.

    The first layer of a dynamics with inputs. What is `(batch, features)` beside a state with more
    axes is repeated along those.

    ```python
    dynamics = keras.Sequential([ConcatInputs(), keras.layers.Dense(16, "tanh"), ...])
    NeuralODE(dynamics, control="hermite")
    ```

    Args:
      axis: Of the features or channels: -1, or 1 for `data_format="channels_first"`.

    Call arguments:
      inputs: A list of tensors, or nest of them; numbers of any kind.

    Input shape: each `(batch, features)`, or that of the state, the one with the most axes, but for
      the features.

    Output shape: that of the state, with the features of all.

    Raises:
      ValueError, TypeError: for shapes that don't fit, or if `axis` isn't one of the state's, or
        the batch axis.
    """

    read_only = ("axis",)

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(axis, bool) or not isinstance(axis, int):
            raise TypeError(f"Argument axis must be an integer. Received: axis={axis!r}")
        if axis == 0:
            raise ValueError("Argument axis must not be the batch axis. Received: axis=0")
        self.axis = axis
        self.supports_masking = True

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """The state's, unless its last axis is that of the features."""
        if not isinstance(previous_mask, list | tuple):
            return None
        place = self._place([tuple(x.shape) for x in keras.tree.flatten(inputs)])
        mask = keras.tree.flatten(previous_mask)[place]
        rank = len(keras.tree.flatten(inputs)[place].shape)
        return mask if mask is None or len(mask.shape) <= self.axis % rank else None

    def build(self, input_shape: Any) -> None:
        self.compute_output_shape(input_shape)

    def call(self, inputs: Any) -> tf.Tensor:
        leaves = keras.tree.flatten(inputs)
        state = leaves[self._place([tuple(x.shape) for x in leaves])]
        rank = state.shape.rank
        sizes = [tf.shape(state)[i] if n is None else n for i, n in enumerate(state.shape)]

        def one(x: tf.Tensor) -> tf.Tensor:
            x = tf.cast(x, self.compute_dtype)
            if x.shape.rank == rank:
                return x
            shape, features = list(sizes), x.shape[-1]
            shape[self.axis] = features
            ones = [-1] + [1] * (rank - 1)
            ones[self.axis] = features
            return tf.broadcast_to(tf.reshape(x, ones), shape)

        return tf.concat([one(x) for x in leaves], axis=self.axis)

    def compute_output_shape(self, input_shape: Any) -> Shape:
        shapes = _leaves_of(input_shape)
        state = list(shapes[self._place(shapes)])
        rank = len(state)
        if not all(len(shape) in (2, rank) for shape in shapes):
            raise ValueError(
                f"The inputs of layer {self.name!r} ({type(self).__name__}) must be (batch, "
                "features), or have the axes of the state. "
                f"Received: inputs of shapes {shapes}"
            )
        if not -rank < self.axis < rank:
            raise ValueError(
                f"Argument axis must be an axis of the state, of shape {tuple(state)}, behind the "
                f"batch. Received: axis={self.axis}"
            )
        features = [s[-1] if len(s) == 2 else s[self.axis] for s in shapes]
        known = [n for n in features if n is not None]
        state[self.axis] = sum(known) if len(known) == len(features) else None
        return tuple(state)

    def _place(self, shapes: list[Shape]) -> int:
        """Which of them is the state's: the first of those with the most axes."""
        return max(range(len(shapes)), key=lambda i: len(shapes[i]))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}


@keras.saving.register_keras_serializable("tf_neuralode")
class ConcatTime(ConcatInputs):
    """Adds the time to the state, as a further feature or channel, for Dense and convolutions.

    The first layer of a time-dependent dynamics:

    ```python
    dynamics = keras.Sequential([ConcatTime(), keras.layers.Dense(16, "tanh"), ...])
    NeuralODE(dynamics, time_dependent=True)
    ```

    Args:
      axis: Of the features or channels: -1, or 1 for `data_format="channels_first"`.

    Call arguments:
      inputs: Time and state, `[t, y]`.

    Input shape: `[t, y]`, t of shape `(batch, 1)`, y `(batch, ..., features)`.

    Output shape: `(batch, ..., features + 1)`.

    Raises:
      ValueError, TypeError: if the input isn't `[t, y]`, or `axis` isn't one of y's, or the batch
        axis.
    """

    def compute_output_shape(self, input_shape: Any) -> Shape:
        pair = len(input_shape) == 2 and all(isinstance(x, list | tuple) for x in input_shape)
        if not pair or tuple(input_shape[0])[1:] != (1,):
            raise ValueError(
                f"The input of layer {self.name!r} (ConcatTime) must be [t, y], t of shape "
                "(batch, 1). In a NeuralODE it needs time_dependent=True. "
                f"Received: input of shape {input_shape}"
            )
        return super().compute_output_shape(input_shape)

    def _place(self, shapes: list[Shape]) -> int:
        return 1


def _leaves_of(shapes: Any) -> list[Shape]:
    """The shapes in a nest of them."""
    if isinstance(shapes, dict):
        shapes = list(shapes.values())
    if all(size is None or isinstance(size, int) for size in shapes):
        return [tuple(shapes)]
    return [shape for one in shapes for shape in _leaves_of(one)]


add_kind(ConcatInputs, "axis")
add_kind(ConcatTime, "axis")
