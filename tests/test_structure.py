"""The package is laid out as CONTRIBUTING draws it: imports run one way, and files are short."""

import ast
import graphlib
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "tf_neuralode"
# From the bottom to the top; what isn't listed stands at the top level, too.
ORDER = [
    "tensors",
    "field",
    "controls",
    "methods",
    "stepping",
    "solvers",
    "gradients",
    "results",
    "solve",
    "eager",
]
ABOVE = ["odeint", "regularizers", "layers", "fields", "plotting", "__init__"]
ANYWHERE = ["read_only"]  # imports nothing of the package
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text())
    for path in PACKAGE.rglob("*.py")
}


def imports(tree):
    """The modules of the package that a module imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tf_neuralode"):
            module = node.module[len("tf_neuralode") :].lstrip(".")
            for alias in node.names:
                names = [f"{module}.{alias.name}", module, f"{module}.__init__"]
                names = [name.lstrip(".") for name in names]
                names.insert(1, f"{names[0]}.__init__")
                found.add(next(name for name in names if name in MODULES))
    return found


def test_imports_run_one_way():
    rank = {name: i for i, name in enumerate([*ANYWHERE, *ORDER, *ABOVE])}
    upwards = [
        (name, imported)
        for name, tree in MODULES.items()
        for imported in imports(tree)
        if rank[imported.split(".")[0]] > rank[name.split(".")[0]]
    ]
    assert upwards == []


def test_no_imports_run_in_a_circle():
    graph = {name: imports(tree) - {name} for name, tree in MODULES.items()}
    # A folder's own file stands for what it hands on to those above it, not to its parts.
    for name, found in graph.items():
        folder = name.split(".")[0]
        assert f"{folder}.__init__" not in found or name == "__init__", name
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_files_and_functions_are_short():
    for name, tree in MODULES.items():
        text = (PACKAGE / (name.replace(".", "/") + ".py")).read_text()
        if name != "solvers.catalogue":  # tables of coefficients
            assert len(text.splitlines()) <= 250, name
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                docstring = ast.get_docstring(node, clean=False) or ""
                lines = node.end_lineno - node.lineno + 1 - len(docstring.splitlines())
                assert lines <= 60, (name, node.name)
