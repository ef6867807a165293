"""Starts the workers and lets them compute one at a time, in turns."""

import contextlib
import os
import pathlib
import statistics
import time

from protocol import WorkerFailed, WorkerHandle

HERE = pathlib.Path(__file__).resolve().parent
SECONDS_OF_TURN = 0.1
MAX_STEPS_OF_TURN = 250
SECONDS_OF_FIRST_RUN = 10  # what takes longer is computed from there on
# Whoever has had so many rounds and seconds of turns has done.
ENOUGH_ROUNDS, ENOUGH_SECONDS = 3, 60


def _environment(num_threads):
    threads = str(num_threads)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE.parent / "examples")]),
        "BENCHMARK_NUM_THREADS": threads,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "-1",
    }


class Entry:
    """A setting on a workload, its worker and its figures; a failure is a figure, too."""

    def __init__(self, setting, workload, group=0, num_first_steps=1):
        self.setting = setting
        self.figures = {}
        self.rounds = []
        self._calls = []  # milliseconds a step of each call in all rounds
        self._num_first_steps = num_first_steps
        self._first_run = None
        self._workload = workload
        self._group = group
        self._worker = None
        self._num_steps = 1

    @property
    def failed(self):
        return "error" in self.figures

    @property
    def has_done(self):
        if len(self.rounds) < ENOUGH_ROUNDS:
            return False
        ms_of_calls = sum(self._calls) * self._first_run["steps_per_call"]
        return ms_of_calls >= 1000 * ENOUGH_SECONDS

    def start(self, python, num_threads, log, reference_path):
        """Takes the figures that are taken once, with no other worker computing."""
        config = {
            "competitor": self.setting.module,
            "workload": self._workload,
            "options": self.setting.options,
        }
        with self._catch():
            command = [python, HERE / "worker.py"]
            self._worker = WorkerHandle(command, config, _environment(num_threads), log)
            self._take_first_run()
            self._num_steps = self._steps_of_turn()
            self.figures["peak_memory_mb"] = self._worker.ask("peak_memory")
            if reference_path is not None:
                error = self._worker.ask("relative_error", path=str(reference_path))
                self.figures["relative_error"] = error
                self.figures["num_evaluations"] = self._worker.ask("count")
            self.figures |= self._worker.ask("figures")

    def _take_first_run(self):
        self._first_run = self._worker.ask(
            "first_run", num_steps=self._num_first_steps, seconds=SECONDS_OF_FIRST_RUN
        )
        calls = self._first_run["calls"]
        self.figures["first_call_s"] = calls[0]
        if len(calls) > 1:
            self.figures["second_call_s"] = calls[1]

    def _steps_of_turn(self):
        num_tries = 3 if self._first_run["steps_per_call"] == 1 else 1
        ms = min(min(self._worker.ask("run", num_steps=1)) for _ in range(num_tries))
        return max(1, min(MAX_STEPS_OF_TURN, int(1000 * SECONDS_OF_TURN / ms)))

    def take_turn(self):
        with self._catch():
            calls = self._worker.ask("run", num_steps=self._num_steps)
            self.rounds.append(statistics.fmean(calls))
            self._calls += calls

    def stop(self):
        """Ends the worker, and gives its memory back."""
        if self._worker is not None:
            self._worker.close()

    def finish(self):
        self.stop()
        if self.rounds:
            self.figures["median_ms"] = statistics.median(self.rounds)
            self.figures["min_ms"] = min(self.rounds)
            self.figures["calls_median_ms"] = statistics.median(self._calls)
            self.figures["calls_p99_ms"] = sorted(self._calls)[int(0.99 * len(self._calls))]
            self._sum_up_first_run()
        return {
            "library": self.setting.library,
            "workload": self._workload,
            "group": self._group,
            "label": self.setting.label,
            "options": self.setting.options,
            **self.figures,
            "rounds_ms": self.rounds,
        }

    def _sum_up_first_run(self):
        """Its seconds; the steps that weren't run are counted at their median."""
        calls = self._first_run["calls"]
        missing = self._num_first_steps - len(calls) * self._first_run["steps_per_call"]
        rest_s = max(0, missing) * self.figures["median_ms"] / 1000
        self.figures["first_run_s"] = sum(calls) + rest_s
        self.figures["first_run_steps"] = self._num_first_steps
        self.figures["first_run_is_measured"] = missing <= 0

    @contextlib.contextmanager
    def _catch(self):
        """Keeps a worker's failure and goes on without it."""
        try:
            yield
        except WorkerFailed as error:
            self.figures["error"] = " ".join(str(error).split())[:300]


def take_turns(entries, num_rounds):
    """A B C A B C ...; whoever fails drops out."""
    for _ in range(num_rounds):
        for entry in entries:
            if not (entry.failed or entry.has_done):
                entry.take_turn()
                time.sleep(0.01)  # for threads that spin a while after their work
