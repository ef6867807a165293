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

    def __init__(self, setting, workload, group=0):
        self.setting = setting
        self.figures = {}
        self.rounds = []
        self._workload = workload
        self._group = group
        self._worker = None
        self._num_steps = 1

    @property
    def failed(self):
        return "error" in self.figures

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
            self.figures["first_call_s"] = self._worker.ask("first_call")
            ms = min(self._worker.ask("run", num_steps=1) for _ in range(3))
            self._num_steps = max(1, min(MAX_STEPS_OF_TURN, int(1000 * SECONDS_OF_TURN / ms)))
            self.figures["peak_memory_mb"] = self._worker.ask("peak_memory")
            if reference_path is not None:
                error = self._worker.ask("gradient_error", path=str(reference_path))
                self.figures["gradient_error"] = error
                self.figures["num_evaluations"] = self._worker.ask("count")

    def take_turn(self):
        with self._catch():
            self.rounds.append(self._worker.ask("run", num_steps=self._num_steps))

    def stop(self):
        """Ends the worker, and gives its memory back."""
        if self._worker is not None:
            self._worker.close()

    def finish(self):
        self.stop()
        if self.rounds:
            self.figures["median_ms"] = statistics.median(self.rounds)
            self.figures["min_ms"] = min(self.rounds)
        return {
            "library": self.setting.library,
            "workload": self._workload,
            "group": self._group,
            "label": self.setting.label,
            "options": self.setting.options,
            **self.figures,
            "rounds_ms": self.rounds,
        }

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
            if not entry.failed:
                entry.take_turn()
                time.sleep(0.01)  # for threads that spin a while after their work
