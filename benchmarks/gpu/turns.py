"""How often the loops of a program turn: read off a profile of a run on the CPU."""

import collections
import gzip
import json
import pathlib
import tempfile

import jax

from gpu import launches


def of_loops(executable, call):
    """For each loop's position (`launches.Loop.nested`) how often its body ran in `call()`."""
    times = collections.Counter(event["name"] for event in trace(call) if "name" in event)
    result = {}
    for position, loop in launches.program(executable.as_text()).nested():
        # Names are unique in a module. Constants and the like leave no event.
        result[position] = max((times[name] for name in loop.marks), default=0)
    return result


def trace(call):
    """The events of the profiler's trace of `call()`."""
    with tempfile.TemporaryDirectory() as folder:
        jax.profiler.start_trace(folder)
        try:
            jax.block_until_ready(call())
        finally:
            jax.profiler.stop_trace()
        (file,) = pathlib.Path(folder).glob("plugins/profile/*/*.trace.json.gz")
        with gzip.open(file) as text:
            return [e for e in json.load(text)["traceEvents"] if e.get("ph") in ("X", "M")]
