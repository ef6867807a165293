"""Count what a step launches on a GPU, without one: compiled ahead of time for an H100.

    python -m gpu.ahead --travel travel --output launches.json
    python -m gpu.ahead --travel travel --problems mnist --rows "tape|all_checkpoints"

Needs the packages of `requirements.txt`, diffrax for its rows. How often the loops turn is read off
a run on the CPU.
"""

import argparse
import json
import os
import pathlib
import re

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
from jax.experimental import topologies

from gpu import jax_rows, launches, problems, rows, turns

HERE = pathlib.Path(__file__).resolve().parent


def gpu():
    """An H100 that isn't there."""
    description = (HERE / "h100.txtpb").read_text()
    return topologies.get_topology_desc(
        "", "cuda", target_config=description, topology="1x1x1"
    ).devices[0]


def figures(problem, row, folder, entries, device):
    """Launches of a row: of each loop's body, and of a step at the tolerance 1e-3."""
    jax.config.update("jax_enable_x64", problem.float64)
    inputs = [jax.device_put(x) for x in problem.inputs()]
    make = lambda platform: jax_rows.make(problem, row, folder, entries, platform)
    there = jax_rows.Compiled(make("cuda"), problem, device, inputs)
    here = jax_rows.Compiled(make("cpu"), problem, jax.devices("cpu")[0], inputs)
    program = launches.program(there.executable.as_text())
    call = here.call(problems.MAIN_TOLERANCE)
    outputs = [np.asarray(x) for x in call()]
    ran = turns.of_loops(here.executable, call)
    positions = [position for position, _ in program.nested()]
    if positions != list(ran):
        raise ValueError(f"other loops on the CPU: {list(ran)}, on the GPU {positions}")
    launched, waits = program.of_a_run(ran)
    return {
        "counts": program.counts(),
        "sources": [loop.source for _, loop in program.nested()],
        "turns": list(ran.values()),
        "launches": launched,
        "waits": waits,
        "steps": here.program.steps(outputs),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--travel", default="travel", help="folder that lower.py wrote")
    parser.add_argument("--problems", default="", help="names, with commas; all if left out")
    parser.add_argument("--rows", default="", help="regular expression, searched in their names")
    parser.add_argument("--output", default="launches.json")
    args = parser.parse_args()
    folder = pathlib.Path(args.travel)
    manifest = json.loads((folder / "manifest.json").read_text())
    device, results = gpu(), {}
    for name in args.problems.split(",") if args.problems else manifest["inputs"]:
        problem = problems.get(name, folder)
        for row in [*rows.ours(problem), *rows.diffrax(problem)]:
            if row.on_device or not re.search(args.rows, row.name):
                continue
            key = f"{name}/{row.name}"
            try:
                result = figures(problem, row, folder, manifest["programs"], device)
            except Exception as error:
                result = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
            results[key] = result
            if "failed" in result:
                print(f"{key}: {result['failed']}", flush=True)
            else:
                shown = ("launches", "waits", "steps", "counts", "turns")
                print(key, *[f"{k} {result[k]}" for k in shown], flush=True)
            pathlib.Path(args.output).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
