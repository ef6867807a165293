"""The arguments of one call of `odeint` as tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_neuralode.eager.constants import Unguarded
from tf_neuralode.eager.guards import is_plain
from tf_neuralode.field import FlatState, as_times, output_times
from tf_neuralode.tensors import may_be_watched


class Arguments:
    """State, times, parameters and counter.

    Attributes:
      flat: The state, as solves hold it.
      given: All of them, a nest of tensors.
      options: Arguments of `solve_from` that depend on them.
      key: What compiled code depends on besides shapes and dtypes.

    Raises:
      ValueError, TypeError: for arguments that don't fit.
    """

    def __init__(self, y0: Any, t: Any, params: Any, options: dict[str, Any]) -> None:
        self.flat = FlatState(y0)
        counter, times = options["backward_counter"], np.asarray(t)
        t = as_times(t)
        if tf.is_tensor(t):
            output_times(times, self.flat.time_dtype)  # or an error
        else:
            t = _checked(times.tobytes(), times.shape, times.dtype, self.flat.time_dtype)
        self.given = (
            tf.nest.map_structure(tf.convert_to_tensor, y0),
            t,
            () if params is None else (tf.nest.map_structure(self.flat.as_parameter, params),),
            () if counter is None else (tf.convert_to_tensor(counter),),
        )
        self.options = {
            "direction": -1.0 if times.ndim == 1 and times[-1] < times[0] else 1.0,
            "times_are_constant": not may_be_watched(t),
        }
        structure = tuple(_structure(part) for part in self.given)
        self.key: Hashable = (structure, *self.options.values())

    def trace(self, f: Callable[..., Any], further: list[tf.Tensor]) -> tf.Graph:
        """A graph of `f(further)` alone, to be looked at."""
        graph = tf.__internal__.FuncGraph("field")
        placeholder = lambda x: tf.compat.v1.placeholder(x.dtype, x.shape)
        with graph.as_default():
            y, times, params, _ = tf.nest.map_structure(placeholder, self.given)
            time = tf.compat.v1.placeholder(self.flat.time_dtype, times.shape[1:])
            f([placeholder(x) for x in further])(time, y, *params)
        return graph


@functools.lru_cache(maxsize=64)
def _checked(values: bytes, shape: tuple, dtype: np.dtype, time_dtype: tf.DType) -> tf.Tensor:
    """Times that are the same in many calls, once they are known to be good."""
    times = np.frombuffer(values, dtype).reshape(shape)
    output_times(times, time_dtype)
    return tf.convert_to_tensor(times)


def _structure(nest: Any) -> Hashable:
    """Of Python's own containers and named tuples without methods; others have code of their own.

    Raises:
      Unguarded: for any other container.
    """
    if tf.is_tensor(nest):
        return ()
    if type(nest) is dict:
        return (dict, *((type(name), name, _structure(x)) for name, x in nest.items()))
    if type(nest) is list or is_plain(nest):
        return (type(nest), *map(_structure, nest))
    raise Unguarded(f"state or params hold an object of type {type(nest).__name__}")
