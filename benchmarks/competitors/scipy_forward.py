"""A known field with SciPy's `solve_ivp`, forwards alone."""

from scipy.integrate import solve_ivp


def lotka_volterra(t, y):
    u, v = y
    return [1.5 * u - u * v, u * v - 3.0 * v]


def lorenz(t, y):
    u, v, w = y
    return [10.0 * (v - u), u * (28.0 - w) - v, u * v - 8.0 / 3.0 * w]


FIELDS = {"lotka_volterra": lotka_volterra, "lorenz": lorenz}


def build(workload, method):
    return Forward(workload, method)


class Forward:
    def __init__(self, workload, method):
        self._arguments = (FIELDS[workload.name], workload.times[[0, -1]], workload.y0, method)
        self._options = {"rtol": workload.rtol, "atol": workload.atol}
        self._times = workload.times

    def step(self):
        self._solution = solve_ivp(*self._arguments, t_eval=self._times, **self._options)
        return self._solution.y.T

    def to_numpy(self, states):
        return [states]

    def figures(self):
        return {"num_evaluations": [self._solution.nfev, 0]}
