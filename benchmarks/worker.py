"""A process that runs one setting of one competitor, on command, see `protocol`."""

import gc
import importlib
import math
import os
import time

import numpy as np
import psutil

import protocol
import reference
import workloads

SECONDS_OF_LONG_CALL = 0.5  # what a cold cache costs doesn't show there


class Worker:
    """Each public method is a command, its result the answer."""

    def __init__(self, competitor, workload, options):
        self._module = importlib.import_module(f"competitors.{competitor}")
        self._memory_after_import = psutil.Process().memory_info().rss
        _reset_peak_memory()
        self._workload = workloads.make(**workload)
        self._options = options
        self._competitor = None
        self._last_call_s = 0.0

    def first_run(self, num_steps, seconds):
        """Seconds of each call until `num_steps` are done, tracing and compiling included.

        Ends early, where those behind the first have taken `seconds`. The number of a call's steps
        goes with them.
        """
        self._competitor = self._module.build(self._workload, **self._options)
        # The imports have made a full collection due, 0.2 s with TensorFlow's and TFP's objects,
        # and it would come somewhere in the midst of this call.
        gc.collect()
        calls = []
        while len(calls) * self._steps_per_call < num_steps:
            if len(calls) >= 2 and sum(calls[1:]) >= seconds:
                break
            calls.append(self._call())
        return {"calls": calls, "steps_per_call": self._steps_per_call}

    def run(self, num_steps):
        """Milliseconds a step, of each call; one more before them isn't timed."""
        # `fit` begins anew: too many epochs would measure an overtrained, stiff field.
        getattr(self._competitor, "reset", lambda: None)()
        if self._last_call_s < SECONDS_OF_LONG_CALL:
            self._call()
        num_calls = math.ceil(num_steps / self._steps_per_call)
        return [1000 * self._call() / self._steps_per_call for _ in range(num_calls)]

    def figures(self):
        """What else there is to say of this competitor, by name."""
        return getattr(self._competitor, "figures", dict)()

    def peak_memory(self):
        """MB above what the process held after its imports."""
        return (_peak_memory() - self._memory_after_import) / 2**20

    def relative_error(self, path):
        """Relative error against what is in the file `path`: gradients, or states."""
        with np.load(path) as file:
            expected = [file[f"arr_{i}"] for i in range(len(file.files))]
        return reference.relative_error(
            self._competitor.to_numpy(self._competitor.step()), expected
        )

    def count(self):
        """Evaluations of f, forwards and backwards; `None` where they aren't counted."""
        return getattr(self._competitor, "count", lambda: None)()

    @property
    def _steps_per_call(self):
        return getattr(self._competitor, "steps_per_call", 1)

    def _call(self):
        """Its seconds."""
        start = time.perf_counter()
        self._competitor.step()
        self._last_call_s = time.perf_counter() - start
        return self._last_call_s


def _reset_peak_memory():
    """The import's own peak isn't the competitor's; see proc(5)."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _peak_memory():
    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def _pin():
    """XLA takes as many threads as it may use processors."""
    num_threads = int(os.environ["BENCHMARK_NUM_THREADS"])
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_threads])


if __name__ == "__main__":
    _pin()
    protocol.serve(Worker)
