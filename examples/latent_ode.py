"""Reconstruct and extrapolate irregular time series with a latent neural ODE.

Each series is a damped oscillation of its own frequency, decay and phase, seen with noise at 10 to
30 random times in [0, 5]. A GRU reads the observations backwards, with the gaps between them, and
gives the latent state at t = 0; `NeuralODE` carries it to the times of each series, padded and
masked; a Dense layer reads the values off. The figures are errors against the noiseless curve.

    python examples/latent_ode.py
    python examples/latent_ode.py --steps 200 --output latent_ode.png
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when TensorFlow is imported

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from matplotlib.figure import Figure

from tf_neuralode import NeuralODE
from tf_neuralode.layers import TimeGaps

T_SEEN, T_END = 5.0, 8.0
MAX_LENGTH = 30  # observations of a series
NOISE = 0.1
LATENT = 8
BATCH_SIZE = 64


class Series:
    """Random curves, and what is seen of them; arrays have one row for each series."""

    def __init__(self, num, rng):
        frequency, decay = rng.uniform(1.5, 3.0, (num, 1)), rng.uniform(0.0, 0.15, (num, 1))
        phase = rng.uniform(0.0, 2.0 * np.pi, (num, 1))
        self.curve = lambda t: np.exp(-decay * t) * np.cos(frequency * t + phase)
        length = rng.integers(10, MAX_LENGTH + 1, (num, 1))
        self.mask = np.arange(MAX_LENGTH) < length
        times = np.where(self.mask, rng.uniform(0.0, T_SEEN, (num, MAX_LENGTH)), T_SEEN)
        self.times = np.sort(times).astype("float32")
        values = self.curve(self.times) + NOISE * rng.normal(size=times.shape)
        self.values = np.where(self.mask, values, 0.0).astype("float32")

    def inputs(self):
        """What the model reads."""
        return {"times": self.times, "values": self.values, "mask": self.mask}


def build_model():
    """The model for training, and a function that predicts values at shared times."""
    seen = [
        keras.Input((MAX_LENGTH,), name="times"),
        keras.Input((MAX_LENGTH,), name="values"),
        keras.Input((MAX_LENGTH,), dtype="bool", name="mask"),
    ]
    times, values, mask = seen
    gaps = TimeGaps()(times, mask=mask)  # to the observation before
    read = keras.ops.concatenate([values[..., None], gaps], axis=-1)
    start = layers.Dense(LATENT)(layers.GRU(64, go_backwards=True)(read, mask=mask))
    field = keras.Sequential([layers.Dense(64, activation="tanh"), layers.Dense(LATENT)])
    # Noise of 0.1 asks for no more than this tolerance.
    ode = NeuralODE(field, (0.0, T_END), solver="bosh3", rtol=1e-2, atol=1e-2)
    decode = layers.Dense(1)
    # The mask goes on with the states: padding counts in no loss.
    model = keras.Model(seen, decode(ode(start, times, mask=mask)))
    encode = keras.Model(seen, start)
    return model, lambda inputs, grid: decode(ode(encode(inputs), grid))[..., 0].numpy()


def train(model, series, steps):
    """Keras' own `fit` with its bar; all batches have one shape: XLA compiles once."""
    data = tf.data.Dataset.from_tensor_slices((series.inputs(), series.values[..., np.newaxis]))
    data = data.shuffle(len(series.values)).repeat().batch(BATCH_SIZE)
    rate = keras.optimizers.schedules.CosineDecay(1e-2, steps)
    model.compile(keras.optimizers.Adam(rate, clipnorm=1.0), "mse", jit_compile=True)
    model.fit(data, steps_per_epoch=steps, shuffle=False)


def interpolate(series, grid):
    """The baseline: straight lines between observations, the last value held."""
    rows = zip(series.times, series.values, series.mask, strict=True)
    return np.stack([np.interp(grid, times[mask], values[mask]) for times, values, mask in rows])


def report(name, error, grid):
    """Prints the RMS error where the series are seen, and behind."""
    parts = {f"[0, {T_SEEN:g}]": grid <= T_SEEN, f"[{T_SEEN:g}, {T_END:g}]": grid >= T_SEEN}
    rms = [f"{np.sqrt(np.mean(error[:, part] ** 2)):.3f} in {span}" for span, part in parts.items()]
    print(f"{name}: RMS error {', '.join(rms)}")


def write_picture(path, series, grid, predicted):
    """The first six series: what was seen, the true curve and the prediction."""
    figure = Figure(figsize=(12, 5.4), dpi=90, layout="constrained")  # no pyplot: needs no display
    axes = figure.subplots(2, 3, sharex=True, sharey=True)
    truth, behind = series.curve(grid), grid >= T_SEEN
    for i, ax in enumerate(axes.flat):
        mask = series.mask[i]
        ax.plot(grid, truth[i], "k--", linewidth=1, label="truth")
        ax.plot(series.times[i, mask], series.values[i, mask], "ko", markersize=4, label="observed")
        ax.plot(grid[~behind], predicted[i, ~behind], color="C0", label="reconstruction")
        ax.plot(grid[behind], predicted[i, behind], color="C3", label="extrapolation")
        ax.axvspan(T_SEEN, T_END, color="0.93", zorder=0)
        ax.set(title=f"{mask.sum()} observations", xlim=(0.0, T_END), ylim=(-1.4, 1.4))
    for ax in axes[1]:
        ax.set_xlabel("time")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(path)


def main(argv=None):
    """Trains, prints the errors and writes the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", metavar="PATH", default="latent_ode.png")
    args = parser.parse_args(argv)
    if args.steps < 1:
        parser.error(f"--steps must be at least 1. Received: {args.steps}")
    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    model, predict = build_model()
    train(model, Series(4000, rng), args.steps)
    test, grid = Series(300, rng), np.linspace(0.0, T_END, 161, dtype="float32")
    predicted = predict(test.inputs(), grid)
    report("latent ODE", predicted - test.curve(grid), grid)
    report("linear interpolation", interpolate(test, grid) - test.curve(grid), grid)
    write_picture(args.output, test, grid, predicted)
    print(f"picture in {args.output}")


if __name__ == "__main__":
    main()
