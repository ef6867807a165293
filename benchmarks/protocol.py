"""A process that works on command: one JSON object a line, each way. Standard library only.

The first line is the configuration, the others are {"command": name, ...}, methods of the object
that the configuration makes.
"""

import contextlib
import json
import os
import select
import subprocess
import sys


class WorkerFailed(Exception):
    """A worker raised, died or took too long; the message says which."""


class WorkerDied(WorkerFailed):
    """It is gone, and takes no further command."""


class WorkerHandle:
    """The end that commands."""

    def __init__(self, command, config, environment, log, seconds=300):
        self._seconds = seconds
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment
        )
        try:
            self._send(config)
            self._receive(seconds)
        except WorkerFailed:
            self.close()
            raise

    def ask(self, command, *, within=None, **arguments):
        """The result of a command, waited for `within` seconds."""
        self._send({"command": command, **arguments})
        return self._receive(within or self._seconds)

    def close(self):
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):  # what a dead process has not read
            self._process.stdin.close()
        self._process.stdout.close()

    def _send(self, message):
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerDied(f"the process ended with code {self._process.wait()}") from None

    def _receive(self, seconds):
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        if not ready:
            self._process.kill()  # it must not compute while others do
            raise WorkerDied(f"no answer in {seconds:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise WorkerDied(f"the process ended with code {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(answer["error"])
        return answer["result"]


def serve(make):
    """The end that obeys, until its input ends: `make(**configuration)` has the commands."""
    # Libraries print; the answers must not be mixed with that.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    worker = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if worker is None:
                worker, result = make(**request), None
            else:
                result = getattr(worker, request.pop("command"))(**request)
            answer = {"result": result}
        except Exception as error:  # reported, and shown in the table
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
