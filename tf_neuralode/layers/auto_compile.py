"""Whether the solve of a layer with `jit_compile="auto"` is compiled by XLA, and why.

XLA saves what the runtime takes for each operation of a step, and takes its time to compile.
Measured in `fit`, with all tracing, that pays for a training step with many output times (or equal
steps), and doesn't for one of a step or two.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tf_neuralode.eager.operations import suits_xla
from tf_neuralode.field import dense_gradients
from tf_neuralode.layers.compiled import layout
from tf_neuralode.layers.dynamics import Dynamics
from tf_neuralode.tensors import inside_xla

# Output times behind the first, or equal steps, from which on it pays.
MANY = 10


class Choice(NamedTuple):
    """Whether XLA compiles a solve, and the reason, as a clause."""

    xla: bool
    reason: str


def choose(layer: Any, dynamics: Dynamics, y0: tf.Tensor, num_times: int | None) -> Choice:
    """What is right for one call of `layer`, a `NeuralODE`, where it is traced.

    Args:
      layer: The layer.
      dynamics: As it is called.
      y0: The state.
      num_times: How many times there are behind the initial one; `None` if that isn't known.
    """
    for applies, reason in (
        (not dynamics.training, "not in training"),
        (inside_xla(), "XLA compiles the model around it"),
        (tf.executing_eagerly(), "called eagerly"),
        (in_loop_or_branch(), "in a loop or a branch"),
        (tf.distribute.get_strategy().num_replicas_in_sync > 1, "on several devices"),
        (not layer._solver.is_ours, "a solver of TFP's own"),
        (layer.gradient.keeps_activations, "the activations are kept"),
        (num_times is None, "an unknown number of times"),
        (None in y0.shape[1:], "a state of unknown shape"),
    ):
        if applies:
            return Choice(False, reason)
    assert num_times is not None
    many = max(num_times, 0 if layer._solver.is_adaptive else layer._solver.max_num_steps)
    what = f"{many} {'output time' if many == num_times else 'equal step'}{'s' * (many != 1)}"
    if many < MANY:
        return Choice(False, f"few steps to save time in: {what}")
    key = (*layout(layer.dynamics, dynamics)[0], y0.shape[1:], y0.dtype)
    refusal = layer._refusals.get(key, lambda: _refusal(dynamics, y0))
    return Choice(refusal is None, refusal or f"many steps to save time in: {what}")


def explanation(layer: Any) -> str:
    """What was chosen for the solves of `layer`, a `NeuralODE`, and why; a few lines."""
    gradient = layer.gradient.chosen(layer._solver)
    why = "" if gradient is layer.gradient else ", chosen for this solver"
    lines = [f"{layer.name}: solver {layer.solver!r}", f"gradient: {gradient!r}{why}"]
    if layer.jit_compile != "auto":
        lines.append(f"XLA: {_word(layer.jit_compile)}, as the layer was told")
    elif not layer._choices:
        lines.append("XLA: chosen where the layer is called")
    for kind, choice in layer._choices.items():
        lines.append(f"XLA in {kind}: {_word(choice.xla)}, {choice.reason}")
    return "\n".join(lines)


def _word(answer: bool) -> str:
    return "yes" if answer else "no"


def in_loop_or_branch() -> bool:
    """Whether what is traced is the body of a loop, as of a `keras.layers.RNN`, or a branch."""
    name = type(tf.compat.v1.get_default_graph()).__name__
    return name.startswith(("While", "Cond"))


def _refusal(dynamics: Dynamics, y0: tf.Tensor) -> str | None:
    """Why XLA can't, or shouldn't, compile the field and its gradient; `None` if it should."""
    num, num_constants = len(dynamics.params), len(dynamics.constants)

    def slope_and_gradient(t: tf.Tensor, y: tf.Tensor, *values: tf.Tensor) -> list[tf.Tensor]:
        params, rest = list(values[:num]), list(values[num:])
        constants, others = rest[:num_constants], rest[num_constants:]
        further = keras.tree.pack_sequence_as(list(dynamics.further), others)
        with tf.GradientTape() as tape:
            tape.watch([y, *params])
            slope, _ = dynamics.call_in_scope(t, y, params, constants, further)
        return [slope, *dense_gradients(tape, [slope], [y, *params], [slope])]

    function = tf.function(slope_and_gradient, jit_compile=True, autograph=False)
    shapes = [([], y0.dtype), ([2, *y0.shape[1:]], y0.dtype)]
    shapes += [(v.shape, v.dtype) for v in (*dynamics.params, *dynamics.constants)]
    shapes += [([2, *x.shape[1:]], x.dtype) for x in keras.tree.flatten(list(dynamics.further))]
    specs = [tf.TensorSpec(*shape) for shape in shapes]
    with tf.init_scope():
        try:
            if not suits_xla(function.get_concrete_function(*specs).graph):
                return "the dynamics has operations that XLA drops, or that it is slow with here"
            function.experimental_get_compiler_ir(*specs)(stage="hlo")
        except Exception as error:
            return f"XLA can't compile the dynamics ({type(error).__name__})"
    return None
