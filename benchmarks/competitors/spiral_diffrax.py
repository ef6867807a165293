"""The spiral with diffrax and optax: a training step that is compiled, in a Python loop."""

import jax
import jax.numpy as jnp
import optax

from competitors import diffrax


def build(workload, gradient, solver):
    return Spiral(workload, gradient, solver)


class Spiral:
    def __init__(self, workload, gradient, solver):
        self.steps_per_call = workload.num_steps
        self._workload = workload
        self._settings = {
            "rtol": workload.rtol,
            "atol": workload.atol,
            "max_num_steps": workload.max_num_steps,
            "solver": solver,
            "gradient": gradient,
        }
        self._y0, self._series = jnp.asarray(workload.y0), jnp.asarray(workload.series)
        pairs = zip(workload.weights, workload.biases, strict=True)
        self._initial = [(jnp.asarray(w), jnp.asarray(b)) for w, b in pairs]
        self._optimizer = optax.adam(workload.learning_rate)
        self._train = jax.jit(self._training_step)

    def step(self):
        self._weights, state = self._initial, self._optimizer.init(self._initial)
        for _ in range(self.steps_per_call):
            self._weights, state = self._train(self._weights, state)
        jax.block_until_ready(self._weights)

    def figures(self):
        """The losses before a run and after one."""
        losses = [float(jax.jit(self._loss)(w)) for w in (self._initial, self._weights)]
        return dict(zip(("initial_loss", "final_loss"), losses, strict=True))

    def _training_step(self, weights, state):
        updates, state = self._optimizer.update(jax.grad(self._loss)(weights), state)
        return optax.apply_updates(weights, updates), state

    def _loss(self, weights):
        times = self._workload.times
        states = diffrax.solve(field, self._y0, weights, times, **self._settings).ys
        states = jnp.concatenate([self._y0[None], states])[:, 0]
        return jnp.mean((states - self._series) ** 2)


def field(t, y, weights):
    (w1, b1), (w2, b2) = weights
    return jnp.tanh(y**3 @ w1 + b1) @ w2 + b2
