"""The package's metadata, the README's two commands, and the gate that runs them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it along

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]

# Stands for `python3 -m venv DIR`: the environment's commands only say how they were called.
PYTHON3 = """#!/usr/bin/env bash
echo "python3 $*"
mkdir -p "$3/bin"
for name in pip python ruff mypy; do
  printf '#!/usr/bin/env bash\\necho "%s $*"\\n' "$name" >"$3/bin/$name"
done
chmod +x "$3"/bin/*
"""


def readme():
    return (ROOT / "README.md").read_text(encoding="utf-8")


def readme_with(commands):
    block = "\n".join(["<!-- setup commands -->", "```sh", *commands, "```", "<!-- end -->"])
    return f"text\n\n{block}\n\n```sh\nexit 1\n```\n"


def setup_commands():
    """The commands of the README's marked block."""
    pattern = r"<!-- setup commands -->\n```\w*\n(.*?)```\n<!-- end -->"
    return re.search(pattern, readme(), re.DOTALL).group(1).splitlines()


def run_gate(checkout, text):
    """Runs a copy of .ci/run in a checkout with this README.md and stub tools."""
    stubs, stale = checkout / "stubs", checkout / ".venv" / "bin"
    for directory in (stubs, stale, checkout / ".ci"):
        directory.mkdir(parents=True)
    (stale / "python").write_text("exit 1")
    shutil.copy(ROOT / ".ci" / "run", checkout / ".ci" / "run")
    (checkout / "README.md").write_text(text, encoding="utf-8")
    (checkout / ".ci" / "lowest").write_text("#!/bin/sh\necho core tests\n", encoding="utf-8")
    (checkout / ".ci" / "lowest").chmod(0o755)
    (stubs / "python3").write_text(PYTHON3, encoding="utf-8")
    (stubs / "python3").chmod(0o755)
    return subprocess.run(
        [checkout / ".ci" / "run"],
        cwd="/",
        env={**os.environ, "PATH": f"{stubs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )


# Metadata


def test_dependencies_are_those_promised():
    assert PROJECT["name"] == "tf-neuralode"
    assert PROJECT["requires-python"] == ">=3.10"
    assert {str(Requirement(item)) for item in PROJECT["dependencies"]} == {
        "tensorflow>=2.18",
        "keras>=3.11.3",
        "tensorflow-probability>=0.25",
        "tf-keras>=2.18",
    }


def test_extras_parse_and_hold_what_their_names_say():
    requirements = {extra: [Requirement(item) for item in EXTRAS[extra]] for extra in EXTRAS}
    names = {extra: {item.name for item in items} for extra, items in requirements.items()}
    assert set(names) == {"gpu", "examples", "plot", "docs", "test", "dev"}
    assert [item.extras for item in requirements["gpu"]] == [{"and-cuda"}]
    assert {"tensorflow-datasets", "matplotlib", "flask", "waitress"} <= names["examples"]
    assert names["plot"] == {"matplotlib"}
    assert names["docs"] == {"mkdocs-material", "mkdocstrings-python"}
    assert [item.extras for item in requirements["test"] if item.extras] == [{"docs", "examples"}]
    assert [item.extras for item in requirements["dev"] if item.extras] == [{"test"}]


def test_package_is_typed_and_licensed():
    assert (ROOT / "tf_neuralode" / "py.typed").is_file()
    assert PROJECT["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_importing_the_package_needs_no_extra():
    # Keras imports matplotlib where it is there, so "is not imported" would say nothing.
    code = (
        "import sys\n"
        "for name in ('matplotlib', 'tensorflow_datasets', 'scipy', 'psutil'):\n"
        "    sys.modules[name] = None\n"
        "import tf_neuralode\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr


# The README's commands and the gate


def test_readme_has_two_complete_commands():
    train, test = setup_commands()
    for command in (train, test):
        # Debian has no `python`, and no `pip` outside of a virtual environment.
        pattern = r'^python3 -m venv \.venv && \.venv/bin/pip install -e "\.\[(\w+)\]" && '
        (extra,) = re.findall(pattern, command)
        assert extra in EXTRAS
    (script,) = re.findall(r"&& \.venv/bin/python (\S+\.py)", train)
    assert (ROOT / script).is_file()
    assert test.endswith("&& .venv/bin/python -m pytest")


def test_gate_runs_the_readme_commands_literally_and_the_tests_last(tmp_path):
    run = run_gate(tmp_path, readme())
    assert run.returncode == 0, run.stderr
    train, test = setup_commands()
    assert [line for line in run.stdout.splitlines() if line] == [
        f"$ {train}",
        "python3 -m venv .venv",
        "pip install -e .[examples]",
        "python examples/mnist.py --gradient adjoint",
        '$ .venv/bin/pip install -e ".[dev]"',
        "pip install -e .[dev]",
        "$ .venv/bin/ruff check .",
        "ruff check .",
        "$ .venv/bin/ruff format --check .",
        "ruff format --check .",
        "$ .venv/bin/mypy",
        "mypy ",
        "$ .ci/lowest",
        "core tests",
        f"$ {test}",
        "python3 -m venv .venv",
        "pip install -e .[test]",
        "python -m pytest",
    ]


@pytest.mark.parametrize("failing", [0, 1])
def test_gate_stops_and_fails_where_a_command_fails(failing, tmp_path):
    commands = ["python3 -m venv .venv && echo trained", "echo tested"]
    commands[failing] = "exit 7"
    run = run_gate(tmp_path, readme_with(commands))
    assert run.returncode == 7
    assert ("trained" in run.stdout) == ("ruff check ." in run.stdout) == (failing == 1)
    assert "tested" not in run.stdout


def test_core_tests_get_the_lowest_declared_versions():
    run = subprocess.run(
        [sys.executable, ROOT / ".ci" / "lowest_versions.py"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lowest = {item.name: item for item in map(Requirement, run.stdout.splitlines())}
    for declared in map(Requirement, PROJECT["dependencies"]):
        (bound,) = declared.specifier
        (exact,) = lowest[declared.name].specifier
        assert (bound.operator, exact.operator) == (">=", "==")
        assert bound.version == exact.version
    assert {"pytest", "pytest-xdist", "scipy"} <= set(lowest)
    assert PROJECT["name"] not in lowest


@pytest.mark.parametrize("commands", [[], ["true"], ["true", "true", "true"]])
def test_gate_refuses_a_readme_without_two_commands(commands, tmp_path):
    run = run_gate(tmp_path, readme_with(commands))
    assert run.returncode == 1
    assert f"must have two set-up commands; found {len(commands)}" in run.stderr


def test_contributing_is_short():
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) < 60
