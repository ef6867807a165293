"""Eager calls of a layer: traced once that pays, where nothing that they read goes stale."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_neuralode.eager import (
    NUM_BEFORE_COMPILING,
    compiles_itself,
    recorded_once,
    settings_key,
    surroundings,
)
from tf_neuralode.layers.batch import BatchSolution
from tf_neuralode.layers.dynamics import Dynamics
from tf_neuralode.tensors import may_be_recorded

# What stands in a tensor's place.
_TENSOR = object()


@dataclasses.dataclass
class _Kept:
    """What is kept of one key, as in `eager.kept`."""

    num_evaluations: int = 0
    function: Any = None
    structure: Any = None
    is_refused: bool = False


class EagerSolves:
    """The solves of one layer, in a graph once they have evaluated the dynamics 128 times.

    Without XLA, which would compile for each size of the batch.

    Args:
      layer: A `NeuralODE`.
    """

    def __init__(self, layer: keras.layers.Layer) -> None:
        # What TensorFlow has traced it keeps for ever: the layer must not be in there.
        self._layer = weakref.proxy(layer)
        self._kept: dict[Hashable, _Kept] = {}

    def __call__(self, dynamics: Dynamics, *arguments: Any) -> BatchSolution:
        """`layer._solve(dynamics, *arguments)`.

        Args:
          dynamics: Of the layer, as it is called.
          arguments: Nests of tensors, numbers and `None`.
        """
        leaves = tf.nest.flatten(arguments)
        kept = self._look_up(dynamics, leaves)
        if not kept.is_refused and kept.num_evaluations >= NUM_BEFORE_COMPILING:
            inputs = [x for x in leaves if tf.is_tensor(x)]
            if kept.function is None:
                kept.function = self._function(kept, dynamics, arguments)
            try:
                function = kept.function.get_concrete_function(*inputs)
            except Exception:  # as it comes it says why
                kept.is_refused = True
            else:
                return self._run(kept, function, inputs)
        solution = self._layer._solve(dynamics, *arguments)
        kept.num_evaluations += int(solution.diagnostics.num_ode_fn_evaluations)
        return solution

    def _look_up(self, dynamics: Dynamics, leaves: list[Any]) -> _Kept:
        if compiles_itself(self._layer._solver, self._layer.gradient):
            read = settings_key(dynamics.layer)
            # Of a shape the function may make a more general one, but not of another rank.
            about = [(x.shape.rank, x.dtype) if tf.is_tensor(x) else x for x in leaves]
            key = (read, dynamics.training, dynamics.writes, *about, surroundings())
            if read is not None and not any(isinstance(x, np.ndarray) for x in about):
                return self._kept.setdefault(key, _Kept())
        return _Kept(is_refused=True)

    def _function(self, kept: _Kept, dynamics: Dynamics, arguments: tuple) -> Callable[..., Any]:
        layer = self._layer
        weak = dataclasses.replace(dynamics, layer=weakref.proxy(dynamics.layer))
        given = tf.nest.map_structure(lambda x: _TENSOR if tf.is_tensor(x) else x, arguments)

        def body(*inputs: tf.Tensor) -> list[tf.Tensor]:
            rest = iter(inputs)
            leaves = [next(rest) if x is _TENSOR else x for x in tf.nest.flatten(given)]
            solution = layer._solve(weak, *tf.nest.pack_sequence_as(given, leaves))
            others = (solution.good, solution.diagnostics, solution.changed)
            kept.structure = tf.nest.map_structure(lambda x: 0, others)
            return [solution.rows, solution.cost, *tf.nest.flatten(others)]

        return tf.function(body, autograph=False, reduce_retracing=True)

    def _run(self, kept: _Kept, function: Any, inputs: list[tf.Tensor]) -> BatchSolution:
        call = lambda values: function(*values)
        if may_be_recorded():
            gradient = self._layer.gradient.chosen(self._layer._solver)
            outputs = recorded_once(call, inputs, 2, type(gradient).__name__)
        else:
            outputs = call(inputs)
        rows, cost, *others = outputs
        good, diagnostics, changed = tf.nest.pack_sequence_as(kept.structure, others)
        return BatchSolution(rows, good, diagnostics, changed, cost)
