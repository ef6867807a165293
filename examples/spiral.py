"""Learn the field of a spiral from one noisy trajectory, seen at irregular times.

The truth is dy/dt = A y^3 with y(0) = (2, 0), seen with noise at 200 random times in [0, 25]. A
network learns the field: solved from the same start, it is to pass through the samples. At first
only the early ones count, and the horizon grows with training; otherwise the fit would stop where
the curve goes through the middle of all turns.

    python examples/spiral.py
    python examples/spiral.py --steps 500 --noise 0.2 --output spiral.png
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when TensorFlow is imported

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from tf_neuralode import NeuralODE, odeint, plotting

A = np.array([[-0.1, -2.0], [2.0, -0.1]])
START = np.array([2.0, 0.0])
T_END = 25.0
NUM_SAMPLES = 200
TOLERANCE = 1e-3
LIMITS = (-2.4, 2.4)  # of the phase portraits


@keras.saving.register_keras_serializable("spiral")
def cube(y):
    """The one hint about the truth."""
    return y**3


def true_curve(times):
    """The states at `times`, of which the first is 0: `(num_times, 2)`, float64."""
    field = lambda t, y: tf.linalg.matvec(A, cube(y))
    return odeint(field, START, times, rtol=1e-8, atol=1e-8).states.numpy()


def take_samples(noise, rng):
    """Random times `(NUM_SAMPLES,)`, and the noisy states there."""
    times = np.sort(rng.uniform(0.0, T_END, NUM_SAMPLES))
    states = true_curve([0.0, *times])[1:] + noise * rng.normal(size=(NUM_SAMPLES, 2))
    return times.astype("float32"), states.astype("float32")


def build_model(times):
    """Maps the start `(batch, 2)` to the states at `times`, `(batch, num_times, 2)`."""
    field = keras.Sequential(
        [
            keras.layers.Lambda(cube),
            keras.layers.Dense(50, activation="tanh"),
            keras.layers.Dense(2),
        ]
    )
    ode = NeuralODE(
        field,
        (0.0, T_END),
        t_eval=times,
        return_sequences=True,
        gradient="tape",
        rtol=TOLERANCE,
        atol=TOLERANCE,
    )
    return keras.Sequential([keras.Input((2,)), ode])


def train(model, times, states, steps):
    """Keras' own `fit` with its bar; each step's sample weights say how far the horizon is."""
    start, states = tf.constant(START[np.newaxis], tf.float32), states[np.newaxis]

    def with_weights(step):
        # Slow at first, where the curve is fast; all of it after 80 % of the steps.
        horizon = T_END * (0.02 + (tf.cast(step, tf.float32) / (0.8 * steps)) ** 2)
        return start, states, tf.cast(times < horizon, tf.float32)[tf.newaxis]

    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    model.compile(keras.optimizers.Adam(rate), "mse", jit_compile=True)
    model.fit(tf.data.Dataset.range(steps).map(with_weights), shuffle=False)


def report(curve, truth):
    """RMS and largest distance from the true curve, in words."""
    distance = np.linalg.norm(curve - truth, axis=-1)
    return f"RMS error {np.sqrt(np.mean(distance**2)):.3f}, largest {np.max(distance):.3f}"


def draw_over_time(ax, times, states, grid, truth, curve):
    """Both components of samples, truth and fit, the second one lower."""
    for i, shift in enumerate((0.0, -5.0)):
        ax.plot(times, states[:, i] + shift, "k.", markersize=4, alpha=0.5, label="samples")
        ax.plot(grid, truth[:, i] + shift, "k--", linewidth=1, label="truth")
        ax.plot(grid, curve[:, i] + shift, color="C3", label="fit")
    ax.set(title="after training, over time", xlabel="time")
    ax.set_yticks([0.0, -5.0], ["$y_0$", "$y_1$"])
    ax.legend(*[found[:3] for found in ax.get_legend_handles_labels()], loc="upper right", ncols=3)


def parse_arguments(argv):
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--noise", type=float, default=0.05, help="standard deviation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", metavar="PATH", default="spiral.png")
    args = parser.parse_args(argv)
    if args.steps < 1:
        parser.error(f"--steps must be at least 1. Received: {args.steps}")
    return args


def main(argv=None):
    """Trains, prints the errors and writes the picture."""
    args = parse_arguments(argv)
    keras.utils.set_random_seed(args.seed)
    times, states = take_samples(args.noise, np.random.default_rng(args.seed))
    model = build_model(times)
    field = model.layers[0].dynamics
    ode = NeuralODE(field, rtol=TOLERANCE, atol=TOLERANCE)
    grid = np.linspace(0.0, T_END, 2000)
    truth = true_curve(grid)
    start = tf.constant(START[np.newaxis], tf.float32)
    figure = Figure(figsize=(14, 4.3), dpi=90, layout="constrained")  # no pyplot: needs no display
    figure.get_layout_engine().set(wspace=0.05)
    axes = figure.subplots(1, 3)
    for when, ax in zip(("before", "after"), axes, strict=False):
        if when == "after":
            train(model, times, states, args.steps)
        curve = ode(start, grid)[0].numpy()
        print(f"{when} training: {report(curve, truth)}")
        plotting.phase_portrait(ode, curve, xlim=LIMITS, ylim=LIMITS, ax=ax, color="C3", zorder=3)
        ax.plot(*states.T, "k.", markersize=4, alpha=0.5)
        ax.plot(*truth.T, "k--", linewidth=1)
        ax.set(title=f"{when} training", aspect="equal")
    draw_over_time(axes[2], times, states, grid, truth, curve)
    figure.savefig(args.output)
    print(f"picture in {args.output}")


if __name__ == "__main__":
    main()
