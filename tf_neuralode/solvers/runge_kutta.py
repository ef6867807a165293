"""One step of an explicit Runge-Kutta method, on a state held as a flat list of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

State = list[tf.Tensor]
OdeFn = Callable[[tf.Tensor, State], State]
# The time beyond which a step that starts at the time given must not go, which is behind that one
# in the direction of the integration. A step that gets near ends there exactly.
Limit = Callable[[tf.Tensor], tf.Tensor]


class PerAttempt:
    """An `OdeFn` that wants to know which of its evaluations end in an accepted step."""

    def __call__(self, t: tf.Tensor, y: State) -> State:
        """The slope, where there are no attempts."""
        raise NotImplementedError

    def attempt(self, y: State, k0: State) -> Attempt:
        """What one attempt from the state `y`, where the slope is `k0`, is made with."""
        raise NotImplementedError


class Attempt(NamedTuple):
    """Field and start of an attempt, and a function to be told whether it was accepted."""

    f: OdeFn
    y: State
    k0: State
    settle: Callable[[tf.Tensor], None]


def begin_attempt(f: OdeFn, y: State, k0: State) -> Attempt:
    """`f.attempt(y, k0)` if f is a `PerAttempt`, otherwise the arguments as they are."""
    if isinstance(f, PerAttempt):
        return f.attempt(y, k0)
    return Attempt(f, y, k0, lambda accepted: None)


def scale(factor: tf.Tensor, tensor: tf.Tensor) -> tf.Tensor:
    """`factor * tensor` for a real scalar and a real or complex tensor."""
    return tf.cast(factor, tensor.dtype) * tensor


def weighted_sum(weights: Sequence[float], terms: Sequence[State]) -> State:
    """`sum_i weights[i] terms[i]`; a weight of zero costs nothing. The last term is the newest."""
    used = [(w, term) for w, term in zip(weights, terms, strict=True) if w != 0]
    if not used:
        return [tf.zeros_like(x) for x in terms[0]]

    def leaf(index):
        products = [
            # In the state's own precision: a cast of a Python float would go through float32.
            term[index] if w == 1 else tf.constant(w, term[index].dtype) * term[index]
            for w, term in used
        ]
        return products[0] if len(products) == 1 else tf.add_n(products)

    # The graph runtime would make the products for all later stages as soon as a slope is there,
    # and hold them until they are needed.
    with tf.control_dependencies(terms[-1]):
        return [leaf(i) for i in range(len(terms[0]))]


def advanced(y: State, h: tf.Tensor, weights: Sequence[float], slopes: Sequence[State]) -> State:
    """`y + h sum_i weights[i] slopes[i]`, differentiable with respect to y and the slopes alone.

    h is a constant of differentiation. TensorFlow's own gradient of a product wants both factors,
    so a loop that it differentiates would keep every slope of every step, to no use.
    """
    used = [(w, slope) for w, slope in zip(weights, slopes, strict=True) if w != 0]
    if not used:
        return list(y)
    weights, slopes = zip(*used, strict=True)
    # The graph runtime would make the products for all later stages as soon as a slope is there,
    # and hold them until they are needed.
    with tf.control_dependencies(slopes[-1]):
        return [
            _advanced_leaf(leaf, h, weights, [slope[i] for slope in slopes])
            for i, leaf in enumerate(y)
        ]


def _advanced_leaf(leaf, h: tf.Tensor, weights: Sequence[float], slopes: Sequence[tf.Tensor]):
    def factors():
        # In the time's precision: a cast of a Python float would go through float32.
        return [tf.cast(x, leaf.dtype) for x in tf.unstack(h * tf.constant(weights, h.dtype))]

    def total(leaf, *slopes):
        return tf.add_n([leaf, *(c * k for c, k in zip(factors(), slopes, strict=True))])

    if tf.executing_eagerly():
        return total(leaf, *slopes)  # an eager tape keeps no factor that it doesn't need

    @tf.custom_gradient
    def differentiable(leaf, *slopes):
        return total(leaf, *slopes), lambda d: [d, *(c * d for c in factors())]

    return differentiable(leaf, *slopes)


def stages(
    f: OdeFn,
    tableau,
    t: tf.Tensor,
    t_next: tf.Tensor,
    y: State,
    k0: State,
    num_stages: int | None = None,
) -> tuple[list[State], list[State]]:
    """The slopes of one step from `t` to `t_next`, and the states where they were taken.

    Args:
      f: `f(t, y)`, flat.
      tableau: A `ButcherTableau`.
      t: Start of the step, a scalar.
      t_next: End of the step.
      y: State at `t`.
      k0: `f(t, y)`.
      num_stages: How many stages to evaluate; all of them if `None`.

    Returns:
      `(k, stage_states)`, each with `num_stages` entries.
    """
    h = t_next - t
    k, stage_states = [k0], [y]
    for c, row in list(zip(tableau.c, tableau.a, strict=True))[1:num_stages]:
        # t + h can miss t_next by a rounding error, and f must not be evaluated beyond the end.
        stage_time = t_next if c == 1 else t + tf.constant(c, t.dtype) * h
        stage_states.append(advanced(y, h, row, k))
        k.append(f(stage_time, stage_states[-1]))
    return k, stage_states


def num_stages_to_advance(tableau) -> int:
    """How many stages the solution at the end of a step needs, f at its start included."""
    return max(i for i, weight in enumerate(tableau.b) if weight != 0) + 1


def advance(f: OdeFn, tableau, t: tf.Tensor, t_next: tf.Tensor, y: State, k0: State) -> State:
    """The state at `t_next`, from the fewest stages: what a replay of a known step needs."""
    num_stages = num_stages_to_advance(tableau)
    k, _ = stages(f, tableau, t, t_next, y, k0, num_stages)
    return advanced(y, t_next - t, tableau.b[:num_stages], k)
