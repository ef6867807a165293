"""diffrax on series: the path's coefficients are data, made beforehand."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from competitors import diffrax as solving


def build(workload, gradient, solver, together, max_num_steps=None):
    """With `together` the batch is one state; otherwise each sample has its own steps."""
    kind = Together if together else OneByOne
    return kind(workload, gradient, solver, max_num_steps or workload.max_num_steps)


def matrix(t, z, weights):
    """F(z), `(..., units, channels)`."""
    *field, _, _, _, _ = weights
    x = z
    for kernel, bias in zip(field[::2], field[1::2], strict=True):
        x = jnp.tanh(x @ kernel + bias)
    return x.reshape(*z.shape, -1)


class Cde(solving.Diffrax):
    """The gradients of the weights, from the labels' cross-entropy."""

    argnums = (0,)
    field = staticmethod(matrix)

    def __init__(self, workload, gradient, solver, max_num_steps):
        super().__init__(workload, gradient, solver, max_num_steps)
        observations = jnp.asarray(workload.observations)
        knots = self._knots = jnp.arange(workload.last_knot + 1.0)
        coefficients = jax.vmap(lambda ys: diffrax.backward_hermite_coefficients(knots, ys))
        self._data = (
            self.arranged(coefficients(observations)),
            observations[:, 0],
            jnp.asarray(workload.labels),
        )

    def arranged(self, coefficients):
        """As `ends` takes them, `(batch, pieces, channels)` each."""
        return coefficients

    def ends(self, field, z0, coefficients, weights):
        """The last states of all samples."""
        raise NotImplementedError

    def arguments(self):
        return self.weights, *self._data

    def loss(self, field):
        def loss(weights, coefficients, first, labels):
            *_, kernel, bias, readout_kernel, readout_bias = weights
            z0 = first @ kernel + bias
            logits = self.ends(field, z0, coefficients, weights) @ readout_kernel + readout_bias
            return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, labels))

        return loss

    def end(self, field, z0, coefficients, weights):
        path = diffrax.CubicInterpolation(self._knots, coefficients)

        def slope(t, z, weights):
            return (field(t, z, weights) @ path.derivative(t)[..., jnp.newaxis])[..., 0]

        times = (0.0, float(self.workload.last_knot))
        return self.solve(slope, z0, weights, times).ys[0]

    def to_numpy(self, gradients):
        return [np.asarray(g) for g in gradients[0]]


class OneByOne(Cde):
    """`vmap` of a solve."""

    def ends(self, field, z0, coefficients, weights):
        solve = lambda z0, coefficients: self.end(field, z0, coefficients, weights)
        return jax.vmap(solve)(z0, coefficients)

    def count(self):
        """Of the batch: JAX calls back once for each sample of it."""
        return [num // len(self.workload.labels) for num in super().count()]


class Together(Cde):
    """The batch as one state: all samples share the knots."""

    def arranged(self, coefficients):
        return [jnp.moveaxis(c, 1, 0) for c in coefficients]

    def ends(self, field, z0, coefficients, weights):
        return self.end(field, z0, tuple(coefficients), weights)
