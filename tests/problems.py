"""Fields with their exact solutions: what the solver tests compare with.

Each field is written once, on a list of scalar components, for numpy and for TensorFlow: `xp` is
`numpy` or `tf`, which share the names of the functions that are used.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import scipy.integrate
import scipy.optimize
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Problem:
    """An initial value problem y' = f(t, y), y(t_span[0]) = y0.

    Attributes:
      components: `components(xp, t, y)` returns the slope of each component of y.
      solution: `solution(t)` is the exact `y(t)`, or `None` if no closed form is known.
    """

    name: str
    components: Callable
    y0: tuple[float, ...]
    t_span: tuple[float, float] = (0.0, 20.0)
    solution: Callable | None = None

    def numpy_field(self, t, y):
        return np.array(self.components(np, t, list(y)))

    def tf_field(self, t, y):
        return tf.stack(self.components(tf, t, tf.unstack(y)))

    @functools.cached_property
    def _dense_reference(self):
        # 1e-14 and less: far below the errors at 1e-9, the tightest tolerance that is compared.
        return scipy.integrate.solve_ivp(
            self.numpy_field, self.t_span, self.y0, "DOP853", rtol=3e-14, atol=1e-14,
            dense_output=True,
        ).sol  # fmt: skip

    def reference(self, t) -> np.ndarray:
        """The state at the times `t`, `(len(t), len(y0))`: exact, or SciPy's at 3e-14."""
        t = np.asarray(t)
        if self.solution is None:
            return self._dense_reference(t).T
        return np.stack([np.atleast_1d(self.solution(time)) for time in t])


def _chain(rates_in, rates_out):
    """Linear chain y_i' = rates_in[i] y_(i-1) - rates_out[i] y_i."""

    def components(xp, t, y):
        del xp, t
        return [(rates_in[i] * y[i - 1] if i else 0.0) - rates_out[i] * y[i] for i in range(len(y))]

    return components


def _diffusion(xp, t, y):
    del xp, t
    padded = [0.0, *y, 0.0]
    return [padded[i - 1] - 2 * padded[i] + padded[i + 1] for i in range(1, len(padded) - 1)]


def _diffusion_solution(n):
    """From the eigenvectors of the second difference, for y0 = (1, 0, 0, ...)."""
    j = np.arange(1, n + 1)
    vectors = np.sqrt(2 / (n + 1)) * np.sin(np.pi * np.outer(j, j) / (n + 1))
    rates = -4 * np.sin(np.pi * j / (2 * (n + 1))) ** 2
    return lambda t: vectors @ (np.exp(rates * t) * vectors[0])


def _torus(xp, t, y):
    r = xp.sqrt(y[0] ** 2 + y[1] ** 2)
    return [-y[1] - y[0] * y[2] / r, y[0] - y[1] * y[2] / r, y[0] / r]


def _orbit(xp, t, y):
    cube = xp.sqrt(y[0] ** 2 + y[1] ** 2) ** 3
    return [y[2], y[3], -y[0] / cube, -y[1] / cube]


def _orbit_solution(e):
    def solution(t):
        u = scipy.optimize.brentq(lambda u: u - e * np.sin(u) - t, t - 1, t + 1, xtol=1e-15)
        rate = 1 / (1 - e * np.cos(u))
        root = np.sqrt(1 - e**2)
        return np.array(
            [np.cos(u) - e, root * np.sin(u), -np.sin(u) * rate, root * np.cos(u) * rate]
        )

    return solution


def _kepler(name, e):
    y0 = (1 - e, 0.0, 0.0, float(np.sqrt((1 + e) / (1 - e))))
    return Problem(name, _orbit, y0, solution=_orbit_solution(e))


def _bessel_solution(t):
    """J_(1/2)(t + 1) and its derivative, in closed form."""
    x = t + 1
    scale = np.sqrt(2 / (np.pi * x))
    return scale * np.array([np.sin(x), np.cos(x) - np.sin(x) / (2 * x)])


def _unit(n):
    return (1.0,) + (0.0,) * (n - 1)


# The non-stiff test set of T. E. Hull, W. H. Enright, B. M. Fellen, A. E. Sedgwick, Comparing
# numerical methods for ordinary differential equations, SIAM J. Numer. Anal. 9 (1972): all but the
# five-body problem C5. A: scalar, B: small systems, C: moderate ones, D: orbits, E: higher order.
DETEST = [
    Problem("A1", lambda xp, t, y: [-y[0]], (1.0,), solution=lambda t: np.exp(-t)),
    Problem("A2", lambda xp, t, y: [-0.5 * y[0] ** 3], (1.0,), solution=lambda t: (1 + t) ** -0.5),
    Problem(
        "A3", lambda xp, t, y: [y[0] * xp.cos(t)], (1.0,), solution=lambda t: np.exp(np.sin(t))
    ),
    Problem(
        "A4",
        lambda xp, t, y: [y[0] / 4 * (1 - y[0] / 20)],
        (1.0,),
        solution=lambda t: 20 / (1 + 19 * np.exp(-t / 4)),
    ),
    Problem("A5", lambda xp, t, y: [(y[0] - t) / (y[0] + t)], (4.0,)),
    Problem("B1", lambda xp, t, y: [2 * (y[0] - y[0] * y[1]), -(y[1] - y[0] * y[1])], (1.0, 3.0)),
    Problem(
        "B2",
        lambda xp, t, y: [-y[0] + y[1], y[0] - 2 * y[1] + y[2], y[1] - y[2]],
        (2.0, 0.0, 1.0),
        solution=lambda t: np.array(
            [
                1 + np.exp(-t) / 2 + np.exp(-3 * t) / 2,
                1 - np.exp(-3 * t),
                1 - np.exp(-t) / 2 + np.exp(-3 * t) / 2,
            ]
        ),
    ),
    Problem("B3", lambda xp, t, y: [-y[0], y[0] - y[1] ** 2, y[1] ** 2], (1.0, 0.0, 0.0)),
    Problem("B4", _torus, (3.0, 0.0, 0.0)),
    Problem(
        "B5", lambda xp, t, y: [y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1]], (0.0, 1.0, 1.0)
    ),
    Problem("C1", _chain([1] * 10, [1] * 9 + [0]), _unit(10)),
    Problem("C2", _chain(range(10), [*range(1, 10), 0]), _unit(10)),
    Problem("C3", _diffusion, _unit(10), solution=_diffusion_solution(10)),
    Problem("C4", _diffusion, _unit(51), solution=_diffusion_solution(51)),
    *[_kepler(f"D{i}", e) for i, e in enumerate((0.1, 0.3, 0.5, 0.7, 0.9), start=1)],
    Problem(
        "E1",
        lambda xp, t, y: [y[1], -(y[1] / (t + 1) + (1 - 0.25 / (t + 1) ** 2) * y[0])],
        (0.6713967071418030, 0.09540051444747446),
        solution=_bessel_solution,
    ),
    Problem("E2", lambda xp, t, y: [y[1], (1 - y[0] ** 2) * y[1] - y[0]], (2.0, 0.0)),
    Problem(
        "E3", lambda xp, t, y: [y[1], y[0] ** 3 / 6 - y[0] + 2 * xp.sin(2.78535 * t)], (0.0, 0.0)
    ),
    Problem("E4", lambda xp, t, y: [y[1], 0.032 - 0.4 * y[1] ** 2], (30.0, 0.0)),
    Problem("E5", lambda xp, t, y: [y[1], xp.sqrt(1 + y[1] ** 2) / (25 - t)], (0.0, 0.0)),
]
