"""Copies of functions that read something else than the originals do."""

from __future__ import annotations

import builtins
import types
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_neuralode.eager.constants import Unguarded
from tf_neuralode.eager.reads import Read

# Gives what is read in another's place, from tensors.
Make = Callable[[list[tf.Tensor]], Any]


def look_up(function: types.FunctionType, read: Read) -> Any:
    """What `function` reads there now."""
    if not read.is_global:
        cell = function.__closure__[function.__code__.co_freevars.index(read.name)]  # type: ignore
        try:
            return cell.cell_contents
        except ValueError:
            raise Unguarded(f"it reads {read.name}, which has no value yet") from None
    try:
        return function.__globals__[read.name]
    except KeyError:
        own = getattr(function, "__builtins__", None)
        if hasattr(builtins, read.name) and own is vars(builtins):
            return getattr(builtins, read.name)
        raise Unguarded(f"it reads {read.name}, which has no value") from None


def with_replaced(
    function: types.FunctionType,
    places: list[tuple[Read, Make]],
    defaults: Make | None,
    tensors: list[tf.Tensor],
    copies: dict[int, tuple[list[tf.Tensor], types.FunctionType]],
) -> types.FunctionType:
    """A copy of `function` that reads what the `places` make in place of its own."""
    if id(tensors) in copies:
        return copies[id(tensors)][1]
    code, names = function.__code__, dict(function.__globals__)
    cells = {n: c for n, c in zip(code.co_freevars, function.__closure__ or (), strict=True)}
    new = {read.name: types.CellType() for read, _ in places if not read.is_global}
    closure = tuple({**cells, **new}[name] for name in code.co_freevars)
    copy = types.FunctionType(code, names, function.__name__, function.__defaults__, closure)
    copy.__kwdefaults__ = function.__kwdefaults__
    copies[id(tensors)] = tensors, copy  # before what it reads, which may be the function itself
    if defaults is not None:
        values = defaults(tensors)
        num = len(function.__defaults__ or ())
        copy.__defaults__ = values[:num]
        copy.__kwdefaults__ = dict(zip(function.__kwdefaults__ or {}, values[num:], strict=True))
    for read, make in places:
        if read.is_global:
            names[read.name] = make(tensors)
        else:
            new[read.name].cell_contents = make(tensors)
    return copy
