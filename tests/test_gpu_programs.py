"""Programs lowered for a GPU, compiled and run by JAX in an environment of its own."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from gpu import tables

ROOT = pathlib.Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
pytestmark = pytest.mark.slow

# Kernels of a training step at 1e-3, and how often the host waits, compiled for an H100 by the XLA
# of gpu/requirements.txt: with another XLA they are others.
LAUNCHES = {
    "mnist/tf_neuralode.tape.dopri5.room16.float32": (160, 4),
    "mnist/tf_neuralode.tape.dopri5.room64.float32": (173, 7),
    "mnist/tf_neuralode.tape_kept.dopri5.room16.float32": (187, 4),
    "mnist/tf_neuralode.adjoint.dopri5.room64.float32": (346, 7),
    "mnist/tf_neuralode.interpolating_adjoint.dopri5.room64.float32": (327, 9),
    "mnist/tf_neuralode.gauss_adjoint.dopri5.room64.float32": (355, 17),
    "lorenz2048/tf_neuralode.tape.tsit5.room32.float32": (790, 44),
    "lorenz2048/tf_neuralode.tape.tsit5.room32.leaves.float32": (490, 44),
    "lorenz2048/tf_neuralode.tape_kept.tsit5.room32.leaves.float32": (920, 46),
}


def run(python, *arguments):
    done = subprocess.run(
        [python, *map(str, arguments)],
        cwd=BENCHMARKS,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def jax_python(tmp_path_factory):
    venv = tmp_path_factory.mktemp("jax") / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True, timeout=120)
    python = venv / "bin" / "python"
    requirements = BENCHMARKS / "gpu" / "requirements.txt"
    install = [python, "-m", "pip", "install", "-q", "-r", requirements]
    subprocess.run(install, check=True, timeout=900)
    return python


@pytest.fixture(scope="module")
def travel(tmp_path_factory):
    """Programs of small problems, and those whose launches are counted."""
    folder = tmp_path_factory.mktemp("travel")
    common = ("-m", "gpu.lower", "--output", folder, "--problems")
    run(sys.executable, *common, "tiny,tiny_lorenz,fit", "--rows", "")
    run(sys.executable, *common, "mnist,lorenz2048", "--rows", "float32")
    return folder


@pytest.fixture(scope="module")
def programs(travel):
    programs = json.loads((travel / "manifest.json").read_text())["programs"]
    assert not [name for name, entry in programs.items() if "failed" in entry]
    return programs


def test_a_program_for_a_gpu_has_the_text_of_that_for_a_cpu(programs):
    assert [name for name, entry in programs.items() if not entry["same_for_cpu"]] == []


def test_jax_gives_tensorflow_s_numbers_on_other_inputs_than_those_lowered_with(
    travel, programs, jax_python
):
    result = travel / "result.json"
    options = ["--rows", "^tf_neuralode", "--no-torch", "--rounds", 1, "--budget", 1500]
    run(jax_python, "-m", "gpu.race", "--travel", travel, "--output", result, *options)
    measured = json.loads(result.read_text())["problems"]
    num_checked = 0
    for problem, found in measured.items():
        assert not {name: row["failed"] for name, row in found.items() if "failed" in row}
        assert list(tables.wrong(found)) == []
        for row in found.values():
            for check in row["checks"].values():
                if check["done"]:
                    # Rounding: of float32, or added up over the steps of a chaotic system.
                    assert check["against_tensorflow"] <= 2e-6, problem
                    num_checked += 1
    assert num_checked > len(programs)


REVIVAL = """
import os, signal, sys
from gpu import race

travel, scratch = sys.argv[1:]
with open(os.path.join(scratch, "log"), "w") as log:
    crew = race.Crew("jax", "tiny", travel, race.Clock(300), log, scratch, "tape.dopri5")
    crew.prepare(300)
    first, second, *_ = crew.ready(1e-3)
    os.kill(crew._handle._process.pid, signal.SIGKILL)
    crew.turn(first, 1e-3, 0.01, False)  # whoever is at work when it dies is blamed
    crew.turn(second, 1e-3, 0.01, False)
    crew.close()
print(crew.rows[first]["failed"], len(crew.rows[second]["ms"]["0.001"]))
"""


def test_a_row_that_kills_its_process_is_out_and_the_others_go_on(
    travel, programs, jax_python, tmp_path
):
    printed = run(jax_python, "-c", REVIVAL, travel, tmp_path)
    assert printed == "the process ended with code -9 1\n"


def test_steps_launch_no_more_kernels_than_recorded_and_a_third_of_diffrax_s(
    travel, programs, jax_python
):
    result = travel / "launches.json"
    wanted = "|".join(name.split("/")[1] for name in LAUNCHES)
    peers = r"diffrax\.(all_checkpoints|backsolve)"
    options = ["--problems", "mnist,lorenz2048", "--rows", f"{wanted}|{peers}"]
    run(jax_python, "-m", "gpu.ahead", "--travel", travel, "--output", result, *options)
    found = json.loads(result.read_text())
    for name, recorded in LAUNCHES.items():
        assert "failed" not in found[name], found[name]
        assert found[name]["launches"] <= recorded[0], name
        assert found[name]["waits"] <= recorded[1], name
    for problem in ("mnist", "lorenz2048"):
        of = lambda library, key, problem=problem: min(
            row[key] for name, row in found.items() if name.startswith(f"{problem}/{library}")
        )
        for key in ("launches", "waits"):
            assert of("tf_neuralode", key) <= 0.33 * of("diffrax", key)
