"""What must hold for any problem: random fields, intervals, batches, times and solvers, float64."""

import numpy as np
import pytest
import tensorflow as tf
from all_gradients import ALL_GRADIENTS
from all_solvers import ADAPTIVE_NAMES
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np
from modes import MODES, in_mode
from random_problems import (
    BATCH,
    NO_NET,
    WIDTH,
    arrays,
    driven_net,
    driven_weights,
    error_bound,
    intervals,
    lipschitz,
    net,
    solve_net,
    states,
    weights,
)
from scipy.linalg import expm

from tf_neuralode import odeint, solvers


def examples(number):
    """The same examples in every run; a first call traces or compiles, so no time limit."""
    return settings(max_examples=number, derandomize=True, deadline=None, database=None)


@examples(40)
@given(states, intervals(), weights, st.sampled_from(ADAPTIVE_NAMES))
def test_solving_forth_and_back_returns_the_initial_state(y0, times, weights, solver):
    there, num_there = solve_net(y0, times, weights, solver)
    back, num_back = solve_net(there[-1], times[::-1], weights, solver)
    bound = error_bound(y0, times, weights, num_there + num_back)
    np.testing.assert_allclose(back[-1], y0, rtol=0, atol=bound)


@examples(40)
@given(states, intervals(num_times=3), weights, st.sampled_from(ADAPTIVE_NAMES))
def test_splitting_an_interval_changes_nothing_beyond_the_tolerance(y0, times, weights, solver):
    whole, num_whole = solve_net(y0, times[[0, 2]], weights, solver)
    first, num_first = solve_net(y0, times[:2], weights, solver)
    second, num_second = solve_net(first[-1], times[1:], weights, solver)
    bound = error_bound(y0, times, weights, num_whole + num_first + num_second)
    np.testing.assert_allclose(second[-1], whole[-1], rtol=0, atol=bound)


@examples(40)
@given(states, intervals(num_times=4), weights, st.sampled_from(ADAPTIVE_NAMES))
def test_output_times_between_change_nothing_beyond_the_tolerance(y0, times, weights, solver):
    rows, num_rows = solve_net(y0, times, weights, solver)
    np.testing.assert_array_equal(rows[0], y0)
    for time, row in zip(times[1:], rows[1:], strict=True):
        state, num = solve_net(y0, np.array([times[0], time]), weights, solver)
        # The interpolant between steps is one order less exact than the steps: at 1e-9 at most
        # a hundred times, as test_accuracy.py measures.
        bound = 100 * error_bound(y0, times, weights, num_rows + num)
        np.testing.assert_allclose(state[-1], row, rtol=0, atol=bound)


@examples(40)
@given(states, intervals(), weights, st.permutations(range(BATCH)), st.sampled_from(ADAPTIVE_NAMES))
def test_permuting_a_batch_permutes_the_solution(y0, times, weights, order, solver):
    solution, num = solve_net(y0, times, weights, solver)
    permuted, num_permuted = solve_net(y0[order], times, weights, solver)
    bound = error_bound(y0, times, weights, num + num_permuted)
    np.testing.assert_allclose(permuted[-1], solution[-1][order], rtol=0, atol=bound)


@examples(30)
@given(states, intervals(), weights, st.sampled_from(ADAPTIVE_NAMES))
def test_splitting_a_batch_changes_nothing_beyond_the_tolerance(y0, times, weights, solver):
    solution, num = solve_net(y0, times, weights, solver)
    # Halves, so that the functions are traced for two sizes only.
    for half in (slice(0, BATCH // 2), slice(BATCH // 2, BATCH)):
        part, num_part = solve_net(y0[half], times, weights, solver)
        # Alone a sample has more weight in the norm: the whole batch's bound holds for both.
        bound = error_bound(y0, times, weights, num + num_part)
        np.testing.assert_allclose(part[-1], solution[-1][half], rtol=0, atol=bound)


# Linear fields

STRUCTURES = {
    "tensor": lambda y: y,
    "matrix": lambda y: tf.reshape(y, [1, 2, 2]),
    "tuple": lambda y: (y[:1], y[1:]),
    "dict": lambda y: {"a": y[0], "b": [y[1:3], tf.reshape(y[3:], [1, 1])]},
}


def joined(nest):
    """The leaves of a state as one vector."""
    return tf.concat([tf.reshape(leaf, [-1]) for leaf in tf.nest.flatten(nest)], axis=0)


def linear_bound(solver, size, dtype, norm, span):
    """Of the error for y' = A y, |A| = norm, |y0| = size, in the Euclidean norm.

    For equal steps: a method of order p with p stages sums exp(h A)'s series to the p-th term.
    """
    growth = np.exp(norm * span)
    eps = np.finfo(dtype).eps
    if isinstance(solver, solvers.FixedStepRungeKutta):
        num, p = solver.max_num_steps, solver.order
        h = span / num
        rest = (h * norm) ** (p + 1) / np.prod(range(1, p + 2)) * np.exp(h * norm)
        return num * (rest + 20 * eps) * growth * size
    # Fewer than 200 steps, each with an error of at most tolerance times 1 + |y|, and its rounding;
    # the interpolant a hundred times that, as above.
    return 200 * (100 * solver.rtol + 20 * eps) * growth * (1 + growth * size)


@examples(30)
@given(
    arrays(4, 4, limit=1.0),
    st_np.arrays("complex128", 4, elements=st.complex_numbers(max_magnitude=2, width=64)),
    st.integers(2, 5).flatmap(intervals),
    st.sampled_from(["float32", "float64", "complex64", "complex128"]),
    st.sampled_from(sorted(STRUCTURES)),
    st.sampled_from(solvers.names()),
)
def test_linear_fields_match_the_matrix_exponential(matrix, y0, times, dtype, structure, name):
    y0 = (y0 if dtype.startswith("complex") else y0.real).astype(dtype)
    single = dtype in ("float32", "complex64")
    tolerance = 1e-5 if single else 1e-7
    solver = solvers.get(name)
    if isinstance(solver, solvers.AdaptiveRungeKutta):
        solver = solvers.get(name, rtol=tolerance, atol=tolerance)
    nest = STRUCTURES[structure](tf.constant(y0))

    def field(t, y):
        del t
        slope = tf.linalg.matvec(tf.constant(matrix, dtype), joined(y))
        return STRUCTURES[structure](slope)

    results = odeint(field, nest, times, solver=solver)
    assert int(results.diagnostics.status) == 0
    tf.nest.assert_same_structure(results.states, nest)
    norm, span = np.linalg.norm(matrix, 2), abs(times[-1] - times[0])
    bound = linear_bound(solver, np.linalg.norm(y0), dtype, norm, span)
    for i, time in enumerate(times):
        row = tf.nest.map_structure(lambda leaf, i=i: leaf[i], results.states)
        for leaf, like in zip(tf.nest.flatten(row), tf.nest.flatten(nest), strict=True):
            assert leaf.shape == like.shape and leaf.dtype == like.dtype
        error = joined(row).numpy() - expm(matrix * (time - times[0])) @ y0
        if i == 0:
            np.testing.assert_array_equal(joined(row), y0)
        assert np.linalg.norm(error) <= bound


# Gradients and modes


def make_loss_and_gradients(field, gradient, solver, mode):
    """`(y0, times, weights) -> loss, gradients`, traced once."""

    def function(y0, times, weights):
        with tf.GradientTape() as tape:
            tape.watch([y0, times, weights])
            rows = odeint(field, y0, times, weights, solver=solver, gradient=gradient).states
            # Touches each row with another weight.
            loss = tf.einsum("t,tij->", tf.range(1.0, 4.0, dtype=rows.dtype), tf.sin(rows))
        return [loss, *tf.nest.flatten(tape.gradient(loss, [y0, times, weights]))]

    run = in_mode(function, mode)
    return lambda y0, times, weights: run(
        tf.constant(y0), tf.constant(times), tuple(map(tf.constant, weights))
    )


@pytest.mark.parametrize("gradient", [name for name in ALL_GRADIENTS if name != "tape"])
def test_each_gradient_agrees_with_tape(gradient):
    # The adjoint state asks for some ten steps, the force for 300.
    tolerance = 1e-8
    solver = solvers.DormandPrince(tolerance, tolerance)
    run = make_loss_and_gradients(driven_net, gradient, solver, "graph")
    run_tape = make_loss_and_gradients(driven_net, "tape", solver, "graph")

    @examples(15)
    @given(states, intervals(num_times=3), driven_weights)
    @example(np.ones((BATCH, WIDTH)), np.array([0.0, 0.4, 1.0]), NO_NET)  # constant adjoint state
    def check(y0, times, weights):
        # Up to 500 steps each way, of states that grow with slopes up to 2. The adjoint state grows
        # as errors do, like exp(L |dt|); so the errors of the state count with twice the exponent.
        # 6 is the loss's steepest slope.
        growth = np.exp(2 * lipschitz(weights) * abs(times[-1] - times[0]))
        size = 1 + np.max(np.abs(y0)) + 2 * abs(times[-1] - times[0])
        bound = 6 * 500 * tolerance * size * np.sqrt(y0.size) * growth
        for actual, expected in zip(
            run(y0, times, weights), run_tape(y0, times, weights), strict=True
        ):
            np.testing.assert_allclose(actual, expected, rtol=0, atol=bound)

    check()


@pytest.mark.parametrize(
    ("gradient", "solver"),
    [
        # Short, since they run eagerly, too, and of few stages, since XLA compiles them.
        ("adjoint", solvers.Bosh3(1e-3, 1e-3, max_num_steps=50)),
        ("tape", solvers.Bosh3(1e-4, 1e-4, max_num_steps=50)),
        ("interpolating_adjoint", solvers.Heun(4)),
        ("gauss_adjoint", solvers.Bosh3(1e-3, 1e-3, max_num_steps=50)),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_eager_graph_and_xla_agree(gradient, solver):
    runs = [make_loss_and_gradients(net, gradient, solver, mode) for mode in MODES]

    @examples(4)
    @given(states, intervals(num_times=3), weights)
    def check(y0, times, weights):
        eager, *others = [run(y0, times, weights) for run in runs]
        for other in others:
            for actual, expected in zip(other, eager, strict=True):
                # Rounding alone, 1e-16, amplified by the step-size control, which sees it too.
                np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)

    check()
