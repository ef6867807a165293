"""What of Python and the libraries is a function of its arguments alone.

Whatever isn't listed here might tell how or where it is run, draw random numbers, read files or
settings, or act on something else. A function that asks for it stays as it comes.
"""

from __future__ import annotations

import builtins
import functools
import itertools
import math
import operator
import types
from collections.abc import Hashable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

_BUILTINS = (
    "abs all any bool complex divmod enumerate filter float int len list dict map max min pow "
    "range reversed round set slice sorted sum tuple zip ValueError TypeError "
    "NotImplementedError AssertionError"
)
_OPERATOR = (
    "add sub mul truediv floordiv mod pow neg pos matmul abs eq ne lt le gt ge and_ or_ not_ "
    "getitem"
)
_NUMPY = (
    "array asarray zeros ones full eye arange linspace sqrt exp log sin cos tan tanh arctan sinh "
    "cosh abs sign minimum maximum power square sum prod mean dot matmul outer diag deg2rad "
    "float16 float32 float64 complex64 complex128 int32 int64 bool_"
)
_TENSORFLOW = (
    "abs acos acosh add add_n argmax argmin argsort asin asinh atan atan2 atanh boolean_mask "
    "broadcast_to cast clip_by_norm clip_by_value complex concat constant "
    "convert_to_tensor cos cosh cumsum divide einsum ensure_shape equal exp expand_dims eye fill "
    "floor gather gather_nd greater greater_equal identity less less_equal linspace "
    "logical_and logical_not logical_or matmul maximum meshgrid minimum multiply negative "
    "norm not_equal one_hot ones ones_like pad pow range rank realdiv reduce_all reduce_any "
    "reduce_logsumexp reduce_max reduce_mean reduce_min reduce_prod reduce_sum repeat reshape "
    "reverse roll round scalar_mul scatter_nd searchsorted sequence_mask shape sigmoid sign "
    "sin sinh size slice sort split sqrt square squeeze stack stop_gradient subtract "
    "tan tanh tensor_scatter_nd_add tensor_scatter_nd_sub tensor_scatter_nd_update tensordot tile "
    "transpose truediv unstack where zeros zeros_like"
)
# Random numbers in them are found by what they trace to. Functions that call f's own are out: what
# those do to Python's variables is done once where they are traced.
_WHOLE_MODULES = (math, tf.math, tf.linalg, tf.nn, tf.signal, keras.ops, keras.activations)
_NOT_OF_WHOLE_MODULES = set(
    "custom_gradient jvp deserialize get convert_to_numpy associative_scan cond fori_loop map scan "
    "switch vectorize vectorized_map while_loop".split()
)
# Of tensors and variables, what is the same however they are computed.
OF_TENSORS = {"shape", "dtype", "get_shape", "ndim"}


class Unguarded(Exception):
    """F reads something that can't be guarded; the text says what."""


def of_constant(x: Any) -> Hashable:
    """Key of a function or a class that is one of the constants.

    Raises:
      Unguarded: for everything else.
    """
    if id(x) not in _constants():
        raise Unguarded(f"it reads {_described(x)}")
    return ("constant", id(x))


def is_constant(x: Any) -> bool:
    """Whether `x` is one of them."""
    return id(x) in _constants()


@functools.cache
def _constants() -> dict[int, Any]:
    """By address; they are held here, so that no other object gets it."""
    return {id(x): x for x in _all()}


def _all() -> Iterator[Any]:
    for module, names in (
        (builtins, _BUILTINS), (operator, _OPERATOR), (np, _NUMPY), (tf, _TENSORFLOW),
        (itertools, "accumulate chain combinations product repeat"),
        (functools, "partial reduce"),
    ):  # fmt: skip
        yield from (getattr(module, name) for name in names.split())
    for module in _WHOLE_MODULES:
        for name in vars(module).keys() - _NOT_OF_WHOLE_MODULES:
            if not name.startswith("_") and isinstance(x := getattr(module, name), _FUNCTIONS):
                yield x


_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)


def _described(x: Any) -> str:
    if isinstance(x, (*_FUNCTIONS, type)):
        return f"{x.__module__}.{x.__qualname__}"
    return f"an object of type {type(x).__name__}"
