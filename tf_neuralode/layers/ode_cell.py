"""A cell of a recurrent network whose state flows between observations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tf_neuralode import gradients
from tf_neuralode.layers.keras_layer import LOW_PRECISION, deserialized, init_keras
from tf_neuralode.layers.neural_ode import NeuralODE
from tf_neuralode.read_only import ReadOnly

Shape = tuple[int | None, ...]

# Keras' RNN draws the dropout of cells of this class once, in front of its loop over the steps, and
# forgets it behind. It exports the class in its cells' bases only.
_DropoutRNNCell: Any = next(
    (cls for cls in keras.layers.GRUCell.__mro__ if cls.__name__ == "DropoutRNNCell"), object
)

OBJECTS = ("dynamics", "cell", "solver", "gradient")  # in a config
# What a cell hands to its NeuralODE.
SETTINGS = ("solver", "gradient", "rtol", "atol", "norm", "on_failure")


@keras.saving.register_keras_serializable("tf_neuralode")
class ODECell(ReadOnly, keras.layers.Layer, _DropoutRNNCell):
    """A cell for `keras.layers.RNN`: its state flows over a gap, then it is updated [1, 2].

        h' = dynamics(h) for the gap since the last observation,     then  output, h = cell(x, h)

    A gap of 0 leaves the state as it is. Each sample has gaps of its own; a batch is one solve for
    each observation. Of a cell with several states the first flows, h of an LSTM [3]; its memory c
    rests. `ODERNN` is the same as a layer, which takes times and masks.

    Args:
      dynamics: As that of [`NeuralODE`][tf_neuralode.NeuralODE], of a state `(batch, units)`.
      cell: A Keras RNN cell, `keras.layers.GRUCell(units)` or any other whose `state_size` is an
        integer or a list of them.
      solver, gradient, rtol, atol, norm, on_failure: As those of
        [`NeuralODE`][tf_neuralode.NeuralODE].

    Call arguments:
      inputs: Features, and as the last of them the gap: at least 0, in the unit of time in which
        `dynamics` is a slope.
      states: List of the cell's states. Under a mixed policy they are held in 32 bits; give a
        `keras.layers.RNN` around the cell `dtype="float32"` then, or it rounds gaps to 16.
      training: Passed to the dynamics and the cell.

    Input shape: `(batch, features + 1)`; of the RNN `(batch, num_times, features + 1)`.

    Output shape: that of the cell's output, `(batch, units)`, and a list of the states.

    Raises:
      ValueError, TypeError: at construction or build, for arguments that don't fit.
      tf.errors.InvalidArgumentError: for gaps below 0, and from a solve that fails, with
        `on_failure="raise"`; under XLA the state is NaN.

    Example:
    ```python
    x, times = keras.Input((None, 3)), keras.Input((None,))
    sequence = keras.layers.Concatenate()([x, TimeGaps(t0=None)(times)])
    cell = ODECell(fields.MLP(32, depth=1), keras.layers.GRUCell(16))
    model = keras.Model([x, times], keras.layers.RNN(cell)(sequence))
    ```

    Reference:
      [1] Y. Rubanova, R. T. Q. Chen, D. Duvenaud, Latent ODEs for irregularly-sampled time series,
          NeurIPS 2019, algorithm 1.
      [2] E. De Brouwer et al., GRU-ODE-Bayes, NeurIPS 2019.
      [3] M. Lechner, R. Hasani, Learning long-term dependencies in irregularly-sampled time series,
          2020 (arXiv:2006.04418).
    """

    read_only = ("dynamics", "cell", *SETTINGS)

    def __init__(
        self,
        dynamics: keras.layers.Layer | Callable[..., tf.Tensor],
        cell: keras.layers.Layer,
        *,
        solver: str | tfp.math.ode.Solver = "dormand_prince",
        gradient: str | gradients.Gradient = "auto",
        rtol: Any = None,
        atol: Any = None,
        norm: str | Callable[[Any], tf.Tensor] | None = None,
        on_failure: Literal["raise", "nan", "last"] = "raise",
        **kwargs: Any,
    ) -> None:
        init_keras(self, super().__init__, kwargs)
        self.cell = _checked_cell(cell)
        # The name is part of files of weights.
        self._flow = NeuralODE(
            dynamics,
            solver=solver,
            gradient=gradient,
            rtol=rtol,
            atol=atol,
            norm=norm,
            on_failure=on_failure,
            name=f"{self.name}_flow",
            dtype=self.dtype_policy,
        )
        self.dynamics = self._flow.dynamics
        for name in SETTINGS:
            setattr(self, name, getattr(self._flow, name))

    @property
    def state_size(self) -> Any:
        """The cell's."""
        return self.cell.state_size

    @property
    def output_size(self) -> int:
        """The cell's."""
        size = getattr(self.cell, "output_size", None)
        return state_sizes(self.cell)[0] if size is None else size

    def build(self, input_shape: Any) -> None:
        batch, num = input_shape[0], input_shape[-1]
        if len(input_shape) != 2 or num is None or num < 2:
            raise ValueError(
                f"The input of layer {self.name!r} (ODECell) must hold features and, as the last "
                f"of them, the gap, (batch, features + 1). Received: input of shape {input_shape}"
            )
        if self.cell.compute_dtype not in (self.compute_dtype, *LOW_PRECISION):
            raise ValueError(
                f"Argument cell must have the dtype of layer {self.name!r} (ODECell), or a lower "
                f"precision. Give both the same dtype. Received: cell of dtype "
                f"{self.cell.compute_dtype}, layer of dtype {self.compute_dtype}"
            )
        if not self.cell.built:
            self.cell.build((batch, num - 1))
            self.cell.built = True
        if not self._flow.built:
            self._flow.build((batch, state_sizes(self.cell)[0]))
        self.built = True

    def call(self, inputs: Any, states: Any, training: bool | None = None) -> tuple[Any, Any]:
        h, *others = tf.nest.map_structure(self._held, list(states))
        features, gap = inputs[:, :-1], inputs[:, -1:]
        h = self._flow(h, times=gap, training=training)[:, 0]
        # Keras hands `training` to a layer inside that asks for it.
        output, states = self.cell(features, [h, *others])
        states = states if isinstance(states, list | tuple) else [states]
        return self._held(output), [self._held(state) for state in states]

    def get_initial_state(self, batch_size: Any = None) -> list[tf.Tensor]:
        """The cell's, or zeros."""
        if hasattr(self.cell, "get_initial_state"):
            states = self.cell.get_initial_state(batch_size=batch_size)
            return [self._held(state) for state in tf.nest.flatten(states)]
        return [tf.zeros([batch_size, size], self.compute_dtype) for size in state_sizes(self.cell)]

    def get_dropout_mask(self, step_input: tf.Tensor) -> Any:
        """The cell's, for its features."""
        return self._of_dropout("get_dropout_mask", step_input[:, :-1])

    def get_recurrent_dropout_mask(self, state: tf.Tensor) -> Any:
        """The cell's."""
        return self._of_dropout("get_recurrent_dropout_mask", state)

    def reset_dropout_mask(self) -> None:
        """Forgets the cell's."""
        self._of_dropout("reset_dropout_mask")

    def reset_recurrent_dropout_mask(self) -> None:
        """Forgets the cell's."""
        self._of_dropout("reset_recurrent_dropout_mask")

    def _of_dropout(self, method: str, *tensors: tf.Tensor) -> Any:
        if not hasattr(self.cell, method):
            return None
        return getattr(self.cell, method)(*(tf.cast(x, self.cell.compute_dtype) for x in tensors))

    def _held(self, state: Any) -> tf.Tensor:
        return tf.cast(state, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        flow = self._flow.get_config()
        config = {name: flow[name] for name in ("dynamics", *SETTINGS)}
        cell = keras.saving.serialize_keras_object(self.cell)
        return {**super().get_config(), **config, "cell": cell}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ODECell:
        return cls(**deserialized(config, OBJECTS))


def state_sizes(cell: keras.layers.Layer) -> list[int]:
    """The sizes of a cell's states."""
    size = cell.state_size
    return list(size) if isinstance(size, list | tuple) else [size]


def _checked_cell(cell: Any) -> keras.layers.Layer:
    is_cell = isinstance(cell, keras.layers.Layer) and hasattr(cell, "state_size")
    if is_cell and not isinstance(cell, keras.layers.RNN | keras.layers.StackedRNNCells):
        if all(isinstance(size, int) for size in state_sizes(cell)):
            return cell
    hint = ""
    if isinstance(cell, keras.layers.RNN):
        hint = f" Of a layer, {type(cell).__name__}, take the cell."
    if isinstance(cell, keras.layers.StackedRNNCells | list | tuple):
        hint = " Stack layers instead, ODERNN(..., return_sequences=True)."
    raise TypeError(
        "Argument cell must be a Keras RNN cell, such as keras.layers.GRUCell(16), whose "
        f"state_size is an integer or a list of them.{hint} Received: cell={cell!r}"
    )
