"""Random initial value problems for the property tests, with bounds of the error of a solve.

The bounds are Gronwall's: errors made at each step grow at most like exp(L |t - t0|), L a Lipschitz
constant of the field, known here for every drawn field.
"""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np
from modes import in_mode

from tf_neuralode import odeint

BATCH, WIDTH, HIDDEN = 4, 3, 5
TOLERANCE = 1e-9


def arrays(*shape, limit=1.0):
    """Float64 arrays with entries of at most `limit`, among them zeros and equal ones."""
    entries = st.floats(-limit, limit, width=32)
    return st_np.arrays("float64", shape, elements=entries)


states = arrays(BATCH, WIDTH, limit=2.0)
_SHAPES = ((WIDTH, HIDDEN), (HIDDEN, WIDTH))
weights = st.tuples(*[arrays(*shape, limit=0.5) for shape in _SHAPES])


@st.composite
def intervals(draw, num_times=2):
    """Times `(num_times,)` of an interval of length 0.1 to 1.5, forwards or backwards."""
    start = draw(st.floats(-2, 2, width=32))
    length = draw(st.floats(0.1, 1.5)) * draw(st.sampled_from([1, -1]))
    pieces = draw(st.lists(st.floats(0.2, 1), min_size=num_times - 1, max_size=num_times - 1))
    return start + length * np.concatenate([[0.0], np.cumsum(pieces) / np.sum(pieces)])


def net(t, y, weights):
    """Two layers, which time turns up and down; slopes in (-1, 1)."""
    first, second = weights
    return tf.tanh(tf.tanh(y @ first * tf.cos(t)) @ second)


# With the weights of a force.
driven_weights = st.tuples(*[arrays(*shape, limit=0.5) for shape in _SHAPES], arrays(WIDTH))
NO_NET = tuple(np.zeros(shape) for shape in (*_SHAPES, (WIDTH,)))


def driven_net(t, y, weights):
    """`net`, and a fast force in time, which the slope's derivative by y doesn't show.

    Slopes in (-2, 2). The force is there whatever was drawn: no solve can see how a force of zero
    would change.
    """
    *weights, force = weights
    return net(t, y, weights) + (1 + force) / 2 * tf.cos(100 * t)


def lipschitz(weights):
    """Of the fields in y: tanh and cos have derivatives and values of at most 1."""
    return float(np.prod([np.linalg.norm(matrix, 2) for matrix in weights[:2]]))


@functools.cache
def _solver_of_nets(solver, tolerance, mode):
    def solve(y0, times, weights):
        results = odeint(net, y0, times, weights, solver=solver, rtol=tolerance, atol=tolerance)
        return results.states, results.diagnostics

    return in_mode(solve, mode)


def solve_net(y0, times, weights, solver, tolerance=TOLERANCE, mode="graph"):
    """States at the times, and the number of steps. Traced once for each solver."""
    weights = tuple(map(tf.constant, weights))
    solve = _solver_of_nets(solver, tolerance, mode)
    states, diagnostics = solve(tf.constant(y0), tf.constant(times), weights)
    assert int(diagnostics.status) == 0
    return states.numpy(), int(diagnostics.num_accepted_steps)


def error_bound(y0, times, weights, num_steps, tolerance=TOLERANCE):
    """Largest error of any component after `num_steps` steps of an adaptive solver.

    A step is accepted at an RMS error of at most tolerance * (1 + |y|), so no component has more
    than the root of their number times that; |y| grows by the time passed, for slopes up to 1.
    """
    span = abs(times[-1] - times[0])
    local = tolerance * (1 + np.max(np.abs(y0)) + span) * np.sqrt(np.size(y0))
    return num_steps * local * np.exp(lipschitz(weights) * span)
