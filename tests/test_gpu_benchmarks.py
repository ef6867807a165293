"""What counts, compares and runs programs on a GPU, where there is none and no JAX either."""

import json
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from gpu import launches, problems, rows, tables

ROOT = pathlib.Path(__file__).parent.parent

HLO = """HloModule m, is_scheduled=true

%body.2 (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], f32[4]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %add.inner = s32[] fusion(%i), kind=kLoop, calls=%fused
  ROOT %t = (s32[], f32[4]) tuple(%add.inner, %i)
}

%condition.2 (p: (s32[], f32[4])) -> pred[] {
  %p = (s32[], f32[4]) parameter(0)
  ROOT %less = pred[] fusion(%p), kind=kLoop, calls=%fused
}

%branch (p: f32[4]) -> f32[4] {
  ROOT %negate = f32[4] fusion(%p), kind=kLoop, calls=%fused
}

%body.1 (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], f32[4]) parameter(0)
  %gemm = f32[4] custom-call(%p), custom_call_target="__cublas$gemm"
  %choice = f32[4] conditional(%p, %p, %p), branch_computations={%branch, %branch}
  %w = (s32[], f32[4]) while(%p), condition=%condition.2, body=%body.2, metadata={op_name="a/b"}
  ROOT %t = (s32[], f32[4]) tuple(%w)
}

%condition.1 (p: (s32[], f32[4])) -> pred[] {
  ROOT %less = pred[] fusion(%p), kind=kLoop, calls=%fused
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4] parameter(0)
  %start = f32[4] copy(%x)
  %w = (s32[], f32[4]) while(%x), condition=%condition.1, body=%body.1, metadata={op_name="a"}
  ROOT %r = f32[4] bitcast(%w)
}
"""


def test_launches_are_counted_by_loop_and_for_a_run():
    program = launches.program(HLO)
    # The copy; a product and two branches; the inner loop's addition.
    assert program.counts() == [1, [[3, [[1, []]]]]]
    assert [loop.source for _, loop in program.nested()] == ["a", "a/b"]
    # Two turns with five inner ones in all: conditions are asked 2 + 1 and 5 + 2 times.
    turns = {(0,): 2, (0, 0): 5}
    assert program.of_a_run(turns) == (1 + 2 * 3 + 5 * 1 + (2 + 1) + (5 + 2), (2 + 1) + (5 + 2))


def test_a_loop_whose_turns_are_known_makes_nobody_wait():
    known = HLO.replace(
        'metadata={op_name="a/b"}',
        'metadata={op_name="a/b"}, backend_config={"known_trip_count":{"n":"5"}}',
    )
    turns = {(0,): 2, (0, 0): 10}
    assert launches.program(known).of_a_run(turns) == (1 + 2 * 3 + 10 + 3, 3)


def test_a_peer_s_time_at_an_error_is_read_off_on_logarithmic_axes():
    points = [(1e-6, 8.0), (1e-4, 2.0)]
    np.testing.assert_allclose(tables.time_at(points, 1e-5), 4.0)
    assert tables.time_at(points, 1e-2) == pytest.approx(2.0)  # more accurate than asked for
    assert tables.time_at(points, 1e-7) == math.inf  # never so accurate


def row_with(error, ms, **check):
    checks = {"0.001": {"done": True, "steps": [3, 0, 0], "error": error, **check}}
    return {"checks": checks, "ms": {"0.001": [ms]}, "compile_s": 1.0}


def test_ours_meets_the_fastest_peer_of_the_same_precision():
    measured = {
        "tf_neuralode.tape.dopri5.float32": row_with(1e-4, 1.0),
        "diffrax.direct.dopri5.float32": row_with(1e-5, 4.0),
        "diffrax.backsolve.dopri5.float32": row_with(1e-3, 0.1),  # fast and inaccurate
        "diffrax.direct.dopri5.tf32": row_with(1e-5, 0.5),
        "torchdiffeq.direct.dopri5.float32": {"failed": "killed"},
    }
    (line,) = tables.against_peers(measured)
    tolerance, ours, _, ms, peer, peer_ms = line
    assert (tolerance, ours) == ("0.001", "tf_neuralode.tape.dopri5.float32")
    assert (peer, ms) == ("diffrax.direct.dopri5.float32", 1.0)
    assert peer_ms == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("difference", "steps", "error", "is_wrong"),
    [
        (1e-5, [3, 0, 0], 5e-3, False),  # the same numbers
        (1e-3, [3, 0, 0], 1e-3, False),  # others, and no further from the reference
        (1e-3, [3, 0, 0], 5e-3, True),
        (1e-5, [4, 0, 0], 5e-3, True),  # after other steps
        (math.nan, [3, 0, 0], math.nan, True),
    ],
)
def test_numbers_that_are_not_tensorflow_s_are_called_wrong(difference, steps, error, is_wrong):
    check = {"against_tensorflow": difference, "tensorflow_steps": [3, 0, 0]}
    row = row_with(error, 1.0, **check, tensorflow_error=1e-3)
    row["checks"]["0.001"]["steps"] = steps
    found = list(tables.wrong({"tf_neuralode.tape.dopri5.float32": row}))
    assert bool(found) == is_wrong


@pytest.mark.parametrize("name", problems.PROBLEMS)
def test_every_row_of_a_problem_has_a_name_of_its_own(name):
    problem = problems.PROBLEMS[name]
    everything = [*rows.ours(problem), *rows.diffrax(problem), *rows.torchdiffeq(problem)]
    assert len({row.name for row in everything}) == len(everything)


def test_the_lorenz_reference_is_the_derivative_of_the_loss():
    from scipy.integrate import solve_ivp

    problem = problems.PROBLEMS["tiny_lorenz"]
    y0, rho = problem.inputs()

    def loss(index, rho):
        def f(t, state):
            x, y, z = state
            return [10 * (y - x), rho * x - y - x * z, x * y - 8 / 3 * z]

        end = solve_ivp(f, (0, 1), y0[index], method="DOP853", rtol=1e-12, atol=1e-12)
        return np.sum(end.y[:, -1] ** 2)

    size = 1e-4
    (gradient,) = problem.reference()
    for i, value in enumerate(rho):
        expected = (loss(i, value + size) - loss(i, value - size)) / (2 * size)
        # Central differences: size**2 times the third derivative; rounding of 1e-14 / size.
        np.testing.assert_allclose(gradient[i], expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("on_import", "reason"),
    [('raise ImportError("no JAX here")', "no JAX here"), ("import os; os._exit(3)", "code 3")],
    ids=["missing", "dying"],
)
def test_a_library_that_is_missing_or_kills_its_process_is_a_row_with_the_reason(
    tmp_path, on_import, reason
):
    for module in ("jax", "torch"):
        (tmp_path / f"{module}.py").write_text(on_import)
    problem = problems.PROBLEMS["tiny"]
    for folder in ("reference", "expected"):
        (tmp_path / folder).mkdir()
    problems.save(tmp_path / "reference" / "tiny.npz", problem.inputs())
    manifest = {"versions": {}, "programs": {}}
    manifest["inputs"] = {"tiny": problems.checksum(problem.inputs())}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    command = [sys.executable, "-m", "gpu.race", "--travel", tmp_path, "--budget", "60"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT / 'benchmarks'}"}
    done = subprocess.run(
        [*command, "--output", tmp_path / "result.json"],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "result.json").read_text())
    for framework in ("jax", "torch"):
        assert reason in result["problems"]["tiny"][f"{framework}: all"]["failed"]
