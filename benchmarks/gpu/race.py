"""Run the lowered programs on a GPU: check them, and time them beside diffrax and torchdiffeq.

    python -m gpu.race --travel travel --output result.json --budget 460

Needs JAX and NumPy; peers take part where they can be imported. Without a GPU it runs on the CPU,
which checks the numbers. A row that fails is a row with its reason, and so is one that there was no
time for. Prints tables, which `gpu.tables` makes again from the file.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import statistics
import sys
import tempfile
import time

from gpu import problems, tables
from gpu.problems import MAIN_TOLERANCE
from protocol import WorkerDied, WorkerFailed, WorkerHandle

HERE = pathlib.Path(__file__).resolve().parent
TO_PREPARE = 0.5  # of the budget at most: compiling and checking
MOST_DEATHS = 2  # of a process, before it isn't started again


class Clock:
    """What is left of the budget."""

    def __init__(self, budget):
        self._start, self.budget = time.perf_counter(), budget

    def passed(self):
        return time.perf_counter() - self._start

    def left(self):
        return self.budget - self.passed()


@dataclasses.dataclass
class Crew:
    """The rows of a problem that one process runs; it is started anew where a row kills it."""

    framework: str
    problem: str
    travel: str
    clock: Clock
    log: object
    cache: str
    pattern: str = ""
    options: tuple = ()
    about: dict = dataclasses.field(default_factory=dict)
    rows: dict = dataclasses.field(default_factory=dict)  # by name, all with figures or a reason

    def __post_init__(self):
        self._handle, self._deaths = None, 0

    def prepare(self, until):
        """Compiles and checks one row after the other while there is time."""
        try:
            self._start()
            self.about = self._ask("about")
            names = [n for n in self._ask("names") if re.search(self.pattern, n)]
        except WorkerFailed as error:
            self.rows = {f"{self.framework}: all": {"failed": _brief(error)}}
            return
        self.rows = {name: {} for name in _in_turn(names)}
        for name, row in self.rows.items():
            if self.clock.passed() > until:
                row["failed"] = "no time left to compile"
                continue
            with self._watched(name):
                row |= self._ask("prepare", name=name, options=self.options)
                row["checks"] = self._ask("check", name=name)

    def ready(self, tolerance):
        """Names of the rows that were done with this tolerance."""
        return [
            name for name, row in self.rows.items()
            if "failed" not in row and row["checks"].get(repr(tolerance), {}).get("done")
        ]  # fmt: skip

    def turn(self, name, tolerance, seconds, pipelined):
        with self._watched(name):
            arguments = {"tolerance": tolerance, "seconds": seconds, "pipelined": pipelined}
            ms = self._ask("turn", name=name, **arguments)
            key = "pipelined_ms" if pipelined else "ms"
            self.rows[name].setdefault(key, {}).setdefault(repr(tolerance), []).append(ms)

    def profile(self, name, tolerance):
        with contextlib.suppress(WorkerFailed):  # a figure the less
            found = self._ask("profile", name=name, tolerance=tolerance)
            self.rows[name]["profile"] = found

    def close(self):
        if self._handle is not None:
            self._handle.close()

    def _start(self):
        command = [sys.executable, "-m", "gpu.worker"]
        config = {"framework": self.framework, "problem": self.problem, "travel": self.travel}
        environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        path = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        config["cache"] = self.cache
        self._handle = WorkerHandle(command, config, environment, self.log, self._patience())

    def _ask(self, command, **arguments):
        return self._handle.ask(command, within=self._patience(), **arguments)

    def _patience(self):
        """Seconds that an answer is waited for: what hangs must not outlast the budget."""
        return max(1.0, min(90.0, self.clock.left()))

    @contextlib.contextmanager
    def _watched(self, name):
        """Keeps a row's failure and goes on without it."""
        try:
            yield
        except WorkerDied as error:
            self.rows[name]["failed"] = _brief(error)
            self._revive()
        except WorkerFailed as error:
            self.rows[name]["failed"] = _brief(error)

    def _revive(self):
        """A new process for what the dead one had ready."""
        self.close()
        self._deaths += 1
        had = [name for name, row in self.rows.items() if "checks" in row and "failed" not in row]
        try:
            if self._deaths > MOST_DEATHS:
                raise WorkerFailed(f"the process died {self._deaths} times")
            self._start()
            for name in had:
                try:
                    self._ask("prepare", name=name, options=self.options)
                    self._ask("check", name=name)
                except WorkerDied:
                    raise
                except WorkerFailed as error:
                    self.rows[name]["failed"] = _brief(error)
        except WorkerFailed as error:
            for row in self.rows.values():
                row.setdefault("failed", _brief(error))


def _in_turn(names):
    """One of each library, then the next of each: whatever time is left is fair to all."""
    groups = {}
    for name in names:
        groups.setdefault(name.split(".")[0], []).append(name)
    longest = max(map(len, groups.values()), default=0)
    return [group[i] for i in range(longest) for group in groups.values() if i < len(group)]


def _brief(error):
    return " ".join(str(error).split())[:300]


def measure(crews, problem, clock, until, args):
    """Interleaved turns, A B C A B C ..., a tolerance at a time, the main one first."""
    order = sorted(problem.tolerances, key=lambda x: (x != MAIN_TOLERANCE, x))
    for position, tolerance in enumerate(order):
        end = clock.passed() + (until - clock.passed()) / (len(order) - position)
        modes = (False, True) if tolerance == MAIN_TOLERANCE else (False,)
        for _ in range(args.rounds):
            for crew in crews:
                for name in crew.ready(tolerance):
                    for pipelined in modes:
                        if clock.passed() < end:
                            crew.turn(name, tolerance, args.turn, pipelined)
            if clock.passed() > end:
                break
    for crew in crews:
        for name in _fastest_of_each(crew, MAIN_TOLERANCE):
            if clock.left() > 5:
                crew.profile(name, MAIN_TOLERANCE)


def _fastest_of_each(crew, tolerance):
    """The fastest row of each library."""
    best = {}
    for name, row in crew.rows.items():
        if "failed" not in row and (taken := row.get("ms", {}).get(repr(tolerance))):
            library = name.split(".")[0]
            best[library] = min(best.get(library, (1e9, "")), (statistics.median(taken), name))
    return [name for _, name in best.values()]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--travel", default="travel", help="folder that lower.py wrote")
    parser.add_argument("--output", default="result.json")
    parser.add_argument("--problems", default="", help="names, with commas; all if left out")
    parser.add_argument("--rows", default="", help="regular expression, searched in their names")
    parser.add_argument("--budget", type=float, default=460, help="seconds for everything")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--turn", type=float, default=0.03, help="seconds of steps in a turn")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--option", action="append", default=[], help="of XLA: name=value")
    args = parser.parse_args(argv)
    clock = Clock(args.budget)
    manifest = json.loads((pathlib.Path(args.travel) / "manifest.json").read_text())
    names = args.problems.split(",") if args.problems else list(manifest["inputs"])
    frameworks = ["jax"] if args.no_torch else ["jax", "torch"]
    folder = pathlib.Path(args.travel).resolve()
    result = {"about": {"options": args.option, **manifest["versions"]}, "problems": {}}
    crews = {}

    def write():
        for name, members in crews.items():
            for crew in members:
                result["about"] |= crew.about
            result["problems"][name] = {n: r for crew in members for n, r in crew.rows.items()}
        pathlib.Path(args.output).write_text(json.dumps(result, indent=1))

    with tempfile.TemporaryDirectory() as scratch:
        log = open(pathlib.Path(scratch) / "workers.log", "w")
        for name in names:
            common = (name, str(folder), clock, log, f"{scratch}/cache", args.rows)
            crews[name] = [Crew(f, *common, tuple(args.option)) for f in frameworks]
        everyone = [crew for members in crews.values() for crew in members]
        try:
            threads = max(1, (os.cpu_count() or 2) - 2)
            with concurrent.futures.ThreadPoolExecutor(threads) as pool:
                until = TO_PREPARE * clock.budget
                list(pool.map(lambda crew: crew.prepare(until), everyone))
            write()
            print(f"compiled and checked in {clock.passed():.0f} s", flush=True)
            for position, name in enumerate(names):
                share = (0.95 * clock.budget - clock.passed()) / (len(names) - position)
                problem = problems.PROBLEMS[name]
                measure(crews[name], problem, clock, clock.passed() + share, args)
                write()
        finally:
            for crew in everyone:
                crew.close()
            log.close()
    print(tables.text(result))
    print(f"done in {clock.passed():.0f} s")


if __name__ == "__main__":
    main()
