"""Which settings are measured on a controlled differential equation."""

import dataclasses

import settings

NUM_FEW_STEPS = 48  # somewhat more than the 25 to 40 that most methods take


def rows():
    """Each library with its ways to differentiate, and solvers."""
    return [*_ours(), *_torchcde(), *_diffrax()]


def _ours():
    """The layer; "XLA" compiles the step as a whole."""
    make = settings.ours_setting
    rows = [settings.default("cde", "default")]
    for xla in (False, True):
        rows += [make(gradient, xla) for gradient in ("adjoint", "tape", "tape_kept")]
        rows.append(make("tape", xla, norm="mean"))
    rows += [make("tape", True, solver=solver) for solver in settings.OTHER_SOLVERS]
    # The layer compiles its solve, inside a graph.
    rows += [make("tape", True, **options, api="layer") for options in ({}, {"norm": "mean"})]
    for gradient in ("tape", "tape_kept"):
        for options in ({}, {"solver": "tsit5"}, {"norm": "mean"}):
            rows.append(settings.with_little_room(make(gradient, True, **options), NUM_FEW_STEPS))
    return [dataclasses.replace(row, module="cde") for row in rows]


def _torchcde():
    return [
        settings.Setting(
            "torchcde",
            "cde_torchcde",
            {"gradient": gradient, "solver": solver},
            f"{gradient}, {solver}",
        )
        for gradient in ("direct", "adjoint")
        for solver in ("dopri5", "bosh3")
    ]


def _diffrax():
    """All samples as one state, and each by itself, which takes several times as long.

    Its adjoint by backsolve is left out: it takes twice the time of the others, and its error is
    five times theirs. A PI control changes nothing.
    """
    rows = []
    for row in settings.diffrax():
        if row.options["gradient"] == "backsolve":
            continue
        rows.append(_diffrax_row(row, True, "as one"))
        if row.options["solver"] != "bosh3":
            alone = _diffrax_row(row, False, "one by one")
            rows += [settings.with_little_room(r, NUM_FEW_STEPS) for r in (rows[-1], alone)]
    return rows


def _diffrax_row(row, together, label):
    options = {**row.options, "together": together}
    return settings.Setting("diffrax", "cde_diffrax", options, f"{row.label}, {label}")
