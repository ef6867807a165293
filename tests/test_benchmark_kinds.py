"""The benchmarks' other workloads: what their competitors compute, first runs, and ratios."""

import collections
import pathlib
import re
import sys
import types

import numpy as np
import pytest
from benchmark_rounds import measure
from scipy.integrate import solve_ivp

import driver
import kinds
import reference
import remarks
import settings
import worker
import workloads
from settings import Setting

COMPETITORS = pathlib.Path(driver.__file__).parent / "competitors"


def scipys(problem):
    options = {"method": "DOP853", "t_eval": problem.times, "rtol": 1e-13, "atol": 1e-13}
    f = lambda t, y: problem.field(y)
    return solve_ivp(f, problem.times[[0, -1]], problem.y0, **options).y.T


# What is left of 1e-13 where an error grows by a factor of 1e8.
@pytest.mark.parametrize(
    ("workload", "error"),
    [({"name": "lotka_volterra"}, 1e-10), ({"name": "lorenz", "end": 20.0}, 1e-5)],
)
def test_the_reference_of_a_known_field_is_scipys_solution(workload, error):
    problem = workloads.make(**workload)
    solution = reference.solution(problem)
    assert reference.relative_error([scipys(problem)], [solution]) < error
    finer = reference.solution(problem, steps_per_unit_time=64)
    assert reference.relative_error([solution], [finer]) < 1e-11


@pytest.mark.parametrize(
    "setting",
    [row for row in settings.lotka_volterra() if row.label in ("graph", "RK45")],
    ids=lambda row: row.module,
)
def test_competitors_solve_lotka_volterra_as_scipy_does_at_1e_10(tmp_path, setting):
    workload = {"name": "lotka_volterra", "tolerance": 1e-10}
    row = measure(tmp_path, setting, workload, [scipys(workloads.make(**workload))])
    assert row["relative_error"] < 1e-8


@pytest.mark.parametrize("setting", settings.lorenz("short"), ids=lambda row: row.module)
def test_competitors_solve_the_lorenz_system_as_scipy_does(tmp_path, setting):
    workload = {"name": "lorenz", "end": 5.0, "tolerance": 1e-10}
    row = measure(tmp_path, setting, workload, [scipys(workloads.make(**workload))])
    assert row["relative_error"] < 1e-7


def spirals_loss(workload):
    """Before training, by the reference's method."""
    (w1, w2), (b1, b2) = workload.weights, workload.biases
    field = lambda y: np.tanh(y**3 @ w1 + b1) @ w2 + b2
    problem = workloads.Problem("spiral", field, workload.y0[0], workload.times, 0.0, 0.0)
    return np.mean((reference.solution(problem) - workload.series) ** 2)


def test_spirals_start_with_the_same_loss_and_take_the_same_steps(tmp_path):
    workload = {"name": "spiral", "num_steps": 2}
    expected = spirals_loss(workloads.make(**workload))
    chosen = ("default, 50 steps per execution", "tape_kept, graph")
    rows = [
        measure(tmp_path, setting, workload)
        for setting in settings.spiral()
        if setting.label in chosen
    ]
    # The tolerance of the solves, float32.
    np.testing.assert_allclose([row["initial_loss"] for row in rows], expected, rtol=1e-3)
    final = [row["final_loss"] for row in rows]
    np.testing.assert_allclose(final[0], final[1], rtol=1e-3)
    assert abs(final[0] / expected - 1) > 0.01


def test_the_spirals_series_is_the_published_field_s():
    # torchdiffeq's ode_demo.py: y**3 @ A.
    workload = workloads.make("spiral")
    a = np.array([[-0.1, 2.0], [-2.0, -0.1]])
    options = {"t_eval": workload.times, "rtol": 1e-10, "atol": 1e-10}
    solution = solve_ivp(lambda t, y: y**3 @ a, (0.0, 1.5), [2.0, 0.0], **options)
    np.testing.assert_allclose(workload.series, solution.y.T, atol=1e-6)


def test_the_exported_model_serves_the_solution(tmp_path):
    (setting,) = [row for row in settings.serve("few") if row.library == settings.OURS]
    workload = {"name": "serve", "batch": 3}
    expected = kinds.of("serve").expected(workloads.make(**workload))
    row = measure(tmp_path, setting, workload, expected)
    assert row["relative_error"] < workloads.TOLERANCE
    assert row["calls_median_ms"] <= row["calls_p99_ms"]


@pytest.mark.parametrize("name", workloads.names())
def test_every_setting_has_a_name_of_its_own_and_a_competitor(name):
    rows = kinds.of(name).rows(name)
    names = collections.Counter(setting.name for _, setting in rows)
    assert names.most_common(1)[0][1] == 1
    for _, setting in rows:
        source = (COMPETITORS / f"{setting.module}.py").read_text()
        imports_peer = re.search(r"^(import|from) .*(torch|jax)", source, re.MULTILINE)
        assert bool(imports_peer) == setting.needs_peers, setting


class FakeHandle:
    """A worker of two steps a call, three calls of which are the first run."""

    def __init__(self, *_):
        self.asked = []

    def ask(self, command, **arguments):
        return {
            "first_run": {"calls": [1.0, 0.1, 0.1], "steps_per_call": 2},
            "run": [50.0, 50.0],
            "peak_memory": 1.0,
            "figures": {},
        }[command]

    def close(self):
        pass


@pytest.mark.parametrize(("num_steps", "seconds"), [(6, 1.2), (10, 1.2 + 4 * 0.05)])
def test_steps_of_a_first_run_that_were_not_run_count_at_their_median(
    monkeypatch, num_steps, seconds
):
    monkeypatch.setattr(driver, "WorkerHandle", FakeHandle)
    entry = driver.Entry(Setting("none", "none", {}, "none"), {"name": "tiny"}, 0, num_steps)
    entry.start(sys.executable, 1, None, None)
    driver.take_turns([entry], 2)
    figures = entry.finish()
    assert figures["first_run_s"] == pytest.approx(seconds)
    assert figures["first_run_is_measured"] == (num_steps == 6)


# 500 steps are ten calls of 50; when time is up, two calls are enough.
@pytest.mark.parametrize(("seconds", "num_calls"), [(1e9, 10), (0, 2)])
def test_a_first_run_ends_with_its_steps_or_with_its_time(monkeypatch, seconds, num_calls):
    competitor = types.SimpleNamespace(steps_per_call=50, step=lambda: None)
    module = types.SimpleNamespace(build=lambda workload: competitor)
    monkeypatch.setitem(sys.modules, "competitors.stub", module)
    first_run = worker.Worker("stub", {"name": "tiny"}, {}).first_run(500, seconds)
    assert len(first_run["calls"]) == num_calls


def result(setting, ms, **figures):
    return {
        "library": setting.library,
        "label": setting.label,
        "options": setting.options,
        "median_ms": ms,
        **figures,
    }


def test_the_default_is_compared_with_the_same_solver_s_fastest_choice():
    rows = []
    for setting in settings.ours():
        ms = 3.0 if "default" in setting.label else 2.0 if setting.label == "tape, XLA" else 4.0
        ms = 1.0 if "bosh3" in setting.label or "mean" in setting.label else ms
        rows.append(result(setting, ms, first_run_s=ms + (setting.label == "tape, XLA") * 10))
    (line,) = remarks.of_defaults({"mnist": rows}).splitlines()[2:]
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[:5] == ["mnist", "3", "tape, XLA", "2", "1.50"]
    assert cells[5] == "3"
    assert cells[7:] == ["4", "0.75"]


def test_times_at_equal_error_lie_on_a_power_of_the_error():
    ours, scipy = settings.lorenz("short")
    rows = []
    # Our errors are 1e-5 and 1e-7; one of SciPy's is halfway between, the other beyond.
    for tolerance, ours_ms, scipys_ms, scipys_error in (
        (1e-8, 1.0, 100.0, 1e-6),
        (1e-10, 4.0, 200.0, 1.0),
    ):
        workload = {"name": "lorenz", "end": 20.0, "tolerance": tolerance}
        rows.append(result(ours, ours_ms, workload=workload, relative_error=1e3 * tolerance))
        rows.append(result(scipy, scipys_ms, workload=workload, relative_error=scipys_error))
    first, second = remarks.of_lorenz(rows).splitlines()
    assert "0.0100 times" in first
    assert first.endswith("At SciPy's error there, 1.0e-06: 0.0200.")
    assert "error" not in second
