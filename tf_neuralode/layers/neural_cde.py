"""Neural controlled differential equations: a series drives the state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tf_neuralode.controls.missing import last_in_gaps, linear_in_gaps, observed
from tf_neuralode.layers.call_times import fill_masked
from tf_neuralode.layers.driven import DrivenODE, TimesRate
from tf_neuralode.layers.inputs import Inputs
from tf_neuralode.layers.keras_layer import deserialized, init_keras
from tf_neuralode.read_only import ReadOnly
from tf_neuralode.solvers import checks

Shape = tuple[int | None, ...]
# Of the path between the knots; that of the steps of "previous" is made of lines.
_PATHS: dict[str, Any] = {"linear": "linear", "hermite": "hermite", "previous": "linear"}
_OF_SOLVE = ("solver", "gradient", "rtol", "atol", "norm", "on_failure", "jit_compile")


@keras.saving.register_keras_serializable("tf_neuralode")
class NeuralCDE(ReadOnly, keras.layers.Layer):
    """A series drives the state: dy = f(y) dX, from y0 = W X(t_0) + b [1].

    X is a path through the observations, time among its channels. The solution depends on the path
    alone, and not on how fast it is gone through: it is solved in the number of the observation, so
    that samples with times of their own share their knots, and padding moves nothing.

    Args:
      dynamics: Keras layer, f: maps `(batch, units)` to `(batch, units, channels)`, or to as many
        numbers; channels are those of the series, and one more for the time, the first. A last
        activation of `"tanh"` keeps solutions tame.
      units: Size of the state, a positive integer.
      control: The path between observations: `"hermite"`, cubic and smooth, which looks back [2];
        `"linear"`; `"previous"`, which holds each value and then goes to the next in no time
        (rectilinear): of what comes it knows nothing, as online predictions must [2]. A step ends
        at every observation of the last two: `max_num_steps` must be larger than their number, and
        than twice that with `"previous"`.
      time_channel: Whether the time is a channel. If not, the state doesn't see how much passes.
      return_sequences: Whether to return the states at all observations, or the last.
      solver, gradient, rtol, atol, norm, on_failure, jit_compile: As in `NeuralODE`.

    Call arguments:
      values: The series, `(batch, num_times, channels)`, floating point. NaN is missing: on a line
        between the values that are there, or the last of them with `"previous"`.
      times: `(num_times,)` or `(batch, num_times)`, rising; 0, 1, 2 ... if `None`. Not
        differentiated.
      mask: `(batch, num_times)`, boolean, false for observations that are padding, or left out.
        Keras fills in that of the values.
      y0: Initial state, `(batch, units)`, instead of the one above.
      training: Passed to the dynamics.

    Input shape: `(batch, num_times, channels)`, at least two times.

    Output shape: `(batch, units)`, or `(batch, num_times, units)` with `return_sequences=True`.

    Raises:
      ValueError, TypeError: for arguments that don't fit.

    Example:
    ```python
    field = keras.Sequential([keras.layers.Dense(64, "relu"), keras.layers.Dense(16 * 4, "tanh")])
    model = keras.Sequential([keras.Input((None, 3)), NeuralCDE(field, 16), keras.layers.Dense(2)])
    ```

    References:
      [1] P. Kidger et al., Neural controlled differential equations for irregular time series,
          NeurIPS 2020.
      [2] J. Morrill et al., Neural controlled differential equations for online prediction tasks,
          2021.
    """

    read_only = ("dynamics", "units", "control", "time_channel", "return_sequences", *_OF_SOLVE)

    def __init__(
        self,
        dynamics: keras.layers.Layer,
        units: int,
        control: Literal["hermite", "linear", "previous"] = "hermite",
        time_channel: bool = True,
        return_sequences: bool = False,
        solver: Any = "dormand_prince",
        gradient: Any = "auto",
        rtol: Any = None,
        atol: Any = None,
        norm: Any = None,
        on_failure: Literal["raise", "nan"] = "raise",
        jit_compile: bool | Literal["auto"] = "auto",
        **kwargs: Any,
    ) -> None:
        init_keras(self, super().__init__, kwargs)
        if not isinstance(dynamics, keras.layers.Layer):
            raise TypeError(f"Argument dynamics must be a Keras layer. Received: {dynamics!r}")
        if control not in _PATHS:
            raise ValueError(
                f"Argument control must be one of {', '.join(map(repr, _PATHS))}. "
                f"Received: control={control!r}"
            )
        self.dynamics, self.control = dynamics, control
        self.units = checks.positive_integer("units", units)
        self.time_channel, self.return_sequences = bool(time_channel), bool(return_sequences)
        how = (solver, gradient, rtol, atol, norm, on_failure, jit_compile)
        dtype = self.dtype_policy
        self._ode = DrivenODE(
            TimesRate(dynamics, dtype=dtype),
            control=_PATHS[control],
            dtype=dtype,
            **dict(zip(_OF_SOLVE, how, strict=True)),
        )
        for name in _OF_SOLVE:
            setattr(self, name, getattr(self._ode, name))
        self._initial = keras.layers.Dense(units, dtype=dtype, name="initial")
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        if len(input_shape) != 3 or input_shape[-1] is None:
            raise ValueError(
                f"The input of layer {self.name!r} (NeuralCDE) must be (batch, num_times, "
                f"channels), with a known number of channels. Received: shape {tuple(input_shape)}"
            )
        channels = input_shape[-1] + self.time_channel
        self._initial.build((None, channels))
        of_path = [keras.KerasTensor(shape) for shape in ((None,), (None, None, channels))]
        self._ode.build_for((None, self.units), Inputs(control=of_path))
        self.built = True

    def call(
        self,
        values: Any,
        times: Any = None,
        mask: Any = None,
        y0: Any = None,
        training: bool | None = None,
    ) -> tf.Tensor:
        path = self._path_through(tf.cast(values, self.compute_dtype), times, mask)
        stride = 1
        if self.control == "previous":
            path, stride = _rectilinear(path, self.time_channel), 2
        knots = tf.cast(tf.range(tf.shape(path)[1]), path.dtype)
        if y0 is None:
            y0 = self._initial(tf.where(tf.math.is_finite(path), path, tf.zeros_like(path))[:, 0])
        outputs = knots[::stride] if self.return_sequences else knots[-1:]
        outputs = tf.ensure_shape(outputs, [values.shape[1] if self.return_sequences else 1])
        states = self._ode(y0, outputs, control=(knots, path), training=training)
        return states if self.return_sequences else states[:, 0]

    def _path_through(self, values: tf.Tensor, times: Any, mask: Any) -> tf.Tensor:
        """The channels at the observations, without gaps; in those left out nothing moves."""
        batch, num = tf.shape(values)[0], tf.shape(values)[1]
        if times is None:
            since = tf.cast(tf.range(num), values.dtype)
        else:
            times = tf.convert_to_tensor(times)
            # In their own precision, as far as differences go.
            first = times[..., :1]
            since = tf.cast(times - first, values.dtype)
        since = tf.stop_gradient(tf.broadcast_to(since, [batch, num]))
        if mask is not None:
            mask = tf.cast(mask, tf.bool)
            values = tf.where(mask[..., tf.newaxis], values, np.nan)
            first = tf.reduce_min(tf.where(mask, since, since.dtype.max), axis=1, keepdims=True)
            since = tf.maximum(fill_masked(since, mask), first)
        data = observed(since, values, None)
        fill: Callable[..., tf.Tensor] = (
            last_in_gaps if self.control == "previous" else linear_in_gaps
        )
        filled = fill(data)
        if not self.time_channel:
            return filled
        rises = tf.reduce_all(since[:, 1:] >= since[:, :-1], axis=1)[:, tf.newaxis]
        since = tf.where(rises, since, np.nan)
        return tf.concat([since[..., tf.newaxis], filled], axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Shape:
        return (*input_shape[: 2 if self.return_sequences else 1], self.units)

    def compute_output_spec(
        self,
        values: Any,
        times: Any = None,
        mask: Any = None,
        y0: Any = None,
        training: bool | None = None,
    ) -> keras.KerasTensor:
        return keras.KerasTensor(self.compute_output_shape(values.shape), dtype=self.compute_dtype)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        return previous_mask if self.return_sequences else None

    def get_config(self) -> dict[str, Any]:
        config = {
            name: value for name, value in self._ode.get_config().items() if name in _OF_SOLVE
        }
        own = {
            "dynamics": keras.saving.serialize_keras_object(self.dynamics),
            "units": self.units,
            "control": self.control,
            "time_channel": self.time_channel,
            "return_sequences": self.return_sequences,
        }
        return {**super().get_config(), **config, **own}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> NeuralCDE:
        return cls(**deserialized(config, ("dynamics", "solver", "gradient")))


def _rectilinear(path: tf.Tensor, time_channel: bool) -> tf.Tensor:
    """`(batch, 2 num - 1, channels)`: first the time goes on, and then the values."""
    held, reached = path[:, :-1], path[:, 1:]
    if time_channel:
        held = tf.concat([reached[..., :1], held[..., 1:]], axis=-1)
    pairs = tf.stack([path[:, :-1], held], axis=2)
    shape = tf.shape(path)
    pairs = tf.reshape(pairs, [shape[0], 2 * (shape[1] - 1), path.shape[2]])
    return tf.concat([pairs, path[:, -1:]], axis=1)
