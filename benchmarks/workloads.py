"""The work that every competitor does: shapes, weights, initial state, times. NumPy only."""

import dataclasses
import itertools

import numpy as np

TOLERANCE = 1e-3  # rtol and atol alike


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


def _tiny(batch=4):
    """For the tests of this harness."""
    return _dense("tiny", batch, (3, 5, 3))


_MAKERS = {
    "mnist": _mnist,
    "mlp": _mlp,
    "conv": _conv,
    "long": _long,
    "wide": _wide,
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
