"""Output times, dense output, and where and how often f is evaluated."""

import numpy as np
import pytest
import tensorflow as tf
from modes import MODES, in_mode, pairs

from tf_neuralode import odeint, solvers
from tf_neuralode.stepping import status

ALL = solvers.names()
FREE_OUTPUT = [name for name in ALL if name != "dormand_prince8"]
TIGHT = {"rtol": 1e-9, "atol": 1e-9}
# 0.1 and 0.7 are no binary fractions: sums of steps miss them by rounding.
FORWARDS, BACKWARDS = (0.1, 0.7), (0.7, 0.1)
INTERVALS = (FORWARDS, BACKWARDS)


def rough(t, y):
    """With a kink, at which the adaptive methods reject steps."""
    return tf.where(t < 0.4, -y, 50 * (tf.cos(40 * t) - y))


def smooth(t, y):
    return y * tf.cos(t)


def smooth_solution(t):
    """For y(0) = 1."""
    return np.exp(np.sin(t))


class Recorded:
    """A field that keeps the times at which it was evaluated: for eager mode."""

    def __init__(self, f):
        self.f = f
        self.times = []

    def __call__(self, t, y):
        if tf.executing_eagerly():  # not where the solve looks what f closes over
            self.times.append(float(t))
        return self.f(t, y)


def make(name, **settings):
    if name == "bosh3" and settings == TIGHT:
        # Order three would take thousands of steps; the errors stay below the limits of the others.
        settings = {"rtol": 1e-7, "atol": 1e-7}
    solver = type(solvers.get(name))
    return solver(**settings) if issubclass(solver, solvers.AdaptiveRungeKutta) else solver(40)


@pytest.mark.parametrize(("name", "dense_output", "num_times"), pairs(ALL, [False, True], [2, 5]))
def test_number_of_evaluations_is_exact(name, dense_output, num_times):
    f = Recorded(rough)
    results = odeint(
        f, tf.ones([2], tf.float64), np.linspace(*FORWARDS, num_times),
        solver=make(name, rtol=1e-4, atol=1e-6), dense_output=dense_output,
    )  # fmt: skip
    diagnostics = results.diagnostics
    assert diagnostics.num_ode_fn_evaluations == len(f.times)
    if issubclass(type(solvers.get(name)), solvers.AdaptiveRungeKutta):
        assert diagnostics.num_rejected_steps > 0, "the case has to have rejected steps"


@pytest.mark.parametrize(("name", "num_times", "interval"), pairs(ALL, [2, 5], INTERVALS))
def test_f_is_not_evaluated_outside_the_interval(name, num_times, interval):
    f = Recorded(lambda t, y: tf.where(t < 0.4, -y, 5 * (tf.cos(40 * t) - y)))
    results = odeint(
        f, tf.ones([2], tf.float64), np.linspace(*interval, num_times),
        solver=make(name), dense_output=num_times > 2,
    )  # fmt: skip
    assert results.diagnostics.status == status.SUCCESS
    assert min(f.times) >= min(interval) and max(f.times) <= max(interval)


@pytest.mark.parametrize(("name", "mode", "interval"), pairs(ALL, MODES, INTERVALS))
def test_last_step_ends_on_the_final_time(name, interval, mode):
    run = in_mode(
        lambda y0: odeint(smooth, y0, interval, solver=make(name)).diagnostics.final_time, mode
    )
    assert run(tf.ones([], tf.float64)) == interval[1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ALL)
def test_solve_backwards_undoes_the_solve_forwards(name, mode):
    # Order 1 has an error of 1e-2 with 40 steps, the others less.
    tolerance = {"euler": 0.1, "midpoint": 1e-3, "heun": 1e-3}.get(name, 1e-6)
    times = [1.5, 1.2, 0.4, 0.0]
    run = in_mode(lambda y: odeint(smooth, y, times, solver=make(name, **TIGHT)).states, mode)
    states = run(tf.constant(smooth_solution(1.5)))
    np.testing.assert_allclose(states, smooth_solution(np.array(times)), atol=tolerance)


@pytest.mark.parametrize("mode", ["graph", "xla"])
@pytest.mark.parametrize("name", FREE_OUTPUT)
def test_number_of_evaluations_does_not_depend_on_the_number_of_output_times(name, mode):
    y0 = tf.ones([3], tf.float64)
    counts = set()
    for num_outputs in (1, 10, 1000) if mode == "graph" else (1, 1000):
        times = np.linspace(0.0, 10.0, num_outputs + 1)
        run = in_mode(
            lambda y0, times=times: odeint(smooth, y0, times, solver=make(name))[1:3], mode
        )
        states, diagnostics = run(y0)
        # Hermite output needs the slope at the end of a step, which is that at the start of the
        # next one: a fixed-step solve, which skips the last slope, has one evaluation more.
        extra = num_outputs > 1 and isinstance(make(name), solvers.FixedStepRungeKutta)
        counts.add(int(diagnostics.num_ode_fn_evaluations) - extra)
        assert not np.any(np.isnan(states))
    assert len(counts) == 1


def test_dormand_prince8_takes_three_evaluations_a_step_for_output_times_between():
    counts = []
    for num_outputs in (1, 10, 100, 1000):
        times = np.linspace(0.0, 10.0, num_outputs + 1)
        run = in_mode(
            lambda y0, times=times: odeint(smooth, y0, times, solver="dormand_prince8"), "graph"
        )
        diagnostics = run(tf.ones([3], tf.float64)).diagnostics
        extra = 3 * diagnostics.num_accepted_steps if num_outputs > 1 else 0
        counts.append(int(diagnostics.num_ode_fn_evaluations - extra))
    assert len(set(counts)) == 1


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_times_and_batch_may_be_known_at_run_time_only(mode):
    signature = [tf.TensorSpec([None, 2], tf.float64), tf.TensorSpec([None], tf.float64)]

    @tf.function(input_signature=signature, jit_compile=mode == "xla", autograph=False)
    def run(y0, times):
        results = odeint(smooth, y0, times, solver=solvers.Tsit5(**TIGHT), dense_output=True)
        return results.states, results.solution.evaluate([0.25, 0.75])

    for times in ([0.0, 1.0], [0.0, 0.1, 0.3, 1.0], [1.0, 0.0]):
        times = np.array(times)
        for batch in (1, 3):
            y0 = np.full([batch, 2], smooth_solution(times[0]))
            states, between = run(tf.constant(y0), tf.constant(times))
            assert states.shape == (len(times), batch, 2)
            exact = smooth_solution(times)[:, None, None] * np.ones([batch, 2])
            # Local tolerance 1e-9, some thirty steps.
            np.testing.assert_allclose(states, exact, rtol=1e-7)
            exact = smooth_solution(np.array([0.25, 0.75]))[:, None, None]
            np.testing.assert_allclose(between, exact * np.ones([batch, 2]), rtol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_output_time_equal_to_the_initial_time_is_the_initial_state(name):
    y0 = tf.constant([1.0, 2.0], tf.float64)
    results = make(name, **TIGHT).solve(smooth, 0.0, y0, [0.0, 0.5, 1.0])
    np.testing.assert_array_equal(results.states[0], y0)
    exact = smooth_solution(np.array([0.5, 1.0]))[:, None] * y0.numpy()
    tolerance = {"euler": 0.1, "midpoint": 1e-3, "heun": 1e-3}.get(name, 1e-6)
    np.testing.assert_allclose(results.states[1:], exact, atol=tolerance)


@pytest.mark.parametrize("mode", MODES)
def test_first_and_last_time_have_gradients(mode):
    def run(times):
        with tf.GradientTape() as tape:
            tape.watch(times)
            y0 = tf.ones([], tf.float64)
            end = odeint(smooth, y0, times, solver=solvers.Tsit5(**TIGHT)).states[-1]
        return tape.gradient(end, times)

    first, last = 0.3, 1.7
    gradient = in_mode(run, mode)(tf.constant([first, last], tf.float64))
    end = np.exp(np.sin(last) - np.sin(first))
    np.testing.assert_allclose(gradient, [-end * np.cos(first), end * np.cos(last)], rtol=1e-7)


@pytest.mark.parametrize(("name", "mode", "direction"), pairs(ALL, MODES, [1, -1]))
def test_dense_solution_can_be_evaluated_anywhere(name, direction, mode):
    end = 2.0 * direction
    inside = direction * np.array([0.0, 0.123, 1.0, 1.999, 2.0])

    def run(y0):
        solution = odeint(
            smooth, y0, [0.0, end], solver=make(name, **TIGHT), dense_output=True
        ).solution
        at = [solution.evaluate(t) for t in (inside, inside[1], [-0.1 * direction, 1.01 * end])]
        return *at, solution.times, solution.states, solution.num_accepted_steps

    vector, scalar, outside, times, states, num_steps = in_mode(run, mode)(
        tf.constant([1.0, 2.0], tf.float64)
    )
    scale = np.array([1.0, 2.0])
    # Inside long steps the interpolant, of a lower order, is worse than the tolerance of 1e-9.
    tolerance = {"euler": 0.2, "midpoint": 5e-3, "heun": 5e-3, "rk4": 1e-5}.get(name, 1e-6)
    np.testing.assert_allclose(vector, smooth_solution(inside)[:, None] * scale, atol=tolerance)
    np.testing.assert_allclose(scalar, smooth_solution(inside[1]) * scale, atol=tolerance)
    assert np.all(np.isnan(outside))
    n = int(num_steps)
    room = make(name).max_num_steps if mode == "xla" else n
    assert times.shape == (room + 1,) and states.shape == (room + 1, 2)
    assert times[0] == 0 and times[n] == end and np.all(times[n:] == end)
    exact = smooth_solution(times.numpy())[:, None] * scale
    np.testing.assert_allclose(states, exact, atol=tolerance)


@pytest.mark.parametrize("mode", MODES)
def test_failed_solve_keeps_what_it_reached_and_leaves_nan_behind(mode):
    def run(y0):
        results = odeint(
            lambda t, y: tf.where(t < 0.5, -y, np.nan), y0, [0.0, 0.2, 0.4, 0.6, 1.0],
            solver=solvers.Tsit5(**TIGHT), dense_output=True,
        )  # fmt: skip
        return *results[1:3], results.solution.evaluate([0.3, 0.7])

    states, diagnostics, between = in_mode(run, mode)(tf.ones([2], tf.float64))
    assert diagnostics.status == status.NOT_FINITE
    np.testing.assert_allclose(states[:3, 0], np.exp([0.0, -0.2, -0.4]), rtol=1e-7)
    assert np.all(np.isnan(states[3:]))
    np.testing.assert_allclose(between[0, 0], np.exp(-0.3), rtol=1e-7)
    assert np.all(np.isnan(between[1]))


@pytest.mark.parametrize("mode", MODES)
def test_dense_solution_of_a_solve_that_fails_at_once_is_nan(mode):
    def run(y0):
        solver = solvers.Tsit5(**TIGHT, first_step_size=1.0, max_num_steps=1)
        results = odeint(
            lambda t, y: 1e3 * y, y0, [0.0, 0.5, 1.0], solver=solver, dense_output=True
        )
        return *results[1:3], results.solution.evaluate([0.5, 1.0])

    states, diagnostics, between = in_mode(run, mode)(tf.ones([2], tf.float64))
    assert diagnostics.num_accepted_steps == 0
    assert np.all(np.isnan(states[1:])) and np.all(np.isnan(between))


@pytest.mark.parametrize("gradient", ["tape", "interpolating_adjoint", "gauss_adjoint"])
def test_dense_output_goes_with_the_gradients_that_store_the_solution(gradient):
    y0 = tf.ones([1], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(y0)
        results = odeint(
            lambda t, y: -y, y0, [0.0, 1.0], solver=solvers.DormandPrince(1e-8, 1e-8),
            gradient=gradient, dense_output=True,
        )  # fmt: skip
        end = results.states[-1]
    # Ten tolerances.
    np.testing.assert_allclose(results.solution.evaluate([0.3])[0], [np.exp(-0.3)], atol=1e-7)
    np.testing.assert_allclose(tape.gradient(end, y0), [np.exp(-1.0)], atol=1e-7)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("end", [tf.identity, tf.Variable], ids=["tensor", "variable"])
def test_a_time_that_is_a_tensor_in_a_list_has_its_gradient(end, mode):
    t1 = end(tf.constant(1.0, tf.float64))

    def function():
        with tf.GradientTape() as tape:
            tape.watch(t1)
            y = odeint(lambda t, y: -y, tf.ones([], tf.float64), [0.0, t1], **TIGHT).states[-1]
        return tape.gradient(y, t1)

    np.testing.assert_allclose(in_mode(function, mode)(), -np.exp(-1), rtol=1e-8)
