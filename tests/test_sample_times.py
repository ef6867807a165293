"""`odeint` with times of each sample: one solve, dense output at each sample's own times."""

import numpy as np
import pytest
import tensorflow as tf
from all_gradients import ALL_GRADIENTS
from gradient_problem import finite_differences
from modes import MODES, in_mode, pairs
from scipy.integrate import solve_ivp

from tf_neuralode import gradients, odeint, solvers

KEPT = gradients.Tape(checkpoint=False)
RNG = np.random.default_rng(0)
BATCH, NUM = 5, 7
Y0 = RNG.normal(size=(BATCH, 2))
A = np.array([[0.0, 1.0], [-2.0, -0.1]])
WEIGHTS = RNG.normal(size=(NUM, BATCH, 2))


def times_of_all_kinds():
    """Forwards, backwards, at rest, repeated, and padded at the end."""
    times = np.sort(RNG.uniform(0, 4, (NUM, BATCH)), axis=0)
    times[:, 1] *= -1
    times[:, 2] = times[0, 2]
    times[3] = times[2]
    times[-2:, 3] = times[-3, 3]
    times[1, 4] = times[0, 4]
    return times


TIMES = times_of_all_kinds()


def field(t, y, a):
    return tf.tanh(tf.matmul(y, a)) * tf.cos(t)[:, tf.newaxis]


def slope(t, y, a=A):
    return np.tanh(y @ a) * np.cos(t)


def reference(times, y0=Y0, a=A):
    """Each sample by SciPy, alone."""
    rows = np.empty((*times.shape, 2))
    for b, y in enumerate(y0):
        t = times[:, b]
        rows[:, b] = y
        if t[-1] != t[0]:
            ends = (t[0], t[-1])
            solution = solve_ivp(
                lambda t, y: slope(t, y, a), ends, y, "DOP853", dense_output=True,
                rtol=1e-12, atol=1e-12,
            )  # fmt: skip
            rows[:, b] = solution.sol(t).T
    return rows


ROWS = reference(TIMES)


def solve_with_gradients(gradient, mode, solver="dormand_prince", tolerance=1e-8, times=TIMES):
    def function(y0, times, a):
        with tf.GradientTape() as tape:
            tape.watch([y0, times, a])
            results = odeint(
                field, y0, times, a, solver=solver, gradient=gradient, batch_ndims=1,
                rtol=tolerance, atol=tolerance, compile=False,
            )  # fmt: skip
            loss = tf.reduce_sum(WEIGHTS[: len(TIMES)] * results.states)
        return results.states, tape.gradient(loss, [y0, times, a])

    inputs = [tf.constant(x) for x in (Y0, times, A)]
    return in_mode(function, mode)(*inputs)


@pytest.fixture(scope="module")
def exact_gradients():
    """Of y0 and a by differences of SciPy's solutions, of times by the field."""
    loss = lambda inputs: np.sum(WEIGHTS * reference(TIMES, *map(np.asarray, inputs)))
    d_y0, d_a = finite_differences(loss, [Y0, A], 1e-5)
    slopes = slope(TIMES[..., np.newaxis], ROWS)
    d_times = np.sum(WEIGHTS * slopes, axis=-1)
    through = d_y0 - WEIGHTS[0]
    d_times[0] = -np.sum(through * slope(TIMES[0][:, np.newaxis], Y0), axis=-1)
    return d_y0, d_times, d_a


@pytest.mark.parametrize(
    ("gradient", "mode"), pairs([*ALL_GRADIENTS, KEPT], MODES), ids=lambda x: str(x)
)
def test_rows_and_gradients_are_those_of_each_sample_alone(gradient, mode, exact_gradients):
    rows, found = solve_with_gradients(gradient, mode)
    # Errors of 1e-8 of some thirty steps; differences of size 1e-5 leave about 1e-9.
    np.testing.assert_allclose(rows, ROWS, atol=1e-6)
    for a, b in zip(found, exact_gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_a_sample_that_rests_has_all_its_rows_and_their_cotangents():
    rows, (d_y0, d_times, _) = solve_with_gradients("tape", "graph")
    np.testing.assert_array_equal(rows[:, 2], np.stack([Y0[2]] * NUM))
    np.testing.assert_allclose(d_y0[2], WEIGHTS[:, 2].sum(axis=0), rtol=1e-12)
    # A time of its own behind the start would move it all the same.
    slopes = slope(TIMES[1:, 2, np.newaxis], Y0[2])
    np.testing.assert_allclose(d_times[1:, 2], np.sum(WEIGHTS[1:, 2] * slopes, -1), rtol=1e-12)


@pytest.mark.parametrize("gradient", ["interpolating_adjoint", "gauss_adjoint", "tape"])
def test_several_segments_of_stored_steps_are_gone_through(gradient, exact_gradients):
    """Of 32 steps each: Bosh3 needs some hundreds; samples wait at a segment's start for others."""
    solver = solvers.Bosh3(1e-9, 1e-9, max_num_steps=2000)
    rows, found = solve_with_gradients(gradient, "graph", solver, None)
    np.testing.assert_allclose(rows, ROWS, atol=1e-6)
    for a, b in zip(found, exact_gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
@pytest.mark.parametrize("seed", range(5))
def test_no_row_is_further_off_than_in_a_solve_of_its_sample_alone(seed, tolerance):
    rng = np.random.default_rng(seed)
    y0, a = rng.normal(size=(BATCH, 2)), rng.normal(size=(2, 2))
    times = np.sort(rng.uniform(-3, 3, (20, BATCH)), axis=0) * rng.choice([1.0, -1.0], BATCH)
    exact = reference(times, y0, a)
    how = {"batch_ndims": 1, "rtol": tolerance, "atol": tolerance}
    together = np.abs(odeint(field, y0, times, a, **how).states - exact).max(axis=(0, 2))
    for b in range(BATCH):
        one = slice(b, b + 1)
        alone = odeint(field, y0[one], times[:, one], a, **how).states - exact[:, one]
        unit = tolerance * (1 + np.abs(exact[:, b]).max())
        assert together[b] <= 3 * max(np.abs(alone).max(), unit)


def test_evaluations_are_those_of_the_solve_without_output_times_between():
    def evaluations(times, counted):
        counter = tf.constant(0.0)
        with tf.GradientTape() as tape:
            y0 = tf.constant(Y0)
            tape.watch([y0, counter])
            results = odeint(
                field, y0, times, A, batch_ndims=1, backward_counter=counter, compile=False
            )
            loss = tf.reduce_sum(results.states)
        backward = tape.gradient(loss, counter)
        return int(results.diagnostics.num_ode_fn_evaluations), int(backward)

    rng = np.random.default_rng(1)
    ends = np.stack([np.zeros(BATCH), np.full(BATCH, 4.0)])
    alone = evaluations(ends, True)
    for num in (1, 10, 100):
        between = np.sort(rng.uniform(0, 4, (num, BATCH)), axis=0)
        times = np.concatenate([ends[:1], between, ends[1:]])
        found = evaluations(times, True)
        # Backwards, the slope at the end of a step and that at the start count as well.
        assert found[0] <= 1.1 * alone[0] and found[1] <= 1.1 * alone[1] + alone[0] // 6 + 1


def test_stored_adjoints_take_a_step_an_output_row_more_at_most():
    def backward(num, gradient):
        rng = np.random.default_rng(1)
        times = np.linspace(0, 4, num)[:, np.newaxis] * rng.uniform(0.5, 1, BATCH)
        counter = tf.constant(0.0)
        with tf.GradientTape() as tape:
            y0 = tf.constant(Y0)
            tape.watch([y0, counter])
            results = odeint(
                field, y0, times, A, batch_ndims=1, backward_counter=counter, gradient=gradient,
                compile=False,
            )  # fmt: skip
            loss = tf.reduce_sum(results.states)
        return int(tape.gradient(loss, counter))

    for gradient, nodes in (("interpolating_adjoint", 0), ("gauss_adjoint", 3)):
        two, many = backward(2, gradient), backward(30, gradient)
        # A step of Dormand-Prince evaluates 6 times, its start once, its quadrature at the nodes.
        assert many <= two + 28 * (7 + nodes)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("times", [[0.0, 1.0], [0.0, 0.4, 1.0]], ids=["ends", "between"])
@pytest.mark.parametrize("own", [False, True])
def test_a_dense_solution_is_differentiable_by_the_default_gradient(own, times, mode):
    """y = y0 exp(p t), so that all derivatives are known."""
    lengths = np.array([1.0, 0.5]) if own else np.ones(2)
    s = np.array([0.0, 0.3, 0.7, 1.0])
    s = s[:, np.newaxis] * lengths if own else s
    y0, rate = np.array([[1.0, 2.0], [3.0, -1.0]]), 0.7
    exact = y0 * np.exp(rate * s.reshape(4, -1, 1))
    weights = np.cos(np.arange(exact.size)).reshape(exact.shape)

    def function(y0, rate, s):
        t = tf.constant(times, tf.float64)
        t = t[:, tf.newaxis] * lengths if own else t
        with tf.GradientTape() as tape:
            tape.watch([y0, rate, s])
            results = odeint(
                lambda t, y, p: p * y, y0, t, rate, batch_ndims=int(own), dense_output=True,
                rtol=1e-9, atol=1e-9,
            )  # fmt: skip
            values = results.solution.evaluate(s)
            loss = tf.reduce_sum(weights * values) + tf.reduce_sum(results.solution.states[0])
        return values, tape.gradient(loss, [y0, rate, s])

    inputs = [tf.constant(x, tf.float64) for x in (y0, rate, s)]
    values, (d_y0, d_rate, d_s) = in_mode(function, mode)(*inputs)
    np.testing.assert_allclose(values, exact, rtol=1e-7)
    at = s.reshape(4, -1, 1)
    np.testing.assert_allclose(d_y0, np.sum(weights * np.exp(rate * at), 0) + 1, rtol=1e-6)
    np.testing.assert_allclose(d_rate, np.sum(weights * exact * at), rtol=1e-6)
    expected = np.sum(weights * exact * rate, axis=-1)
    expected = expected if own else expected.sum(axis=-1)
    np.testing.assert_allclose(d_s, expected, rtol=1e-5, atol=1e-6)


def test_a_dense_solution_of_own_times_is_nan_outside_of_each_samples_own():
    ends = np.array([[0.0, 1.0, 0.5], [2.0, -1.0, 0.5]])
    results = odeint(
        lambda t, y: -y, np.ones((3, 1)), ends, batch_ndims=1, dense_output=True, rtol=1e-9
    )
    assert results.solution.times.shape[1] == 3
    values = results.solution.evaluate([[-0.1, 1.1, 0.4], [1.0, 0.0, 0.5], [2.1, -1.1, 0.6]])
    assert np.isnan(values[[0, 2]]).all()
    np.testing.assert_allclose(values[1, :, 0], np.exp([-1.0, 1.0, 0.0]), rtol=1e-6)
    np.testing.assert_allclose(
        results.solution.evaluate(0.5)[:, 0], np.exp([-0.5, 0.5, 0.0]), rtol=1e-6
    )


@pytest.mark.parametrize("how", [{"compile": True}, {"compile": False}, {"solver": "rk4"}], ids=str)
def test_precision_of_far_times_is_that_of_their_own_dtype(how):
    """A second in float64 of 1.7e9: f gets it as near as float32 allows, the rest is exact."""
    since = np.array([[0.0, 0.0], [0.25, 1.0], [0.5, 3.0]])
    y0 = np.ones((2, 1), np.float32)
    results = odeint(lambda t, y: -y, y0, 1.7e9 + since, batch_ndims=1, **how)
    np.testing.assert_allclose(results.states[..., 0], np.exp(-since), rtol=2e-3)
    np.testing.assert_array_equal(results.times, 1.7e9 + since)
    np.testing.assert_array_equal(results.diagnostics.final_time, 1.7e9 + since[-1])


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_a_nest_of_states_some_of_one_number_a_sample(mode):
    def function(times):
        f = lambda t, y: {"a": -y["a"] * t, "b": tf.complex(0 * t, t)[:, tf.newaxis] * y["b"]}
        y0 = {"a": tf.ones([2], tf.float64), "b": tf.ones([2, 3], tf.complex128)}
        return odeint(f, y0, times, batch_ndims=1, rtol=1e-8, atol=1e-8).states

    times = np.array([[0.0, 1.0], [0.5, 1.5], [1.0, 3.0]])
    found = in_mode(function, mode)(tf.constant(times))
    grown = (times**2 - times[0] ** 2) / 2
    np.testing.assert_allclose(found["a"], np.exp(-grown), rtol=1e-6)
    np.testing.assert_allclose(found["b"], np.exp(1j * grown)[..., None] + np.zeros(3), rtol=1e-6)


BAD = [
    ({"batch_ndims": 0}, {}, "needs batch_ndims=1"),
    ({}, {"t": TIMES[:, :3]}, "a column for each sample"),
    ({}, {"t": np.stack([TIMES] * 2)}, "one-dimensional, or"),
    ({}, {"t": TIMES[[0, 2, 1, 3]]}, "for each sample. Sort each column"),
    ({}, {"t": np.array([[0.0] * BATCH, [1.0] * BATCH, [0.0] * BATCH])}, "for each sample"),
    ({}, {"t": TIMES * np.nan}, "must be finite"),
]


@pytest.mark.parametrize(("how", "arguments", "message"), BAD)
def test_bad_times_are_named(how, arguments, message):
    how = {"batch_ndims": 1, **how}
    with pytest.raises(ValueError, match=message):
        odeint(field, Y0, arguments.get("t", TIMES), A, **how)


def test_bad_times_of_a_graph_are_an_error_as_it_runs_and_nan_under_xla():
    solve = lambda t: odeint(field, tf.constant(Y0), t, A, batch_ndims=1).states
    bad = tf.constant(TIMES[[0, 2, 1, 3]])
    with pytest.raises(tf.errors.InvalidArgumentError, match="Sort each column"):
        in_mode(solve, "graph")(bad)
    assert np.isnan(in_mode(solve, "xla")(bad)).all()
