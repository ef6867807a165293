"""TensorFlow's tool for finding a NaN in a model finds none in a healthy solve."""

import pathlib

import pytest
from subprocesses import run_python

HERE = pathlib.Path(__file__).parent


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_healthy_solves_make_no_nan_and_no_infinity(mode):
    done = run_python(HERE / "check_numerics.py", mode, cwd=HERE.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["the check is on"]
