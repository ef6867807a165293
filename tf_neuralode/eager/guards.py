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

from tf_neuralode.eager.constants import OF_TENSORS, Unguarded, is_constant, of_constant
from tf_neuralode.eager.copies import Make, look_up, with_replaced
from tf_neuralode.eager.layers import parts_of, with_values
from tf_neuralode.eager.reads import Read, reads_of

_BY_VALUE = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), range)
# Of an array that is compared by its value at each call.
_MAX_BYTES = 2**16
_OF_NAMED_TUPLES = {
    *vars(collections.namedtuple("_Named", ())),
    "__orig_bases__",
    "__annotations__",
}


class Guard:
    """What `function`, and all Python functions that it reaches, read besides their arguments.

    Attributes:
      key: Hashable: equal for equal reads.
      code: Its own code.
      has_functions: Whether functions of the user's are read, or it is one.
      tensors: Values of the tensors and variables that are read, as of now.

    Raises:
      Unguarded: where something else is read.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.tensors: list[tf.Tensor] = []
        self.in_place = self.has_functions = False
        self._seen: dict[int, tuple[int, Make | None]] = {}
        self._kept: list[Any] = []  # so that no address is used twice
        self._root = function
        inner = function.func if isinstance(function, functools.partial) else function
        self.code = getattr(inner, "__code__", None)
        key, self._make = self._value(function, ())
        self.key: Hashable = key
        if self.in_place and any(isinstance(x, tf.Variable) for x in self._kept):
            raise Unguarded("it may change a variable in place")

    def function(self, tensors: list[tf.Tensor]) -> Callable[..., Any]:
        """The function, which reads `tensors` in the place of those in `self.tensors`."""
        return self._make(tensors) if self._make else self._root

    def _value(self, x: Any, attributes: tuple[str, ...]) -> tuple[Hashable, Make | None]:
        """Key of a value of which `attributes` are asked, and what makes its stand-in, if any."""
        if isinstance(x, types.ModuleType):
            return self._of_module(x, attributes), None
        if isinstance(x, _BY_VALUE) and type(x).__module__ == "builtins":
            return (type(x), repr(x)), None
        if isinstance(x, tf.DType | np.dtype):
            return (type(x), repr(x)), None
        if isinstance(x, np.number | np.bool_) and type(x).__module__ == "numpy":
            return (type(x), x.tobytes()), None
        if is_constant(x):
            if attributes:
                raise Unguarded(f"it reads {attributes[0]} of {x.__name__}")
            return of_constant(x), None
        is_function = isinstance(x, types.FunctionType) and not _is_of_library(x)
        if is_function and (attributes or vars(x)):
            raise Unguarded(f"it reads attributes of {x.__name__}, or may")
        is_tensor = isinstance(x, tf.Tensor | tf.Variable)
        if is_tensor and not {*attributes[:1]} <= OF_TENSORS:
            raise Unguarded(f"it reads {attributes[0]} of a tensor")
        if id(x) in self._seen:
            index, make = self._seen[id(x)]
            return ("again", index), make
        if isinstance(x, tuple) and is_plain(x):
            return self._of_tuple(x)
        self._kept.append(x)
        if is_tensor:
            return self._of_tensor(x)
        if type(x) is np.ndarray:
            return self._of_array(x)
        if type(x) is functools.partial and not attributes:
            return self._of_partial(x)
        if isinstance(x, keras.layers.Layer) and not attributes:
            return self._of_layer(x)
        if is_function:
            return self._of_function(x)
        return of_constant(x), None

    def _of_module(self, module: types.ModuleType, attributes: tuple[str, ...]) -> Hashable:
        if not attributes:
            raise Unguarded(f"it hands on the module {module.__name__}")
        name, *rest = attributes
        key, make = self._value(getattr(module, name), tuple(rest))
        if make is not None:
            raise Unguarded(f"it reads an array of the module {module.__name__}")
        return key

    def _remember(self, x: Any, make: Make | None) -> None:
        self._kept.append(x)
        self._seen[id(x)] = len(self._seen), make

    def _of_array(self, x: np.ndarray) -> tuple[Hashable, Make]:
        # By value: in NumPy's arithmetic other numbers come out than in TensorFlow's.
        if x.dtype.kind not in "biufc" or x.nbytes > _MAX_BYTES:
            raise Unguarded(f"it reads an array of dtype {x.dtype} and {x.nbytes} bytes")
        frozen = x.copy()
        frozen.flags.writeable = False  # what f would change is an error where it is traced
        make = lambda tensors: frozen
        self._remember(x, make)
        return ("array", x.shape, x.strides, x.dtype.str, x.tobytes()), make

    def _of_tensor(self, x: Any) -> tuple[Hashable, Make]:
        if not _is_of_library(type(x)) or not x.dtype.is_floating:
            raise Unguarded(f"it reads an object of type {type(x).__name__}, dtype {x.dtype}")
        if not x.shape.is_fully_defined():
            raise Unguarded("it reads a variable of unknown shape")
        index, tensor = len(self.tensors), tf.convert_to_tensor(x)
        self.tensors.append(tensor)
        make = lambda tensors: tensors[index]
        self._remember(x, make)
        return ("tensor", tensor.shape, tensor.dtype.name), make

    def _of_layer(self, x: keras.layers.Layer) -> tuple[Hashable, Make | None]:
        settings, variables = parts_of(x)
        key, made = self._of_tuple(settings)
        if made is not None:
            raise Unguarded(f"it calls the layer {x.name}, whose activation reads a tensor")
        begin = len(self.tensors)
        self.tensors += [tf.convert_to_tensor(v.value) for v in variables]
        end = len(self.tensors)
        make = lambda tensors: with_values(x, variables, tensors[begin:end])
        self._remember(x, make)
        return ("layer", key, tuple((t.shape, t.dtype.name) for t in self.tensors[begin:])), make

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

    def _of_function(self, function: types.FunctionType) -> tuple[Hashable, Make | None]:
        code = function.__code__
        reads, opaque, in_place = reads_of(code)
        if opaque is not None:
            raise Unguarded(opaque)
        self.has_functions, self.in_place = True, self.in_place or in_place
        copies: dict[int, tuple[list[tf.Tensor], types.FunctionType]] = {}
        places: list[tuple[Read, Make]] = []

        def make(tensors: list[tf.Tensor]) -> types.FunctionType:
            return with_replaced(function, places, defaults, tensors, copies)

        self._remember(function, make)
        parts: list[Hashable] = [code, id(function.__globals__)]
        given = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
        key, defaults = self._of_tuple(given)
        parts += [key, *(function.__kwdefaults__ or {})]
        for read in reads:
            key, replaced = self._of_read(function, read)
            parts.append((read, key))
            if replaced is not None:
                places.append((read, replaced))
        if not places and defaults is None:
            self._seen[id(function)] = self._seen[id(function)][0], None
            return tuple(parts), None
        return tuple(parts), make

    def _of_read(self, function: types.FunctionType, read: Read) -> tuple[Hashable, Make | None]:
        value = look_up(function, read)
        try:
            return self._value(value, read.attributes)
        except Unguarded:
            if isinstance(value, types.ModuleType):
                raise Unguarded(f"it reads {'.'.join([read.name, *read.attributes])}") from None
            raise


def _is_of_library(x: Any) -> bool:
    """Whether a function, or a type, says that it was defined in one."""
    return (x.__module__ or "").split(".")[0] in {"tensorflow", "keras", "numpy"}


def settings_key(layer: keras.layers.Layer) -> Hashable | None:
    """What a layer reads of itself in a call, but for its variables; `None` if that isn't known.

    Nor is it of one with a function of the user's inside: that may ask for shapes, which a graph
    for any size of the batch doesn't know.
    """
    try:
        guard = Guard(layer)
    except Exception:  # of looking, where it may never look
        return None
    return None if guard.has_functions else guard.key


def is_plain(x: Any) -> bool:
    """Whether a tuple, or a named one, has no methods and attributes of its own."""
    if type(x) is tuple:
        return True
    if not hasattr(x, "_fields") or type(x).__mro__[1:] != (tuple, object):
        return False
    of_type = vars(type(x))
    if not all(type(of_type[field]).__name__ == "_tuplegetter" for field in x._fields):
        return False
    return not (of_type.keys() - _OF_NAMED_TUPLES - {*x._fields} or getattr(x, "__dict__", None))
