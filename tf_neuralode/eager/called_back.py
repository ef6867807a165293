"""An f that stays eager, called back from a compiled solve."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable
from typing import Any

import tensorflow as tf

from tf_neuralode.eager.arguments import Arguments
from tf_neuralode.tensors import State, each

_numbers = itertools.count()
_called: dict[int, CalledBack] = {}


class CalledBack:
    """`f` as compiled code finds it: by a number, which is one of its arguments.

    So one function serves every f on states of the same kind. Within the context alone, in which
    what f raises is raised.

    Attributes:
      key, tensors, objects, conditions: See `Guard`.
    """

    objects: tuple = ()

    def __init__(self, f: Callable[..., Any], arguments: Arguments) -> None:
        self._f, self._arguments = f, arguments
        self._error: BaseException | None = None
        self._number = next(_numbers)
        self.tensors = [tf.constant(self._number, tf.int64)]
        try:
            # As for an f that is solved as it comes.
            _, uses_time = arguments.trace(lambda _: f, [])
        except Exception:
            uses_time = True
        self.conditions = {"autonomous": not uses_time}
        self.key: Hashable = ("called back", uses_time)

    def __enter__(self) -> CalledBack:
        _called[self._number] = self
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        del _called[self._number]
        if self._error is not None and isinstance(error, Exception):
            raise self._error from None

    def function(self, tensors: list[tf.Tensor]) -> Callable[..., Any]:
        """What compiled code calls in the place of f."""
        (number,) = tensors

        def called_back(t: tf.Tensor, y: Any, *params: Any) -> Any:
            leaves = tf.nest.flatten(y)
            structure = tf.nest.map_structure(lambda x: 0, (y, params))

            def run(number: tf.Tensor, t: tf.Tensor, *values: tf.Tensor) -> State:
                y, params = tf.nest.pack_sequence_as(structure, values)
                return _called[int(number)].slope(t, y, params)

            inputs = [number, t, *leaves, *tf.nest.flatten(params)]
            slopes = tf.py_function(run, inputs, [x.dtype for x in leaves])
            slopes = each(lambda k, x: tf.ensure_shape(k, x.shape), slopes, leaves)
            return tf.nest.pack_sequence_as(y, slopes)

        return called_back

    def slope(self, t: tf.Tensor, y: Any, params: Any) -> State:
        """The slope, its leaves in the user's dtypes."""
        flat = self._arguments.flat
        try:
            f = lambda t, y: self._f(t, y, *params)
            return tf.nest.flatten(flat.pack(flat.flat_fn(f)(t, flat.flatten(y))))
        except BaseException as error:
            self._error = error
            raise
