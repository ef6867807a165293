"""Builds a dynamics, and checks that it is a field for states of the layer's shape and dtype."""

from __future__ import annotations

import inspect
from typing import Any

import keras

from tf_neuralode.layers.dynamics import Dynamics
from tf_neuralode.layers.function_dynamics import FunctionDynamics
from tf_neuralode.layers.keras_layer import LOW_PRECISION


def as_layer(
    dynamics: Any, time_dependent: bool, has_control: bool, dtype: Any
) -> keras.layers.Layer:
    """The argument `dynamics`, a layer or a function, as a layer of Keras 3; else a TypeError."""
    if isinstance(dynamics, keras.layers.Layer):
        return dynamics
    hint = ""
    if any(cls.__module__.split(".")[0] == "tf_keras" for cls in type(dynamics).__mro__):
        hint = " This one is of tf_keras (Keras 2): build it from keras.layers instead."
    elif callable(dynamics) and not isinstance(dynamics, type):
        return FunctionDynamics(dynamics, time_dependent, has_control, dtype=dtype)
    raise TypeError(
        "Argument dynamics must be a Keras layer or model, or a function without weights."
        f"{hint} Received: dynamics={dynamics!r}"
    )


def _call_on_specs(layer: keras.layers.Layer, inputs):
    """`layer(inputs)` for `KerasTensor`s, which builds it."""
    if isinstance(layer, keras.Sequential) and isinstance(inputs, list):
        # Keras doesn't build one that takes several inputs before it sees data.
        for part in layer.layers:
            inputs = _call_on_specs(part, inputs)
        return inputs
    return layer(inputs)


def build(dynamics: Dynamics, state_shape: tuple, state_dtype: str) -> None:
    """Builds a dynamics for states of the given shape, and checks what it returns.

    Raises:
      ValueError: if the output's shape or dtype differs from the state's, and if it can't be
        called on what it is given besides.
    """
    layer, state = dynamics.layer, keras.KerasTensor(state_shape, dtype=state_dtype)
    inputs = [state, *dynamics.further]
    if dynamics.time_dependent:
        inputs = [keras.KerasTensor((state_shape[0], 1), dtype=state_dtype), *inputs]
    given = _described(dynamics)
    _check_takes_one_argument(layer, given, dynamics.time_dependent)
    given_inputs = inputs if len(inputs) > 1 else state
    if isinstance(layer, FunctionDynamics):
        layer.check(given_inputs)
    try:
        output = _call_on_specs(layer, given_inputs)
    except (TypeError, ValueError) as error:
        if not dynamics.further:
            raise
        raise ValueError(
            f"Argument dynamics must take what the layer gets: {given}. Received: "
            f"dynamics={layer.name}, which gave {type(error).__name__}: {error}"
        ) from error
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
            + (f", of a call on {given}" if len(inputs) > 1 else "")
        )
    if output.dtype not in (state_dtype, *LOW_PRECISION):
        raise ValueError(
            "Argument dynamics must return the dtype of its state input (or a lower precision). "
            f"Received: state of dtype {state_dtype}, output of dtype {output.dtype}. "
            "Give NeuralODE and dynamics the same dtype."
        )
    if state_dtype == "float64" and output.dtype == "float64":
        _check_nothing_rounds(layer)


def _described(dynamics: Dynamics) -> str:
    """What it is called on."""
    names = ["t"] * dynamics.time_dependent + ["y"]
    names += [f"input of shape {shapes_of(x)}" for x in dynamics.further]
    if len(names) == 1:
        return "the state"
    described = f"[{', '.join(names)}]"
    if names == ["t", "y"]:
        described += " (then t, y = inputs)"
    return described + ", t of shape (batch, 1)" * dynamics.time_dependent


def shapes_of(nest: Any) -> Any:
    """The shapes of the tensors in a nest, as one would write them."""
    return keras.tree.map_structure(lambda x: str(tuple(x.shape)), nest)


def _check_takes_one_argument(layer: keras.layers.Layer, given: str, time_dependent: bool) -> None:
    """Raises TypeError where Keras' own error wouldn't say what a dynamics is called with."""
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
        if inputs and not all(x.dtype in LOW_PRECISION for x in part.outputs):
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
