"""A plain function as a dynamics."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("tf_neuralode")
class FunctionDynamics(keras.layers.Layer):
    """A function `f(y)` or `f(t, y)` without weights, as the layer that `NeuralODE` solves with.

    Args:
      function: Takes the state, or `t` of shape `(batch, 1)` and the state, and returns the slope.
        If it is registered (`keras.saving.register_keras_serializable`) models with it can be
        saved.
      time_dependent: Whether it takes the time.

    Raises:
      TypeError: if the function can't be called like that.
    """

    def __init__(
        self, function: Callable[..., tf.Tensor], time_dependent: bool, **kwargs: Any
    ) -> None:
        # The state comes in its own dtype.
        super().__init__(autocast=False, **kwargs)
        self.function = function
        self.time_dependent = time_dependent
        self.supports_masking = True
        arguments = ("t", "y") if time_dependent else ("y",)
        try:
            inspect.signature(function).bind(*arguments)
        except TypeError:
            raise TypeError(
                f"Argument dynamics must be a function f({', '.join(arguments)}) if time_dependent="
                f"{time_dependent}. Received: dynamics={function!r}, which can't be called so"
            ) from None
        except ValueError:  # a builtin without a signature
            pass

    def build(self, input_shape: Any) -> None:
        """Raises ValueError if the function reads trainable variables: nobody would train them."""
        shapes = input_shape if self.time_dependent else [input_shape]
        graph = tf.__internal__.FuncGraph("function")
        with graph.as_default(), tf.GradientTape() as tape:
            inputs = [tf.compat.v1.placeholder(self.compute_dtype, shape) for shape in shapes]
            self.function(*inputs)
        if read := tape.watched_variables():
            raise ValueError(
                "Argument dynamics must be a Keras layer or model if it has weights: those that a "
                "plain function reads would be neither trained nor saved. Write a layer that holds "
                "them. Received: a function that reads "
                f"{', '.join(sorted(v.name for v in read))}"
            )

    def call(self, inputs: Any) -> tf.Tensor:
        return self.function(*inputs) if self.time_dependent else self.function(inputs)

    def get_config(self) -> dict[str, Any]:
        name = keras.saving.get_registered_name(self.function)
        if keras.saving.get_registered_object(name) is None:
            raise ValueError(
                "A NeuralODE whose dynamics is a plain function can be saved if the function is "
                "registered. Decorate it with @keras.saving.register_keras_serializable(...). "
                f"Received: dynamics={self.function!r}"
            )
        own = {"function": name, "time_dependent": self.time_dependent}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FunctionDynamics:
        function = keras.saving.get_registered_object(config["function"])
        if function is None:
            raise ValueError(
                "The function that a saved NeuralODE has as its dynamics must be registered before "
                "it is loaded: import the module that defines it. "
                f"Received: function {config['function']!r}"
            )
        return cls(**{**config, "function": function})
