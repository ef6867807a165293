"""The documentation builds without a warning, runs, and leaves no public name out."""

import dataclasses
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import tf_neuralode
from tf_neuralode import fields, gradients, layers, plotting, results, solvers

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md")) + sorted((ROOT / "docs/extending").glob("*.md"))

MODULES = {
    "tf_neuralode": tf_neuralode,
    "tf_neuralode.fields": fields,
    "tf_neuralode.solvers": solvers,
    "tf_neuralode.gradients": gradients,
    "tf_neuralode.plotting": plotting,
}
PUBLIC = {
    f"{module}.{name}": getattr(MODULES[module], name)
    for module in MODULES
    for name in MODULES[module].__all__
    if not inspect.ismodule(getattr(MODULES[module], name))
}
PUBLIC |= {
    f"tf_neuralode.results.{name}": getattr(results, name) for name in ("Results", "DenseSolution")
}
PUBLIC |= {
    f"tf_neuralode.layers.{name}": getattr(layers, name)
    for name in layers.__all__
    if name not in tf_neuralode.__all__
}


def documented_arguments(thing):
    """Names of the entries below `Args:` and `Call arguments:` of its docstring."""
    text = inspect.getdoc(thing) + "\n"
    sections = re.findall(r"^(?:Args|Call arguments):\n((?:  .*\n|\n)+)", text, re.MULTILINE)
    entries = re.findall(r"^  ([*\w][^:]*):", "".join(sections), re.MULTILINE)
    return {name.strip("* ") for entry in entries for name in entry.split(",")}


def arguments(thing):
    """Names of its arguments; for a layer those of its call, too."""
    names = list(inspect.signature(thing).parameters)
    if issubclass(type(thing), type) and issubclass(thing, keras.layers.Layer):
        names.remove("kwargs")  # Keras' own: name, dtype
        names += list(inspect.signature(thing.call).parameters)[1:]
    return set(names)


def takes_arguments_of_its_own(thing):
    """Not what a base class's docstring tells, nor what only the package makes."""
    if inspect.isfunction(thing):
        return len(arguments(thing)) > 1
    made_by_users = not issubclass(thing, (tuple, results.DenseSolution)) and thing not in (
        solvers.RungeKutta,
        gradients.Gradient,
    )
    return made_by_users and ("__init__" in vars(thing) or dataclasses.is_dataclass(thing))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built pages."""
    folder = tmp_path_factory.mktemp("site")
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return folder


def test_every_public_name_has_an_entry_in_the_reference(site):
    pages = "".join(page.read_text(encoding="utf-8") for page in site.glob("reference/**/*.html"))
    anchors = set(re.findall(r'id="(tf_neuralode[\w.]*)"', pages))
    # A function beside a module of its name goes by the module's.
    missing = [name for name in PUBLIC if not {name, f"{name}.{name.split('.')[-1]}"} & anchors]
    assert not missing


def test_pages_load_nothing_from_elsewhere(site):
    for page in site.glob("**/*.html"):
        loaded = re.findall(
            r'<(?:script|img)[^>]*src="(http[^"]*)', page.read_text(encoding="utf-8")
        )
        assert loaded == [], page


@pytest.mark.parametrize(
    "name", [name for name, thing in PUBLIC.items() if takes_arguments_of_its_own(thing)]
)
def test_docstring_lists_the_arguments_and_no_others(name):
    assert documented_arguments(PUBLIC[name]) == arguments(PUBLIC[name])


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_begins_with_one_line(name):
    first, *rest = inspect.getdoc(PUBLIC[name]).splitlines()
    assert first.endswith((".", "].", "]")) and (not rest or rest[0] == "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it writes pictures
    keras.utils.set_random_seed(0)
    text = page.read_text(encoding="utf-8")
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(block, names)
