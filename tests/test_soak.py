"""A long training needs no more memory at its end than at its beginning, and no more traces."""

import json
from pathlib import Path

import numpy as np
import pytest
from subprocesses import run_python

SCRIPT = Path(__file__).parent / "soak.py"


@pytest.mark.parametrize(
    "num_steps", [500, pytest.param(2000, marks=pytest.mark.slow)], ids=["short", "full"]
)
def test_memory_and_traces_stay_constant_over_a_long_training(num_steps, tmp_path):
    done = run_python(SCRIPT, num_steps, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    print(figures)
    assert figures["traces_before"] > 0
    assert figures["traces_after"] == figures["traces_before"]
    assert figures["after"] < 1.05 * figures["before"]
    # It did train.
    assert np.all(np.isfinite(figures["losses"]))
    assert figures["losses"][-1] < figures["losses"][0]
