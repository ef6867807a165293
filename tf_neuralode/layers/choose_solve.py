"""How a layer's solve is run in one call: compiled by XLA, in a graph of its own, or as it is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_neuralode.layers.auto_compile import choose, in_loop_or_branch
from tf_neuralode.layers.batch import BatchSolution
from tf_neuralode.layers.call_times import CallTimes
from tf_neuralode.layers.compiled import outermost_graph
from tf_neuralode.layers.dynamics import Dynamics
from tf_neuralode.tensors import inside_xla, may_be_watched


def chosen_solve(
    layer: Any,
    dynamics: Dynamics,
    y0: tf.Tensor,
    times: CallTimes | None,
    settings: tuple,
) -> Callable[..., BatchSolution]:
    """The function that a call solves by.

    Args:
      layer: A `NeuralODE`.
      dynamics: As it is called.
      y0: The state.
      times: Of the call; `None` for those of the layer.
      settings: Further first arguments of `layer._solve`, which Python reads.
    """
    if _compiles(layer, dynamics, y0, times):
        bounded = layer.jit_compile == "auto"
        return layer._compiled_solve.for_dynamics(
            layer.dynamics, dynamics, *settings, bounded=bounded
        )
    if _is_traced_again(layer, dynamics):
        return layer._compiled_solve.for_dynamics(layer.dynamics, dynamics, *settings, xla=False)
    if tf.executing_eagerly() and layer.jit_compile == "auto":
        return functools.partial(layer._eager_solves, dynamics, *settings)
    return functools.partial(layer._solve, dynamics, *settings)


def _compiles(layer: Any, dynamics: Dynamics, y0: tf.Tensor, times: CallTimes | None) -> bool:
    if layer.jit_compile != "auto":
        # Inside a model that XLA compiles a second compiler would only be in the way.
        return layer.jit_compile and not inside_xla()
    num_times: int | None = len(layer._knots) - 1
    if times is not None:
        num = times.knots.shape[0]
        num_times = None if num is None else num - 1
    choice = choose(layer, dynamics, y0, num_times)
    layer._choices["training" if dynamics.training else "prediction"] = choice
    return choice.xla


def _is_traced_again(layer: Any, dynamics: Dynamics) -> bool:
    """Whether what is traced may be traced once more at once, as Keras' training step is.

    Where XLA compiles all of it a function inside would be compiled for each number of steps.
    """
    return (
        dynamics.training
        and not tf.executing_eagerly()
        and not inside_xla()
        and outermost_graph() is not tf.compat.v1.get_default_graph()
        and not in_loop_or_branch()
        and not layer.gradient.keeps_activations
        and tf.distribute.get_strategy().num_replicas_in_sync == 1
    )


def may_be_wanted(given: dict[str, Any]) -> tuple[str, ...]:
    """The names of what gradients may be asked for, of `given`, nests of tensors by name.

    Eagerly that is known. In a graph they can be asked for from outside, but not in a training step
    of Keras' own, which returns numbers for its logs.
    """
    keras_steps = ("one_step_on_iterator", "multi_step_on_iterator")
    if not tf.executing_eagerly() and getattr(outermost_graph(), "name", "") not in keras_steps:
        return tuple(given)

    def watched(nest: Any) -> bool:
        return any(may_be_watched(x) for x in tf.nest.flatten(nest) if tf.is_tensor(x))

    return tuple(name for name, nest in given.items() if watched(nest))
