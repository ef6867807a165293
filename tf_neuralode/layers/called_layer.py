"""What a layer around a solve may be called with, and the shape of what it returns."""

from __future__ import annotations

from typing import Any

import keras

from tf_neuralode.layers import shared_dynamics
from tf_neuralode.layers.check_call import (
    as_tensor_like,
    check_call,
    check_state_mask,
    check_t0,
)
from tf_neuralode.layers.input_specs import check_like, deserialized, serialized, specs_of
from tf_neuralode.layers.inputs import Inputs, check_inputs
from tf_neuralode.read_only import ReadOnly


class CalledLayer(ReadOnly, keras.layers.Layer):
    """Base of `SolvingLayer`."""

    _further: tuple[Any, ...] = ()  # specs of what the dynamics gets behind the state

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.built:
            # Keras hands `build` the shapes alone.
            inputs = _inputs(kwargs.get("context"), kwargs.get("control"))
            check_inputs(self.name, self.control, args[0] if args else kwargs.get("y0"), inputs)
            self._further = specs_of(inputs, self.compute_dtype)
        return super().__call__(*args, **kwargs)

    def build_for(self, input_shape: Any, inputs: Inputs) -> None:
        """Builds the layer for states of this shape and for inputs like these, `KerasTensor`s."""
        self._further = specs_of(inputs, self.compute_dtype)
        self.build(input_shape)

    def get_build_config(self) -> dict[str, Any] | None:
        # Keras asks for this where it saves a layer, and nobody else does.
        shared_dynamics.warn_if_shared(self.dynamics)
        config = super().get_build_config()
        if config is None or not self._further:
            return config
        return {**config, "further": serialized(self._further)}

    def build_from_config(self, config: dict[str, Any]) -> None:
        if further := config.get("further"):
            self._further = tuple(deserialized(further))
        super().build_from_config(config)

    def _check_call(self, y0: Any, times: Any, mask: Any, y0_mask: Any) -> tuple[Any, Any, Any]:
        """The times, and the masks of the times and of the state, `None` if there is none."""
        times = as_tensor_like("times", times)
        mask, y0_mask = as_tensor_like("mask", mask), as_tensor_like("y0_mask", y0_mask)
        if times is None:
            mask, y0_mask = None, y0_mask if mask is None else mask
        check_call(self.name, y0, times, mask, self.t_eval)
        check_state_mask(self.name, y0, y0_mask)
        # Keras hands over the state's own mask as well. It holds where the output has its axes.
        self._hands_mask_on = not self.return_sequences if times is None else mask is not None
        return times, mask, y0_mask

    def _check_inputs(self, y0: Any, context: Any, control: Any, t0: Any) -> tuple[Inputs, Any]:
        inputs, t0 = _inputs(context, control), as_tensor_like("t0", t0)
        check_inputs(self.name, self.control, y0, inputs)
        check_t0(self.name, y0, t0)
        if self.built:
            check_like(self.name, self._further, specs_of(inputs, self.compute_dtype))
        return inputs, t0

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        if not self.return_sequences:
            return tuple(input_shape)
        num_times = 2 if self.t_eval is None else len(self.t_eval)
        return (input_shape[0], num_times, *input_shape[1:])

    def compute_output_spec(
        self,
        y0: Any,
        times: Any = None,
        mask: Any = None,
        y0_mask: Any = None,
        training: bool | None = None,
        *,
        context: Any = None,
        control: Any = None,
        t0: Any = None,
    ) -> keras.KerasTensor:
        self._check_inputs(y0, context, control, t0)
        times, _, _ = self._check_call(y0, times, mask, y0_mask)
        shape = self.compute_output_shape(y0.shape)
        if times is not None:
            shape = (y0.shape[0], times.shape[-1], *y0.shape[1:])
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        return previous_mask if self._hands_mask_on else None


def _inputs(context: Any, control: Any) -> Inputs:
    """The arguments of a call, `None` or tensors, as `Inputs`."""
    return Inputs(() if context is None else context, () if control is None else tuple(control))
