"""Explicit Runge-Kutta methods: one step, stage by stage, and its transpose."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tf_neuralode.field import Field
from tf_neuralode.methods import interpolation
from tf_neuralode.methods.method import Method, Step, StepCotangents
from tf_neuralode.methods.norm import Norm
from tf_neuralode.methods.tableau import ButcherTableau
from tf_neuralode.tensors import State, Tensors, add, advanced, each, scale, weighted_sum


class ExplicitRungeKutta(Method):
    """A tableau, its error estimate and its dense output. The carry is the slope.

    Args:
      tableau: `ButcherTableau`. Every method is treated as one whose last stage is f at the end of
        the step, the first stage of the next (FSAL): `ButcherTableau.with_fsal`.
      error_order: Order of the embedded solution, which governs the step size.
      dense_weights: `(num_stages + num_extra_stages, degree)`, see `interpolation`; cubic Hermite
        output if `None`.
      extra_nodes, extra_rows: Stages that only dense output needs, as further rows of c and a.
      b_err_low: Weights of a second error estimate (DormandPrince8), or `None`.
    """

    needs_carry = False

    def __init__(
        self,
        tableau: ButcherTableau,
        error_order: int,
        dense_weights: np.ndarray | None = None,
        extra_nodes: tuple[float, ...] = (),
        extra_rows: tuple[tuple[float, ...], ...] = (),
        b_err_low: tuple[float, ...] | None = None,
    ) -> None:
        self.tableau = tableau.with_fsal
        self.error_order = error_order
        if dense_weights is None:
            dense_weights = tableau.hermite_weights
        self.dense_weights = np.asarray(dense_weights)
        self.num_coefficients = self.dense_weights.shape[1] + 1
        self.extra_nodes, self.extra_rows = extra_nodes, extra_rows
        self.num_evaluations = self.tableau.num_stages - 1
        self.num_dense_evaluations = len(extra_nodes)
        self.b_err_low = b_err_low
        # How many stages the solution at the end of a step needs.
        self._num_to_advance = max(i for i, w in enumerate(self.tableau.b) if w != 0) + 1

    def step(
        self,
        field: Field,
        t: tf.Tensor,
        t_next: tf.Tensor,
        y: State,
        carry: State | None,
        norm: Norm | None = None,
    ) -> Step:
        h, tableau = t_next - t, self.tableau
        if carry is None:
            num = self._num_to_advance
            k, _ = self._stages(field, t, t_next, y, field(t, y), num)
            y1 = advanced(y, h, tableau.b[:num], k)
            return Step(y1, None, None, None, k, num)
        k, stage_states = self._stages(field, t, t_next, y, carry, tableau.num_stages)
        y1 = stage_states[-1]
        error = None if norm is None else self._error(norm, h, y, y1, k)
        return Step(y1, k[-1], error, None, k, tableau.num_stages - 1)

    def _stages(
        self, field: Field, t: tf.Tensor, t_next: tf.Tensor, y: State, k0: State, num: int
    ) -> tuple[list[State], list[State]]:
        """The first `num` slopes, and the states where they were taken."""
        h, k, stage_states = t_next - t, [k0], [y]
        for c, row in list(zip(self.tableau.c, self.tableau.a, strict=True))[1:num]:
            stage_states.append(advanced(y, h, row, k))
            k.append(field(_node(t, t_next, h, c), stage_states[-1]))
        return k, stage_states

    def _error(self, norm: Norm, h: tf.Tensor, y: State, y1: State, k: list[State]) -> tf.Tensor:
        noise = norm.noise(k[0], h)

        def of_samples(weights: tuple[float, ...]) -> tf.Tensor:
            # h goes inside the norm: the square of a large slope can be more than the dtype holds.
            error = [scale(h, x) for x in weighted_sum(weights, k)]
            return norm.of_samples(error, y, y1, noise)

        assert self.tableau.b_err is not None
        high = of_samples(self.tableau.b_err)
        if self.b_err_low is None:
            return norm.on_clock(high)
        # HNW, II.10, equation 10.17: the fifth-order estimate, damped by the third-order one.
        low = of_samples(self.b_err_low)
        denominator = tf.sqrt(high**2 + tf.constant(0.01, high.dtype) * low**2)
        safe = tf.where(denominator > 0, denominator, tf.ones_like(denominator))
        # A NaN stays one: the comparison is false for it, and it is in the numerator.
        return norm.on_clock(high**2 / safe)

    def dense(
        self,
        field: Field,
        t: tf.Tensor,
        t_next: tf.Tensor,
        y: State,
        step: Step,
        needed: tf.Tensor | None = None,
    ) -> State:
        def compute() -> State:
            # Made in the branch: the gradient of a v1 graph's finds no tensor from outside of it.
            h = t_next - t
            k = list(step.stages)
            for c, row in zip(self.extra_nodes, self.extra_rows, strict=True):
                k.append(field(_node(t, t_next, h, c), advanced(y, h, row, k)))
            return interpolation.coefficients(self.dense_weights, h, y, k)

        def zeros() -> State:
            return [tf.stack([tf.zeros_like(x)] * self.num_coefficients) for x in y]

        if needed is None or not self.extra_nodes:
            return compute()
        return tf.cond(tf.reduce_any(needed), compute, zeros)

    def step_vjp(
        self,
        field: Field,
        t: tf.Tensor,
        t_next: tf.Tensor,
        y: State,
        carry: State | None,
        d_y1: State,
        d_carry: State | None,
        d_dense: State | None,
        d_sources: Tensors,
    ) -> StepCotangents:
        """Stage by stage: the parameters' gradients are added up one at a time.

        With stage states Y_i = y + h sum_j a_ij k_j, slopes k_i = f(t_i, Y_i),
        y1 = y + h sum_i b_i k_i, and dense coefficients[m] = h sum_i p_im k_i (m > 0),
        coefficients[0] = y:

            dL/dk_i = h (b_i dL/dy1 + sum_{l>i} a_li dL/dY_l + sum_m p_im dL/dcoefficients[m])
            dL/dY_i = f_y(t_i, Y_i)^T dL/dk_i,     dL/dparams += f_p(t_i, Y_i)^T dL/dk_i
            dL/dy   = dL/dy1 + sum_i dL/dY_i + dL/dcoefficients[0]

        With a carry its cotangent comes to the last k_i of `step`, and k_0 is the carry: its
        cotangent is handed on to the step before.
        """
        h = t_next - t
        nodes, rows, weights = self._transposed_stages(carry, d_dense)
        k: list[State] = []
        pullbacks: list[Any] = []
        for c, row in zip(nodes, rows, strict=True):
            if carry is not None and not k:
                k.append(carry)
                pullbacks.append(None)
                continue
            stage_state = advanced(y, h, row, k) if k else y
            slope, pullback = field.open_vjp(_node(t, t_next, h, c), stage_state)
            k.append(slope)
            pullbacks.append(pullback)

        d_stages: list[State] = []  # last stage first
        d_slope: State = []
        for i in reversed(range(len(nodes))):
            later = [row[i] for row in reversed(rows[i + 1 :])]
            d_slope = weighted_sum([weights[i], *later], [d_y1, *d_stages])
            if d_dense is not None:
                d_slope = _add_dense(d_slope, self.dense_weights[i], d_dense)
            d_slope = [scale(h, x) for x in d_slope]
            if carry is not None and i == self.tableau.num_stages - 1:
                assert d_carry is not None
                d_slope = add(d_slope, d_carry)
            if pullbacks[i] is not None:
                d_stage, d_more = pullbacks[i](d_slope)
                d_stages.append(d_stage)
                d_sources = add(d_sources, d_more)
        parts = [d_y1, *d_stages]
        if d_dense is not None:
            parts.append([x[0] for x in d_dense])
        return StepCotangents(
            y=weighted_sum([1.0] * len(parts), parts),
            carry=None if carry is None else d_slope,
            sources=d_sources,
            num_evaluations=len(d_stages),
        )

    def _transposed_stages(self, carry: State | None, d_dense: State | None):
        """Nodes, rows of a and weights b of the stages that `step_vjp` goes through."""
        tableau = self.tableau
        if carry is None:
            assert d_dense is None, "a dense solution needs the slope at the end, a carry"
            num = self._num_to_advance
            return tableau.c[:num], tableau.a[:num], tableau.b[:num]
        if d_dense is None:
            return tableau.c, tableau.a, tableau.b
        return (
            (*tableau.c, *self.extra_nodes),
            (*tableau.a, *self.extra_rows),
            (*tableau.b, *[0.0] * len(self.extra_nodes)),
        )


def _node(t: tf.Tensor, t_next: tf.Tensor, h: tf.Tensor, c: float) -> tf.Tensor:
    """The time of a stage."""
    # t + h can miss t_next by a rounding error, and f must not be evaluated beyond the end.
    return t_next if c == 1 else t + tf.constant(c, t.dtype) * h


def _add_dense(d_slope: State, weights: np.ndarray, d_dense: State) -> State:
    """Adds `sum_m weights[m] d_dense[m + 1]`."""
    if not np.any(weights):
        return d_slope
    return each(lambda x, d: x + interpolation.pull_back(weights, d[1:]), d_slope, d_dense)
