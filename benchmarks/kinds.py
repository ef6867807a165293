"""The kinds of workloads: what is measured on each, against what, and shown how."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

import cde_reference
import cde_settings
import irregular_settings
import reference
import remarks
import settings
import tables
import workloads

Rows = list[tuple[dict, settings.Setting]]  # a workload's name and changes, and a setting


@dataclasses.dataclass(frozen=True)
class Kind:
    """How a workload is measured; all functions but `expected` and `remarks` take its name."""

    rows: Callable[[str], Rows]
    columns: tuple[tables.Column, ...]
    remarks: Callable[[list[dict]], str]  # of the results' rows, in Markdown
    # What `to_numpy` of a competitor's step is compared with, for the workload; not at all: `None`.
    expected: Callable[[Any], list[np.ndarray] | None] = lambda workload: None
    # Those that take as many evaluations as ours have taken, and have no solver.
    limits: Callable[[str, list[int]], Rows] = lambda name, counts: []
    num_first_steps: int = 2  # that are taken one after the other from the start
    is_summed_up: bool = False  # whether the fastest peer meets the fastest of ours in the summary


def of(name):
    """The kind of the workload of that name."""
    return _KINDS.get(name, TRAINING)


def _same_work(name, rows):
    return [({"name": name}, setting) for setting in rows]


def _lorenz_rows(name):
    rows = []
    # To 20 there is an error to compare, at several tolerances, so that it can be equal.
    for end, tolerance in ((100.0, 1e-8), *((20.0, 10.0**-i) for i in (7, 8, 9, 10, 11))):
        changes = {"name": name, "end": end, "tolerance": tolerance}
        what = f"to {end:.0f} at {tolerance:.0e}"
        rows += [(changes, setting) for setting in settings.lorenz(what)]
    return rows


def _serve_rows(name):
    return [
        ({"name": name, "batch": batch}, setting)
        for batch, what in ((1, "one sample"), (256, "256 samples"))
        for setting in settings.serve(what)
    ]


def _solution(problem):
    return [reference.solution(problem)] if problem.is_predictable else None


TRAINING = Kind(
    rows=lambda name: _same_work(name, settings.training(workloads.make(name))),
    columns=tables.TRAINING,
    remarks=remarks.of_training,
    expected=reference.gradient,
    limits=lambda name, counts: _same_work(name, settings.straight(counts)),
    num_first_steps=workloads.NUM_STEPS,
    is_summed_up=True,
)
_IRREGULAR = Kind(
    rows=lambda name: _same_work(name, irregular_settings.rows()),
    columns=tables.TRAINING,
    remarks=remarks.of_each_peer,
    expected=lambda workload: reference.gradient(workload)[1:],  # of the weights
    num_first_steps=workloads.NUM_STEPS,
    is_summed_up=True,
)
_KINDS = {
    "irregular30": _IRREGULAR,
    "irregular200": _IRREGULAR,
    "cde": Kind(
        rows=lambda name: _same_work(name, cde_settings.rows()),
        columns=tables.TRAINING,
        remarks=remarks.of_each_peer,
        expected=cde_reference.gradient,
        num_first_steps=workloads.NUM_STEPS,
        is_summed_up=True,
    ),
    "fit": Kind(
        rows=lambda name: _same_work(name, settings.fit()),
        columns=tables.TRAINING,
        remarks=remarks.of_fit,
        num_first_steps=workloads.NUM_STEPS,
    ),
    "spiral": Kind(
        rows=lambda name: _same_work(name, settings.spiral()),
        columns=tables.SPIRAL,
        remarks=remarks.of_spiral,
        num_first_steps=workloads.NUM_STEPS,
    ),
    "lotka_volterra": Kind(
        rows=lambda name: _same_work(name, settings.lotka_volterra()),
        columns=tables.FORWARD,
        remarks=remarks.of_lotka_volterra,
        expected=_solution,
    ),
    "lorenz": Kind(
        rows=_lorenz_rows,
        columns=tables.FORWARD,
        remarks=remarks.of_lorenz,
        expected=_solution,
    ),
    "serve": Kind(
        rows=_serve_rows,
        columns=tables.SERVE,
        remarks=remarks.of_serve,
        expected=lambda workload: [reference.states(workload)[-1]],
    ),
}
