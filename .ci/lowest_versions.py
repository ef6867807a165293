"""Prints what the core tests need, each at the lowest version that pyproject.toml declares."""

import pathlib
import sys

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

root = pathlib.Path(__file__).resolve().parent.parent
project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
extra = project["optional-dependencies"]["test"]
tests = [item for item in extra if not item.startswith(project["name"])]
for requirement in [*project["dependencies"], *tests]:
    print(requirement.replace(">=", "=="))
