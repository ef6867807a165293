"""A plain function as a dynamics."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("tf_neuralode")
class FunctionDynamics(keras.layers.Layer):
    """A function `f(y)`, `f(t, y)` ... without weights, as the layer `NeuralODE` solves with.

    Args:
      function: Takes the state, or `t` of shape `(batch, 1)` and the state, and behind them the
        value of a control and a context, where there are; returns the slope. If it is registered
        (`keras.saving.register_keras_serializable`) models with it can be saved.
      time_dependent: Whether it takes the time.
      has_control: Whether it takes the value of a control.

    Raises:
      TypeError: if the function can't be called like that.
    """

    def __init__(
        self,
        function: Callable[..., tf.Tensor],
        time_dependent: bool,
        has_control: bool = False,
        **kwargs: Any,
    ) -> None:
        # The state comes in its own dtype.
        super().__init__(autocast=False, **kwargs)
        self.function = function
        self.time_dependent = time_dependent
        self.has_control = has_control
        self.supports_masking = True
        arguments = ["t"] * time_dependent + ["y"] + ["control"] * has_control
        # Whether there will be a context shows where the layer is called.
        if not (_takes(function, arguments) or _takes(function, [*arguments, "context"])):
            raise TypeError(
                f"Argument dynamics must be a function f({', '.join(arguments)}) if time_dependent="
                f"{time_dependent}, or f({', '.join(arguments)}, context). "
                f"Received: dynamics={function!r}, which can't be called so"
            )

    def check(self, inputs: Any) -> None:
        """Raises an error unless the function can be called on inputs, `KerasTensor`s, like these.

        Raises:
          ValueError: if it takes another number of them, or reads trainable variables: nobody would
            train them.
        """
        given = inputs if isinstance(inputs, list) else [inputs]
        if not _takes(self.function, given):
            names = ["t"] * self.time_dependent + ["y"] + ["control"] * self.has_control
            names += ["context"] * (len(given) - len(names))
            raise ValueError(
                f"Argument dynamics must be a function f({', '.join(names)}) if time_dependent="
                f"{self.time_dependent}: of time, state, control and context it gets those there "
                f"are. Received: dynamics={self.function!r}, which can't be called so"
            )
        graph = tf.__internal__.FuncGraph("function")
        with graph.as_default(), tf.GradientTape() as tape:
            one = lambda x: tf.compat.v1.placeholder(x.dtype, x.shape)
            self.function(*keras.tree.map_structure(one, given))
        if read := tape.watched_variables():
            raise ValueError(
                "Argument dynamics must be a Keras layer or model if it has weights: those that a "
                "plain function reads would be neither trained nor saved. Write a layer that holds "
                "them. Received: a function that reads "
                f"{', '.join(sorted(v.name for v in read))}"
            )

    def build(self, input_shape: Any) -> None:
        """Nothing: it has no weights."""

    def call(self, inputs: Any) -> tf.Tensor:
        return self.function(*inputs) if isinstance(inputs, list) else self.function(inputs)

    def get_config(self) -> dict[str, Any]:
        name = keras.saving.get_registered_name(self.function)
        if keras.saving.get_registered_object(name) is None:
            raise ValueError(
                "A NeuralODE whose dynamics is a plain function can be saved if the function is "
                "registered. Decorate it with @keras.saving.register_keras_serializable(...). "
                f"Received: dynamics={self.function!r}"
            )
        own = {
            "function": name,
            "time_dependent": self.time_dependent,
            "has_control": self.has_control,
        }
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


def _takes(function: Callable[..., Any], arguments: list[Any]) -> bool:
    """Whether it can be called on so many; a builtin without a signature is taken at its word."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:
        pass
    return True
