"""Python code run in a process of its own, with a time limit."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 300


def run_python(*arguments, cwd, **environment):
    """Runs `python *arguments`; returns the finished process."""
    paths = [str(ROOT), str(ROOT / "examples"), str(ROOT / "tests")]
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
