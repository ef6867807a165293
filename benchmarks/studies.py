"""How the cost of our training step grows: with the bound on steps, the batch, the output times."""

import dataclasses
from collections.abc import Callable

from settings import LIMIT, Setting, mode_name, ours_setting

STATE_OF_10_MB = 131_072  # samples of 20 features
MODES = (False, True)


@dataclasses.dataclass(frozen=True)
class Study:
    """Settings on variants of a workload; each group is compared with its first row.

    `figure` maps a row of the results to the figure that is compared, `variant` to the name of its
    column. Where `in_turns` is false the settings are started and ended one after the other, since
    no time is compared and all at once would not fit.
    """

    question: str
    unit: str
    groups: list[list[tuple[dict, Setting]]]  # (the workload's name and changes, setting)
    variant: Callable[[dict], str]
    figure: Callable[[dict], float] = lambda row: row["median_ms"]
    in_turns: bool = True


def _bounds(gradient, xla, bounds, **workload):
    return [
        ({"name": "mnist", **workload}, ours_setting(gradient, xla, max_num_steps=bound))
        for bound in bounds
    ]


def _max_num_steps():
    gradients = ("adjoint", "tape", "tape_kept", "interpolating_adjoint", "gauss_adjoint")
    return Study(
        "Does a bound on the number of steps cost time, with a state of 10 kB?",
        "Milliseconds a training step",
        [_bounds(gradient, xla, (64, 4096)) for xla in MODES for gradient in gradients],
        lambda row: f"at most {row['options']['max_num_steps']} steps",
    )


def _memory():
    gradients = ("adjoint", "tape", "interpolating_adjoint", "gauss_adjoint")
    return Study(
        "Does a bound on the number of steps cost memory, with a state of 10 MB? 448 states more "
        "would be 4,700 MB.",
        "Peak memory in MB",
        [
            _bounds(gradient, xla, (64, 512), batch=STATE_OF_10_MB)
            for xla in MODES
            for gradient in gradients
        ],
        lambda row: f"at most {row['options']['max_num_steps']} steps",
        lambda row: row["peak_memory_mb"],
        in_turns=False,
    )


def _batch():
    batches = (128, 512, 2048, 8192)
    return Study(
        "Does the time of a sample rise with the batch?",
        "Microseconds a sample",
        [
            [({"name": "mnist", "batch": n}, ours_setting(gradient, xla)) for n in batches]
            for xla in MODES
            for gradient in ("adjoint", "tape_kept")
        ],
        lambda row: f"batch {row['workload']['batch']}",
        lambda row: 1000 * row["median_ms"] / row["workload"]["batch"],
    )


def _outputs():
    numbers = (1, 10, 100, 1000)
    workloads = [{"name": "mnist", "num_outputs": n} for n in numbers]
    # A row costs what its polynomial has coefficients: Bosh3's four, the default's five.
    choices = (
        {"gradient": "adjoint"},
        {"gradient": "tape"},
        {"gradient": "tape", "solver": "bosh3"},
    )
    solves = [
        [(w, ours_setting(**choice, xla=xla, forward_only=True)) for w in workloads]
        for xla in MODES
        for choice in choices
    ]
    write = lambda xla: Setting(LIMIT, "write", {"xla": xla}, f"no solve, {mode_name(xla)}")
    writes = [[(w, write(xla)) for w in workloads] for xla in MODES]
    return Study(
        "What do output times cost a forward solve? Without a solve: writing as many states.",
        "Milliseconds a forward solve",
        solves + writes,
        lambda row: f"{row['workload']['num_outputs']} outputs",
    )


_MAKERS = {
    "max_num_steps": _max_num_steps,
    "memory": _memory,
    "batch": _batch,
    "outputs": _outputs,
}


def make(name):
    return _MAKERS[name]()


def names():
    return tuple(_MAKERS)
