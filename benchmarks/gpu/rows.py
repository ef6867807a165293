"""Which settings of which library are measured on a problem."""

import dataclasses

from gpu.problems import MAIN_TOLERANCE, Fit, Lorenz

TRAVELS = "tf_neuralode"  # the library whose programs were lowered elsewhere
_ON_DEVICE = (
    "xla_gpu_enable_command_buffer="
    "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE"
)
_TAPES, _SOLVERS = ("tape", "tape_kept"), ("dopri5", "tsit5")


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the tables.

    Attributes:
      library, gradient, solver: As shown.
      room: For how many steps, where memory or time depend on it; 0 where it doesn't.
      precision: Of the field's products: "float32", in full; "tf32"; or "bfloat16".
      variant: What else is different: how the state is held, a layout.
      on_device: Whether XLA is told to put whole loops into CUDA graphs, so that the host doesn't
        wait for their conditions. No other program.
    """

    library: str
    gradient: str
    solver: str = "dopri5"
    room: int = 0
    precision: str = "float32"
    variant: str = ""
    on_device: bool = False

    @property
    def name(self):
        return self.program_name + ".on_device" * self.on_device

    @property
    def options(self):
        """Of XLA."""
        return [_ON_DEVICE] if self.on_device else []

    @property
    def program_name(self):
        words = [self.library, self.gradient, self.solver]
        words += [f"room{self.room}"] * (self.room > 0) + [self.variant] * bool(self.variant)
        return ".".join([*words, self.precision])


def ours(problem):
    """What `lower.py` writes."""
    little, much = problem.rooms
    row = lambda *args, **options: Row(TRAVELS, *args, **options)
    if isinstance(problem, Fit):
        # The layer's room is the default, 4096.
        gradients = ("adjoint", "tape", "tape_kept", "interpolating_adjoint", "gauss_adjoint")
        rows = [row(gradient) for gradient in gradients]
        rows += [row(gradient, room=little) for gradient in ("tape", "tape_kept")]
        return [*rows, dataclasses.replace(rows[-2], precision="tf32"), _on_device(rows[-2])]
    if isinstance(problem, Lorenz):
        rows = [row("tape", s, much, variant=v) for s in _SOLVERS for v in ("", "leaves")]
        rows += [row(g, "tsit5", little, variant=v) for g in _TAPES for v in ("", "leaves")]
        return [*rows, _on_device(rows[1])]
    if not _is_swept(problem):
        return [row(g, room=little, precision=p) for p in _precisions(problem) for g in _TAPES]
    rows = [row(g, s, little) for g in _TAPES for s in _SOLVERS]
    rows += [row("tape", s, much) for s in _SOLVERS]
    rows += [row(g, room=much) for g in ("adjoint", "interpolating_adjoint", "gauss_adjoint")]
    rows += [row(g, room=little, precision="tf32") for g in _TAPES]
    return [*rows, _on_device(rows[0])]


def _on_device(row):
    return dataclasses.replace(row, on_device=True)


def _is_swept(problem):
    """Whether errors and times are wanted over the tolerances, of many settings."""
    return isinstance(problem, Fit) or len(problem.tolerances) > 2 or problem.name == "tiny"


def _precisions(problem):
    """Of a large problem; where its size is varied, what TensorFlow takes by default."""
    return ("float32", "tf32", "bfloat16") if len(problem.tolerances) > 1 else ("tf32",)


def tolerances(problem, row):
    """With which the row is run: ours of `fit` has its own."""
    if isinstance(problem, Fit) and row.library == TRAVELS:
        return (MAIN_TOLERANCE,)
    return problem.tolerances


def diffrax(problem):
    little, much = problem.rooms
    row = lambda *args, **options: Row("diffrax", *args, **options)
    if isinstance(problem, Lorenz):
        # Each system by itself under vmap, diffrax's own way of ensembles; or all as one system.
        rows = [row("all_checkpoints", s, n) for s in _SOLVERS for n in (little, much)]
        rows += [row("direct", "tsit5", little), row("checkpoints", "tsit5", much)]
        rows += [dataclasses.replace(rows[0], variant=v) for v in ("one system", "leaves")]
        rows += [dataclasses.replace(rows[1], variant=v) for v in ("one system", "leaves")]
        return [*rows, _on_device(rows[0])]
    if not _is_swept(problem):
        gradients = ("all_checkpoints", "direct")
        return [row(g, "dopri5", little, p) for p in _precisions(problem) for g in gradients]
    rows = [row("all_checkpoints", s, n) for n in (little, much) for s in _SOLVERS]
    rows += [row("direct", s, little) for s in _SOLVERS]
    rows += [row("checkpoints", "tsit5", much), row("backsolve", "dopri5", much)]
    rows += [row("all_checkpoints", "bosh3", much)]
    rows += [row(g, "dopri5", little, "tf32") for g in ("all_checkpoints", "direct")]
    return [*rows, _on_device(rows[0])]


def torchdiffeq(problem):
    row = lambda *args, **options: Row("torchdiffeq", *args, **options)
    if isinstance(problem, Lorenz):
        return [row("direct"), row("adjoint")]
    if not _is_swept(problem):
        return [row("direct", precision=p) for p in _precisions(problem)]
    rows = [row("direct"), row("adjoint"), row("direct", "bosh3"), row("direct", precision="tf32")]
    if problem.name.startswith("conv"):
        rows.append(row("direct", precision="tf32", variant="channels last"))
    return rows
