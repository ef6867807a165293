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


class Worker:
    """Each public method is a command, its result the answer."""

    def __init__(self, competitor, workload, options):
        self._module = importlib.import_module(f"competitors.{competitor}")
        self._memory_after_import = psutil.Process().memory_info().rss
        _reset_peak_memory()
        self._workload = workloads.make(**workload)
        self._options = options
        self._competitor = None

    def first_call(self):
        """Seconds of the first step: tracing, compiling and running it once."""
        self._competitor = self._module.build(self._workload, **self._options)
        # The imports have made a full collection due, 0.2 s with TensorFlow's and TFP's objects,
        # and it would come somewhere in the midst of this call.
        gc.collect()
        return _seconds(self._competitor.step)

    def run(self, num_steps):
        """Milliseconds a step, after one more call that isn't timed."""
        steps_per_call = getattr(self._competitor, "steps_per_call", 1)
        # `fit` goes on training: too many epochs would measure an overtrained, stiff field.
        num_calls = math.ceil(num_steps / steps_per_call)
        self._competitor.step()
        start = time.perf_counter()
        for _ in range(num_calls):
            self._competitor.step()
        seconds = time.perf_counter() - start
        return 1000 * seconds / (num_calls * steps_per_call)

    def peak_memory(self):
        """MB above what the process held after its imports."""
        return (_peak_memory() - self._memory_after_import) / 2**20

    def gradient_error(self, path):
        """Relative error against the gradients in the file `path`."""
        with np.load(path) as file:
            expected = [file[f"arr_{i}"] for i in range(len(file.files))]
        return reference.relative_error(
            self._competitor.to_numpy(self._competitor.step()), expected
        )

    def count(self):
        """Evaluations of f, forwards and backwards."""
        return self._competitor.count()


def _seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


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
