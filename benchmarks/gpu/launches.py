"""What a compiled program launches on a GPU, read from its optimized HLO."""

import dataclasses
import re

_NOT_LAUNCHED = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "opt-barrier", "add-dependency", "copy-done", "async-done", "iota",
}  # fmt: skip


@dataclasses.dataclass
class Loop:
    """A while loop, or the program as a whole.

    Attributes:
      source: Where it comes from, the name of its operation in the framework.
      body: Instructions that launch a kernel or a library's call at each turn, those of loops
        inside it left out; branches of a conditional are added up.
      condition: The same of its condition, after which the host waits for the answer.
      known_turns: If the compiler knows the number of turns, and the host needn't ask.
      marks: Names of instructions that run once at each turn.
      loops: Those inside it.
    """

    source: str
    body: int
    condition: int = 0
    known_turns: int | None = None
    marks: list = dataclasses.field(default_factory=list)
    loops: list = dataclasses.field(default_factory=list)

    def counts(self):
        """As nested lists: [body, [loops]]."""
        return [self.body, [loop.counts() for loop in self.loops]]

    def nested(self):
        """The loops inside it and inside those, with their positions: `(0,)`, `(0, 1)`, ..."""
        for i, loop in enumerate(self.loops):
            yield (i,), loop
            yield from (((i, *position), inner) for position, inner in loop.nested())

    def of_a_run(self, turns):
        """Launches of one run, and how often the host waits for a loop's condition.

        Args:
          turns: For each loop's position how often its body ran in all.
        """
        launched, waits = self.body, 0
        for position, loop in self.nested():
            launched += turns[position] * loop.body
            if loop.known_turns is None:
                # It is asked once more each time that the loop is entered.
                asked = turns[position] + turns.get(position[:-1], 1)
                launched, waits = launched + asked * loop.condition, waits + asked
        return launched, waits


def program(hlo):
    """The text of an optimized module as a `Loop`."""
    computations, entry = _computations(hlo)

    def walk(name, into, always=True):
        for opcode, line in computations.get(name, []):
            into.marks += [line.split(" = ")[0].split()[-1].lstrip("%")] * always
            if opcode == "while":
                parts = dict(re.findall(r"(body|condition)=%?([\w.\-]+)", line))
                source = re.search(r'op_name="([^"]*)"', line)
                trips = re.search(r"known_trip_count[^0-9]*(\d+)", line)
                loop = Loop(source[1] if source else "", 0)
                loop.known_turns = int(trips[1]) if trips else None
                walk(parts["body"], loop)
                condition = Loop("", 0)
                walk(parts["condition"], condition)
                loop.condition = condition.body
                into.loops.append(loop)
            elif opcode in ("call", "conditional"):
                for called in _called(line):
                    walk(called, into, always and opcode == "call")
            elif opcode not in _NOT_LAUNCHED:
                into.body += 1
        # In the text they may come in any order.
        into.loops.sort(key=lambda loop: loop.source)

    whole = Loop("", 0)
    walk(entry, whole)
    return whole


def _computations(hlo):
    """For each computation its instructions, `(opcode, line)`; and the name of the first."""
    computations, current, entry = {}, None, None
    for line in hlo.splitlines():
        header = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if header and not line.startswith(" "):
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
            continue
        match = re.match(r"\s+(?:ROOT )?%?[\w.\-]+ = (?:\(.*?\)|\S+) ([\w\-]+)\(", line)
        if match and current is not None:
            current.append((match[1], line))
    return computations, entry


def _called(line):
    names = re.findall(r"(?:to_apply|true_computation|false_computation)=%?([\w.\-]+)", line)
    if branches := re.search(r"branch_computations=\{(.*?)\}", line):
        names += [name.strip().lstrip("%") for name in branches[1].split(",")]
    return names
