"""The compiled functions that are kept, the latest of them, and how often others ran."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from tf_neuralode.tensors import Tensors

# Each takes some ten megabytes.
_MAX_COMPILED = 32
_MAX_COUNTED = 1024
_MAX_AT_FIRST = 4


@dataclasses.dataclass(eq=False)
class Kept:
    """What is kept of one key.

    Attributes:
      num_evaluations: Of f, while it ran as it comes.
      function: The compiled function, or `None`.
      xla: Whether XLA compiles it.
      refused: Why it can't be compiled, or `None`.
      structure: Of what it returns.
      placeholders: What it has for the tensors that f reads.
      f: In this thread, the function that is traced.
      lock: Held while it is.
    """

    num_evaluations: int = 0
    function: Any = None
    xla: bool = False
    refused: str | None = None
    structure: Any = None
    placeholders: Tensors = dataclasses.field(default_factory=list)
    f: threading.local = dataclasses.field(default_factory=threading.local)
    lock: Any = dataclasses.field(default_factory=threading.RLock)

    def call(self, *arguments: Any) -> Any:
        """The function that is traced."""
        return self.f.function(*arguments)

    @contextlib.contextmanager
    def tracing(self, f: Callable[..., Any]) -> Iterator[None]:
        """In this context, and no longer, what is traced calls `f`."""
        with self.lock:  # another thread must not find what is half made
            before = getattr(self.f, "function", None)
            self.f.function = f
            try:
                yield
            finally:
                self.f.function = before


_kept: collections.OrderedDict[Hashable, Kept] = collections.OrderedDict()
_uses: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()
_lock = threading.Lock()


@dataclasses.dataclass
class Uses:
    """Of one function's code, whatever it reads.

    Attributes:
      num_compiled: How often it was compiled.
      num_runs: How often compiled code of it ran.
    """

    num_compiled: int = 0
    num_runs: int = 0

    @property
    def may_compile(self) -> bool:
        """Whether to compile it for other values of what it reads.

        Who solves for many values in turn would wait for each. Where they come again it pays.
        """
        return self.num_compiled < _MAX_AT_FIRST or self.num_runs >= 8 * self.num_compiled


def look_up(key: Hashable) -> Kept:
    """What is kept of `key`."""
    return _latest(_kept, key, Kept)


def uses_of(code: Hashable) -> Uses:
    """Those of `code`."""
    return _latest(_uses, code, Uses)


def _latest(store: collections.OrderedDict[Hashable, Any], key: Hashable, make: Any) -> Any:
    """What `store` has for `key`, now its latest, or else `make()`; the oldest are forgotten."""
    with _lock:
        found = store.setdefault(key, make())
        store.move_to_end(key)
        while len(store) > _MAX_COUNTED:
            store.popitem(last=False)
        return found


def drop_the_oldest() -> None:
    """Drops what was used the longest time ago, if there is too much."""
    with _lock:
        compiled = [key for key, one in _kept.items() if one.function is not None]
        for key in compiled[:-_MAX_COMPILED]:
            del _kept[key]
