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
class ConcatTime(ReadOnly, keras.layers.Layer):
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
        mask = previous_mask[1] if isinstance(previous_mask, list | tuple) else None
        rank = len(inputs[1].shape)
        return mask if mask is None or len(mask.shape) <= self.axis % rank else None

    def build(self, input_shape: Any) -> None:
        self._state_shape(input_shape)

    def call(self, inputs: Any) -> tf.Tensor:
        t, y = inputs
        shape = [tf.shape(y)[i] if n is None else n for i, n in enumerate(y.shape)]
        shape[self.axis] = 1
        time = tf.broadcast_to(tf.reshape(t, [-1] + [1] * (len(y.shape) - 1)), shape)
        return tf.concat([tf.cast(time, y.dtype), y], axis=self.axis)

    def compute_output_shape(self, input_shape: Any) -> Shape:
        shape = list(self._state_shape(input_shape))
        channels = shape[self.axis]
        shape[self.axis] = None if channels is None else channels + 1
        return tuple(shape)

    def _state_shape(self, shapes: Any) -> Shape:
        pair = len(shapes) == 2 and all(isinstance(shape, list | tuple) for shape in shapes)
        if not pair or tuple(shapes[0])[1:] != (1,):
            raise ValueError(
                f"The input of layer {self.name!r} (ConcatTime) must be [t, y], t of shape "
                "(batch, 1). In a NeuralODE it needs time_dependent=True. "
                f"Received: input of shape {shapes}"
            )
        rank = len(shapes[1])
        if not -rank < self.axis < rank:
            raise ValueError(
                f"Argument axis must be an axis of the state, of shape {tuple(shapes[1])}, behind "
                f"the batch. Received: axis={self.axis}"
            )
        return tuple(shapes[1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}


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
      ValueError: for shapes that don't fit.
    """

    read_only = ("axis",)

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis

    def build(self, input_shape: Any) -> None:
        self.compute_output_shape(input_shape)

    def call(self, inputs: Any) -> tf.Tensor:
        leaves = keras.tree.flatten(inputs)
        state = max(leaves, key=lambda x: x.shape.rank)
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
        rank = max(len(shape) for shape in shapes)
        state = list(next(shape for shape in shapes if len(shape) == rank))
        if not all(len(shape) in (2, rank) for shape in shapes):
            raise ValueError(
                f"The inputs of layer {self.name!r} (ConcatInputs) must be (batch, features), or "
                f"have the axes of the state. Received: inputs of shapes {shapes}"
            )
        features = [s[-1] if len(s) == 2 else s[self.axis] for s in shapes]
        known = [n for n in features if n is not None]
        state[self.axis] = sum(known) if len(known) == len(features) else None
        return tuple(state)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}


def _leaves_of(shapes: Any) -> list[Shape]:
    """The shapes in a nest of them."""
    if isinstance(shapes, dict):
        shapes = list(shapes.values())
    if all(size is None or isinstance(size, int) for size in shapes):
        return [tuple(shapes)]
    return [shape for one in shapes for shape in _leaves_of(one)]


add_kind(ConcatTime, "axis")
