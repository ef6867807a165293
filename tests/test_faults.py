"""Training and saving under faults: bad batches, and a disk that is full."""

import filecmp
import json
import re
from pathlib import Path

import numpy as np
import pytest
from subprocesses import run_python
from training_faults import BAD_BATCH, CASES, NUM_BATCHES

TESTS = Path(__file__).parent
REASONS = {
    "nan": r"status -3: samples of its input are not finite.*\[1\]",
    "inf": r"status -3: samples of its input are not finite.*\[1\]",
    "blow-up": r"status -2: the step size fell below.*may have a singularity",
}


def lines(script, argument, folder):
    """What a script printed, in its time limit, and how it ended."""
    done = run_python(TESTS / script, argument, cwd=folder)
    return [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{"], done


@pytest.fixture
def report(once_a_run):
    """What `training_faults.py` found in a case. All of a mode take about half a minute."""

    def reports(mode):
        found, done = lines("training_faults.py", mode, TESTS)
        assert done.returncode == 0, (found[-1:], done.stderr[-3000:])
        return found

    def of(case):
        found = once_a_run(f"faults-{case[0]}", lambda: reports(case[0]))
        return next(line for line in found if line.get("case") == list(case))

    return of


def cases(**wanted):
    """The cases with the given settings."""
    names = ("mode", "fault", "on_failure", "terminate")
    return [
        case
        for case in CASES
        if all(case[names.index(name)] == value for name, value in wanted.items())
    ]


@pytest.mark.parametrize("case", cases(mode="graph", on_failure="raise"), ids=str)
def test_a_bad_batch_ends_a_run_with_the_layer_and_the_reason(report, case):
    found = report(case)
    error = found["error"].replace("\\'", "'")  # a graph's assertion escapes its text
    assert error.startswith("InvalidArgumentError") and "layer 'flow'" in error
    assert re.search(REASONS[case[1]], error, re.DOTALL)
    # The step didn't get to its update: the weights are those of the last good batch.
    assert found["num_ended"] == BAD_BATCH and found["unchanged"]


@pytest.mark.parametrize("case", cases(terminate=True), ids=str)
def test_terminate_on_nan_stops_a_run_at_the_bad_batch(report, case):
    found = report(case)
    assert found["error"] is None
    assert found["num_ended"] == BAD_BATCH + 1
    assert len(found["losses"]) == 1 and np.isnan(found["losses"][0])


@pytest.mark.parametrize(
    "case", cases(on_failure="nan", terminate=False) + cases(mode="xla", terminate=False), ids=str
)
def test_a_run_that_nothing_stops_ends_with_nan(report, case):
    found = report(case)
    assert found["error"] is None
    # All batches of both epochs, the later ones with weights that are NaN.
    assert found["num_ended"] == 2 * NUM_BATCHES
    assert np.all(np.isnan(found["losses"]))


# A full disk


def same(one, other):
    """Whether two files, or folders of files, are equal byte for byte."""
    if one.is_file():
        return filecmp.cmp(one, other, shallow=False)
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    others = sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    return files == others and all(same(one / path, other / path) for path in files)


@pytest.mark.parametrize("name", ["model.keras", "exported"])
def test_a_full_disk_gives_a_clear_error_and_the_advised_way_leaves_the_former_file_whole(
    name, tmp_path
):
    found, done = lines("full_disk.py", name, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    errors = {line["way"]: line["error"] for line in found if "way" in line}
    assert set(errors) == {"save_as_advised", "save"}
    for error in errors.values():
        assert re.match(r"(OSError|OutOfRangeError): .*File too large", error)
    assert same(tmp_path / "whole" / name, tmp_path / "kept" / name)


def test_a_full_disk_leaves_former_weights_whole_in_the_advised_way(tmp_path):
    name = "model.weights.h5"
    found, done = lines("full_disk.py", name, tmp_path)
    # HDF5 raises an error or, with h5py 3, ends the process where it can't even close the file.
    errors = [line["error"] for line in found if "way" in line]
    assert None not in errors
    assert done.returncode < 0 or len(errors) == 2
    kept = tmp_path / "kept" / name
    assert same(tmp_path / "whole" / name, kept if kept.exists() else tmp_path / name)
