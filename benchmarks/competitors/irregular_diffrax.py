"""diffrax on times of each sample's own: `vmap` of a solve, so that each has its own steps."""

import jax
import jax.numpy as jnp
import numpy as np

from competitors import diffrax


def build(workload, gradient, solver, max_num_steps=None):
    return Irregular(workload, gradient, solver, max_num_steps or workload.max_num_steps)


class Irregular(diffrax.Diffrax):
    """The gradients of the weights, from a mean square at all times."""

    argnums = (1,)

    def __init__(self, workload, gradient, solver, max_num_steps):
        super().__init__(workload, gradient, solver, max_num_steps)
        self._times, self._targets = jnp.asarray(workload.times), jnp.asarray(workload.targets)

    def arguments(self):
        return self.y0, self.weights, self._times, self._targets

    def loss(self, field):
        def loss(y0, weights, times, targets):
            solve = lambda y0, times: self.solve(field, y0, weights, times).ys
            return jnp.mean((jax.vmap(solve)(y0, times) - targets) ** 2)

        return loss

    def to_numpy(self, gradients):
        return [np.asarray(g) for g in gradients[0]]

    def count(self):
        """Of the batch: JAX calls back once for each sample of it."""
        return [num // len(self.workload.y0) for num in super().count()]
