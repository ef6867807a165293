"""Fields that change where nothing announces it: one narrow pulse in time, or a jump.

`python tests/pulses.py` prints the share of pulses that each method steps over, and SciPy's.
"""

import math
from typing import NamedTuple

import numpy as np
import scipy.integrate
import scipy.special
import tensorflow as tf

from tf_neuralode import odeint, solvers

TOLERANCES = (1e-3, 1e-6)
# Ours, and SciPy's of the same kind.
COUNTERPARTS = {
    "Bosh3": "RK23",
    "DormandPrince": "RK45",
    "Tsit5": "RK45",
    "Verner6": "RK45",
    "DormandPrince8": "DOP853",
}


class Pulse(NamedTuple):
    """y' = -decay y + height exp(-((t - center) / width)^2) from y(0) = start to `end`."""

    decay: float
    height: float
    center: float
    width: float
    start: float
    end: float

    def slope(self, t, y, exp):
        return -self.decay * y + self.height * exp(-(((t - self.center) / self.width) ** 2))

    def solution(self):
        """The state at the end."""
        a, c, w, t = self.decay, self.center, self.width, self.end
        middle = c + a * w**2 / 2
        erf = scipy.special.erf((t - middle) / w) - scipy.special.erf(-middle / w)
        forced = self.height * w * math.sqrt(math.pi) / 2 * erf
        return self.start * math.exp(-a * t) + forced * math.exp(a * (c - t) + (a * w) ** 2 / 4)


def random_pulses(num=400, seed=0):
    """Half of them at rest before the pulse, which takes 0.3 to 5 % of the interval.

    The unit of time is random, too: intervals are from 1e-4 to 100 long.
    """
    rng = np.random.default_rng(seed)
    pulses = []
    for i in range(num):
        end = 10 ** rng.uniform(-4, 2)
        width = rng.uniform(0.003, 0.05) * end
        pulses.append(
            Pulse(
                decay=rng.uniform(0, 3) / end,
                height=10 ** rng.uniform(-1, 1) / width,
                center=rng.uniform(0.1, 0.9) * end,
                width=width,
                start=0.0 if i % 2 else rng.normal(),
                end=end,
            )
        )
    return pulses


def random_jumps(num=200, seed=0):
    """`(num, 2)`: ends of intervals from 0, and where in them y' = y becomes y' = -y."""
    rng = np.random.default_rng(seed)
    ends = rng.uniform(1, 5, num)
    return np.stack([ends, ends * rng.uniform(0.1, 0.9, num)], axis=1)


def our_ends(name, f, rows, starts, ends, rtol, atol):
    """Final states and numbers of evaluations of our solves of f(t, y, row), in one graph."""
    solver = getattr(solvers, name)(rtol=rtol, atol=atol, max_num_steps=20000)

    @tf.function(autograph=False)
    def solve(row, start, end):
        times = tf.stack([tf.zeros_like(end), end])
        results = odeint(f, start, times, row, solver=solver)
        return results.states[-1], results.diagnostics.num_ode_fn_evaluations

    constant = lambda x: tf.constant(x, tf.float64)
    found = [
        solve(constant(row), constant(start), constant(end))
        for row, start, end in zip(rows, starts, ends, strict=True)
    ]
    return np.array(found, float).T


def scipy_ends(name, fs, starts, ends, rtol, atol):
    """The same of SciPy's."""
    found = []
    for f, start, end in zip(fs, starts, ends, strict=True):
        settings = {"method": name, "rtol": rtol, "atol": atol}
        result = scipy.integrate.solve_ivp(f, (0, end), [start], **settings)
        found.append((result.y[0, -1], result.nfev))
    return np.array(found, float).T


def share_of_misses(pulses, name, tolerance):
    """Share of pulses with a relative error above 100 tolerances, and the mean evaluations."""
    starts, ends = ([getattr(pulse, x) for pulse in pulses] for x in ("start", "end"))
    settings = {"rtol": tolerance, "atol": 1e-3 * tolerance}
    if name in COUNTERPARTS:
        field = lambda t, y, row: Pulse(*tf.unstack(row)).slope(t, y, tf.exp)
        found, counts = our_ends(name, field, pulses, starts, ends, **settings)
    else:
        fs = [lambda t, y, pulse=pulse: pulse.slope(t, y, np.exp) for pulse in pulses]
        found, counts = scipy_ends(name, fs, starts, ends, **settings)
    exact = np.array([pulse.solution() for pulse in pulses])
    missed = np.abs(found - exact) > 100 * tolerance * np.maximum(np.abs(exact), 1e-3)
    return np.mean(missed), np.mean(counts)


def jump_errors(jumps, name, tolerance=1e-3):
    """Relative errors at the end, and the mean evaluations."""
    ends, places = jumps.T
    settings = {"rtol": tolerance, "atol": 1e-3 * tolerance}
    if name in COUNTERPARTS:
        field = lambda t, y, place: tf.where(t < place, y, -y)
        found, counts = our_ends(name, field, places, np.ones(len(ends)), ends, **settings)
    else:
        fs = [lambda t, y, place=place: y if t < place else -y for place in places]
        found, counts = scipy_ends(name, fs, np.ones(len(ends)), ends, **settings)
    return np.abs(found / np.exp(2 * places - ends) - 1), np.mean(counts)


if __name__ == "__main__":
    pulses, jumps = random_pulses(), random_jumps()
    for name in [*COUNTERPARTS, "RK23", "RK45", "DOP853"]:
        found = [share_of_misses(pulses, name, tolerance) for tolerance in TOLERANCES]
        shares = ", ".join(f"{share:.1%} in {count:.0f}" for share, count in found)
        errors, count = jump_errors(jumps, name)
        print(
            f"{name}: misses {shares} evaluations; jumps: median {np.median(errors):.1e}, "
            f"worst {np.max(errors):.1e} in {count:.0f}",
            flush=True,
        )
