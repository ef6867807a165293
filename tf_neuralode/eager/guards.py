"""What may change of what a function reads, as a key, and as tensors that it is given anew.

Two calls whose keys are equal may run the same compiled code: what f reads is then either equal
(numbers, strings, tuples, code), the same and constant (modules, functions of libraries), or a
tensor, and tensors are arguments of the code. Everything else is refused: f stays as it is.
"""

from __future__ import annotations

import collections
import functools
import types
from collections.abc import Callable, Hashable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_neuralode.eager.constants import (
    LIBRARIES,
    Unguarded,
    is_of_library,
    of_constant,
    of_library,
)
from tf_neuralode.eager.copies import Make, look_up, with_replaced
from tf_neuralode.eager.reads import Read, reads_of

_OF_NAMED_TUPLES = {*vars(collections.namedtuple("_Named", ())), "__orig_bases__"}
# Attributes of Keras' layers that a call doesn't read.
_NOT_OF_THE_CALL = {"_called", "build", "quantize"}

_BY_VALUE = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), range)


class Guard:
    """What `function`, and all Python functions that it reaches, read besides their arguments.

    Attributes:
      key: Hashable: equal for equal reads.
      tensors: Values of the arrays, tensors and variables that are read, as of now.
      objects: What the key tells by its address.
      conditions: What is known of its solves, see `Conditions`.

    Raises:
      Unguarded: where something else is read.
    """

    conditions: dict[str, Any] = {}

    def __init__(self, function: Callable[..., Any]) -> None:
        self.tensors: list[tf.Tensor] = []
        self.objects: list[Any] = []
        self._variables: list[tuple[keras.Variable, int]] = []
        self._seen: dict[int, tuple[int, Make | None]] = {}
        self._kept: list[Any] = []  # so that no address is used twice
        self._root = function
        key, self._make = self._value(function, ())
        self.key: Hashable = key

    def function(self, tensors: list[tf.Tensor]) -> Callable[..., Any]:
        """The function, which reads `tensors` in the place of those in `self.tensors`."""
        made: Any = self._make(tensors) if self._make else self._root
        if not self._variables:
            return made
        mapping = [(variable, tensors[index]) for variable, index in self._variables]

        def in_scope(*arguments: Any) -> Any:
            with keras.StatelessScope(state_mapping=mapping) as scope:
                result = made(*arguments)
            if any(scope.get_current_value(v) is not x for v, x in mapping):
                raise Unguarded("it writes variables of a layer")
            return result

        return in_scope

    def _value(self, x: Any, attributes: tuple[str, ...]) -> tuple[Hashable, Make | None]:
        """Key of a value of which `attributes` are asked, and what makes its stand-in, if any."""
        if isinstance(x, types.ModuleType):
            return self._of_module(x, attributes), None
        if isinstance(x, _BY_VALUE) and type(x).__module__ == "builtins":
            return (type(x), repr(x)), None
        if isinstance(x, tf.DType | np.dtype | np.generic):
            return (type(x), repr(x)), None
        if id(x) in self._seen:
            index, make = self._seen[id(x)]
            return ("again", index), make
        if isinstance(x, tuple) and _is_plain(x):
            return self._of_tuple(x)
        self._kept.append(x)
        if isinstance(x, tf.Tensor | tf.Variable | np.ndarray):
            return self._of_tensor(x)
        if isinstance(x, keras.Variable):
            return self._of_keras_variable(x)
        if isinstance(x, keras.layers.Layer):
            return self._of_layer(x, attributes)
        if isinstance(x, functools.partial) and not attributes:
            return self._of_partial(x)
        if isinstance(x, types.FunctionType) and not attributes and not is_of_library(x):
            return self._of_function(x)
        if isinstance(x, types.MethodType) and isinstance(x.__self__, keras.layers.Layer):
            key, _ = self._value(x.__self__, ())
            return (x.__func__, key), None
        return of_constant(x), None

    def _of_module(self, module: types.ModuleType, attributes: tuple[str, ...]) -> Hashable:
        if not attributes:
            raise Unguarded(f"it hands on the module {module.__name__}")
        key = of_library(module, attributes)
        if key is not None:
            return key
        name, *rest = attributes
        key, make = self._value(getattr(module, name), tuple(rest))
        if make is not None:
            raise Unguarded(f"it reads an array of the module {module.__name__}")
        return (module.__name__, name, key)

    def _remember(self, x: Any, make: Make | None) -> None:
        self._kept.append(x)
        self._seen[id(x)] = len(self._seen), make

    def _of_tensor(self, x: Any) -> tuple[Hashable, Make]:
        if isinstance(x, np.ndarray) and x.dtype.kind not in "biufc":
            raise Unguarded(f"it reads an array of dtype {x.dtype}")
        if type(x).__module__.split(".")[0] not in LIBRARIES:
            raise Unguarded(f"it reads an object of type {type(x).__name__}")
        index, tensor = len(self.tensors), tf.convert_to_tensor(x)
        self.tensors.append(tensor)
        make = lambda tensors: tensors[index]
        self._remember(x, make)
        return ("tensor", tensor.shape, tensor.dtype.name), make

    def _of_keras_variable(self, x: keras.Variable) -> tuple[Hashable, None]:
        self._variables.append((x, len(self.tensors)))
        tensor = tf.convert_to_tensor(x.value)
        self.tensors.append(tensor)
        self._remember(x, None)
        return ("variable", tensor.shape, tensor.dtype.name, x.trainable), None

    def _of_tuple(self, x: tuple) -> tuple[Hashable, Make | None]:
        items = [self._value(item, ()) for item in x]
        key = (type(x), *(key for key, _ in items))
        if all(make is None for _, make in items):
            return key, None

        def make(tensors: list[tf.Tensor]) -> Any:
            made = [m(tensors) if m else item for item, (_, m) in zip(x, items, strict=True)]
            return type(x)(*made) if hasattr(x, "_fields") else tuple(made)

        return key, make

    def _of_partial(self, x: functools.partial) -> tuple[Hashable, Make | None]:
        key, make = self._of_tuple((x.func, *x.args, *x.keywords.values()))
        if make is None:
            return ("partial", len(x.args), *x.keywords, key), None

        def remade(tensors: list[tf.Tensor]) -> Any:
            func, *rest = make(tensors)
            num = len(x.args)
            keywords = dict(zip(x.keywords, rest[num:], strict=True))
            return functools.partial(func, *rest[:num], **keywords)

        return ("partial", len(x.args), *x.keywords, key), remade

    def _of_layer(
        self, layer: keras.layers.Layer, attributes: tuple[str, ...]
    ) -> tuple[Hashable, None]:
        """One of Keras' own, by all its settings, and those of the layers inside."""
        self._remember(layer, None)
        parts: list[Hashable] = []
        for one in layer._flatten_layers():
            parts += self._of_single_layer(one)
        parts += [self._value(variable, ())[0] for variable in layer.variables]
        if attributes:
            name, *rest = attributes
            value = getattr(layer, name)
            if not isinstance(value, types.MethodType):
                parts.append((name, self._value(value, tuple(rest))[0]))
        return ("layer", *parts), None

    def _of_single_layer(self, layer: keras.layers.Layer) -> list[Any]:
        if type(layer).__module__.split(".")[0] not in ("keras", "tf_neuralode"):
            raise Unguarded(f"it calls {type(layer).__name__}, a layer of your own")
        if not layer.built or getattr(layer, "activity_regularizer", None) is not None:
            raise Unguarded(f"it calls layer {layer.name}, whose call does something else as well")
        self.objects.append(layer)
        parts: list[Any] = [type(layer), id(layer), layer.trainable, layer.dtype_policy.name]
        for name, value in vars(layer).items():
            if name in _NOT_OF_THE_CALL:
                continue
            if isinstance(value, (*_BY_VALUE, np.generic)):
                parts.append((name, type(value), repr(value)))
            elif isinstance(value, tf.Tensor | np.ndarray):
                raise Unguarded(f"it calls layer {layer.name}, which holds arrays")
            elif isinstance(value, types.FunctionType):
                key, make = self._value(value, ())
                if make is not None:
                    raise Unguarded(f"it calls layer {layer.name}, whose {name} reads arrays")
                parts.append((name, key))
        return parts

    def _of_function(self, function: types.FunctionType) -> tuple[Hashable, Make | None]:
        code = function.__code__
        reads, opaque = reads_of(code)
        if opaque is not None:
            raise Unguarded(opaque)
        copies: dict[int, types.FunctionType] = {}
        places: list[tuple[Read, Make]] = []

        def make(tensors: list[tf.Tensor]) -> types.FunctionType:
            return with_replaced(function, places, defaults, tensors, copies)

        self._remember(function, make)
        parts: list[Hashable] = [code, id(function.__globals__)]
        given = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
        key, defaults = self._of_tuple(given)
        parts.append(key)
        for read in reads:
            value = look_up(function, read)
            key, replaced = self._value(value, read.attributes)
            parts.append((read, key))
            if replaced is not None:
                places.append((read, replaced))
        if not places and defaults is None:
            self._seen[id(function)] = self._seen[id(function)][0], None
            return tuple(parts), None
        return tuple(parts), make


def _is_plain(x: tuple) -> bool:
    """Whether a tuple, or a named one, has no methods and attributes of its own."""
    if type(x) is tuple:
        return True
    is_named = hasattr(x, "_fields") and type(x).__mro__[1:] == (tuple, object)
    added = {name for name, value in vars(type(x)).items() if callable(value)} - _OF_NAMED_TUPLES
    return is_named and not (added or getattr(x, "__dict__", None))
