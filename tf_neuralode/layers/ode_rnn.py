"""A recurrent layer for observations at any times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tf_neuralode import gradients
from tf_neuralode.field import checked
from tf_neuralode.layers.check_call import as_tensor_like, check_shapes, same_shapes
from tf_neuralode.layers.gaps import gaps_between
from tf_neuralode.layers.keras_layer import deserialized, init_keras
from tf_neuralode.layers.ode_cell import OBJECTS, SETTINGS, ODECell, state_sizes
from tf_neuralode.read_only import ReadOnly


@keras.saving.register_keras_serializable("tf_neuralode")
class ODERNN(ReadOnly, keras.layers.Layer):
    """A recurrent layer whose state flows between observations, which may come at any times [1].

    From the initial state, over the observations x_i at times t_i:

        h' = dynamics(h) from t_(i-1) to t_i,     then  output_i, h = cell(x_i, h)

    It is a `keras.layers.RNN` of an [`ODECell`][tf_neuralode.layers.ODECell], which says which of
    several states flows. Series may be followed as they come: calls on one observation after the
    other, each with the `initial_state` that the last one returned and its time as `t0`, give the
    numbers of one call on all of them. Backwards, as the encoder of a latent ODE runs, it is
    `layer(x[:, ::-1], -times[:, ::-1])`.

    Args:
      dynamics, cell, solver, gradient, rtol, atol, norm, on_failure: As those of
        [`ODECell`][tf_neuralode.layers.ODECell].
      return_sequences: Whether to return the outputs at all observations, or at the last one.
      return_state: Whether to return the last states as well.

    Call arguments:
      inputs: The observations.
      times: When they were made: `(batch, num_times)`, or `(num_times,)` shared by the batch;
        rising, but they may repeat. They may have more precision than the layer (float64,
        integers): the gaps are taken before they are cast, as in
        [`TimeGaps`][tf_neuralode.layers.TimeGaps]. A list goes in by name, `times=[...]`.
      mask: `(batch, num_times)`, boolean, false for observations that are missing or padding: they
        neither move the time nor the states, whatever they hold, and the output repeats the one
        before (0, if there is none).
      initial_state: The cell's states, a tensor or a list of them; zeros (the cell's own choice)
        if `None`.
      t0: The time of `initial_state`: a number, or `(batch,)`. That of the first (valid)
        observation if `None`: nothing flows before it.
      inputs_mask: The inputs' own mask, of a `Masking` layer, in the place of `mask` if that is
        `None`; Keras fills it in.
      training: Passed to the dynamics and the cell.

    Input shape: `(batch, num_times, features)`.

    Output shape: `(batch, units)`; `(batch, num_times, units)` with `return_sequences=True`; with
      `return_state=True` a tuple of that and the states, each `(batch, units)`.

    Raises:
      ValueError, TypeError: at construction, build or call, for arguments that don't fit.
      tf.errors.InvalidArgumentError: for times that fall, and from a solve that fails, with
        `on_failure="raise"`; otherwise, and under XLA, the sample's output is NaN from there on.

    Example:
    ```python
    x, times = keras.Input((None, 3)), keras.Input((None,))
    h = ODERNN(fields.MLP(32, depth=1), keras.layers.GRUCell(16))(x, times)
    model = keras.Model([x, times], keras.layers.Dense(1)(h))
    ```

    Reference:
      [1] Y. Rubanova, R. T. Q. Chen, D. Duvenaud, Latent ODEs for irregularly-sampled time series,
          NeurIPS 2019, algorithm 1.
    """

    read_only = ("dynamics", "cell", *SETTINGS, "return_sequences", "return_state")

    def __init__(
        self,
        dynamics: keras.layers.Layer | Callable[..., tf.Tensor],
        cell: keras.layers.Layer,
        *,
        return_sequences: bool = False,
        return_state: bool = False,
        solver: str | tfp.math.ode.Solver = "dormand_prince",
        gradient: str | gradients.Gradient = "auto",
        rtol: Any = None,
        atol: Any = None,
        norm: str | Callable[[Any], tf.Tensor] | None = None,
        on_failure: Literal["raise", "nan", "last"] = "raise",
        **kwargs: Any,
    ) -> None:
        init_keras(self, super().__init__, kwargs)
        ode_cell = ODECell(
            dynamics,
            cell,
            solver=solver,
            gradient=gradient,
            rtol=rtol,
            atol=atol,
            norm=norm,
            on_failure=on_failure,
            name=f"{self.name}_cell",
            dtype=self.dtype_policy,
        )
        # The name is part of files of weights.
        self._rnn = keras.layers.RNN(
            ode_cell, return_sequences, return_state, dtype=self.dtype_policy
        )
        for name in ("dynamics", "cell", *SETTINGS):
            setattr(self, name, getattr(ode_cell, name))
        self.return_sequences = return_sequences
        self.return_state = return_state
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        _check_inputs(self.name, tuple(input_shape))
        self._rnn.build((*input_shape[:2], input_shape[2] + 1))
        self.built = True

    def call(
        self,
        inputs: Any,
        times: Any,
        mask: Any = None,
        initial_state: Any = None,
        t0: Any = None,
        inputs_mask: Any = None,
        training: bool | None = None,
    ) -> Any:
        mask = inputs_mask if mask is None else mask
        times, mask, t0 = self._check_call(inputs, times, mask, initial_state, t0)
        inputs = tf.cast(inputs, self.compute_dtype)
        times = tf.convert_to_tensor(times)
        if times.shape.rank == 1:
            times = tf.broadcast_to(times, tf.shape(inputs)[:2])
        if mask is not None:
            mask = tf.cast(mask, tf.bool)
            # What isn't looked at must not reach a gradient as NaN.
            inputs = tf.where(mask[..., tf.newaxis], inputs, tf.zeros_like(inputs))
        gaps = gaps_between(times, mask, t0, self.compute_dtype)
        if self.on_failure == "raise":
            message = (
                "Argument times must be finite and rise for each sample, from t0 on. Sort each "
                "sample's times, and mask those that are padding."
            )
            received = lambda: f"Received: times={times}, t0={t0}"
            gaps = checked(gaps, tf.reduce_all(gaps >= 0), message, received, times)
        sequence = tf.concat([inputs, gaps[..., tf.newaxis]], axis=-1)
        return self._rnn(sequence, initial_state=initial_state, mask=mask, training=training)

    def _check_call(
        self, inputs: Any, times: Any, mask: Any, initial_state: Any, t0: Any
    ) -> tuple[Any, Any, Any]:
        """`times`, `mask` and `t0`, tensors, arrays or specs; `None` if there is none."""
        times, mask = as_tensor_like("times", times), as_tensor_like("mask", mask)
        t0 = as_tensor_like("t0", t0)
        shape = tuple(inputs.shape)
        _check_inputs(self.name, shape)
        check_shapes(tuple(times.shape), None if mask is None else tuple(mask.shape))
        if not same_shapes(tuple(times.shape), shape[:2][-len(times.shape) :]):
            raise ValueError(
                "Argument times must hold a time for each of inputs. Received: times of shape "
                f"{tuple(times.shape)}, inputs of shape {shape}"
            )
        if t0 is not None and not (len(t0.shape) == 0 or same_shapes(tuple(t0.shape), shape[:1])):
            raise ValueError(
                "Argument t0 must be one time, or one for each sample, (batch,). Received: t0 of "
                f"shape {tuple(t0.shape)}, inputs of shape {shape}"
            )
        if initial_state is not None:
            states = initial_state if isinstance(initial_state, list | tuple) else [initial_state]
            received = [tuple(state.shape) for state in states]
            wanted = [(shape[0], size) for size in state_sizes(self.cell)]
            if len(received) != len(wanted) or not all(map(same_shapes, received, wanted)):
                raise ValueError(
                    f"Argument initial_state must hold the states of cell, of shapes {wanted}. "
                    f"Received: initial_state of shapes {received}"
                )
        return times, mask, t0

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self._rnn.compute_output_shape(tuple(input_shape))

    def compute_output_spec(
        self,
        inputs: Any,
        times: Any,
        mask: Any = None,
        initial_state: Any = None,
        t0: Any = None,
        inputs_mask: Any = None,
        training: bool | None = None,
    ) -> Any:
        self._check_call(inputs, times, mask, initial_state, t0)
        shapes = self.compute_output_shape(inputs.shape)
        if not self.return_state:
            return keras.KerasTensor(shapes, dtype=self.compute_dtype)
        return tuple(keras.KerasTensor(shape, dtype=self.compute_dtype) for shape in shapes)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """That of the observations, where the output has their axis."""
        mask = as_tensor_like("mask", previous_mask) if self.return_sequences else None
        if not self.return_state:
            return mask
        return [mask, *(None for _ in state_sizes(self.cell))]

    def get_config(self) -> dict[str, Any]:
        cell = self._rnn.cell.get_config()
        config = {name: cell[name] for name in ("dynamics", "cell", *SETTINGS)}
        config["return_sequences"] = self.return_sequences
        config["return_state"] = self.return_state
        return {**super().get_config(), **config}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ODERNN:
        return cls(**deserialized(config, OBJECTS))


def _check_inputs(name: str, shape: tuple) -> None:
    if len(shape) != 3 or not shape[-1]:
        raise ValueError(
            f"The input of layer {name!r} (ODERNN) must have the shape (batch, num_times, "
            f"features), with a known number of features. Received: input of shape {shape}"
        )
