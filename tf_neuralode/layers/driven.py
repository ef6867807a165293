"""The parts of a `NeuralCDE`: a field times the derivative of a control."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_neuralode.layers.neural_ode import NeuralODE


@keras.saving.register_keras_serializable("tf_neuralode")
class DrivenODE(NeuralODE):
    """`NeuralODE` whose dynamics gets the derivative of the control; a part of `NeuralCDE`."""

    _of_rate = True


@keras.saving.register_keras_serializable("tf_neuralode")
class TimesRate(keras.layers.Layer):
    """`[y, dX/dt] -> f(y) dX/dt`, f(y) a matrix of each sample; a part of `NeuralCDE`.

    Args:
      field: Layer whose output is `(batch, units, channels)`, or has so many numbers.
    """

    def __init__(self, field: keras.layers.Layer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.field = field

    def build(self, input_shape: Any) -> None:
        """Raises ValueError unless the field's output has the right size."""
        (_, units), (_, channels) = input_shape
        y = keras.KerasTensor((None, units), dtype=self.compute_dtype)
        shape = tuple(self.field(y).shape)
        if shape[1:] not in ((units * channels,), (units, channels)):
            raise ValueError(
                f"Argument dynamics of a NeuralCDE of {units} units must return (batch, {units}, "
                f"{channels}), a column for each channel of the series, time included, or (batch, "
                f"{units * channels}). Received: dynamics={self.field.name}, which returns {shape}"
            )

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        y, rate = inputs
        matrix = self.field(y, training=training)
        matrix = tf.reshape(matrix, [-1, y.shape[1], rate.shape[1]])
        return tf.linalg.matvec(tf.cast(matrix, y.dtype), tf.cast(rate, y.dtype))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "field": keras.saving.serialize_keras_object(self.field)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TimesRate:
        field = keras.saving.deserialize_keras_object(config["field"])
        return cls(**{**config, "field": field})
