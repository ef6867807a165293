"""The neural ODE of diffrax's tutorial, trained by tf_neuralode and by diffrax, over several seeds.

https://docs.kidger.site/diffrax/examples/neural_ode/: 256 trajectories of a nonlinear oscillator
at 100 times; 500 steps on the first tenth of each, then 500 on the whole; batches of 32. The error
is the mean square over all trajectories and times after training, of the trajectories trained on
and of 256 others.

    python benchmarks/neural_ode_tutorial.py --optimizer adabelief
    python benchmarks/neural_ode_tutorial.py --peers-python PATH   # one with diffrax and optax
    PATH benchmarks/neural_ode_tutorial.py --library diffrax --field plain

Both libraries get the same trajectories, batches and learning rate, and one number for a seed of
the weights. tf_neuralode's field is `fields.MLP(64, 2)`. diffrax's is the tutorial's, a learned
scale times tanh of a network of softplus, or with `--field plain` its network with tanh between
the layers and neither scale nor tanh behind them: ours but for the initial weights.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

import numpy as np
from scipy.integrate import solve_ivp

NUM_TRAJECTORIES = 256
TIMES = np.linspace(0, 10, 100)
BATCH_SIZE = 32
LEARNING_RATE = 3e-3
WIDTH, DEPTH = 64, 2
RTOL, ATOL = 1e-3, 1e-6
NUM_EXECUTED = 50  # steps between two looks of `fit` at its callbacks


def make_data():
    """Trajectories to train on and to test with, each `(256, 100, 2)`."""

    def f(t, y):
        x = y / (1 + y)
        return x[1], -x[0]

    initial = np.random.default_rng(5678).uniform(-0.6, 1, (2 * NUM_TRAJECTORIES, 2))
    options = {"method": "DOP853", "t_eval": TIMES, "rtol": 1e-8, "atol": 1e-8}
    states = np.stack([solve_ivp(f, TIMES[[0, -1]], y0, **options).y.T for y0 in initial])
    return np.split(states.astype("float32"), 2)


def batches(num_steps, seed):
    """Indices of trajectories, `(num_steps, 32)`, each epoch in an order of its own."""
    rng = np.random.default_rng(seed)
    num_epochs = -(-num_steps * BATCH_SIZE // NUM_TRAJECTORIES)
    indices = np.concatenate([rng.permutation(NUM_TRAJECTORIES) for _ in range(num_epochs)])
    return indices[: num_steps * BATCH_SIZE].reshape(num_steps, BATCH_SIZE)


def train_ours(train, args, seed):
    """A function that predicts trajectories `(n, 100, 2)` from initial states `(n, 2)`."""
    import keras
    import tensorflow as tf

    from tf_neuralode import NeuralODE, fields, solvers

    keras.utils.set_random_seed(seed)
    field = fields.MLP(WIDTH, DEPTH)
    for part in (0.1, 1):
        times = TIMES[: int(part * len(TIMES))]
        layer = NeuralODE(
            field,
            times[[0, -1]],
            solver=solvers.Tsit5(RTOL, ATOL),
            gradient="tape",
            t_eval=times,
            return_sequences=True,
        )
        model = keras.Sequential([keras.Input((2,)), layer])
        if args.optimizer == "adam":
            optimizer = keras.optimizers.Adam(LEARNING_RATE)
        else:
            optimizer = make_adabelief(LEARNING_RATE)
        executed = min(NUM_EXECUTED, args.steps)
        model.compile(optimizer, "mse", jit_compile=True, steps_per_execution=executed)
        chosen = train[batches(args.steps, seed), : len(times)]
        data = tf.data.Dataset.from_tensor_slices((chosen[:, :, 0], chosen))
        model.fit(data, shuffle=False, verbose=0)
    return lambda initial: model.predict(initial, batch_size=len(initial), verbose=0)


def make_adabelief(learning_rate):
    """AdaBelief as in optax, which Keras has not (J. Zhuang et al., NeurIPS 2020)."""
    import keras
    import tensorflow as tf

    class AdaBelief(keras.optimizers.Adam):
        """The moving variance is of what the gradient differs in from its moving mean."""

        def update_step(self, gradient, variable, learning_rate):
            i = self._get_variable_index(variable)
            mean, variance = self._momentums[i], self._velocities[i]
            num_steps = tf.cast(self.iterations + 1, variable.dtype)
            mean.assign(self.beta_1 * mean + (1 - self.beta_1) * gradient)
            new = tf.square(gradient - mean)
            variance.assign(self.beta_2 * variance + (1 - self.beta_2) * new + self.epsilon)
            m = mean / (1 - self.beta_1**num_steps)
            v = variance / (1 - self.beta_2**num_steps)
            variable.assign_sub(learning_rate * m / (tf.sqrt(v) + self.epsilon))

    return AdaBelief(learning_rate, epsilon=1e-16)


def train_diffrax(train, args, seed):
    """The same with diffrax."""
    import diffrax
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import optax

    class Field(eqx.Module):
        out_scale: jax.Array
        mlp: eqx.nn.MLP

        def __init__(self, key):
            self.out_scale = jnp.array(1.0)
            options = {"activation": jax.nn.softplus, "final_activation": jnp.tanh}
            self.mlp = eqx.nn.MLP(2, 2, WIDTH, DEPTH, **options, key=key)

        def __call__(self, t, y, args):
            return self.out_scale * self.mlp(y)

    class PlainField(eqx.Module):
        mlp: eqx.nn.MLP

        def __init__(self, key):
            self.mlp = eqx.nn.MLP(2, 2, WIDTH, DEPTH, activation=jnp.tanh, key=key)

        def __call__(self, t, y, args):
            return self.mlp(y)

    def solve(field, times, y0):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Tsit5(),
            t0=times[0],
            t1=times[-1],
            dt0=times[1] - times[0],
            y0=y0,
            stepsize_controller=diffrax.PIDController(rtol=RTOL, atol=ATOL),
            saveat=diffrax.SaveAt(ts=times),
        ).ys

    solve_all = jax.vmap(solve, in_axes=(None, None, 0))

    @eqx.filter_jit
    def step(field, state, times, states):
        loss = lambda field: jnp.mean((states - solve_all(field, times, states[:, 0])) ** 2)
        updates, state = optimizer.update(eqx.filter_grad(loss)(field), state)
        return eqx.apply_updates(field, updates), state

    optimizer = getattr(optax, args.optimizer)(LEARNING_RATE)
    field = {"tutorial": Field, "plain": PlainField}[args.field](jax.random.PRNGKey(seed))
    all_times = jnp.asarray(TIMES, jnp.float32)
    for part in (0.1, 1):
        times = all_times[: int(part * len(TIMES))]
        state = optimizer.init(eqx.filter(field, eqx.is_inexact_array))
        for chosen in batches(args.steps, seed):
            field, state = step(field, state, times, train[chosen, : len(times)])
    jax.block_until_ready(field)
    return lambda initial: np.asarray(eqx.filter_jit(solve_all)(field, all_times, initial))


def measure(train_one, args):
    """Prints a row for each seed, and their median and range."""
    train, test = make_data()
    rows = []
    for seed in range(args.seeds):
        start = time.perf_counter()
        predict = train_one(train, args, seed)
        seconds = time.perf_counter() - start
        errors = [float(np.mean((predict(y[:, 0]) - y) ** 2)) for y in (train, test)]
        rows.append((*errors, seconds))
        print(
            f"  seed {seed}: error {errors[0]:.4f}, test {errors[1]:.4f}, {seconds:.0f} s",
            flush=True,
        )
    for name, column in zip(("error", "test", "seconds"), zip(*rows, strict=True), strict=True):
        median, mean = statistics.median(column), statistics.mean(column)
        print(
            f"  {name}: median {median:.4f}, mean {mean:.4f}, "
            f"from {min(column):.4f} to {max(column):.4f}",
            flush=True,
        )


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--steps", type=int, default=500, help="of each of the two parts")
    parser.add_argument("--optimizer", choices=["adam", "adabelief"], default="adam")
    parser.add_argument("--field", choices=["tutorial", "plain"], default="tutorial")
    parser.add_argument("--library", choices=["tf_neuralode", "diffrax"], default="tf_neuralode")
    parser.add_argument("--peers-python", metavar="PATH", help="runs diffrax, too")
    args = parser.parse_args(argv)
    field = f", {args.field} field" if args.library == "diffrax" else ""
    print(f"{args.library}{field}, {args.optimizer}, {args.steps} + {args.steps} steps", flush=True)
    measure(train_ours if args.library == "tf_neuralode" else train_diffrax, args)
    if args.peers_python:
        command = [args.peers_python, __file__, "--library", "diffrax"]
        for name in ("seeds", "steps", "optimizer", "field"):
            command += [f"--{name}", str(getattr(args, name))]
        subprocess.run(command, check=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})


if __name__ == "__main__":
    sys.exit(main())
