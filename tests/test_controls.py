"""Interpolants of signals, against SciPy's, and in a field."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from scipy import interpolate

from tf_neuralode import controls, odeint

RNG = np.random.default_rng(0)
KINDS = [controls.Linear, controls.Hermite, controls.Natural, controls.Previous]
SMOOTH = [controls.Hermite, controls.Natural]
KNOTS = np.cumsum(RNG.uniform(0.2, 1.0, 9)) - 1.0
BETWEEN = np.sort(RNG.uniform(KNOTS[0], KNOTS[-1], 40))


def by_scipy(kind, knots, values):
    """A function of times, and its derivative, through values of one channel."""
    if kind is controls.Previous:
        step = interpolate.interp1d(
            knots, values, "previous", fill_value="extrapolate", assume_sorted=True
        )
        return step, lambda t: np.zeros_like(t)
    if kind is controls.Natural:
        spline = interpolate.CubicSpline(knots, values, bc_type="natural")
    else:
        slopes = np.diff(values) / np.diff(knots)
        if kind is controls.Linear:
            spline = interpolate.PPoly(np.stack([slopes, values[:-1]]), knots)
        else:
            at_knots = np.concatenate([slopes[:1], slopes])
            spline = interpolate.CubicHermiteSpline(knots, values, at_knots)
    return spline, spline.derivative()


def in_mode(mode, f):
    if mode == "eager":
        return f
    return tf.function(f, jit_compile=mode == "xla", autograph=False)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("kind", KINDS)
def test_signals_are_those_of_scipy(kind, mode):
    values = RNG.normal(size=(9, 3))

    def both(values, t):
        signal = kind(KNOTS, values)
        return signal(t), signal.derivative(t)

    signal, slope = in_mode(mode, both)(tf.constant(values), tf.constant(BETWEEN))
    assert signal.shape == (40, 3)
    for channel in range(3):
        expected, expected_slope = by_scipy(kind, KNOTS, values[:, channel])
        np.testing.assert_allclose(signal[:, channel], expected(BETWEEN), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(
            slope[:, channel], expected_slope(BETWEEN), rtol=1e-11, atol=1e-11
        )


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own_knots", [False, True])
def test_each_sample_has_its_own_signal(kind, own_knots, mode):
    knots = np.stack([KNOTS, KNOTS[0] + 1.5 * (KNOTS - KNOTS[0])]) if own_knots else KNOTS
    values, t = RNG.normal(size=(2, 9, 3)), np.array([0.1, 1.7])
    signal = in_mode(mode, lambda values, t: kind(knots, values)(t))
    of_each, of_one = (
        signal(tf.constant(values), tf.constant(t)),
        signal(values, tf.constant(0.4, tf.float64)),
    )
    for sample in range(2):
        own = knots[sample] if own_knots else knots
        for channel in range(3):
            expected, _ = by_scipy(kind, own, values[sample, :, channel])
            np.testing.assert_allclose(of_each[sample, channel], expected(t[sample]), rtol=1e-12)
            np.testing.assert_allclose(of_one[sample, channel], expected(0.4), rtol=1e-12)


def test_a_signal_of_numbers_has_no_channels():
    signal = controls.Linear([0.0, 1.0, 3.0], [0.0, 2.0, 4.0])
    assert signal(2.0).shape == ()
    np.testing.assert_allclose(signal([[0.5, 2.0]]), [[1.0, 3.0]])
    np.testing.assert_allclose(signal.derivative([0.5, 2.0]), [2.0, 1.0])


@pytest.mark.parametrize("how", ["NaN", "mask", "mask of knots"])
@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("kind", KINDS)
def test_where_values_are_missing_the_signal_is_that_of_the_others(kind, mode, how):
    values, there = RNG.normal(size=(2, 9, 3)), RNG.uniform(size=(2, 9, 3)) < 0.6
    if how == "mask of knots":
        there[:] = there[..., :1]
    there[:, 4:6] = True  # two of each, that needn't be at the ends
    given = np.where(there, values, np.nan if how == "NaN" else 1e3)
    mask = {"NaN": None, "mask": there, "mask of knots": there[..., 0]}[how]
    signal = in_mode(mode, lambda given, t: kind(KNOTS, given, mask)(t))
    rows = np.stack([signal(tf.constant(given), tf.constant(t)) for t in BETWEEN])
    for sample in range(2):
        for channel in range(3):
            ok = there[sample, :, channel]
            known = values[sample, ok, channel]
            full = np.where(ok, values[sample, :, channel], 0.0)
            full[0] = known[0]  # the nearest value is held at both ends
            full[-1] = known[-1]
            ok[[0, -1]] = True
            if kind is controls.Hermite:
                full, ok = np.interp(KNOTS, KNOTS[ok], full[ok]), np.ones(9, bool)
            expected, _ = by_scipy(kind, KNOTS[ok], full[ok])
            np.testing.assert_allclose(
                rows[:, sample, channel], expected(BETWEEN), rtol=1e-10, atol=1e-10
            )


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_channel_without_values_spoils_itself_alone(kind, mode):
    values = np.ones([2, 9, 2])
    values[1, :, 0] = np.nan
    signal = in_mode(mode, lambda values: kind(KNOTS, values)(0.3))(tf.constant(values))
    np.testing.assert_allclose(signal, [[1.0, 1.0], [np.nan, 1.0]])


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_values_and_knots_are_those_of_differences(kind, missing):
    values = RNG.normal(size=(2, 9, 2))
    mask = np.ones([2, 9, 2], bool)
    if missing:
        mask[:, 2:4, 0] = mask[0, 6] = False
    times = tf.constant(np.stack([KNOTS, KNOTS]))

    def at_some_times(values, times):
        signal = kind(times, values, mask)
        return tf.stack([signal(t) * signal(t) + signal.derivative(t) for t in (0.21, 1.13)])

    theory, numeric = tf.test.compute_gradient(
        in_mode("graph", at_some_times), [tf.constant(values), times], delta=1e-5
    )
    for one, other in zip(theory, numeric, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_outside_of_its_knots_a_signal_is_an_error(kind):
    signal = kind(KNOTS, RNG.normal(size=(9, 2)))
    before, behind = tf.constant(KNOTS[0] - 0.1), tf.constant(KNOTS[-1] + 0.1)
    for t in (before, behind):
        if kind is controls.Previous and t is behind:
            np.testing.assert_array_equal(signal(t), signal(KNOTS[-1]))
            continue
        with pytest.raises(
            ValueError, match=r"no value outside of its knots.*Received: knots from"
        ):
            signal(t)
        for mode in ("graph", "xla"):
            assert np.isnan(in_mode(mode, signal)(t)).all()
    assert np.isfinite(signal(KNOTS[0])).all() and np.isfinite(signal(KNOTS[-1])).all()


@pytest.mark.parametrize("kind", KINDS)
def test_bad_knots_are_an_error(kind):
    with pytest.raises(ValueError, match=r"times must rise.*Received: times=.*0\.5"):
        kind([0.0, 1.0, 0.5], np.zeros(3))
    with pytest.raises(
        ValueError, match=r"times must have shape .*Received: times of shape \(2,\)"
    ):
        kind([0.0, 1.0], np.zeros([3, 1]))
    with pytest.raises(ValueError, match="values must be floating point"):
        kind([0.0, 1.0], [1, 2])
    with pytest.raises(ValueError, match="mask must have the shape"):
        kind([0.0, 1.0], np.zeros([2, 3]), np.ones([2, 4], bool))
    if kind is not controls.Previous:
        with pytest.raises(ValueError, match="needs 2 knots"):
            kind([0.0], np.zeros([1, 3]))
    knots = tf.constant([0.0, 1.0, 0.5], tf.float64)
    bad = lambda knots: kind(knots, tf.zeros([3, 1], tf.float64))(0.2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="must rise"):
        in_mode("graph", bad)(knots)
    assert np.isnan(in_mode("xla", bad)(knots)).all()


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_one_value_is_held_for_ever(mode):
    values = tf.constant([[2.0, np.nan]], tf.float64)
    signal = in_mode(mode, lambda values: controls.Previous([0.5], values)(3.0))(values)
    np.testing.assert_allclose(signal, [2.0, np.nan])


@pytest.mark.parametrize("kind", KINDS)
def test_two_knots_make_a_line(kind):
    signal = kind([0.0, 2.0], tf.constant([[1.0], [5.0]], tf.float64))
    np.testing.assert_allclose(signal(1.0), [1.0 if kind is controls.Previous else 3.0])


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("kind", SMOOTH)
def test_a_driven_field_has_the_states_of_a_fine_solve_and_gradients(kind, mode):
    values = tf.constant(np.sin(3 * KNOTS)[:, np.newaxis])
    times = [KNOTS[0], 0.5, KNOTS[-1]]

    def solve(values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            signal = kind(KNOTS, values)
            f = lambda t, y: signal(t) - y
            states = odeint(f, tf.zeros([1], tf.float64), times, rtol=1e-9, atol=1e-9).states
            total = states[1] + states[2]
        return states, tape.gradient(total, values)

    states, gradient = in_mode(mode, solve)(values)
    # y = integral of exp(s - t) u(s) ds, by Gauss' rule piece by piece: u is a polynomial there.
    expected, _ = by_scipy(kind, KNOTS, np.sin(3 * KNOTS))
    nodes, weights = np.polynomial.legendre.leggauss(12)

    def integral(t, signal):
        ends = [*KNOTS[KNOTS < t], t]
        total = 0.0
        for a, b in itertools.pairwise(ends):
            s = (a + b) / 2 + (b - a) / 2 * nodes
            total += (b - a) / 2 * np.sum(weights * np.exp(s - t) * signal(s))
        return total

    # The solve, by a method of order 5, steps over the knots, where a third derivative jumps.
    np.testing.assert_allclose(states[1:, 0], [integral(t, expected) for t in times[1:]], rtol=1e-6)
    unit = np.zeros(9)
    unit[4] = 1.0  # the state is linear in the values
    of_unit, _ = by_scipy(kind, KNOTS, unit)
    np.testing.assert_allclose(
        gradient[4, 0], sum(integral(t, of_unit) for t in times[1:]), rtol=1e-5
    )
