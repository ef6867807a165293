"""States of any shape, structure and dtype; tolerances by component; one result in every mode."""

import numpy as np
import pytest
import tensorflow as tf
from modes import MODES, in_mode, pairs

from tf_neuralode import odeint, solvers
from tf_neuralode.stepping import status

ALL = solvers.names()
TIGHT = {"rtol": 1e-9, "atol": 1e-9}
DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")


def decay(t, y):
    del t
    return tf.nest.map_structure(lambda x: -x, y)


def nonlinear(t, y):
    return tf.tanh(tf.reverse(y, [-1]) * tf.cos(3 * t)) - 0.1 * y


@pytest.mark.parametrize("name", ALL)
def test_every_mode_takes_the_same_steps(name):
    y0 = tf.constant(np.random.default_rng(0).normal(size=(4, 3)))
    solver = type(solvers.get(name))()
    found = []
    for mode in MODES:
        run = in_mode(lambda y0: odeint(nonlinear, y0, [0.0, 1.0, 5.0], solver=solver)[1:3], mode)
        states, diagnostics = run(y0)
        found.append((states.numpy(), [int(x) for x in diagnostics]))
    for states, diagnostics in found[1:]:
        assert diagnostics == found[0][1]
        # Rounding of float64: it moves the steps a little, too, and with them the solver's error.
        np.testing.assert_allclose(states, found[0][0], rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "dtype", "mode"), pairs(["dormand_prince", "dormand_prince8", "rk4"], DTYPES, MODES)
)
def test_dtype_of_the_state_is_kept_and_its_precision_reached(name, dtype, mode):
    def f(t, y):
        # Time is held in at least float32, the slope in the state's own dtype.
        assert t.dtype.size >= 4 and y.dtype == dtype
        return -y

    run = in_mode(lambda y0: odeint(f, y0, [0.0, 0.5, 1.0], solver=name)[1:3], mode)
    states, diagnostics = run(tf.constant([1.0, 2.0], dtype))
    assert states.dtype == dtype and diagnostics.status == status.SUCCESS
    assert diagnostics.final_time.dtype.size >= 4
    # A few units in the last place of the 16 bits, or the tolerance of 1e-3. Slopes are rounded to
    # 16 bits, too, which a step adds up with its weights b: one over the whole interval.
    tolerance = {"float16": 2e-3, "bfloat16": 1e-2}.get(dtype, 1e-3)
    rounding = {"float16": 2.0**-11, "bfloat16": 2.0**-8}.get(dtype, 0.0)
    tolerance = max(tolerance, rounding * np.abs(solvers.get(name).tableau.b).sum())
    exact = np.outer(np.exp([0.0, -0.5, -1.0]), [1.0, 2.0])
    np.testing.assert_allclose(tf.cast(states, tf.complex128), exact, rtol=tolerance)


def test_sixteen_bits_do_not_swallow_small_steps():
    # 2000 steps of 5e-4 each add less to y than bfloat16 resolves.
    y0 = tf.ones([1], tf.bfloat16)
    results = odeint(lambda t, y: tf.ones_like(y), y0, [0.0, 1.0], solver=solvers.Euler(2000))
    assert results.states[-1, 0] == 2


@pytest.mark.parametrize("mode", MODES)
def test_complex_state_turns_on_the_unit_circle(mode):
    def run(y0):
        return odeint(lambda t, y: 1j * y, y0, [0.0, 3.0], solver=solvers.Tsit5(**TIGHT)).states

    states = in_mode(run, mode)(tf.ones([1], tf.complex128))
    np.testing.assert_allclose(states[-1], [np.exp(3j)], atol=1e-7)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["tsit5", "dormand_prince8", "euler"])
def test_nest_is_solved_as_its_leaves_would_be(name, mode):
    y0 = {
        "scalar": tf.constant(1.0, tf.float64),
        "pair": (tf.constant([1.0, 2.0], tf.float32), tf.ones([2, 1, 3], tf.float16)),
    }
    results = in_mode(lambda y0: odeint(decay, y0, [0.0, 0.5, 1.0], solver=name)[1:3], mode)(y0)
    states, diagnostics = results
    tf.nest.assert_same_structure(states, y0)
    assert diagnostics.status == status.SUCCESS
    for leaf, start in zip(tf.nest.flatten(states), tf.nest.flatten(y0), strict=True):
        assert leaf.dtype == start.dtype and leaf.shape == (3, *start.shape)
        exact = np.exp(-1.0) * start.numpy()
        # Euler with 20 steps is off by 0.01; the others by rounding of 16 bits or the tolerance.
        tolerance = 0.05 if name == "euler" else 5e-3
        np.testing.assert_allclose(leaf[-1].numpy(), exact, rtol=tolerance)


SHAPES = [(), (0,), (0, 3), (1,), (2, 1, 3, 2)]


@pytest.mark.parametrize(("name", "shape", "mode"), pairs(["dormand_prince", "rk4"], SHAPES, MODES))
def test_state_of_any_shape_is_solved(name, shape, mode):
    def run(y0):
        results = odeint(decay, y0, [0.0, 0.5, 1.0], solver=name, dense_output=True)
        return *results[1:3], results.solution.evaluate(0.5)

    states, diagnostics, between = in_mode(run, mode)(tf.ones(shape, tf.float64))
    assert states.shape == (3, *shape) and between.shape == shape
    assert diagnostics.status == status.SUCCESS
    np.testing.assert_allclose(states[-1], np.full(shape, np.exp(-1.0)), rtol=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_tolerances_by_component_govern_each_component(mode):
    def solve(rtol, atol):
        solver = solvers.Tsit5(rtol, atol)
        f = lambda t, y: tf.stack([tf.cos(t), 20 * tf.cos(20 * t)])
        run = in_mode(lambda y0: odeint(f, y0, [0.0, 1.0], solver=solver)[1:3], mode)
        states, diagnostics = run(tf.zeros([2], tf.float64))
        return np.abs(states[-1] - np.sin([1.0, 20.0])), int(diagnostics.num_accepted_steps)

    _, both = solve(1e-6, 1e-6)
    _, same = solve([1e-6, 1e-6], np.array([1e-6, 1e-6]))
    (slow_error, _), loose = solve([1e-6, 1e3], [1e-6, 1e3])
    assert both == same
    # The fast component doesn't count any more, and the slow one is as accurate as was asked.
    assert loose < both / 4
    assert slow_error < 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_tolerances_and_norms_see_the_shape_of_the_state(mode):
    """XLA's loops hold a state as a vector, which nobody outside of them is to notice."""
    rates = tf.constant([[1.0, 20.0]] * 3, tf.float64)
    seen = []

    def norm(scaled):
        seen.append(tuple(scaled.shape))
        return tf.sqrt(tf.reduce_mean(scaled**2))

    def num_steps(tolerance, **settings):
        solver = solvers.Tsit5(tolerance, tolerance, **settings)
        f = lambda t, y: rates * tf.cos(rates * t)
        run = in_mode(lambda y0: odeint(f, y0, [0.0, 1.0], solver=solver)[2], mode)
        return int(run(tf.zeros([3, 2], tf.float64)).num_accepted_steps)

    both = num_steps(1e-6)
    assert num_steps(np.full([3, 1], 1e-6)) == both
    assert num_steps([1e-6, 1e3]) < both / 4
    assert num_steps(1e-6, norm=norm) == both
    assert set(seen) == {(3, 2)}


def test_tolerances_take_the_structure_of_the_state():
    y0 = {"slow": tf.zeros([1], tf.float64), "fast": tf.zeros([], tf.float64)}

    def f(t, y):
        return {"slow": tf.cos(t)[None], "fast": 20 * tf.cos(20 * t)}

    def solve(tolerance):
        results = odeint(f, y0, [0.0, 1.0], rtol=tolerance, atol=tolerance)
        return int(results.diagnostics.num_accepted_steps)

    both = solve(1e-6)
    assert solve({"slow": 1e-6, "fast": 1e-6}) == both
    assert solve({"slow": [1e-6], "fast": 1e3}) < both / 4


@pytest.mark.parametrize(
    ("rtol", "message"),
    [
        ([1e-3, 1e-3, 1e-3], "Argument rtol must broadcast against the state"),
        (np.full([4, 2], 1e-3), "Argument rtol must broadcast against the state"),
        ({"a": 1e-3}, "Argument rtol must be a number, an array, or have the structure"),
    ],
)
def test_tolerance_that_does_not_fit_the_state_raises_an_error(rtol, message):
    with pytest.raises(ValueError, match=message):
        odeint(decay, tf.ones([2]), [0.0, 1.0], rtol=rtol)


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda t, y: y[:1], r"state of shape \(2,\).* output of shape \(1,\)"),
        (lambda t, y: tf.cast(y, tf.float64), "state .*float32, output .*float64"),
        (lambda t, y: (y, y), r"state of shape \(2,\).* output of shape \(2, 2\)"),
        (lambda t, y: (y, y[:1]), "must return the structure of the state"),
        (lambda t, y: {"y": y}, "must return the structure of the state"),
    ],
)
def test_field_whose_output_is_not_like_the_state_raises_an_error(f, message):
    with pytest.raises(ValueError, match=message):
        odeint(f, tf.ones([2]), [0.0, 1.0])
