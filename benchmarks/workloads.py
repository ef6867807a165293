"""The work that every competitor does: shapes, weights, initial state, times. NumPy only."""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import numpy as np

import cde
import irregular
import reference

TOLERANCE = 1e-3  # rtol and atol alike
NUM_STEPS = 500  # of a first run, all tracing and compiling counted


@dataclasses.dataclass(frozen=True)
class Workload:
    """dy/dt = tanh(... tanh(y * w1) ... * wn), * a matrix product or a 3x3 convolution.

    The loss is the sum of the squares of the states at all times but the first.
    """

    name: str
    y0: np.ndarray  # (batch, features) or (batch, height, width, channels)
    weights: list[np.ndarray]  # (in, out) or (3, 3, in, out)
    times: np.ndarray  # the initial time, then the output times
    max_num_steps: int  # room for a competitor that wants a bound; enough for all of them
    rtol: float = TOLERANCE
    atol: float = TOLERANCE

    @property
    def is_convolution(self):
        return self.y0.ndim == 4

    @property
    def knots(self):
        """Where a reference has to stop: rows that broadcast against the state."""
        return self.times

    def loss_slope(self, y, i):
        """The loss's derivative by the state y at the output time number i."""
        return 2 * y


@dataclasses.dataclass(frozen=True)
class Problem:
    """A known dy/dt = field(y), solved forwards alone, in float64."""

    name: str
    field: Callable[[np.ndarray], list]  # the slopes of a state
    y0: np.ndarray
    times: np.ndarray
    rtol: float
    atol: float
    is_predictable: bool = True  # or chaotic for so long that no digit of the end is certain


@dataclasses.dataclass(frozen=True)
class Spiral:
    """One series to learn dy/dt = tanh(y^3 * w1 + b1) * w2 + b2 from; the loss is the mean square.

    What torchdiffeq's and DiffEqFlux's first examples do. The tolerances are our layer's defaults.
    """

    name: str
    y0: np.ndarray  # (1, 2)
    times: np.ndarray
    series: np.ndarray  # (times, 2), the states of the true field
    weights: list[np.ndarray]
    biases: list[np.ndarray]
    num_steps: int
    learning_rate: float = 0.05
    max_num_steps: int = 256  # of a solve, for a competitor that wants a bound
    rtol: float = 1e-3
    atol: float = 1e-6


def _dense(name, batch, widths, end=1.0, num_outputs=1, max_num_steps=64):
    shapes = list(itertools.pairwise(widths))
    return _make(name, (batch, widths[0]), shapes, end, num_outputs, max_num_steps)


def _make(name, state_shape, weight_shapes, end=1.0, num_outputs=1, max_num_steps=64):
    rng = np.random.default_rng(0)
    y0 = rng.normal(size=state_shape).astype("float32")
    weights = [_glorot(rng, shape) for shape in weight_shapes]
    times = np.linspace(0.0, end, num_outputs + 1)
    return Workload(name, y0, weights, times, max_num_steps)


def _glorot(rng, shape):
    """Uniform weights as Keras and Glorot & Bengio (2010) draw them."""
    receptive_field = int(np.prod(shape[:-2]))
    limit = np.sqrt(6 / (receptive_field * (shape[-2] + shape[-1])))
    return rng.uniform(-limit, limit, shape).astype("float32")


def _mnist(batch=128, **options):
    return _dense("mnist", batch, (20, 10, 10, 20), **options)


def _mlp(batch=512, width=64, **options):
    return _dense("mlp", batch, (width, 2 * width, 2 * width, width), **options)


def _conv(batch=32):
    return _make("conv", (batch, 7, 7, 64), [(3, 3, 64, 64)] * 2)


def _long(batch=128, end=50.0, num_outputs=100):
    widths = (20, 10, 10, 20)
    return _dense("long", batch, widths, end, num_outputs, max_num_steps=256)


def _wide(batch=64):
    return _dense("wide", batch, (1024, 1024))


def _irregular(num_times, batch=64):
    """Each sample at times of its own."""
    name, widths = f"irregular{num_times}", (8, 64, 8)
    rng = np.random.default_rng(0)
    y0 = rng.normal(size=(batch, widths[0])).astype("float32")
    weights = [_glorot(rng, shape) for shape in itertools.pairwise(widths)]
    times = irregular.sorted_times(rng, batch, num_times, end=5.0)
    targets = irregular.spirals(y0, times[:, 1:])
    limits = {"max_num_steps": 64, "rtol": TOLERANCE, "atol": TOLERANCE}
    return irregular.Irregular(name, y0, weights, times, targets, **limits)


def _cde(batch=64, num_times=30, units=32, width=64, tolerance=TOLERANCE):
    """Series of 64 samples, seen at times of their own, one label each."""
    rng = np.random.default_rng(0)
    times, values, labels = cde.spirals(rng, batch, num_times)
    channels = 1 + values.shape[-1]
    layer = lambda *shape: [_glorot(rng, shape), np.zeros(shape[1], "float32")]
    return cde.Cde(
        "cde",
        times,
        values,
        labels,
        field=[*layer(units, width), *layer(width, units * channels)],
        initial=layer(channels, units),
        readout=layer(units, 1),
        max_num_steps=256,
        rtol=tolerance,
        atol=tolerance,
    )


def _serve(batch=1):
    """Solved forwards, as an exported model does."""
    return _dense("serve", batch, (20, 10, 10, 20))


def _spiral(num_steps=NUM_STEPS):
    y0, times = np.array([2.0, 0.0]), np.linspace(0.0, 1.5, 30)
    truth = Problem("spiral", _spiral_field, y0, times, rtol=0.0, atol=0.0)
    rng = np.random.default_rng(0)
    return Spiral(
        "spiral",
        y0[np.newaxis].astype("float32"),
        times,
        reference.solution(truth).astype("float32"),
        [_glorot(rng, shape) for shape in ((2, 50), (50, 2))],
        [np.zeros(width, "float32") for width in (50, 2)],
        num_steps,
    )


def _spiral_field(y):
    u, v = y**3
    return [-0.1 * u - 2.0 * v, 2.0 * u - 0.1 * v]


def _lotka_volterra(tolerance=1e-6):
    def field(y):
        u, v = y
        return [1.5 * u - u * v, u * v - 3.0 * v]

    times = np.linspace(0.0, 15.0, 100)
    return Problem("lotka_volterra", field, np.array([1.0, 1.0]), times, tolerance, tolerance)


def _lorenz(end=100.0, tolerance=1e-8):
    def field(y):
        u, v, w = y
        return [10.0 * (v - u), u * (28.0 - w) - v, u * v - 8.0 / 3.0 * w]

    y0, times = np.array([1.0, 0.0, 0.0]), np.linspace(0.0, end, 101)
    # An error grows by a factor of 1e8 until t = 20, and of 1e39 until t = 100.
    return Problem("lorenz", field, y0, times, tolerance, tolerance, is_predictable=end <= 20)


def _tiny(batch=4):
    """For the tests of this harness."""
    return _dense("tiny", batch, (3, 5, 3))


_MAKERS = {
    "mnist": _mnist,
    "mlp": _mlp,
    "conv": _conv,
    "long": _long,
    "wide": _wide,
    "irregular30": functools.partial(_irregular, 30),
    "irregular200": functools.partial(_irregular, 200),
    "cde": _cde,
    "spiral": _spiral,
    "lotka_volterra": _lotka_volterra,
    "lorenz": _lorenz,
    "serve": _serve,
    "tiny": _tiny,
}


def make(name, **changes):
    """The workload of that name; `changes` are keyword arguments of its maker.

    `fit` brings its own data and model and is `None`.
    """
    if name == "fit":
        return None
    return _MAKERS[name](**changes)


def names():
    return (*_MAKERS, "fit")
