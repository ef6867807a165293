"""The benchmarks' harness, on a problem so small that its times mean nothing."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import psutil
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import driver
import neural_ode_tutorial
import reference
import workloads
from settings import Setting
from tf_neuralode import odeint

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """The folder that a run without the peers' environment has written."""
    folder = tmp_path_factory.mktemp("results")
    settings = "tf_neuralode tape_kept, graph$|TFP graph|straight .*graph"
    command = [sys.executable, ROOT / "benchmarks" / "run.py", "--no-peers", "--rounds", "2"]
    command += ["--workloads", "tiny", "--settings", settings, "--output", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def rows(output):
    rows = json.loads((output / "results.json").read_text())["workloads"]["tiny"]
    assert not [row["error"] for row in rows if "error" in row]
    return {row["library"]: row for row in rows}


def solve(solver):
    """Diagnostics of the same solve, as the solver itself reports them."""
    workload = workloads.make("tiny")

    def f(t, y):
        for w in workload.weights:
            y = tf.tanh(y @ w)
        return y

    return solver(f, workload).diagnostics


def ours(f, workload):
    return odeint(f, workload.y0, workload.times, rtol=workload.rtol, atol=workload.atol)


def stock(f, workload):
    solver = tfp.math.ode.DormandPrince(workload.rtol, workload.atol)
    return solver.solve(f, 0.0, tf.constant(workload.y0), [1.0])


# TFP's solver doesn't count the slope at the initial time, which it evaluates when it sets up.
@pytest.mark.parametrize(
    ("library", "solver", "uncounted"), [("tf_neuralode", ours, 0), ("TFP", stock, 1)]
)
def test_counted_forward_evaluations_are_the_solver_s_own(rows, library, solver, uncounted):
    forward, _ = rows[library]["num_evaluations"]
    assert forward == int(solve(solver).num_ode_fn_evaluations) + uncounted


def test_kept_activations_need_no_backward_evaluation_and_the_stock_adjoint_does(rows):
    assert rows["tf_neuralode"]["num_evaluations"][1] == 0
    # At least one step of six evaluations and the slope at its start.
    assert rows["TFP"]["num_evaluations"][1] >= 7


def test_the_limit_evaluates_as_often_as_our_solve(rows):
    assert rows["straight"]["num_evaluations"] == rows["tf_neuralode"]["num_evaluations"]


@pytest.mark.parametrize("library", ["tf_neuralode", "TFP"])
def test_gradients_agree_with_the_reference_within_the_tolerance(rows, library):
    assert rows[library]["relative_error"] <= workloads.TOLERANCE


def test_each_setting_has_its_rounds_and_a_row_in_the_report_and_the_plot_is_drawn(output, rows):
    report = (output / "report.md").read_text()
    for row in rows.values():
        assert len(row["rounds_ms"]) == 2
        assert f"{row['library']}: {row['label']}" in report
    assert (output / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_setting_that_fails_is_reported_and_takes_no_turn(tmp_path):
    entry = driver.Entry(Setting("none", "no_such_module", {}, "none"), {"name": "tiny"})
    with open(tmp_path / "log", "w") as log:
        entry.start(sys.executable, 1, log, None)
    driver.take_turns([entry], 2)
    figures = entry.finish()
    assert "no_such_module" in figures["error"]
    assert figures["rounds_ms"] == []


def test_a_worker_that_is_killed_is_a_figure_and_not_the_end(tmp_path):
    setting = Setting("straight", "straight", {"xla": False, "num_evaluations": 2}, "graph")
    entry = driver.Entry(setting, {"name": "tiny"})
    with open(tmp_path / "log", "w") as log:
        entry.start(sys.executable, 1, log, None)
    (worker,) = [p for p in psutil.Process().children() if "worker.py" in " ".join(p.cmdline())]
    worker.kill()  # as the system does for want of memory
    worker.wait()
    driver.take_turns([entry], 2)
    figures = entry.finish()
    assert "ended" in figures["error"]
    assert figures["first_call_s"] > 0
    assert figures["rounds_ms"] == []


def small_convolution():
    whole = workloads.make("conv", batch=1)
    kernels = [w[:, :, :3, :3] for w in whole.weights]
    return dataclasses.replace(whole, y0=whole.y0[:, :4, :5, :3], weights=kernels)


def sum_of_squares(workload, states):
    return sum(np.sum(y**2) for y in states)


def mean_square(workload, states):
    return np.mean((np.stack(states, axis=1) - workload.targets) ** 2)


TWICE = {"times": np.array([0.0, 0.5, 1.0])}


@pytest.mark.parametrize(
    ("workload", "loss_of_states"),
    [
        (dataclasses.replace(workloads.make("tiny"), **TWICE), sum_of_squares),
        (dataclasses.replace(small_convolution(), **TWICE), sum_of_squares),
        (workloads.make("irregular30", batch=3), mean_square),
    ],
    ids=["dense", "conv", "own times"],
)
def test_the_reference_is_the_derivative_of_the_loss(workload, loss_of_states):
    workload = dataclasses.replace(
        workload,
        y0=workload.y0.astype("float64"),
        weights=[w.astype("float64") for w in workload.weights],
    )
    rng = np.random.default_rng(1)
    direction = [rng.normal(size=x.shape) for x in (workload.y0, *workload.weights)]

    def loss(size):
        weights = [w + size * d for w, d in zip(workload.weights, direction[1:], strict=True)]
        y0 = workload.y0 + size * direction[0]
        moved = dataclasses.replace(workload, y0=y0, weights=weights)
        return loss_of_states(moved, reference.states(moved)[1:])

    size = 1e-6
    expected = (loss(size) - loss(-size)) / (2 * size)
    pairs = zip(reference.gradient(workload), direction, strict=True)
    # Central differences: an error of size**2 and rounding of 1e-16 / size.
    np.testing.assert_allclose(sum(np.sum(g * d) for g, d in pairs), expected, rtol=1e-8)


def test_the_tutorial_takes_each_trajectory_once_an_epoch():
    indices = neural_ode_tutorial.batches(20, seed=1)
    assert indices.shape == (20, 32)
    for epoch in (indices[:8], indices[8:16]):
        np.testing.assert_array_equal(np.sort(epoch, axis=None), np.arange(256))
    assert (indices[:8] != indices[8:16]).any()


def test_the_tutorials_optimizer_is_adabelief():
    """Two steps of the paper's algorithm 2, in NumPy; epsilon is 1e-16."""
    gradients = np.array([[0.5, -2.0], [0.25, 1.0]])
    w, mean, variance = np.array([1.0, 2.0]), np.zeros(2), np.zeros(2)
    variable = keras.Variable(w, dtype="float64")
    optimizer = neural_ode_tutorial.make_adabelief(0.1)
    for i, gradient in enumerate(gradients, start=1):
        optimizer.apply([tf.constant(gradient)], [variable])
        mean = 0.9 * mean + 0.1 * gradient
        variance = 0.999 * variance + 0.001 * (gradient - mean) ** 2
        w = w - 0.1 * mean / (1 - 0.9**i) / np.sqrt(variance / (1 - 0.999**i))
    # The learning rate and the powers of 0.9 and 0.999 are float32.
    np.testing.assert_allclose(variable, w, rtol=1e-4)
