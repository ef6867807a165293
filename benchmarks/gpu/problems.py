"""What is solved on the GPU: inputs, references, tolerances. NumPy alone.

A problem makes its inputs anew wherever it is used, from one seed; they don't travel.
"""

import dataclasses
import functools
import hashlib
import pathlib

import numpy as np

import reference
import workloads

MAIN_TOLERANCE = 1e-3
SWEEP = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
_MOST = 2048  # entries of a tensor that are compared


def sampled(x):
    """Evenly chosen entries of a tensor, all of a small one."""
    x = np.asarray(x).reshape(-1)
    return x if x.size <= _MOST else x[np.linspace(0, x.size - 1, _MOST).astype("int64")]


def error(outputs, expected):
    """The largest relative error (Euclidean norm) of the tensors, on their sampled entries."""
    return max(
        float(np.linalg.norm(sampled(o) - e) / max(np.linalg.norm(e), 1e-30))
        for o, e in zip(outputs, expected, strict=True)
    )


def checksum(arrays):
    digest = hashlib.sha256()
    for a in arrays:
        digest.update(np.ascontiguousarray(a).tobytes())
    return digest.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Tanh:
    """A workload of the benchmarks: loss is the sum of squares, gradients of y0 and the weights."""

    name: str
    workload: str
    changes: dict = dataclasses.field(default_factory=dict)
    tolerances: tuple = SWEEP
    rooms: tuple = (16, 64)  # for steps: little, enough for the least tolerance
    target: float = 0.7  # of the fastest peer's time
    float64 = False

    @functools.cached_property
    def made(self):
        """The `Workload`."""
        return workloads.make(self.workload, **self.changes)

    @property
    def times(self):
        return self.made.times

    def inputs(self):
        return [self.made.y0, *self.made.weights]

    def reference(self):
        # Of the large ones half as many steps: an error below 1e-6 all the same.
        large = self.made.y0.size > 1e6
        return reference.gradient(self.made, reference.STEPS_PER_UNIT_TIME // (2 if large else 1))


@dataclasses.dataclass(frozen=True)
class Lorenz:
    """An ensemble of Lorenz systems, one for each rho; the gradient of sum(y(1)^2) by rho.

    As in the benchmarks of gradsolve 0.2.1 and DiffEqGPU.jl: sigma = 10, beta = 8/3,
    y0 = (1, 0, 0).
    """

    name: str
    size: int
    tolerances: tuple = SWEEP
    rooms: tuple = (32, 128)
    target: float = 0.3
    float64 = True
    times = np.array([0.0, 1.0])

    def inputs(self):
        y0 = np.tile([1.0, 0.0, 0.0], (self.size, 1))
        return [y0, np.linspace(0.0, 21.0, self.size)]

    def reference(self):
        """By the variational equation, with SciPy's DOP853; SciPy is needed for this alone."""
        from scipy.integrate import solve_ivp

        y0, rho = self.inputs()

        def f(t, z):
            x, y, z, dx, dy, dz = z.reshape(6, -1)
            slope = [10 * (y - x), rho * x - y - x * z, x * y - 8 / 3 * z]
            slope += [10 * (dy - dx), x + rho * dx - dy - dx * z - x * dz]
            slope += [dx * y + x * dy - 8 / 3 * dz]
            return np.concatenate(slope)

        start = np.concatenate([y0.T.ravel(), np.zeros(y0.size)])
        end = solve_ivp(f, (0, 1), start, method="DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
        y, dy = end.reshape(2, 3, -1)
        return [2 * np.sum(y * dy, axis=0)]


@dataclasses.dataclass(frozen=True)
class Fit:
    """The MNIST example's training step. Its inputs travel: they are data, and Keras' weights."""

    name: str = "fit"
    tolerances: tuple = SWEEP  # the peers'
    rooms: tuple = (16, 64)
    target: float = 0.7
    float64 = False
    times = np.array([0.0, 1.0])
    folder: pathlib.Path | None = None

    def inputs(self):
        """Weights (ten), moments of Adam (twenty), its count, images, labels."""
        return load(self.folder / "inputs" / "fit.npz")


PROBLEMS = {
    problem.name: problem
    for problem in (
        Tanh("mnist", "mnist"),
        Tanh("mlp", "mlp", {"end": 4.0}),
        Tanh("conv", "conv"),
        Tanh("wide", "wide"),
        Tanh("long", "long", {"end": 10.0, "num_outputs": 20}, rooms=(32, 128)),
        Fit(),
        Lorenz("lorenz2048", 2048),
        Lorenz("lorenz32768", 32_768),
        Tanh("conv1024", "conv", {"batch": 1024}, (1e-2, 1e-3), (8, 64)),
        Tanh("mlp16384", "mlp", {"batch": 16_384, "width": 256}, (1e-2, 1e-3), (8, 64)),
        # With the one before it, where launches end and arithmetic begins.
        Tanh("mlp16", "mlp", {"batch": 16, "width": 256}, (1e-3,), (8, 64)),
        Tanh("mlp128", "mlp", {"batch": 128, "width": 256}, (1e-3,), (8, 64)),
        Tanh("mlp1024", "mlp", {"batch": 1024, "width": 256}, (1e-3,), (8, 64)),
        Tanh("mlp4096", "mlp", {"batch": 4096, "width": 256}, (1e-3,), (8, 64)),
        # For the tests.
        Tanh("tiny", "tiny", {}, (1e-2, 1e-3)),
        Lorenz("tiny_lorenz", 5, (1e-2, 1e-3)),
    )
}


def get(name, folder):
    """The problem of that name; `folder` is what `lower.py` wrote."""
    problem = PROBLEMS[name]
    return dataclasses.replace(problem, folder=folder) if isinstance(problem, Fit) else problem


def save(file, arrays):
    np.savez_compressed(file, **{f"a{i:03d}": a for i, a in enumerate(arrays)})


def load(file):
    with np.load(file) as arrays:
        return [arrays[key] for key in sorted(arrays.files)]
