"""A known field with tf_neuralode's `odeint`, forwards alone, from NumPy's times to its states.

The fields are written as users do: functions of a module, which an eager call can compile.
"""

from competitors import tensorflow_field  # noqa: F401, sets the threads

import tensorflow as tf  # isort: skip

from tf_neuralode import odeint, solvers


def lotka_volterra(t, y):
    u, v = y[0], y[1]
    return tf.stack([1.5 * u - u * v, u * v - 3.0 * v])


def lorenz(t, y):
    u, v, w = y[0], y[1], y[2]
    return tf.stack([10.0 * (v - u), u * (28.0 - w) - v, u * v - 8.0 / 3.0 * w])


FIELDS = {"lotka_volterra": lotka_volterra, "lorenz": lorenz}


def build(workload, mode, max_num_steps=None):
    """`mode` is "graph", "XLA" or, for an eager call, odeint's argument `compile`: "auto" or False.

    With `max_num_steps` the solver is `DormandPrince8`, otherwise the default.
    """
    return Forward(workload, mode, max_num_steps)


class Forward:
    def __init__(self, workload, mode, max_num_steps):
        self._field = FIELDS[workload.name]
        self._y0, self._times = tf.constant(workload.y0), workload.times
        tolerances = {"rtol": workload.rtol, "atol": workload.atol}
        self._options = tolerances
        if max_num_steps is not None:
            solver = solvers.DormandPrince8(**tolerances, max_num_steps=max_num_steps)
            self._options = {"solver": solver}
        self._solve = self._odeint
        if mode in ("auto", False):
            self._options |= {"compile": mode}
        else:
            self._solve = tf.function(self._odeint, jit_compile=mode == "XLA", autograph=False)

    def _odeint(self, y0):
        results = odeint(self._field, y0, self._times, **self._options)
        return results.states, results.diagnostics.num_ode_fn_evaluations

    def step(self):
        states, self._num_evaluations = self._solve(self._y0)
        return states.numpy()

    def to_numpy(self, states):
        return [states]

    def figures(self):
        return {"num_evaluations": [int(self._num_evaluations), 0]}
