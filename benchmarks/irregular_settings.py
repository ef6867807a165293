"""Which settings are measured where each sample has times of its own."""

import dataclasses

import settings

NUM_FEW_STEPS = 16  # somewhat more than the 4 to 9 that the methods take


def rows():
    """A peer that wants shared times gets those of all samples together."""
    return [*_ours(), *_torchdiffeq(), *_torchode(), *_diffrax()]


def _ours():
    """The layer, since `odeint` has no such times; "XLA" compiles the step as a whole."""
    rows = [settings.default("irregular", "default")]
    for xla in (False, True):
        for gradient in ("adjoint", "tape", "tape_kept"):
            rows.append(settings.ours_setting(gradient, xla))
        for solver in settings.OTHER_SOLVERS:
            rows.append(settings.ours_setting("tape", xla, solver=solver))
        rows.append(settings.ours_setting("tape", xla, norm="mean"))
    # The layer compiles its solve, inside a graph.
    rows.append(settings.ours_setting("tape", True, api="layer"))
    for gradient in ("tape", "tape_kept"):
        for options in ({}, {"solver": "tsit5"}, {"solver": "bosh3"}):
            row = settings.ours_setting(gradient, True, **options)
            rows.append(settings.with_little_room(row, NUM_FEW_STEPS))
    return [dataclasses.replace(row, module="irregular") for row in rows]


def _torchdiffeq():
    """Through the steps alone: the adjoint would begin anew at each of all samples' times.

    Those together are for one method: PyTorch's gradient of a row that is written into a tensor of
    all of them copies that tensor, which takes minutes on 200 times.
    """
    ways = {True: "all samples' times", False: "one by one"}
    return [
        settings.Setting(
            "torchdiffeq",
            "irregular_torchdiffeq",
            {"solver": solver, "together": together},
            f"direct, {solver}, {ways[together]}",
        )
        for solver, together in (("dopri5", True), ("dopri5", False), ("bosh3", False))
    ]


def _torchode():
    return [
        settings.Setting("torchode", "irregular_torchode", {"solver": solver}, solver)
        for solver in ("dopri5", "tsit5")
    ]


def _diffrax():
    """Its adjoint by backsolve is left out, as torchdiffeq's."""
    rows = [row for row in settings.diffrax() if row.options["gradient"] != "backsolve"]
    rows += [
        settings.with_little_room(row, NUM_FEW_STEPS)
        for row in rows
        if row.options["gradient"] != "all_checkpoints"
    ]
    return [dataclasses.replace(row, module="irregular_diffrax") for row in rows]
