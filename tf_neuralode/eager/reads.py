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

_GLOBAL = {"LOAD_GLOBAL", "LOAD_NAME"}
_CLOSURE = {"LOAD_DEREF", "LOAD_CLOSURE", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"}
_ATTRIBUTE = {"LOAD_ATTR", "LOAD_METHOD"}
# Between a name and its attribute.
_NOTHING = {"CACHE", "EXTENDED_ARG", "PUSH_NULL", "PRECALL", "NOP"}
_OPAQUE = {
    "STORE_GLOBAL", "DELETE_GLOBAL", "STORE_ATTR", "DELETE_ATTR", "STORE_NAME", "DELETE_NAME",
    "IMPORT_NAME", "IMPORT_FROM", "IMPORT_STAR", "LOAD_BUILD_CLASS", "YIELD_VALUE", "SEND",
    "GET_AWAITABLE", "DELETE_DEREF", "LOAD_SUPER_ATTR", "LOAD_FROM_DICT_OR_GLOBALS",
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
    """

    reads: tuple[Read, ...]
    opaque: str | None


@functools.lru_cache(maxsize=1024)
def reads_of(code: types.CodeType) -> Reads:
    """Those of `code` and of the functions that it defines inside."""
    found: dict[Read, None] = {}
    opaque = _collect(code, frozenset(code.co_freevars), found)
    return Reads(tuple(found), opaque)


def _collect(code: types.CodeType, free: frozenset, found: dict[Read, None]) -> str | None:
    # The closure is that of the outermost function: what it hands on to inner ones is local.
    instructions = [one for one in dis.get_instructions(code) if one.opname not in _NOTHING]
    own = set(code.co_cellvars)
    for i, one in enumerate(instructions):
        of_generator = one.opname == "YIELD_VALUE" and code.co_name == "<genexpr>"
        if one.opname in _OPAQUE and not of_generator:
            return f"it has {one.opname.lower()} in {code.co_name}"
        if one.opname == "STORE_DEREF" and one.argval in free and one.argval not in own:
            return f"it assigns to {one.argval} of an outer function"
        is_global = one.opname in _GLOBAL
        is_free = one.opname in _CLOSURE and one.argval in free and one.argval not in own
        if is_global or is_free:
            attributes = _attributes(instructions[i + 1 :])
            found[Read(one.argval, attributes, is_global)] = None
    inner = free - own
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            opaque = _collect(constant, inner, found)
            if opaque is not None:
                return opaque
    return None


def _attributes(instructions: list[dis.Instruction]) -> tuple[str, ...]:
    found = []
    for one in instructions:
        if one.opname not in _ATTRIBUTE:
            break
        found.append(one.argval)
    return tuple(found)
