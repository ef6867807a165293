"""The reverse of one Runge-Kutta step, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_neuralode.gradients.vjp import open_vjp
from tf_neuralode.solvers import interpolation
from tf_neuralode.solvers.method import Method
from tf_neuralode.solvers.runge_kutta import OdeFn, State, advanced, scale, weighted_sum


def step_vjp(
    f: OdeFn,
    method: Method,
    t: tf.Tensor,
    t_next: tf.Tensor,
    y: State,
    sources: Sequence[tf.Tensor | tf.Variable],
    d_y1: State,
    d_dense: State | None,
    d_first_slope: State | None,
    d_sources: State,
) -> tuple[State, State]:
    """Vector-Jacobian product of the step from `t` to `t_next`.

    With stage states Y_i = y + h sum_j a_ij k_j, slopes k_i = f(t_i, Y_i),
    y1 = y + h sum_i b_i k_i, and for dense output coefficients[m] = h sum_i p_im k_i (m > 0),
    coefficients[0] = y:

        dL/dk_i = h (b_i lambda + sum_{l>i} a_li dL/dY_l + sum_m p_im dL/dcoefficients[m])
        dL/dY_i = f_y(t_i, Y_i)^T dL/dk_i,     dL/dparams += f_p(t_i, Y_i)^T dL/dk_i
        dL/dy   = lambda + sum_i dL/dY_i + dL/dcoefficients[0]

    The last slope of a step is the first of the next (FSAL). `end_slope_cotangent` has the former's
    share, which the next step's `d_first_slope` takes on, so that no stage is differentiated twice;
    where further stages follow the last, the step treats it itself.

    Taken stage by stage, the parameters' gradients are added up one at a time; a tape around the
    whole step would hold those of all stages at once.

    Args:
      f: `f(t, y)`, flat.
      method: The method.
      t, t_next, y: The step's ends and its state at `t`.
      sources: What f depends on besides.
      d_y1: Cotangent lambda of the state at `t_next`.
      d_dense: Cotangent of the step's dense solution, or `None`.
      d_first_slope: What the step before adds to the cotangent of the first slope, or `None`.
      d_sources: Gradients of the sources so far.

    Returns:
      Cotangent of y, and `d_sources` with the step's part added.
    """
    h = t_next - t
    nodes, rows, weights = _stages(method, dense=d_dense is not None)
    slopes: list[State] = []
    pullbacks = []
    for c, row in zip(nodes, rows, strict=True):
        stage_state = advanced(y, h, row, slopes) if slopes else y
        stage_time = t_next if c == 1 else t + tf.constant(c, t.dtype) * h
        slope, pullback = open_vjp(f, stage_time, stage_state, sources)
        slopes.append(slope)
        pullbacks.append(pullback)

    d_stages: list[State] = []  # last stage first
    for i in reversed(range(len(nodes))):
        later = [row[i] for row in reversed(rows[i + 1 :])]
        d_slope = weighted_sum([weights[i], *later], [d_y1, *d_stages])
        if d_dense is not None:
            d_slope = _add_dense(d_slope, method.dense_weights[i], d_dense)
        d_slope = [scale(h, x) for x in d_slope]
        if i == 0 and d_first_slope is not None:
            d_slope = [a + b for a, b in zip(d_slope, d_first_slope, strict=True)]
        d_stage, d_params = pullbacks[i](d_slope)
        d_stages.append(d_stage)
        d_sources = [a + b for a, b in zip(d_sources, d_params, strict=True)]
    parts = [d_y1, *d_stages]
    if d_dense is not None:
        parts.append([x[0] for x in d_dense])
    return weighted_sum([1.0] * len(parts), parts), d_sources


def hands_last_slope_on(method: Method) -> bool:
    """Whether the next step differentiates the last slope of this one, see `step_vjp`."""
    return not method.extra_nodes


def end_slope_cotangent(method: Method, h: tf.Tensor, d_dense: State) -> State:
    """Cotangent of a step's last slope, from that of its dense solution."""
    weights = method.dense_weights[method.tableau.num_stages - 1]
    return [scale(h, interpolation.pull_back(weights, d[1:])) for d in d_dense]


def num_evaluations_of_step_vjp(method: Method, dense: bool) -> int:
    """Evaluations of f in `step_vjp`, with a cotangent of the dense solution or without."""
    return len(_stages(method, dense)[0])


def _stages(method: Method, dense: bool):
    """Nodes, rows of a and weights b of the stages that `step_vjp` goes through."""
    tableau = method.tableau
    if dense and not hands_last_slope_on(method):
        return (
            (*tableau.c, *method.extra_nodes),
            (*tableau.a, *method.extra_rows),
            (*tableau.b, *[0.0] * len(method.extra_nodes)),
        )
    num = tableau.num_stages - 1 if dense else method.num_evaluations_to_advance
    return tableau.c[:num], tableau.a[:num], tableau.b[:num]


def _add_dense(d_slope: State, weights: np.ndarray, d_dense: State) -> State:
    """Adds `sum_m weights[m] d_dense[m + 1]`."""
    if not np.any(weights):
        return d_slope
    return [
        x + interpolation.pull_back(weights, d[1:]) for x, d in zip(d_slope, d_dense, strict=True)
    ]
