"""The benchmarks' workloads in which each sample has times of its own."""

import keras
import numpy as np
import pytest
from benchmark_rounds import measure
from scipy.integrate import solve_ivp
from scipy.linalg import expm

import irregular
import irregular_settings
import kinds
import reference
import remarks
import report
import settings
import workloads
from competitors import keras_field
from tf_neuralode import NeuralODE

NAMES = ("irregular30", "irregular200")
NUM_OF_A_STEP = 7  # evaluations, at most, of the default's method


def setting(label):
    (row,) = [row for row in irregular_settings.rows() if row.name == f"{settings.OURS} {label}"]
    return row


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A round of a setting on each of the workloads."""
    folder = tmp_path_factory.mktemp("rounds")
    labels = zip(NAMES, ("default", "tape, graph"), strict=True)
    return {
        name: measure(
            folder, setting(label), {"name": name}, kinds.of(name).expected(workloads.make(name))
        )
        for name, label in labels
    }


@pytest.mark.parametrize(("name", "num_times"), [(NAMES[0], 30), (NAMES[1], 200)])
def test_each_sample_has_sorted_times_of_its_own(name, num_times):
    workload = workloads.make(name)
    assert [w.shape for w in workload.weights] == [(8, 64), (64, 8)]
    assert workload.y0.shape == (64, 8)
    assert workload.targets.shape == (64, num_times, 8)
    times = workload.times
    assert times.shape == (64, 1 + num_times)
    assert (times[:, 0] == 0).all()
    assert (np.diff(times) > 0).all()
    assert times.max() < 5
    assert len(np.unique(times[:, 1])) == 64
    assert {x.dtype for x in (times, workload.y0, workload.targets)} == {np.dtype("float32")}


def test_the_targets_solve_a_linear_field():
    y0, times = np.arange(1.0, 9.0).reshape(2, 4), np.array([[0.5, 3.0], [1.0, 4.0]])
    a = np.kron(np.eye(2), [[-0.1, -1.0], [1.0, -0.1]])
    expected = [[expm(a * t) @ y for t in row] for y, row in zip(y0, times, strict=True)]
    np.testing.assert_allclose(irregular.spirals(y0, times), expected, rtol=1e-12)


def test_all_samples_times_together_rise_and_hold_each_sample_s():
    times = np.array([[0.0, 2.0, 3.0], [0.0, 1.0, 2.0]])
    together, index = irregular.union(times)
    np.testing.assert_array_equal(together, [0, 1, 2, 3])
    np.testing.assert_array_equal(together[index], times)


def test_the_reference_is_scipys_solution_at_each_sample_s_times():
    workload = workloads.make("irregular30", batch=2)
    states = np.stack(reference.states(workload), axis=1)
    w1, w2 = [w.astype("float64") for w in workload.weights]
    f = lambda t, y: np.tanh(np.tanh(y @ w1) @ w2)
    for y0, times, found in zip(workload.y0, workload.times, states, strict=True):
        options = {"method": "DOP853", "t_eval": times, "rtol": 1e-10, "atol": 1e-10}
        np.testing.assert_allclose(
            found, solve_ivp(f, times[[0, -1]], y0, **options).y.T, atol=1e-7
        )


def test_gradients_agree_with_the_reference_within_the_tolerance(rows):
    for row in rows.values():
        assert row["relative_error"] <= workloads.TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_counted_evaluations_are_the_layers_own(name, rows):
    workload = workloads.make(name)
    tolerances = {"rtol": workload.rtol, "atol": workload.atol}
    layer = NeuralODE(keras_field.make(workload), (0.0, 5.0), **tolerances, track_stats=True)
    inputs = keras.Input((8,)), keras.Input(workload.targets.shape[1:2])
    model = keras.Model(inputs, layer(*inputs))
    model.compile(loss="mse")
    data = [workload.y0, workload.times[:, 1:]], workload.targets
    logs = model.evaluate(*data, batch_size=64, verbose=0, return_dict=True)
    assert rows[name]["num_evaluations"][0] == logs["nfe"]


def test_more_times_take_no_more_evaluations(rows):
    few, many = [rows[name]["num_evaluations"][0] for name in NAMES]
    # Samples with more times have later last ones, which may take one step more.
    assert many <= few + NUM_OF_A_STEP


def result(row, ms, error):
    return {
        "library": row.library,
        "label": row.label,
        "options": row.options,
        "workload": {"name": NAMES[0]},
        "median_ms": ms,
        "min_ms": ms,
        "first_run_s": ms,
        "first_run_steps": 500,
        "first_run_is_measured": True,
        "relative_error": error,
    }


def test_our_best_and_our_default_are_set_beside_each_peer_s_best():
    ms = {"tf_neuralode default": 6.0, "tf_neuralode tape, XLA": 2.0, "torchode tsit5": 40.0}
    found = [
        result(row, ms.get(row.name, 8.0 if row.library == "diffrax" else 80.0), 1e-3)
        for row in irregular_settings.rows()
    ]
    lines = remarks.of_each_peer(found).splitlines()
    assert [line.split("'s best")[0].split()[-1] for line in lines] == [
        "torchdiffeq",
        "torchode",
        "diffrax",
    ]
    assert "0.025 times" in lines[0]
    assert "(tsit5, 40 ms)" in lines[1]
    assert "our best (tape, XLA) 0.250 times, our default (default) 0.750 times" in lines[2]
    assert remarks.of_each_peer(found[:1]) == ""
    results = {"machine": "", "num_rounds": 1, "versions": {}, "studies": {}}
    summary = report.markdown({**results, "workloads": {NAMES[0]: found}})
    assert (
        "| irregular30 | tape, XLA | 2 | diffrax checkpoints, dopri5 | 8 | 0.25 (0.25)" in summary
    )
