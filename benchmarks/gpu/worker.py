"""A process that compiles, checks and times the rows of one problem and framework, on command."""

import collections
import json
import pathlib
import statistics
import time

import numpy as np

import protocol
from gpu import problems, rows


class Worker:
    """Each public method is a command, its result the answer. A row that fails is an error."""

    def __init__(self, framework, problem, travel, cache=None):
        self._folder = pathlib.Path(travel)
        self._manifest = json.loads((self._folder / "manifest.json").read_text())
        self._problem = problems.get(problem, self._folder)
        self._inputs = self._problem.inputs()
        if problems.checksum(self._inputs) != self._manifest["inputs"][problem]:
            raise ValueError("NumPy makes other inputs here than where the programs were lowered")
        self._reference = problems.load(self._folder / "reference" / f"{problem}.npz")
        self._framework = {"jax": Jax, "torch": Torch}[framework](
            self._problem, self._inputs, self._folder, self._manifest, cache
        )
        self._rows = {row.name: row for row in self._framework.rows()}
        self._calls = {}

    def about(self):
        return self._framework.about()

    def names(self):
        return list(self._rows)

    def prepare(self, name, options=()):
        """Seconds to compile, and what the compiled program launches."""
        start = time.perf_counter()
        row = self._rows[name]
        launches = self._framework.prepare(row, [*options, *row.options])
        return {"compile_s": time.perf_counter() - start, **launches}

    def check(self, name):
        """For each tolerance: error, difference from TensorFlow's numbers, steps."""
        row, result = self._rows[name], {}
        expected = self._expected(row)
        for i, tolerance in enumerate(rows.tolerances(self._problem, row)):
            call = self._framework.call(row, tolerance)
            outputs, done, steps = self._framework.compared(row, call())
            found = {"done": bool(done), "steps": steps}
            if done:
                found["error"] = problems.error(outputs, self._reference)
            if done and expected is not None:
                found |= expected(i, outputs)
            self._calls[name, tolerance] = call
            result[repr(tolerance)] = found
        return result

    def _expected(self, row):
        """What compares outputs at the tolerance of an index with TensorFlow's."""
        if row.library != rows.TRAVELS:
            return None
        entry = self._manifest["programs"][f"{self._problem.name}/{row.program_name}"]
        expected, num = problems.load(self._folder / entry["expected"]), len(self._reference)
        return lambda i, outputs: {
            "against_tensorflow": problems.error(outputs, expected[i * num : (i + 1) * num]),
            "tensorflow_error": entry["errors"][i],
            "tensorflow_steps": entry["steps"][i] if entry["steps"] else None,
        }

    def turn(self, name, tolerance, seconds, pipelined=False):
        """Milliseconds a step; `pipelined`: the host waits for the last of several only."""
        call, wait = self._calls[name, tolerance], self._framework.wait
        wait(call())
        start = time.perf_counter()
        wait(call())
        one = time.perf_counter() - start
        if pipelined:
            num = int(min(max(seconds / max(one, 1e-6), 1), 1000))
            start = time.perf_counter()
            for _ in range(num):
                result = call()
            wait(result)
            return 1e3 * (time.perf_counter() - start) / num
        taken = [one]
        end = start + seconds
        while (start := time.perf_counter()) < end:
            wait(call())
            taken.append(time.perf_counter() - start)
        return 1e3 * statistics.median(taken)

    def profile(self, name, tolerance):
        """Kernels that a step ran on the GPU, how long they took, and which took longest."""
        call, wait = self._calls[name, tolerance], self._framework.wait
        wait(call())
        return self._framework.profile(call)


class Jax:
    """Our programs, and diffrax."""

    def __init__(self, problem, inputs, folder, manifest, cache):
        import jax

        from gpu import jax_rows

        jax.config.update("jax_enable_x64", problem.float64)
        if cache:  # for a process that takes over from one that died
            jax.config.update("jax_compilation_cache_dir", cache)
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        self._jax, self._jax_rows = jax, jax_rows
        self._problem, self._folder, self._entries = problem, folder, manifest["programs"]
        self._inputs = [jax.device_put(x) for x in inputs]
        self._compiled = {}
        self.wait = jax.block_until_ready

    def about(self):
        device = self._jax.devices()[0]
        return {"jax": self._jax.__version__, "device": device.device_kind,
                "platform": device.client.platform_version}  # fmt: skip

    def rows(self):
        known = [r for r in rows.ours(self._problem) if self._key(r) in self._entries]
        return [*known, *rows.diffrax(self._problem)]

    def _key(self, row):
        return f"{self._problem.name}/{row.program_name}"

    def prepare(self, row, options):
        from gpu import launches

        device = self._jax.devices()[0]
        platform = "cpu" if device.platform == "cpu" else "cuda"
        make = self._jax_rows.make
        program = make(self._problem, row, self._folder, self._entries, platform)
        compiled = self._jax_rows.Compiled(program, self._problem, device, self._inputs, options)
        self._compiled[row] = compiled
        return {"launches": launches.program(compiled.executable.as_text()).counts()}

    def call(self, row, tolerance):
        return self._compiled[row].call(tolerance)

    def compared(self, row, outputs):
        outputs = [np.asarray(x) for x in outputs]
        program = self._compiled[row].program
        return *program.compared(outputs), program.steps(outputs)

    def profile(self, call):
        from gpu import turns

        events = turns.trace(call)
        gpus = {
            e["pid"] for e in events
            if e.get("name") == "process_name" and "GPU" in e["args"].get("name", "")
        }  # fmt: skip
        kernels = [e for e in events if e["ph"] == "X" and e["pid"] in gpus]
        return _summary((e["name"], e["dur"]) for e in kernels)


class Torch:
    """torchdiffeq."""

    def __init__(self, problem, inputs, *_):
        import torch

        from gpu import torch_rows

        self._torch_rows, self._problem, self._inputs = torch_rows, problem, inputs
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._made = {}
        self.about, self.wait = torch_rows.about, torch_rows.wait

    def rows(self):
        return rows.torchdiffeq(self._problem)

    def prepare(self, row, options):
        make = self._torch_rows.Torchdiffeq
        self._made[row] = make(self._problem, row, self._inputs, self._device)
        return {}

    def call(self, row, tolerance):
        return self._made[row].call(tolerance)

    def compared(self, row, outputs):
        return [x.detach().cpu().numpy() for x in outputs], True, None

    def profile(self, call):
        return _summary(self._torch_rows.kernels(call))


def _summary(kernels):
    """Of names and microseconds of a step's kernels."""
    num, longest = 0, collections.Counter()
    for name, us in kernels:
        num += 1
        longest[name[:60]] += us
    return {
        "kernels": num,
        "busy_ms": sum(longest.values()) / 1e3,
        "longest": [(name, us / 1e3) for name, us in longest.most_common(8)],
    }


if __name__ == "__main__":
    protocol.serve(Worker)
