"""The page on robustness names tests that there are, and each row has one."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PAGE = TESTS.parent / "docs" / "robustness.md"
# The rows of the tables, without their heads.
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("|") and not line.startswith("| ---") and "| shown by |" not in line
]


def functions_of(file):
    """Names of the test functions of a file, but for those that only a run by hand takes."""
    functions = [
        node
        for node in ast.parse((TESTS / file).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    ]
    by_hand = lambda function: "pytest.mark.slow" in map(ast.unparse, function.decorator_list)
    return {function.name for function in functions if not by_hand(function)}


def test_every_row_has_a_test_that_the_gate_runs():
    assert len(ROWS) > 30
    for row in ROWS:
        assert len(row) == 3 and all(row), row
        names = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row[2])
        # Nothing else in the cell, a misspelt name for one.
        assert row[2] == ", ".join(f"`{file}::{test}`" for file, test in names)
        for file, test in names:
            assert test in functions_of(file), row


def test_every_test_of_faults_has_a_row():
    files = [
        "test_determinism.py",
        "test_faults.py",
        "test_interruption.py",
        "test_layer_properties.py",
        "test_properties.py",
        "test_serving_load.py",
        "test_soak.py",
        "test_untrusted_files.py",
    ]
    named = {name for row in ROWS for name in re.findall(r"`(test_\w+\.py::test_\w+)`", row[2])}
    tests = {
        f"{file}::{test}"
        for file in files
        for test in functions_of(file)
        if test.startswith("test_")
    }
    assert tests <= named
