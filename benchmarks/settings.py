"""Which settings of which competitor are measured."""

import dataclasses
from typing import Any

OTHER_SOLVERS = ("tsit5", "verner6", "sofroniou_spaletta4", "bosh3")  # than dormand_prince
OURS, LIMIT = "tf_neuralode", "straight"
GRADIENTS = ("adjoint", "tape", "tape_kept", "interpolating_adjoint", "gauss_adjoint")
# In an environment of their own.
LIBRARIES_OF_PEERS = ("torchdiffeq", "torchode", "torchcde", "diffrax")
# What "nothing chosen" is compared with differs from it in no more than these.
CHOICES_OF_SPEED = {"gradient", "xla", "api"}


@dataclasses.dataclass(frozen=True)
class Setting:
    """A row of the table."""

    library: str  # as shown
    module: str  # in `competitors`
    options: dict[str, Any]
    label: str  # of the options

    @property
    def name(self):
        return f"{self.library} {self.label}"

    @property
    def needs_peers(self):
        return self.library in LIBRARIES_OF_PEERS


def training(workload):
    """All that are measured on a training step; those without a solver come later."""
    return [
        *ours(),
        *_ours_with_little_room(workload),
        *_tfp(),
        *_torchdiffeq(workload),
        *_torchode(),
        *diffrax(),
        *_diffrax_with_little_room(workload),
    ]


def mode_name(xla):
    return "XLA" if xla else "graph"


def ours_setting(gradient, xla, **options):
    words = [
        key if value is True else f"{value} norm" if key == "norm" else str(value)
        for key, value in options.items()
        if key != "max_num_steps"  # a column of its own where it varies
    ]
    label = ", ".join([gradient, mode_name(xla), *words])
    return Setting(OURS, "ours", {"gradient": gradient, "xla": xla, **options}, label)


def ours():
    rows = [default("ours", "layer, default", api="layer")]
    for xla in (False, True):
        rows += [ours_setting(gradient, xla) for gradient in GRADIENTS]
        for gradient in ("tape", "tape_kept"):
            rows += [ours_setting(gradient, xla, solver=solver) for solver in OTHER_SOLVERS]
        # The norm of the peers; the others take ours, "max".
        rows += [ours_setting(g, xla, norm="mean") for g in ("adjoint", "tape", "tape_kept")]
    rows += [ours_setting(gradient, False, api="layer") for gradient in ("adjoint", "tape_kept")]
    rows += [ours_setting(g, True, api="layer") for g in GRADIENTS if _suits_layer(g)]
    return rows


def default(module, label, **options):
    """The layer with neither a gradient nor XLA chosen."""
    return Setting(OURS, module, {"gradient": "auto", "xla": "auto", **options}, label)


def _suits_layer(gradient):
    """A layer that compiles itself can't keep activations."""
    return gradient != "tape_kept"


def _few_steps(workload):
    """Room for somewhat more steps than the methods take: 1 to 3, or 13 to 25 on `long`."""
    return 16 if workload.times[-1] <= 1 else 32


def with_little_room(setting, num_steps):
    return dataclasses.replace(
        setting,
        options={**setting.options, "max_num_steps": num_steps},
        label=f"{setting.label}, at most {num_steps} steps",
    )


def _ours_with_little_room(workload):
    """Under XLA the activations of as many steps as are allowed have their place.

    With room for one segment `tape` has no code to take steps again, and is sooner compiled.
    """
    for gradient in ("tape", "tape_kept"):
        for options in ({}, *[{"solver": solver} for solver in OTHER_SOLVERS]):
            yield with_little_room(ours_setting(gradient, True, **options), _few_steps(workload))


def _diffrax_with_little_room(workload):
    """Its checkpoints, and what `direct` unrolls, depend on the number of steps allowed, too."""
    for setting in diffrax():
        if setting.options["gradient"] in ("checkpoints", "direct"):
            yield with_little_room(setting, _few_steps(workload))


def straight(counts):
    """For each number of evaluations."""
    return [
        Setting(
            LIMIT, "straight", {"xla": xla, "num_evaluations": count},
            f"{count} f and vjp, {mode_name(xla)}",
        )
        for count in counts
        for xla in (False, True)
    ]  # fmt: skip


def fit():
    """Those of the `fit` workload; the limit is the model without a solve."""
    rows = [Setting(LIMIT, "fit", {"gradient": None, "xla": None}, "Identity, graph")]
    rows += [Setting(LIMIT, "fit", {"gradient": None, "xla": "model"}, "Identity, XLA")]
    return rows + _models("fit")


def _models(module):
    """A Keras model that is trained by `fit`: with nothing chosen, and with each choice."""
    rows = [default(module, "default")]
    for gradient in GRADIENTS:
        for xla, label in ((None, "graph"), ("layer", "XLA in the layer"), ("model", "XLA")):
            if xla != "layer" or _suits_layer(gradient):
                options = {"gradient": gradient, "xla": xla}
                rows.append(Setting(OURS, module, options, f"{gradient}, {label}"))
    return rows


def spiral():
    rows = _models("spiral")
    rows.append(default("spiral", "default, 50 steps per execution", steps_per_execution=50))
    for gradient in ("direct", "adjoint"):
        rows.append(Setting("torchdiffeq", "spiral_torchdiffeq", {"gradient": gradient}, gradient))
    for row in diffrax():
        if row.options["solver"] != "bosh3":
            rows.append(dataclasses.replace(row, module="spiral_diffrax"))
    return rows


def lotka_volterra():
    modes = {
        "auto": 'eager, compile="auto"',
        False: "eager, compile=False",
        "graph": "graph",
        "XLA": "XLA",
    }
    rows = [Setting(OURS, "forward", {"mode": mode}, label) for mode, label in modes.items()]
    return [*rows, Setting("SciPy", "scipy_forward", {"method": "RK45"}, "RK45")]


def lorenz(what):
    """`what` is the work, in words, since there are several in one table."""
    options = {"mode": "XLA", "max_num_steps": 10_000}
    return [
        Setting(OURS, "forward", options, f"dormand_prince8, XLA, {what}"),
        Setting("SciPy", "scipy_forward", {"method": "DOP853"}, f"DOP853, {what}"),
    ]


def serve(what):
    """`what` as in `lorenz`."""
    rows = [
        Setting(LIMIT, "serve", {"layer": "dense"}, "an exported Dense layer"),
        Setting(OURS, "serve", {"layer": "ode"}, "default layer, exported"),
        Setting("torchdiffeq", "serve_torchdiffeq", {"solver": "dopri5"}, "dopri5"),
        Setting("diffrax", "serve_diffrax", {"solver": "dopri5"}, "dopri5"),
        Setting("diffrax", "serve_diffrax", {"solver": "tsit5"}, "tsit5"),
    ]
    return [dataclasses.replace(row, label=f"{row.label}, {what}") for row in rows]


def _tfp():
    return [Setting("TFP", "tfp_stock", {"xla": xla}, mode_name(xla)) for xla in (False, True)]


def _torchdiffeq(workload):
    rows = [
        {"gradient": "direct", "solver": "dopri5"},
        {"gradient": "direct", "solver": "bosh3"},
        {"gradient": "adjoint", "solver": "dopri5"},
    ]
    if workload.is_convolution:
        rows += [{**row, "channels_last": True} for row in rows]
    return [
        Setting("torchdiffeq", "torchdiffeq", row, _label(row, channels_last="channels last"))
        for row in rows
    ]


def _torchode():
    rows = [
        {"solver": solver, "joint": joint}
        for solver in ("dopri5", "tsit5")
        for joint in (False, True)
    ]
    return [Setting("torchode", "torchode", row, _label(row, joint="joint")) for row in rows]


def diffrax():
    rows = [
        {"gradient": gradient, "solver": solver}
        for gradient in ("checkpoints", "all_checkpoints", "direct", "backsolve")
        for solver in ("dopri5", "tsit5", "bosh3")
    ]
    return [Setting("diffrax", "diffrax", row, _label(row)) for row in rows]


def _label(options, **of_flags):
    words = [of_flags.get(key, value) for key, value in options.items() if value is not False]
    return ", ".join(words)
