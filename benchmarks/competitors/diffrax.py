"""diffrax on JAX: the step compiled as a whole, the batch solved as one state."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

SOLVERS = {"bosh3": diffrax.Bosh3, "dopri5": diffrax.Dopri5, "tsit5": diffrax.Tsit5}


def build(workload, gradient, solver, max_num_steps=None):
    return Diffrax(workload, gradient, solver, max_num_steps or workload.max_num_steps)


def field(t, y, weights):
    """tanh of products, or of convolutions where the kernels are such."""
    for w in weights:
        if w.ndim == 4:
            layout = ("NHWC", "HWIO", "NHWC")
            y = jax.lax.conv_general_dilated(y, w, (1, 1), "SAME", dimension_numbers=layout)
        else:
            y = y @ w
        y = jnp.tanh(y)
    return y


def solve(f, y0, args, times, *, rtol, atol, solver, gradient, max_num_steps):
    """diffrax's solution at `times` but the first.

    Failures are not looked for (`throw=False`), which saves a check.
    """
    solver = SOLVERS[solver]()
    controller = lambda **options: diffrax.PIDController(rtol=rtol, atol=atol, **options)
    adjoint = {
        "checkpoints": lambda: diffrax.RecursiveCheckpointAdjoint(),
        # As many checkpoints as steps: nothing is computed a third time.
        "all_checkpoints": lambda: diffrax.RecursiveCheckpointAdjoint(checkpoints=max_num_steps),
        "direct": lambda: diffrax.DirectAdjoint(),
        "backsolve": lambda: diffrax.BacksolveAdjoint(
            solver=solver, stepsize_controller=controller(norm=diffrax.adjoint_rms_seminorm)
        ),
    }[gradient]()
    end_only = len(times) == 2
    saveat = diffrax.SaveAt(t1=True) if end_only else diffrax.SaveAt(ts=jnp.asarray(times[1:]))
    return diffrax.diffeqsolve(
        diffrax.ODETerm(f),
        solver,
        times[0],
        times[-1],
        dt0=None,
        y0=y0,
        args=args,
        saveat=saveat,
        stepsize_controller=controller(),
        adjoint=adjoint,
        max_steps=max_num_steps,
        throw=False,
    )


class Diffrax:
    argnums = (0, 1)  # of what has a gradient, in the loss
    field = staticmethod(field)

    def __init__(self, workload, gradient, solver, max_num_steps):
        self.workload = workload
        self._max_num_steps = max_num_steps
        self._gradient, self._solver = gradient, solver
        self.y0 = jnp.asarray(workload.y0)
        self.weights = [jnp.asarray(w) for w in workload.weights]
        self._step = jax.jit(jax.grad(self.loss(self.field), argnums=self.argnums))

    def arguments(self):
        return self.y0, self.weights

    def loss(self, field):
        """A function of `arguments`."""
        return lambda y0, weights: jnp.sum(
            self.solve(field, y0, weights, self.workload.times).ys ** 2
        )

    def solve(self, field, y0, weights, times):
        return solve(
            field,
            y0,
            weights,
            times,
            rtol=self.workload.rtol,
            atol=self.workload.atol,
            solver=self._solver,
            gradient=self._gradient,
            max_num_steps=self._max_num_steps,
        )

    def step(self):
        return jax.block_until_ready(self._step(*self.arguments()))

    def to_numpy(self, gradients):
        return [np.asarray(gradients[0]), *map(np.asarray, gradients[1])]

    def count(self):
        """Calls of f in a version that calls back to Python."""
        calls = []

        def counted(t, y, weights):
            jax.debug.callback(lambda _: calls.append(1), y.ravel()[0])
            return self.field(t, y, weights)

        loss = self.loss(counted)

        def calls_of(function):
            calls.clear()
            jax.block_until_ready(jax.jit(function)(*self.arguments()))
            jax.effects_barrier()
            return len(calls)

        forward = calls_of(loss)
        return forward, calls_of(jax.value_and_grad(loss, argnums=self.argnums)) - forward
