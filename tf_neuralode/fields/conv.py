"""Convolutions."""

from __future__ import annotations

from typing import Any, Literal

import keras

from tf_neuralode.fields.field import Activation, Field, Shape
from tf_neuralode.solvers import checks

CONVOLUTIONS = {1: keras.layers.Conv1D, 2: keras.layers.Conv2D, 3: keras.layers.Conv3D}


@keras.saving.register_keras_serializable("tf_neuralode")
class Conv(Field):
    """`depth` convolutions with `filters` channels, and one with as many as the state has.

    All have stride 1 and padding `"same"`, in one, two or three dimensions as the state has.
    Weights begin as those of [`MLP`][tf_neuralode.fields.MLP]. Masks end here: a convolution mixes
    what is valid with padding.

    Args:
      filters: Channels of each hidden convolution, a positive integer.
      depth: How many hidden convolutions, a positive integer.
      kernel_size: Of all of them, in each dimension, a positive integer.
      activation, time, out_scale, inputs: As those of [`MLP`][tf_neuralode.fields.MLP]; the time
        is a further channel, and so are inputs.
      data_format: `"channels_last"` or `"channels_first"`, or `None` for Keras' default. TensorFlow
        has convolutions with the channels first on a GPU only.

    Call arguments:
      inputs: The state, or time and state, `[t, y]`, with `time=True`.

    Input shape: `(batch, *spatial, channels)`, or `(batch, channels, *spatial)` for
      `"channels_first"`; with `time=True` `[t, y]`, t of shape `(batch, 1)`.

    Output shape: that of the state.

    Raises:
      ValueError, TypeError: for arguments that don't fit, for the state alone with `time=True`, for
        `[t, y]` without, and for a state without axes between the batch and the channels.

    Example:
    ```python
    images = keras.Input((28, 28, 8))
    y = NeuralODE(fields.Conv(32, time=True), time_dependent=True)(images)
    ```

    Reference: that of [`MLP`][tf_neuralode.fields.MLP].
    """

    read_only = (
        "filters",
        "depth",
        "kernel_size",
        "activation",
        "time",
        "out_scale",
        "data_format",
        "inputs",
    )

    def __init__(
        self,
        filters: int,
        depth: int = 1,
        kernel_size: int = 3,
        activation: Activation = "tanh",
        time: bool = False,
        out_scale: bool = False,
        data_format: Literal["channels_last", "channels_first"] | None = None,
        inputs: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(depth, activation, time, out_scale, inputs, **kwargs)
        self.filters = checks.positive_integer("filters", filters)
        self.kernel_size = checks.positive_integer("kernel_size", kernel_size)
        self.data_format = data_format or keras.config.image_data_format()
        if self.data_format not in ("channels_last", "channels_first"):
            raise ValueError(
                "Argument data_format must be 'channels_last', 'channels_first' or None. "
                f"Received: data_format={data_format!r}"
            )
        self.axis = -1 if self.data_format == "channels_last" else 1

    def get_config(self) -> dict[str, Any]:
        config = {
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "data_format": self.data_format,
        }
        return {**super().get_config(), **config}

    def _hidden_size(self) -> int:
        return self.filters

    def _make_layer(self, size: int, input_shape: Any, is_last: bool) -> keras.layers.Layer:
        ndim = len(input_shape) - 2
        fan_in = input_shape[self.axis] * self.kernel_size**ndim
        return CONVOLUTIONS[ndim](
            size,
            self.kernel_size,
            padding="same",
            data_format=self.data_format,
            **self._layer_arguments(fan_in, is_last),
        )

    def _state_shape(self, shapes: Any) -> Shape:
        state = super()._state_shape(shapes)
        if len(state) - 2 not in CONVOLUTIONS:
            raise ValueError(
                f"The state of layer {self.name!r} (Conv) must have one to three axes between "
                f"the batch and the channels. Received: state of shape {state}"
            )
        return state
