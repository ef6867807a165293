"""A Runge-Kutta method as the loops see it: tableau, orders and interpolant; no stepping."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tf_neuralode.solvers import interpolation, runge_kutta
from tf_neuralode.solvers.runge_kutta import State, advanced, scale, weighted_sum
from tf_neuralode.solvers.tableau import ButcherTableau


class TakenStep(NamedTuple):
    """Slopes of all stages (the last is f at the end of the step) and the state at the end."""

    k: list[State]
    y1: State


@dataclasses.dataclass(frozen=True)
class Method:
    """An explicit Runge-Kutta method with its error estimate and its dense output.

    Attributes:
      tableau: FSAL tableau (`ButcherTableau.with_fsal`).
      error_order: Order of the embedded solution, which governs the step size.
      dense_weights: `(num_stages + num_extra_stages, degree)`, see `interpolation`.
      extra_nodes, extra_rows: Stages that only dense output needs, as further rows of c and a.
      b_err_low: Weights of a second error estimate (DormandPrince8), or `None`.
    """

    tableau: ButcherTableau
    error_order: int
    dense_weights: np.ndarray
    extra_nodes: tuple[float, ...] = ()
    extra_rows: tuple[tuple[float, ...], ...] = ()
    b_err_low: tuple[float, ...] | None = None

    @property
    def num_evaluations_per_step(self) -> int:
        """Evaluations of f in a step from a state with a known slope."""
        return self.tableau.num_stages - 1

    @property
    def num_evaluations_to_advance(self) -> int:
        """Evaluations of f in `advance`."""
        return runge_kutta.num_stages_to_advance(self.tableau)

    @property
    def num_coefficients(self) -> int:
        """Items of a step's dense solution, see `interpolation`."""
        return self.dense_weights.shape[1] + 1

    def step(self, f, t, t_next, y: State, k0: State) -> TakenStep:
        """A whole step from `t`, where the slope is `k0`, to `t_next`."""
        k, stage_states = runge_kutta.stages(f, self.tableau, t, t_next, y, k0)
        return TakenStep(k, stage_states[-1])

    def advance(self, f, t, t_next, y: State) -> State:
        """The state at `t_next` alone, from the fewest evaluations of f."""
        return runge_kutta.advance(f, self.tableau, t, t_next, y, f(t, y))

    def error(self, taken: TakenStep, h, y: State, tolerances, norm) -> tf.Tensor:
        """The step's error in units of the tolerance: a step with at most 1 is good enough.

        Where `norm`, an `ErrorNorm`, looks at each sample, the largest of their errors.
        """

        def scaled_norm(weights):
            # h goes inside the norm: the square of a large slope can be more than the dtype holds.
            error = [scale(h, x) for x in weighted_sum(weights, taken.k)]
            return norm.of_samples(tolerances.scaled(error, y, taken.y1, noise))

        noise = tolerances.noise(taken.k[0], norm)
        if noise is not None:
            noise = [tf.abs(scale(h, x)) for x in noise]
        high = scaled_norm(self.tableau.b_err)
        if self.b_err_low is None:
            return norm.largest(high)
        # HNW, II.10, equation 10.17: the fifth-order estimate, damped by the third-order one.
        low = scaled_norm(self.b_err_low)
        denominator = tf.sqrt(high**2 + tf.constant(0.01, high.dtype) * low**2)
        safe = tf.where(denominator > 0, denominator, tf.ones_like(denominator))
        # A NaN stays one: the comparison is false for it, and it is in the numerator.
        return norm.largest(high**2 / safe)

    def dense_coefficients(self, f, taken: TakenStep, t, t_next, y: State) -> State:
        """The step's dense solution; evaluates f at the extra stages."""
        h = t_next - t
        k = list(taken.k)
        for c, row in zip(self.extra_nodes, self.extra_rows, strict=True):
            stage_state = advanced(y, h, row, k)
            k.append(f(t + tf.constant(c, t.dtype) * h, stage_state))
        return interpolation.coefficients(self.dense_weights, h, y, k)

    def dense_coefficients_if(self, needed, f, taken: TakenStep, t, t_next, y: State) -> State:
        """As `dense_coefficients`; zeros, without evaluating f, unless `needed`."""

        def compute():
            return self.dense_coefficients(f, taken, t, t_next, y)

        def zeros():
            return [tf.stack([tf.zeros_like(x)] * self.num_coefficients) for x in y]

        return tf.cond(needed, compute, zeros) if self.extra_nodes else compute()
