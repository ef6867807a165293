"""One step of an explicit Runge-Kutta method, on a state held as a flat list of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

State = list[tf.Tensor]
OdeFn = Callable[[tf.Tensor, State], State]


class PerAttempt:
    """An `OdeFn` that wants to know which of its evaluations end in an accepted step."""

    def __call__(self, t: tf.Tensor, y: State) -> State:
        """The slope, where there are no attempts."""
        raise NotImplementedError

    def attempt(self) -> tuple[OdeFn, Callable[[tf.Tensor], None]]:
        """The field for one attempt, and a function to be told whether it was accepted."""
        raise NotImplementedError


def begin_attempt(f: OdeFn) -> tuple[OdeFn, Callable[[tf.Tensor], None]]:
    """`f.attempt()` if f is a `PerAttempt`, otherwise f itself and a function that does nothing."""
    return f.attempt() if isinstance(f, PerAttempt) else (f, lambda accepted: None)


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


def add_scaled(y: State, h: tf.Tensor, slope: State) -> State:
    """`y + h slope`."""
    return [y_i + scale(h, s_i) for y_i, s_i in zip(y, slope, strict=True)]


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
        stage_states.append(add_scaled(y, h, weighted_sum(row, k)))
        k.append(f(stage_time, stage_states[-1]))
    return k, stage_states


def num_stages_to_advance(tableau) -> int:
    """How many stages the solution at the end of a step needs, f at its start included."""
    return max(i for i, weight in enumerate(tableau.b) if weight != 0) + 1


def advance(f: OdeFn, tableau, t: tf.Tensor, t_next: tf.Tensor, y: State, k0: State) -> State:
    """The state at `t_next`, from the fewest stages: what a replay of a known step needs."""
    num_stages = num_stages_to_advance(tableau)
    k, _ = stages(f, tableau, t, t_next, y, k0, num_stages)
    return add_scaled(y, t_next - t, weighted_sum(tableau.b[:num_stages], k))
