"""A Keras layer as a pure function f(t, y, params)."""

from __future__ import annotations

import contextlib
import inspect
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_neuralode.function_dynamics import FunctionDynamics

_LOW_PRECISION = ("float16", "bfloat16")


def as_layer(dynamics: Any, time_dependent: bool, dtype: Any) -> keras.layers.Layer:
    """The argument `dynamics`, a layer or a function, as a layer of Keras 3; else a TypeError."""
    if isinstance(dynamics, keras.layers.Layer):
        return dynamics
    hint = ""
    if any(cls.__module__.split(".")[0] == "tf_keras" for cls in type(dynamics).__mro__):
        hint = " This one is of tf_keras (Keras 2): build it from keras.layers instead."
    elif callable(dynamics) and not isinstance(dynamics, type):
        return FunctionDynamics(dynamics, time_dependent, dtype=dtype)
    raise TypeError(
        "Argument dynamics must be a Keras layer or model, or a function without weights."
        f"{hint} Received: dynamics={dynamics!r}"
    )


class _Scope(keras.StatelessScope):
    """A `StatelessScope` that remembers which variables were written, `{id: variable}`."""

    def __init__(self, state_mapping):
        super().__init__(state_mapping=state_mapping)
        self.written: dict[int, keras.Variable] = {}

    def add_update(self, update):
        super().add_update(update)
        variable, _ = update
        self.written[id(variable)] = variable


class Dynamics:
    """Binds a layer's variables for one solve.

    During a solve `f` must be one deterministic function, so everything that the layer could change
    is read once: the values of its variables, and with them the state of its random generators (one
    draw a solve). What the layer would have written is computed apart, by `updates`. What
    it would have added to the model's losses (activity regularizers, `add_loss`) is dropped.

    Args:
      layer: Keras layer or model, built; an attribute.
      time_dependent: Whether it is called on `[t, y]`, with t of shape `(batch, 1)`; an attribute.
      training: Passed to the layer.
      writes: Whether a call may write variables, see `probe_writes`.
      mask: Of the state, boolean, with its first axes: handed to the layer as Keras does, beside
        the state. What is masked has no slope.

    Raises:
      ValueError: where it is called, if the layer writes a variable that a solve can't write.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        time_dependent: bool,
        training: bool,
        writes: bool = True,
        mask: tf.Tensor | None = None,
    ):
        self.layer = layer
        self.time_dependent = time_dependent
        self._training = training
        self._writes = writes
        self._mask = mask

    def with_mask(self, mask: tf.Tensor | None) -> Dynamics:
        """The same field on states with a mask."""
        return Dynamics(self.layer, self.time_dependent, self._training, self._writes, mask)

    @property
    def params(self) -> list[keras.Variable]:
        """The trainable variables: what gradients are wanted for."""
        return self.layer.trainable_variables

    @property
    def constants(self) -> list[keras.Variable]:
        """The other variables: moving statistics, seeds, frozen weights, sums of metrics."""
        return [*self.layer.non_trainable_variables, *self.layer.metrics_variables]

    def read_params(self) -> list[tf.Tensor]:
        """Values of `params`."""
        return [tf.convert_to_tensor(v.value) for v in self.params]

    def read_constants(self) -> list[tf.Tensor]:
        """Values of `constants`."""
        # TensorFlow's tapes watch a frozen weight of Keras, too.
        return [tf.stop_gradient(v.value) for v in self.constants]

    def __call__(self, t, y, params: Sequence[tf.Tensor], constants: Sequence[tf.Tensor]):
        """Slope at time `t`, a scalar or `(batch,)`, and state `y`; like `y`."""
        slope, scope = self.call_in_scope(t, y, params, constants)
        self.check_written(scope.written.values())
        return slope

    def call_in_scope(self, t, y, params, constants) -> tuple[tf.Tensor, _Scope]:
        """The slope, and the scope that holds what was written.

        With `None` for `params` the layer reads those variables themselves.
        """
        mapping = [*zip(self.constants, constants, strict=True)]
        if params is not None:
            mapping += zip(self.params, params, strict=True)
        inputs = y = _with_mask(y, self._mask)
        if self.time_dependent:
            t = tf.broadcast_to(tf.reshape(t, [-1, 1]), [tf.shape(y)[0], 1])
            inputs = [tf.cast(t, y.dtype), y]
        # In a StatelessScope the layer's own __call__ casts as it does everywhere else.
        with _Scope(mapping) as scope, self._without_false_alarm():
            slope = self.layer(inputs, training=self._training)
        if slope.dtype in (tf.float16, tf.bfloat16):
            slope = tf.cast(slope, y.dtype)
        if self._mask is not None:
            axes = [1] * (y.shape.rank - self._mask.shape.rank)
            mask = tf.reshape(self._mask, tf.concat([tf.shape(self._mask), axes], axis=0))
            slope = tf.where(mask, slope, tf.zeros_like(slope))
        return slope, scope

    @contextlib.contextmanager
    def _without_false_alarm(self):
        """Keras warns that a model, of whatever layers, destroys a mask; these do see it."""
        if self._mask is None or not isinstance(self.layer, keras.Model):
            yield
            return
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", f"Layer '{re.escape(self.layer.name)}' .* a mask")
            yield

    def check_written(self, written: Iterable[keras.Variable]) -> None:
        """Raises ValueError if one of `written` is none of `constants`."""
        for variable in written:
            if any(variable is v for v in self.constants):
                continue
            if any(variable is v for v in self.params):
                raise ValueError(
                    "Argument dynamics must not write a trainable variable when it is called: a "
                    "solve calls it many times, as one function of its weights, and drops what it "
                    "writes into them. Write it outside of the solve, between training steps (in a "
                    "callback, or by a constraint of the weight), or freeze it. Received: a "
                    f"dynamics that writes {variable.path}, of {_holders(self.layer, variable)}"
                )
            raise ValueError(
                "Argument dynamics must not write a variable that isn't one of its own: a solve "
                "drops what it writes there. Make the variable, or the SeedGenerator that random "
                "numbers are drawn from (Keras' global one, if none is given), an attribute of a "
                f"layer. Received: a dynamics, {self.layer.name}, that writes {variable.path}"
            )

    def updates(self, ends, params, constants, success, all_good) -> dict[int, tf.Tensor]:
        """New values of the variables that a call writes, by their position in `constants`.

        Each call of the layer, in training or not, writes as one call of the dynamics would: seeds
        and other integers become what it makes of the initial state. Numbers of floating point,
        such as moving statistics, get the mean of what it makes of the two ends of the trajectory:
        the field's inputs change along it, and the ends are there whatever number of steps the
        solver took. After a failure, or with a bad sample in the batch, they stay as they are.

        Args:
          ends: `((t0, y0), (t1, y1))`.
          params, constants: As read before the solve.
          success: Boolean scalar, whether the solve succeeded.
          all_good: Boolean scalar, whether there are no stand-ins for bad samples in the batch.
        """
        if not self._writes:
            return {}
        (t0, y0), (t1, y1) = ends
        first = self._written(t0, y0, params, constants)
        integers = {i: value for i, value in first.items() if not value.dtype.is_floating}
        if len(integers) == len(first):
            return integers
        last = self._written(t1, y1, params, constants)
        means = {
            i: tf.where(success & all_good, (first[i] + last[i]) / 2, constants[i])
            for i in first.keys() - integers.keys()
        }
        return {**integers, **means}

    def takes_statistics(self, changed: dict[int, tf.Tensor]) -> bool:
        """Whether moving statistics are among `changed`, so that samples depend on each other."""
        num = len(self.layer.non_trainable_variables)
        return self._training and any(i < num and x.dtype.is_floating for i, x in changed.items())

    def _written(self, t, y, params, constants) -> dict[int, tf.Tensor]:
        _, scope = self.call_in_scope(t, tf.stop_gradient(y), params, constants)
        self.check_written(scope.written.values())
        return {
            i: scope.get_current_value(variable)
            for i, variable in enumerate(self.constants)
            if id(variable) in scope.written
        }

    def assign(self, changed: dict[int, tf.Tensor]) -> None:
        """Writes what `updates` returned into the variables."""
        variables = self.constants
        for i, value in changed.items():
            variables[i].assign(value)


def _holders(layer: keras.layers.Layer, variable: keras.Variable) -> str:
    """Names of the layers that `variable` belongs to, from the outermost in."""
    layers = layer._flatten_layers()
    return ", ".join(x.name for x in layers if any(variable is v for v in x.variables))


def _with_mask(y, mask):
    """`y` as Keras hands a tensor with a mask from one layer to the next."""
    if mask is None:
        return y
    y = tf.identity(y)
    y._keras_mask = mask
    return y


def _call_on_specs(layer: keras.layers.Layer, inputs):
    """`layer(inputs)` for `KerasTensor`s, which builds it."""
    if isinstance(layer, keras.Sequential) and isinstance(inputs, list):
        # Keras doesn't build one that takes several inputs before it sees data.
        for part in layer.layers:
            inputs = _call_on_specs(part, inputs)
        return inputs
    return layer(inputs)


def build(layer: keras.layers.Layer, state_shape, state_dtype: str, time_dependent: bool) -> None:
    """Builds `layer` for states of the given shape, and checks what it returns.

    Raises:
      ValueError: if the output's shape or dtype differs from the state's.
    """
    state = keras.KerasTensor(state_shape, dtype=state_dtype)
    inputs = [keras.KerasTensor((state_shape[0], 1), dtype=state_dtype), state]
    _check_takes_one_argument(layer, time_dependent)
    output = _call_on_specs(layer, inputs if time_dependent else state)
    if not isinstance(output, keras.KerasTensor):
        hint = " Perhaps its call has no return." if output is None else ""
        raise ValueError(
            f"Argument dynamics must return a single tensor of the shape of the state.{hint} "
            f"Received: an output of type {type(output).__name__}"
        )
    if tuple(output.shape)[1:] != tuple(state_shape)[1:]:
        raise ValueError(
            "Argument dynamics must return the shape of its state input. "
            f"Received: state of shape {tuple(state_shape)}, output of shape {tuple(output.shape)}"
        )
    if output.dtype not in (state_dtype, *_LOW_PRECISION):
        raise ValueError(
            "Argument dynamics must return the dtype of its state input (or a lower precision). "
            f"Received: state of dtype {state_dtype}, output of dtype {output.dtype}. "
            "Give NeuralODE and dynamics the same dtype."
        )
    if state_dtype == "float64" and output.dtype == "float64":
        _check_nothing_rounds(layer)


def _check_takes_one_argument(layer: keras.layers.Layer, time_dependent: bool) -> None:
    """Raises TypeError where Keras' own error wouldn't say what a dynamics is called with."""
    given = "[t, y] (then t, y = inputs), t of shape (batch, 1)" if time_dependent else "the state"
    parameters = inspect.signature(layer.call).parameters.values()
    needed = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if len(needed) > 1:
        hint = "" if time_dependent else "; with time_dependent=True that is [t, y]"
        raise TypeError(
            f"The call of argument dynamics must take one argument, call(self, inputs): {given}"
            f"{hint}. Received: dynamics={layer.name}, with call({', '.join(needed)})"
        )
    structure = getattr(layer, "_inputs_struct", None)
    if isinstance(structure, dict):
        raise TypeError(
            f"Argument dynamics must be a model that takes {given}, not a dictionary. "
            f"Received: dynamics={layer.name}, with the inputs {sorted(structure)}"
        )


def _check_nothing_rounds(layer: keras.layers.Layer) -> None:
    """Raises ValueError if Keras makes float32 of a float64 state on its way through `layer`.

    A model of layers casts its inputs to the dtypes of its `keras.Input`s, and any other layer its
    own to the layer's; the output is float64 all the same, if a layer behind is. 16 bits are taken
    as meant.
    """
    for part in layer._flatten_layers():
        inputs = [x for x in _inputs(part) if x.dtype == "float32"]
        if inputs and not all(x.dtype in _LOW_PRECISION for x in part.outputs):
            raise ValueError(
                "Argument dynamics must keep the state's dtype, float64, but in it model "
                f"{part.name!r} rounds its input to float32, the dtype of its keras.Input. Give "
                "keras.Input(..., dtype='float64'). Received: input of dtype float32"
            )
    for part in _chain(layer):
        if part.autocast and part.compute_dtype == "float32":
            raise ValueError(
                "Argument dynamics must keep the state's dtype, float64, but in it layer "
                f"{part.name!r} rounds its input to float32, its own dtype. Give it "
                f"dtype='float64'. Received: {type(part).__name__} of dtype float32"
            )


def _inputs(layer: keras.layers.Layer) -> list:
    """The `keras.Input`s of a model of layers; none of any other."""
    return list(getattr(layer, "inputs", None) or []) if isinstance(layer, keras.Model) else []


def _chain(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that the state is certain to pass through, one after the other."""
    if isinstance(layer, keras.Sequential):
        return [part for inner in layer.layers for part in _chain(inner)]
    return [] if _inputs(layer) else [layer]
