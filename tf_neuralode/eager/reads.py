"""What a Python function reads besides its arguments, learnt from its bytecode.

A function that is compiled once must not go on with what it read then. So all that it can read is
listed: names of globals and of closures, with the attributes that are asked of them. Code that
could read, or write, in a way that bytecode doesn't tell is said to be opaque.
"""

from __future__ import annotations

import dis
import functools
import types
from typing import NamedTuple

import tensorflow as tf

from tf_neuralode.eager.constants import OF_TENSORS

_GLOBAL = {"LOAD_GLOBAL", "LOAD_NAME"}
_CLOSURE = {"LOAD_DEREF", "LOAD_CLOSURE", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"}
_ATTRIBUTE = {"LOAD_ATTR", "LOAD_METHOD"}
# Between a name and its attribute.
_NOTHING = {"CACHE", "EXTENDED_ARG", "PUSH_NULL", "PRECALL", "NOP"}
_ASKS = _ATTRIBUTE | {"LOAD_SPECIAL"}
# Code that does what can't be known from it, or that depends on how it is run: what catches errors
# would catch those of tracing.
_OPAQUE = {
    **dict.fromkeys(
        ["SETUP_FINALLY", "SETUP_WITH", "BEFORE_WITH", "PUSH_EXC_INFO"], "it has a try or a with"
    ),
    **dict.fromkeys(["FORMAT_VALUE", "FORMAT_SIMPLE", "FORMAT_WITH_SPEC"], "it formats text"),
    **dict.fromkeys(
        ["STORE_GLOBAL", "DELETE_GLOBAL", "STORE_ATTR", "DELETE_ATTR", "STORE_NAME", "DELETE_NAME",
         "DELETE_DEREF"], "it changes what is outside of it"
    ),
    **dict.fromkeys(["IMPORT_NAME", "IMPORT_FROM", "IMPORT_STAR"], "it imports"),
    **dict.fromkeys(
        ["LOAD_BUILD_CLASS", "LOAD_SUPER_ATTR", "LOAD_FROM_DICT_OR_GLOBALS"], "it makes a class"
    ),
    **dict.fromkeys(["YIELD_VALUE", "SEND", "GET_AWAITABLE"], "it is a generator"),
}  # fmt: skip


class Read(NamedTuple):
    """One name, of a global or of the function's closure, and the attributes asked of it."""

    name: str
    attributes: tuple[str, ...]
    is_global: bool


class Reads(NamedTuple):
    """All that a code object reads.

    Attributes:
      reads: What it reads by name.
      opaque: Why that may not be all; `None` if it is.
      in_place: Whether it has operators as `+=`, which act on some objects in place.
    """

    reads: tuple[Read, ...]
    opaque: str | None
    in_place: bool


@functools.lru_cache(maxsize=1024)
def reads_of(code: types.CodeType) -> Reads:
    """Those of `code` and of the functions that it defines inside."""
    found: dict[Read, None] = {}
    opaque = _collect(code, frozenset(code.co_freevars), found)
    return Reads(tuple(found), opaque, _is_in_place(code))


def _collect(code: types.CodeType, free: frozenset, found: dict[Read, None]) -> str | None:
    # The closure is that of the outermost function: what it hands on to inner ones is local.
    instructions = [one for one in dis.get_instructions(code) if one.opname not in _NOTHING]
    own = set(code.co_cellvars)
    if own & set(code.co_freevars):  # of a comprehension, in Python 3.12
        return "two of its variables have one name"
    num_of_name = 0  # how many of the next attributes are asked of a name, and guarded with it
    for i, one in enumerate(instructions):
        if text := _depends_on_text_or_identity(code, instructions, i):
            return text
        of_generator = one.opname == "YIELD_VALUE" and code.co_name == "<genexpr>"
        if one.opname in _OPAQUE and not of_generator:
            return _OPAQUE[one.opname]
        if one.opname == "STORE_DEREF" and one.argval in free and one.argval not in own:
            return f"it assigns to {one.argval} of an outer function"
        is_global = one.opname in _GLOBAL
        is_free = one.opname in _CLOSURE and one.argval in free and one.argval not in own
        if one.opname in _ASKS and num_of_name == 0 and _tells_how(one.argval):
            return f"it asks for .{one.argval} of what it computes"
        num_of_name = max(num_of_name - 1, 0)
        if is_global or is_free:
            attributes = _attributes(instructions[i + 1 :])
            num_of_name = len(attributes)
            found[Read(one.argval, attributes, is_global)] = None
    inner = free - own
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            opaque = _collect(constant, inner, found)
            if opaque is not None:
                return opaque
    return None


def _depends_on_text_or_identity(
    code: types.CodeType, instructions: list[dis.Instruction], i: int
) -> str | None:
    one = instructions[i]
    if one.opname == "IS_OP":
        before = instructions[i - 1]
        if not (before.opname.startswith("LOAD_CONST") and before.argval in (None, True, False)):
            return "it asks what is the same object"
    if one.opname.startswith("BINARY_") and one.argrepr in ("", "%", "%="):
        is_modulo = one.argrepr or one.opname == "BINARY_MODULO"
        if is_modulo and any(isinstance(x, str) and "%" in x for x in code.co_consts):
            return "it formats text"
    return None


def _is_in_place(code: types.CodeType) -> bool:
    inner = (x for x in code.co_consts if isinstance(x, types.CodeType))
    return any(map(_is_in_place, inner)) or any(
        one.opname.startswith("INPLACE_")
        or (one.opname == "BINARY_OP" and one.argrepr.endswith("="))
        for one in dis.get_instructions(code)
    )


def _tells_how(attribute: str) -> bool:
    """Whether an attribute of a tensor, or of anything else, may depend on how it is computed."""
    return attribute.startswith("_") or attribute == "format" or attribute in _of_tensors()


@functools.cache
def _of_tensors() -> set[str]:
    kinds = (tf.Tensor, tf.Variable, type(tf.constant(0)), tf.__internal__.SymbolicTensor)
    return set().union(*map(dir, kinds)) - OF_TENSORS


def _attributes(instructions: list[dis.Instruction]) -> tuple[str, ...]:
    found = []
    for one in instructions:
        if one.opname not in _ATTRIBUTE:
            break
        found.append(one.argval)
    return tuple(found)
