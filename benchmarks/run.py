"""Measure the training step of tf_neuralode against its peers, interleaved.

    python benchmarks/run.py
    python benchmarks/run.py --workloads mnist,mlp --rounds 15 --output benchmarks/results
    python benchmarks/run.py --workloads mnist --settings "XLA|diffrax"

Makes the peers' virtual environment at first use. Writes results.json, report.md and a plot.
"""

import argparse
import json
import pathlib
import re
import sys
import tempfile

import numpy as np

import driver
import peers
import reference
import report
import settings
import workloads

DEFAULT_WORKLOADS = ("mnist", "mlp", "conv", "long", "wide", "fit")


class Bench:
    """How to start workers; the same for all workloads."""

    def __init__(self, args):
        self._num_threads = args.threads
        self._num_rounds = args.rounds
        self._pattern = re.compile(args.settings)
        self._peers_python = args.peers_python
        if self._peers_python is None and not args.no_peers:
            self._peers_python = peers.ensure()
        self.versions = peers.versions(sys.executable)
        if self._peers_python is not None:
            self.versions.update(peers.versions(self._peers_python))

    def compare(self, workload_config, log):
        """Figures of all settings on one workload, a list."""
        workload = workloads.make(**workload_config)
        reference_path = None
        if workload is not None:
            reference_path = pathlib.Path(log.name).with_suffix(".npz")
            np.savez(reference_path, *reference.gradient(workload))
        entries = []
        try:
            self._start(
                settings.for_workload(workload), entries, workload_config, log, reference_path
            )
            if workload is not None:
                rows = settings.straight(_num_evaluations(entries))
                self._start(rows, entries, workload_config, log, reference_path)
            driver.take_turns(entries, self._num_rounds)
        finally:
            figures = [entry.finish() for entry in entries]
        return figures

    def _start(self, rows, entries, workload_config, log, reference_path):
        for setting in rows:
            if not self._pattern.search(setting.name):
                continue
            python = self._peers_python if setting.needs_peers else sys.executable
            if python is None:
                continue
            entry = driver.Entry(setting)
            entries.append(entry)
            entry.start(python, workload_config, self._num_threads, log, reference_path)
            print(f"  {setting.name}: {_brief(entry.figures)}", flush=True)


def _num_evaluations(entries):
    """Of our forward solve, the fewest of all settings."""
    counts = [
        entry.figures["num_evaluations"][0]
        for entry in entries
        if entry.setting.library == settings.OURS and entry.figures.get("num_evaluations")
    ]
    return min(counts, default=13)


def _brief(figures):
    if "error" in figures:
        return figures["error"]
    return f"first call {figures['first_call_s']:.1f} s"


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = lambda text: text.split(",")
    parser.add_argument("--workloads", type=names, default=list(DEFAULT_WORKLOADS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2, help="for each worker; default: 2")
    parser.add_argument("--settings", default="", help="regular expression; default: all")
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path(__file__).parent / "results"
    )
    parser.add_argument("--peers-python", help="a Python with the peers; default: makes one")
    parser.add_argument("--no-peers", action="store_true", help="tf_neuralode and TFP alone")
    args = parser.parse_args(argv)
    unknown = set(args.workloads) - set(workloads.names())
    if unknown:
        parser.error(f"--workloads must be of {', '.join(workloads.names())}. Received: {unknown}")
    return args


def main(argv=None):
    args = parse_arguments(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    bench = Bench(args)
    results = {"machine": report.machine(args.threads), "versions": bench.versions}
    results["num_rounds"] = args.rounds
    results["workloads"] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.workloads:
            print(f"{name}:", flush=True)
            with open(pathlib.Path(folder) / f"{name}.log", "w+") as log:
                results["workloads"][name] = bench.compare({"name": name}, log)
            # After each workload, so that an interrupted run leaves what it has.
            write(results, args.output)
    print((args.output / "report.md").read_text())


def write(results, folder):
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "report.md").write_text(report.markdown(results))
    report.plot(results, folder / "plot.png")


if __name__ == "__main__":
    main()
