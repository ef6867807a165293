"""The peers' virtual environment."""

import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
VENV = HERE / ".peers-venv"
REQUIREMENTS = HERE / "peers-requirements.txt"
SHOWN = (
    *("tensorflow", "keras", "tensorflow-probability", "torch", "torchdiffeq", "torchode"),
    *("torchcde", "jax", "diffrax", "optax", "numpy", "scipy"),
)


def ensure():
    """Path of a Python with the peers; makes the environment if it isn't there or is outdated."""
    python = VENV / "bin" / "python"
    stamp = VENV / "installed.txt"
    wanted = REQUIREMENTS.read_text()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"Making the peers' environment in {VENV}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    torch = next(line for line in wanted.splitlines() if line.startswith("torch=="))
    # torch first: where an index offers a CPU build, its dependents must not ask for another.
    for packages in ([torch], ["-r", REQUIREMENTS]):
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    stamp.write_text(wanted)
    return python


def versions(python):
    """Versions of the packages that matter, by name."""
    program = (
        "import importlib.metadata, json\n"
        "print(json.dumps({d.metadata['Name']: d.version"
        " for d in importlib.metadata.distributions()}))"
    )
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    installed = json.loads(done.stdout)
    return {name: installed[name] for name in SHOWN if name in installed}
