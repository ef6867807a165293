"""Dense layers."""

from __future__ import annotations

from typing import Any

import keras

from tf_neuralode.eager import add_kind
from tf_neuralode.fields.field import Activation, Field
from tf_neuralode.solvers import checks


@keras.saving.register_keras_serializable("tf_neuralode")
class MLP(Field):
    """`depth` Dense layers of `width` units, and one of the size of the state.

    Kernels and biases begin uniform in +-1/sqrt(fan_in) [1, equation 1], those of the last layer
    a tenth of that: at first a solve hardly moves the state, as a residual network whose branches
    end in small weights [2].

    Args:
      width: Units of each hidden layer, a positive integer.
      depth: How many hidden layers, a positive integer.
      activation: Of the hidden layers; a name of Keras' or a function. One that is smooth, as
        `"tanh"` and `"softplus"` are, needs fewer steps.
      time: Whether the field takes the time, as a further feature (`ConcatTime`); then it is called
        on `[t, y]`, for `NeuralODE(..., time_dependent=True)`.
      out_scale: Whether all slopes have one learned factor, which begins at 1: a single weight then
        sets the pace of the solution.
      inputs: Whether the field takes a control or a context, as further features: it is called on
        `[y, control, context]`, of those there are, or with `time=True` on `[t, y, ...]`.

    Call arguments:
      inputs: The state, or time and state, `[t, y]`, with `time=True`.

    Input shape: `(batch, ..., features)`; with `time=True` `[t, y]`, t of shape `(batch, 1)`; with
      `inputs=True` a list, see there.

    Output shape: that of the state. A mask of the state is handed on.

    Raises:
      ValueError, TypeError: for arguments that don't fit, for the state alone with `time=True`, and
        for `[t, y]` without.

    Example:
    ```python
    model = keras.Sequential([keras.Input((2,)), NeuralODE(fields.MLP(64, 2))])
    ```

    Reference:
      [1] X. Glorot, Y. Bengio, Understanding the difficulty of training deep feedforward neural
          networks, AISTATS 2010.
      [2] H. Zhang, Y. N. Dauphin, T. Ma, Fixup initialization, ICLR 2019.
    """

    read_only = ("width", "depth", "activation", "time", "out_scale", "inputs")

    def __init__(
        self,
        width: int,
        depth: int,
        activation: Activation = "tanh",
        time: bool = False,
        out_scale: bool = False,
        inputs: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(depth, activation, time, out_scale, inputs, **kwargs)
        self.width = checks.positive_integer("width", width)
        self.supports_masking = True

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width}

    def _hidden_size(self) -> int:
        return self.width

    def _make_layer(self, size: int, input_shape: Any, is_last: bool) -> keras.layers.Layer:
        return keras.layers.Dense(size, **self._layer_arguments(input_shape[-1], is_last))


add_kind(MLP, "time", "out_scale", "inputs")
