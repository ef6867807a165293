"""What fields have in common: hidden layers, one of the state's size, time and scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tf_neuralode.layers.small import ConcatInputs, ConcatTime
from tf_neuralode.read_only import ReadOnly
from tf_neuralode.solvers import checks

Shape = tuple[int | None, ...]
Activation = str | Callable[[tf.Tensor], tf.Tensor] | None
# Trained to errors below those with 1, if within the spread of 10 seeds: see the guide, "Fields".
# 0.01 gained nothing more.
LAST_LAYER = 0.1


class Field(ReadOnly, keras.layers.Layer):
    """`depth` hidden layers and one of the state's size; a subclass says which layers.

    Kernels and biases are drawn from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as PyTorch and Equinox
    draw them, those of the last layer times LAST_LAYER, so that a solve begins near rest.
    """

    # Of the features or channels.
    axis = -1

    def __init__(
        self,
        depth: int,
        activation: Activation,
        time: bool,
        out_scale: bool,
        inputs: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value in (("time", time), ("out_scale", out_scale), ("inputs", inputs)):
            if value not in (True, False):
                raise TypeError(
                    f"Argument {name} must be True or False. Received: {name}={value!r}"
                )
        self.depth = checks.positive_integer("depth", depth)
        self.activation = keras.activations.get(activation)
        self.time = bool(time)
        self.out_scale = bool(out_scale)
        self.inputs = bool(inputs)

    def build(self, input_shape: Any) -> None:
        shape = state = self._state_shape(input_shape)
        features = state[self.axis]
        if features is None:
            raise ValueError(
                f"The state of layer {self.name!r} ({type(self).__name__}) must have a known "
                f"number of features. Received: state of shape {state}"
            )
        if self.time or self.inputs:
            join = ConcatInputs if self.inputs else ConcatTime
            self._concat = join(self.axis, dtype=self.dtype_policy)
            self._concat.build(input_shape)
            shape = self._concat.compute_output_shape(input_shape)
        self._network: list[keras.layers.Layer] = []
        for i in range(self.depth + 1):
            is_last = i == self.depth
            layer = self._make_layer(features if is_last else self._hidden_size(), shape, is_last)
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
            self._network.append(layer)
        if self.out_scale:
            self._scale = self.add_weight(shape=(), initializer="ones", name="out_scale")

    def call(self, inputs: Any) -> tf.Tensor:
        # Keras builds once; the next call may be on something else.
        self._state_shape(tf.nest.map_structure(lambda x: tuple(x.shape), inputs))
        y = self._concat(inputs) if self.time or self.inputs else inputs
        for layer in self._network:
            y = layer(y)
        return self._scale * y if self.out_scale else y

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """The state's."""
        if previous_mask is None or not (self.time or self.inputs):
            return previous_mask
        return previous_mask[int(self.time)]

    def compute_output_shape(self, input_shape: Any) -> Shape:
        return self._state_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        config = {
            "depth": self.depth,
            "activation": keras.activations.serialize(self.activation),
            "time": self.time,
            "out_scale": self.out_scale,
            "inputs": self.inputs,
        }
        return {**super().get_config(), **config}

    def _hidden_size(self) -> int:
        raise NotImplementedError

    def _make_layer(self, size: int, input_shape: Any, is_last: bool) -> keras.layers.Layer:
        raise NotImplementedError

    def _layer_arguments(self, fan_in: int, is_last: bool) -> dict[str, Any]:
        """What a Dense layer and a convolution have in common."""
        limit = (LAST_LAYER if is_last else 1) / math.sqrt(fan_in)
        # One initializer draws the same numbers each time: a layer has two of its own.
        kernel, bias = (keras.initializers.RandomUniform(-limit, limit) for _ in range(2))
        return {
            "activation": None if is_last else self.activation,
            "kernel_initializer": kernel,
            "bias_initializer": bias,
            "dtype": self.dtype_policy,
        }

    def _state_shape(self, shapes: Any) -> Shape:
        """Of the input's shapes, of which there are two if it is `[t, y]`."""
        is_pair = all(isinstance(shape, list | tuple | dict) for shape in shapes)
        if self.inputs:
            if is_pair and len(shapes) > 1 + self.time:
                return tuple(shapes[int(self.time)])
            names = "[t, y, ...]" if self.time else "[y, ...]"
            raise ValueError(
                f"The input of layer {self.name!r} ({type(self).__name__}) must be {names}, state "
                "and control or context behind it, as it has inputs=True. "
                f"Received: input of shape {shapes}"
            )
        if is_pair == self.time and (not is_pair or len(shapes) == 2):
            return tuple(shapes[1] if is_pair else shapes)
        wanted = "[t, y], as it has time=True: in a NeuralODE that needs time_dependent=True"
        if not self.time:
            wanted = "the state. A field on [t, y] (time_dependent=True) needs time=True"
        raise ValueError(
            f"The input of layer {self.name!r} ({type(self).__name__}) must be {wanted}. "
            f"Received: input of shape {shapes}"
        )
