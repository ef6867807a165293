"""A round of one setting of the benchmarks, in a process of its own."""

import sys

import numpy as np

import driver
import kinds
import tables


def measure(folder, setting, workload, expected=None):
    """Figures of one round, all that its table shows; `expected` is what a step's result is."""
    path = None
    if expected is not None:
        path = folder / "expected.npz"
        np.savez(path, *expected)
    entry = driver.Entry(setting, workload, num_first_steps=2)
    with open(folder / "log", "w") as log:
        entry.start(sys.executable, 1, log, path)
    driver.take_turns([entry], 1)
    row = entry.finish()
    assert "error" not in row, row["error"]
    cells = tables.table([row], kinds.of(workload["name"]).columns).splitlines()[-1]
    assert "-" not in [cell.strip() for cell in cells.split("|")]
    return row
