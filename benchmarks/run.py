"""Measure tf_neuralode against its peers, interleaved.

    python benchmarks/run.py
    python benchmarks/run.py --workloads mnist,mlp --rounds 15 --output benchmarks/results
    python benchmarks/run.py --workloads mnist --settings "XLA|diffrax"
    python benchmarks/run.py --studies max_num_steps,memory,batch,outputs

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
import kinds
import peers
import report
import settings
import studies
import workloads

DEFAULT_WORKLOADS = (
    *("mnist", "mlp", "conv", "long", "wide", "irregular30", "irregular200", "cde"),
    *("fit", "spiral", "lotka_volterra", "lorenz", "serve"),
)


class Bench:
    """Starts the workers of a run, all in the same way."""

    def __init__(self, args):
        self._num_threads = args.threads
        self._num_rounds = args.rounds
        self._pattern = re.compile(args.settings)
        self._peers_python = args.peers_python
        if self._peers_python is None and args.workloads and not args.no_peers:
            self._peers_python = peers.ensure()
        self.versions = peers.versions(sys.executable)
        if self._peers_python is not None:
            self.versions |= peers.versions(self._peers_python)
        self._folder = pathlib.Path(args.scratch)
        self._references = {}  # paths, by workload

    def compare(self, name):
        """Figures of all settings on one workload, a list."""
        print(f"{name}:", flush=True)
        kind = kinds.of(name)
        rows = lambda entries: kind.rows(name)
        limits = lambda entries: kind.limits(name, _counts(entries))
        return self._measure([rows, limits], kind)

    def study(self, name):
        """Figures of a study's rows, a list for each of its groups."""
        print(f"{name}:", flush=True)
        study = studies.make(name)
        groups = [lambda entries, g=group: g for group in study.groups]
        figures = self._measure(groups, in_turns=study.in_turns)
        return [[row for row in figures if row["group"] == i] for i in range(len(study.groups))]

    def _measure(self, groups, kind=None, in_turns=True):
        """Starts the groups one after the other, then lets all take turns.

        A study has no `kind`: neither errors nor more than one first step.
        """
        entries = []
        with open(self._folder / "workers.log", "a") as log:
            try:
                for index, group in enumerate(groups):
                    for workload, setting in group(entries):
                        num_first_steps = kind.num_first_steps if kind else 1
                        entry = driver.Entry(setting, workload, index, num_first_steps)
                        python = self._python(setting)
                        if python is None or not self._pattern.search(setting.name):
                            continue
                        entries.append(entry)
                        path = self._reference(workload, kind) if kind else None
                        entry.start(python, self._num_threads, log, path)
                        if not in_turns:
                            entry.stop()
                        print(f"  {setting.name}: {_brief(entry.figures)}", flush=True)
                if in_turns:
                    driver.take_turns(entries, self._num_rounds)
            finally:
                figures = [entry.finish() for entry in entries]
        return figures

    def _reference(self, workload, kind):
        """Path of what a step's result is compared with; `None` if it isn't."""
        key = json.dumps(workload)
        if key not in self._references:
            expected = kind.expected(workloads.make(**workload))
            path = self._folder / f"reference-{len(self._references)}.npz"
            if expected is not None:
                np.savez(path, *expected)
            self._references[key] = None if expected is None else path
        return self._references[key]

    def _python(self, setting):
        """`None` if the setting is left out."""
        return self._peers_python if setting.needs_peers else sys.executable


def _counts(entries):
    """The numbers of evaluations of our forward solves, by different solvers."""
    counts = {
        entry.figures["num_evaluations"][0]
        for entry in entries
        if entry.setting.library == settings.OURS and entry.figures.get("num_evaluations")
    }
    return sorted(counts) or [10]  # of one step of Verner6, where none of ours is measured


def _brief(figures):
    if "error" in figures:
        return figures["error"]
    return f"first call {figures['first_call_s']:.1f} s"


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = lambda text: text.split(",")
    parser.add_argument("--workloads", type=names, help=f"default: {','.join(DEFAULT_WORKLOADS)}")
    parser.add_argument("--studies", type=names, default=[], help="alone: no workloads")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2, help="for each worker; default: 2")
    parser.add_argument("--settings", default="", help="regular expression; default: all")
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path(__file__).parent / "results"
    )
    parser.add_argument("--peers-python", help="a Python with the peers; default: makes one")
    parser.add_argument("--no-peers", action="store_true", help="tf_neuralode, TFP and SciPy alone")
    args = parser.parse_args(argv)
    if args.workloads is None:
        args.workloads = [] if args.studies else list(DEFAULT_WORKLOADS)
    for name in ("workloads", "studies"):
        known = {"workloads": workloads, "studies": studies}[name].names()
        unknown = set(getattr(args, name)) - set(known)
        if unknown:
            parser.error(f"--{name} must be of {', '.join(known)}. Received: {sorted(unknown)}")
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1. Received: {args.rounds}")
    return args


def main(argv=None):
    args = parse_arguments(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as args.scratch:
        bench = Bench(args)
        results = {
            "machine": report.machine(args.threads),
            "versions": bench.versions,
            "num_rounds": args.rounds,
            "workloads": {},
            "studies": {},
        }
        for kind, measure in (("workloads", bench.compare), ("studies", bench.study)):
            for name in getattr(args, kind):
                results[kind][name] = measure(name)
                # After each, so that an interrupted run leaves what it has.
                write(results, args.output)
    print((args.output / "report.md").read_text())


def write(results, folder):
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "report.md").write_text(report.markdown(results))
    report.plot(results, folder / "plot.png")


if __name__ == "__main__":
    main()
