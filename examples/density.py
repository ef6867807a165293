"""Learn the density of two moons with a continuous normalizing flow, TFP's FFJORD.

A network's field carries the normal distribution to the data over t in [0, 1]; the trace of its
Jacobian says how the density changes on the way. The solver is one of this package.

    python examples/density.py
    python examples/density.py --steps 300 --output density.png
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when TensorFlow is imported

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from matplotlib.figure import Figure

from tf_neuralode import ConcatTime, odeint, solvers

NOISE = 0.1  # standard deviation around the two arcs
CENTRE, SCALE = np.array([0.5, 0.25]), np.array([1.2, 2.0])  # as wide as the normal distribution
BATCH_SIZE = 256
LIMITS = (-2.8, 2.8)  # of the pictures


def arcs(angle):
    """Points of the upper moon for angles below pi, of the lower one for those above."""
    points = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return points + np.where(angle[:, np.newaxis] > np.pi, [1.0, 0.5], 0.0)


def moons(num, rng):
    """Samples `(num, 2)` of the two arcs with noise."""
    points = arcs(rng.uniform(0.0, 2.0 * np.pi, num)) + NOISE * rng.normal(size=(num, 2))
    return ((points - CENTRE) * SCALE).astype("float32")


def true_log_density(x, num_angles=1000):
    """Of `moons` at `x`, `(num, 2)`: the density of the noise, averaged over the arcs."""
    angles = 2.0 * np.pi * (np.arange(num_angles) + 0.5) / num_angles
    away = x[:, np.newaxis] / SCALE + CENTRE - arcs(angles)
    logs = -np.sum(away**2, axis=-1) / (2.0 * NOISE**2) - np.log(2.0 * np.pi * NOISE**2)
    return np.logaddexp.reduce(logs, axis=-1) - np.log(num_angles) - np.sum(np.log(SCALE))


def with_trace(f, state_shape, dtype):
    """f beside its Jacobian's diagonal; XLA can't compile TFP's own `trace_jacobian_exact`."""

    def augmented(t, state):
        y, _ = state
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(y)
            slopes = f(t, y)
            components = tf.unstack(slopes, axis=-1)
        diagonal = [tape.gradient(slope, y)[:, i] for i, slope in enumerate(components)]
        return slopes, tf.stack(diagonal, axis=-1)

    return augmented


def build_flow():
    """The network, its field f(t, y), and the distribution that the field makes."""
    hidden = [keras.layers.Dense(64, activation="tanh") for _ in range(2)]
    network = keras.Sequential([ConcatTime(), *hidden, keras.layers.Dense(2)])
    f = lambda t, y: network([tf.fill([tf.shape(y)[0], 1], t), y])
    f(0.0, tf.zeros([1, 2]))  # makes the weights
    bijector = tfp.bijectors.FFJORD(
        f, ode_solve_fn=solvers.RK4(num_steps=8).solve, trace_augmentation_fn=with_trace
    )
    base = tfp.distributions.MultivariateNormalDiag(tf.zeros([2]))
    return network, f, tfp.distributions.TransformedDistribution(base, bijector)


def train(network, density, steps, rng):
    """Maximum likelihood on ever new samples, with a progress bar."""
    weights = network.trainable_variables
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(5e-3, steps))
    optimizer.build(weights)

    @tf.function(jit_compile=True, autograph=False)
    def step(x):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(density.log_prob(x))
        optimizer.apply(tape.gradient(loss, weights), weights)
        return loss

    bar = keras.utils.Progbar(steps)
    for _ in range(steps):
        bar.add(1, [("loss", float(step(tf.constant(moons(BATCH_SIZE, rng)))))])


def draw_points(ax, points, title):
    """A cloud of points."""
    ax.plot(*points.T, "k.", markersize=2, alpha=0.4)
    ax.set(title=title, xlim=LIMITS, ylim=LIMITS, aspect="equal", xticks=[], yticks=[])


def draw_density(ax, log_density, title):
    """A density on a grid."""
    axis = np.linspace(*LIMITS, 150, dtype="float32")
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    values = np.exp(log_density(grid)).reshape(len(axis), -1)
    ax.imshow(values, origin="lower", extent=(*LIMITS, *LIMITS), vmin=0.0, vmax=0.4)
    ax.set(title=title, xticks=[], yticks=[])


def write_picture(path, f, log_density, data, rng):
    """Data and densities above, samples on their way from the normal distribution below."""
    figure = Figure(figsize=(11, 7), dpi=90, layout="constrained")  # no pyplot: needs no display
    above, below = figure.subfigures(2, 1, height_ratios=[3, 2.2])
    axes = above.subplots(1, 3)
    draw_points(axes[0], data, "data")
    draw_density(axes[1], true_log_density, "true density")
    draw_density(axes[2], log_density, "learned density")
    start = tf.constant(rng.normal(size=data.shape), tf.float32)
    times = np.linspace(0.0, 1.0, 5)
    states = odeint(f, start, times, solver="tsit5").states.numpy()
    for ax, t, points in zip(below.subplots(1, 5), times, states, strict=True):
        draw_points(ax, points, f"t = {t:.2f}")
    below.suptitle("samples of the normal distribution, carried by the learned field")
    figure.savefig(path)


def main(argv=None):
    """Trains, prints the likelihood of new samples and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", metavar="PATH", default="density.png")
    args = parser.parse_args(argv)
    if args.steps < 1:
        parser.error(f"--steps must be at least 1. Received: {args.steps}")
    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    network, f, density = build_flow()
    train(network, density, args.steps, rng)
    test = moons(4000, rng)
    log_density = lambda x: density.log_prob(x).numpy()
    learned, best = -np.mean(log_density(test)), -np.mean(true_log_density(test))
    print(f"negative log-likelihood of new samples: {learned:.3f} nats, at best {best:.3f}")
    write_picture(args.output, f, log_density, test[:2000], rng)
    print(f"picture in {args.output}")


if __name__ == "__main__":
    main()
