"""A Keras layer as a pure function f(t, y, params)."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf


class _Scope(keras.StatelessScope):
    """A `StatelessScope` that remembers which variables were written, `{id: variable}`."""

    def __init__(self, state_mapping):
        super().__init__(state_mapping=state_mapping)
        self.written: dict[int, keras.Variable] = {}

    def add_update(self, update):
        super().add_update(update)
        variable, _ = update
        self.written[id(variable)] = variable


@dataclasses.dataclass(frozen=True, eq=False)
class Dynamics:
    """Binds a layer's variables for one solve.

    During a solve `f` must be one deterministic function, so everything that the layer could change
    is read once: the values of its variables, and with them the state of its random generators (one
    draw a solve). What the layer would have written is computed apart, by `updates`. What
    it would have added to the model's losses (activity regularizers, `add_loss`) is dropped.

    Attributes:
      layer: Keras layer or model, built.
      time_dependent: Whether it is called on `[t, y]`, with t of shape `(batch, 1)`.
      training: Passed to the layer.
      writes: Whether a call may write variables, see `probe_writes`.
      mask: Of the state, boolean, with its first axes: handed to the layer as Keras does, beside
        the state. What is masked has no slope.
      further: `KerasTensor`s of what it is called on besides, behind the state, see `inputs`.

    Raises:
      ValueError: where it is called, if the layer writes a variable that a solve can't write.
    """

    layer: keras.layers.Layer
    time_dependent: bool
    training: bool
    writes: bool = True
    mask: tf.Tensor | None = None
    further: tuple[Any, ...] = ()

    def with_mask(self, mask: tf.Tensor | None) -> Dynamics:
        """The same field on states with a mask."""
        return dataclasses.replace(self, mask=mask)

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

    def __call__(
        self,
        t: tf.Tensor,
        y: tf.Tensor,
        params: Sequence[tf.Tensor],
        constants: Sequence[tf.Tensor],
        further: Sequence[Any] = (),
    ) -> tf.Tensor:
        """Slope at time `t`, a scalar or `(batch,)`, and state `y`; like `y`."""
        slope, scope = self.call_in_scope(t, y, params, constants, further)
        self.check_written(scope.written.values())
        return slope

    def call_in_scope(self, t, y, params, constants, further=()) -> tuple[tf.Tensor, _Scope]:
        """The slope, and the scope that holds what was written.

        With `None` for `params` the layer reads those variables themselves.
        """
        mapping = [*zip(self.constants, constants, strict=True)]
        if params is not None:
            mapping += zip(self.params, params, strict=True)
        y = _with_mask(y, self.mask)
        inputs = [y, *further]
        if self.time_dependent:
            t = tf.broadcast_to(tf.reshape(t, [-1, 1]), [tf.shape(y)[0], 1])
            inputs = [tf.cast(t, y.dtype), *inputs]
        # In a StatelessScope the layer's own __call__ casts as it does everywhere else.
        with _Scope(mapping) as scope, self._without_false_alarm():
            slope = self.layer(inputs if len(inputs) > 1 else y, training=self.training)
        if slope.dtype in (tf.float16, tf.bfloat16):
            slope = tf.cast(slope, y.dtype)
        if self.mask is not None:
            axes = [1] * (y.shape.rank - self.mask.shape.rank)
            mask = tf.reshape(self.mask, tf.concat([tf.shape(self.mask), axes], axis=0))
            slope = tf.where(mask, slope, tf.zeros_like(slope))
        return slope, scope

    @contextlib.contextmanager
    def _without_false_alarm(self):
        """Keras warns that a model, of whatever layers, destroys a mask; these do see it."""
        if self.mask is None or not isinstance(self.layer, keras.Model):
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
          ends: `((y0, t0, further), (y1, t1, further))`.
          params, constants: As read before the solve.
          success: Boolean scalar, whether the solve succeeded.
          all_good: Boolean scalar, whether there are no stand-ins for bad samples in the batch.
        """
        (y0, t0, further0), (y1, t1, further1) = ends
        first = self._written(t0, y0, params, constants, further0)
        integers = {i: value for i, value in first.items() if not value.dtype.is_floating}
        if len(integers) == len(first):
            return integers
        last = self._written(t1, y1, params, constants, further1)
        means = {
            i: tf.where(success & all_good, (first[i] + last[i]) / 2, constants[i])
            for i in first.keys() - integers.keys()
        }
        return {**integers, **means}

    def takes_statistics(self, changed: dict[int, tf.Tensor]) -> bool:
        """Whether moving statistics are among `changed`, so that samples depend on each other."""
        num = len(self.layer.non_trainable_variables)
        return self.training and any(i < num and x.dtype.is_floating for i, x in changed.items())

    def _written(self, t, y, params, constants, further) -> dict[int, tf.Tensor]:
        _, scope = self.call_in_scope(t, tf.stop_gradient(y), params, constants, further)
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
