"""Rows that JAX's XLA compiles: our lowered programs, and diffrax."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from gpu import lowered, problems, rows


class Program:
    """One of ours: gradients (after the loss, in `fit`), then steps and status."""

    def __init__(self, problem, row, folder, entry, platform):
        self._problem = problem
        key = "cpu_program" if platform == "cpu" and "cpu_program" in entry else "program"
        artifact = (pathlib.Path(folder) / entry[key]).read_bytes()
        self.function = lowered.as_function(row.name, artifact, platform)

    def compared(self, outputs):
        """Outputs that have a reference, and whether the solve was done."""
        if isinstance(self._problem, problems.Fit):
            return outputs[:11], True
        *gradients, counts = outputs
        return gradients, int(counts[-1]) == 0

    def steps(self, outputs):
        if isinstance(self._problem, problems.Fit):
            return None
        return [int(x) for x in outputs[-1]]


class Diffrax:
    """diffrax on the same problem."""

    def __init__(self, problem, row):
        # Where it isn't installed its rows fail, one by one, and nothing else does.
        from competitors import diffrax

        self._diffrax, self._problem, self._row = diffrax, problem, row
        self._precision = "highest" if row.precision == "float32" else "default"
        self.function = {problems.Fit: self._fit, problems.Lorenz: self._lorenz}.get(
            type(problem), self._tanh
        )

    def compared(self, outputs):
        *gradients, counts = outputs
        return gradients[: 11 if isinstance(self._problem, problems.Fit) else None], counts[2] == 0

    def steps(self, outputs):
        return [int(x) for x in outputs[-1]]

    def _solve(self, f, tolerance, y0, args, atol=None):
        options = {"solver": self._row.solver, "gradient": self._row.gradient}
        options |= {"rtol": tolerance, "atol": tolerance if atol is None else atol}
        options |= {"max_num_steps": self._row.room}
        solution = self._diffrax.solve(f, y0, args, self._problem.times, **options)
        failed = solution.result != self._diffrax.diffrax.RESULTS.successful
        stats = solution.stats
        counts = (stats["num_accepted_steps"], stats["num_rejected_steps"], failed)
        return solution.ys, jnp.stack([jnp.max(x).astype("int32") for x in counts])

    def _field(self, t, y, weights):
        if self._row.precision != "bfloat16":
            return self._diffrax.field(t, y, weights)
        low = lambda x: x.astype(jnp.bfloat16)
        return self._diffrax.field(t, low(y), [low(w) for w in weights]).astype(jnp.float32)

    def _tanh(self, tolerance, y0, *weights):
        def loss(y0, weights):
            ys, counts = self._solve(self._field, tolerance, y0, weights)
            return jnp.sum(ys**2), counts

        with jax.default_matmul_precision(self._precision):
            (d_y0, d_weights), counts = jax.grad(loss, (0, 1), has_aux=True)(y0, weights)
        return [d_y0, *d_weights, counts]

    def _lorenz(self, tolerance, y0, rho):
        leaves = self._row.variant == "leaves"

        def f(t, state, rho):
            x, y, z = state if leaves else (state[..., 0], state[..., 1], state[..., 2])
            slope = (10 * (y - x), rho * x - y - x * z, x * y - 8 / 3 * z)
            return slope if leaves else jnp.stack(slope, axis=-1)

        def loss(rho):
            start = tuple(y0.T) if leaves else y0
            solve = lambda y0, rho: self._solve(f, tolerance, y0, rho, 1e-3 * tolerance)
            if self._row.variant != "one system":
                solve = jax.vmap(solve)
            ys, counts = solve(start, rho)
            total = sum(jnp.sum(y**2) for y in jax.tree_util.tree_leaves(ys))
            return total, jnp.max(counts.reshape(-1, 3), axis=0)

        d_rho, counts = jax.grad(loss, has_aux=True)(rho)
        return [d_rho, counts]

    def _fit(self, tolerance, *inputs):
        weights, moments, (count, x, labels) = list(inputs[:10]), inputs[10:30], inputs[30:]

        def f(t, z, pairs):
            for w, b in pairs:
                z = jnp.tanh(z @ w + b)
            return z

        def loss_of(weights):
            first, *pairs, last = zip(weights[::2], weights[1::2], strict=True)
            z = jnp.tanh(x.reshape(x.shape[0], -1) @ first[0] + first[1])
            ys, counts = self._solve(f, tolerance, z, tuple(pairs))
            log_p = jax.nn.log_softmax(ys[-1] @ last[0] + last[1])
            return -jnp.take_along_axis(log_p, labels[:, None], axis=1).mean(), counts

        with jax.default_matmul_precision(self._precision):
            (loss, counts), grads = jax.value_and_grad(loss_of, has_aux=True)(weights)
        count = count + 1.0
        alpha = 1e-3 * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        new_weights, new_moments = [], []
        for i, (w, g) in enumerate(zip(weights, grads, strict=True)):
            m = moments[2 * i] + (g - moments[2 * i]) * (1 - 0.9)
            v = moments[2 * i + 1] + (g**2 - moments[2 * i + 1]) * (1 - 0.999)
            new_weights.append(w - alpha * m / (jnp.sqrt(v) + 1e-7))
            new_moments += [m, v]
        return [loss, *grads, *new_weights, *new_moments, count, counts]


class Compiled:
    """A row's program, compiled for `device`; `options` of XLA are "name=value"."""

    def __init__(self, program, problem, device, inputs, options=()):
        self.program, self._problem, self._inputs = program, problem, inputs
        sharding = jax.sharding.SingleDeviceSharding(device)
        shaped = [
            jax.ShapeDtypeStruct(np.shape(a), np.asarray(a).dtype, sharding=sharding)
            for a in (self._tolerance(1.0), *inputs)
        ]
        chosen = dict(option.split("=", 1) for option in options)
        program = jax.jit(program.function).lower(*shaped)
        self.executable = program.compile(compiler_options=chosen or None)

    def call(self, tolerance):
        """A function without arguments: one step."""
        arguments = (jax.device_put(self._tolerance(tolerance)), *self._inputs)
        return lambda: self.executable(*arguments)

    def _tolerance(self, tolerance):
        return np.asarray(tolerance, "float64" if self._problem.float64 else "float32")


def make(problem, row, folder, entries, platform):
    """The program of a row, not yet compiled."""
    if row.library == rows.TRAVELS:
        entry = entries[f"{problem.name}/{row.program_name}"]
        if "failed" in entry:
            raise ValueError(f"was not lowered: {entry['failed']}")
        return Program(problem, row, folder, entry, platform)
    return Diffrax(problem, row)
