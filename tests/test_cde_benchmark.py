"""The benchmarks' controlled differential equation, on few short series."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from benchmark_rounds import measure
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicHermiteSpline

import cde
import cde_reference
import cde_settings
import settings
import workloads
from tf_neuralode import controls, odeint

SMALL = {"name": "cde", "batch": 4, "num_times": 6, "units": 3, "width": 8, "tolerance": 1e-5}


@pytest.fixture(scope="module")
def workload():
    return workloads.make(**SMALL)


@pytest.fixture(scope="module")
def row(workload, tmp_path_factory):
    """A round of our layer with nothing chosen."""
    (setting,) = [s for s in cde_settings.rows() if s.name == f"{settings.OURS} default"]
    expected = cde_reference.gradient(workload)
    return measure(tmp_path_factory.mktemp("rounds"), setting, SMALL, expected)


def path(observations):
    """SciPy's spline of one sample, its slopes those of the lines before."""
    line = np.diff(observations, axis=0)
    return CubicHermiteSpline(np.arange(len(observations)), observations, [line[0], *line])


def matrix(workload, z):
    """F(z) of one sample."""
    w1, b1, w2, b2 = workload.field
    return np.tanh(np.tanh(z @ w1 + b1) @ w2 + b2).reshape(len(z), -1)


def test_each_sample_has_a_spiral_and_times_of_its_own():
    workload = workloads.make("cde")
    assert workload.values.shape == (64, 30, 3)
    assert [w.shape for w in workload.field] == [(32, 64), (64,), (64, 128), (128,)]
    assert [w.shape for w in workload.initial + workload.readout] == [(4, 32), (32,), (32, 1), (1,)]
    assert (workload.times[:, 0] == 0).all()
    assert (np.diff(workload.times) > 0).all()
    assert len(np.unique(workload.times[:, 1])) == 64
    turns = np.unwrap(np.arctan2(workload.values[..., 1], workload.values[..., 0]))
    ways = np.sign(turns[:, -1:] - turns[:, :1])
    np.testing.assert_array_equal(ways, 2 * workload.labels - 1)
    arrays = (workload.times, workload.values, workload.labels, *workload.weights)
    assert {x.dtype for x in arrays} == {np.dtype("float32")}


def test_the_path_has_the_slopes_of_scipys_spline(workload):
    observations = workload.observations.astype("float64")
    b, c, d = cde.hermite(observations)
    for u in (0.0, 0.3, 1.0):
        slopes = b + u * (2 * c + 3 * u * d)
        for sample, found in zip(observations, slopes, strict=True):
            expected = path(sample).derivative()(np.arange(len(found)) + u)
            np.testing.assert_allclose(found, expected, atol=1e-12)


def test_the_reference_is_scipys_solution(workload):
    # An error of the fourth order: with four times the steps a 256th of the 3e-6 it may have.
    ends = cde_reference.end(workload, 4 * cde_reference.STEPS_PER_KNOT)
    for observations, z, found in zip(workload.observations, workload.y0, ends, strict=True):
        rate = path(observations.astype("float64")).derivative()
        f = lambda s, z, rate=rate: matrix(workload, z) @ rate(s)
        for knot in range(workload.last_knot):  # the path has kinks there
            ends_of_piece = (knot, knot + 1)
            z = solve_ivp(f, ends_of_piece, z, "DOP853", rtol=1e-10, atol=1e-10).y[:, -1]
        np.testing.assert_allclose(found, z, atol=1e-6)


def test_the_reference_s_gradient_is_the_derivative_of_the_loss(workload):
    names = ("field", "initial", "readout")
    doubles = {name: [w.astype("float64") for w in getattr(workload, name)] for name in names}
    workload = dataclasses.replace(workload, **doubles)
    rng = np.random.default_rng(1)
    direction = {name: [rng.normal(size=w.shape) for w in ws] for name, ws in doubles.items()}

    def loss(size):
        moved = {
            name: [w + size * d for w, d in zip(doubles[name], direction[name], strict=True)]
            for name in names
        }
        moved = dataclasses.replace(workload, **moved)
        kernel, bias = moved.readout
        logits = cde_reference.end(moved) @ kernel + bias
        return np.mean(np.logaddexp(0, logits) - moved.labels * logits)

    size = 1e-6
    expected = (loss(size) - loss(-size)) / (2 * size)
    directions = [d for name in names for d in direction[name]]
    pairs = zip(cde_reference.gradient(workload), directions, strict=True)
    # Central differences: an error of size**2 and rounding of 1e-16 / size.
    np.testing.assert_allclose(sum(np.sum(g * d) for g, d in pairs), expected, rtol=1e-7)


def test_our_gradients_agree_with_the_reference(row):
    assert row["relative_error"] <= 1e-3


def test_counted_evaluations_are_the_solver_s_own(workload, row):
    w1, b1, w2, b2 = workload.field
    knots = np.arange(workload.last_knot + 1, dtype="float32")
    signal = controls.Hermite(knots, workload.observations)

    def f(s, z):
        matrix = tf.tanh(tf.tanh(z @ w1 + b1) @ w2 + b2)
        return tf.linalg.matvec(tf.reshape(matrix, [4, 3, 4]), signal.derivative(s))

    tolerances = {"rtol": workload.rtol, "atol": workload.atol}
    results = odeint(f, workload.y0, knots[[0, -1]], batch_ndims=1, **tolerances)
    # The last digit of a slope may reject a step, or not.
    counts = row["num_evaluations"][0], int(results.diagnostics.num_ode_fn_evaluations)
    assert abs(counts[0] - counts[1]) <= 6
