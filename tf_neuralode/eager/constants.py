"""What never changes: Python's own functions, and those of the libraries."""

from __future__ import annotations

import builtins
import sys
import types
from collections.abc import Hashable
from typing import Any

import numpy as np

# Libraries whose modules, functions and classes are constants.
LIBRARIES = {
    "tensorflow", "keras", "numpy", "math", "cmath", "operator", "tensorflow_probability",
    "tf_neuralode", "itertools", "functools",
}  # fmt: skip
# What of them gives another result each time, or tells how it is run, or acts on something else.
_NOT_CONSTANT = set(
    "random executing_eagerly inside_function init_scope py_function numpy_function py_func "
    "eager_py_func Variable variable timestamp device io summary count cycle lru_cache cache "
    "GradientTape gradients custom_gradient is_symbolic_tensor get_static_value is_tensor config "
    "load read_file fromfile loadtxt genfromtxt memmap data saved_model train distribute debugging "
    "print Module function layers Sequential Model epsilon floatx name_scope".split()
)
_BUILTINS = set(
    "abs all any bool complex divmod enumerate filter float int len list dict map max min pow "
    "range reversed round set slice sorted str sum tuple zip ValueError TypeError "
    "NotImplementedError AssertionError".split()
)
_CODE = (types.FunctionType, types.BuiltinFunctionType, type, np.ufunc, type(np.dot))


class Unguarded(Exception):
    """F reads something that can't be guarded; the text says what."""


def of_constant(x: Any) -> Hashable:
    """A function or a class of a library, or of Python."""
    name = getattr(x, "__name__", "") if isinstance(x, _CODE) else ""
    if name and getattr(builtins, name, None) is x:
        if name not in _BUILTINS:
            raise Unguarded(f"it calls {name}")
    elif not isinstance(x, _CODE) or not is_of_library(x) or name in _NOT_CONSTANT:
        raise Unguarded(f"it reads an object of type {type(x).__name__}")
    if getattr(x, "__closure__", None) and not _is_of_module(x):
        raise Unguarded(f"it calls {name}, which was made of something else")
    return ("constant", x)


def of_library(module: types.ModuleType, attributes: tuple[str, ...]) -> Hashable | None:
    """Key of what is asked of `module`; `None` if it isn't a library's."""
    if module.__name__.split(".")[0] not in LIBRARIES:
        return None
    if _NOT_CONSTANT & {*module.__name__.split("."), *attributes}:
        raise Unguarded(f"it calls {module.__name__}.{'.'.join(attributes)}")
    return ("library", module.__name__, attributes)


def is_of_library(x: Any) -> bool:
    """Whether `x`, or its type, was defined in one."""
    if isinstance(x, types.FunctionType):  # whose __module__ may be copied
        module = x.__globals__.get("__name__", "")
        return module.split(".")[0] in LIBRARIES and "random" not in module
    module = getattr(x, "__module__", None) or getattr(type(x), "__module__", None) or ""
    return module.split(".")[0] in LIBRARIES and "random" not in module


def _is_of_module(x: Any) -> bool:
    """Whether a module holds `x` under its name, and so for ever."""
    return getattr(sys.modules.get(x.__module__), x.__name__, None) is x
