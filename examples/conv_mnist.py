"""Classify digits by a convolutional neural ODE, and by a residual net of the same width.

Both begin with the same two convolutions and end with the same Dense layer. Between them the one
solves dy/dt = f(t, y) with one convolutional f, the other has six residual blocks y + f(y), each
with weights of its own. Both learn the first 1,350 digits of MNIST, moved about at random, and
are tested on the next 150.

    python examples/conv_mnist.py
    python examples/conv_mnist.py --steps 54 --output conv_mnist.png
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when TensorFlow is imported

import keras
import tensorflow as tf
from matplotlib.figure import Figure

from digits import load_digits
from mnist import print_table
from tf_neuralode import ConcatTime, NeuralODE, plotting

WIDTH = 24  # channels
NUM_BLOCKS = 6  # of the residual net
BATCH_SIZE = 50


def two_convolutions(*first):
    """What moves the state, 7 x 7 x WIDTH."""
    return keras.Sequential(
        [
            *first,
            keras.layers.Conv2D(WIDTH, 3, padding="same", activation="swish"),
            keras.layers.Conv2D(WIDTH, 3, padding="same"),
        ]
    )


def ode_block(y):
    """One field for all depths, which knows the time. Convolutions are faster without XLA."""
    ode = NeuralODE(
        two_convolutions(ConcatTime()),
        time_dependent=True,
        gradient="tape",
        rtol=1e-2,
        atol=1e-2,
        track_stats=True,
    )
    return ode(y)


def residual_blocks(y):
    """Euler steps of length one, each with its own field."""
    for _ in range(NUM_BLOCKS):
        y = keras.layers.Add()([y, two_convolutions()(y)])
    return y


def build_model(middle):
    """Maps images to logits."""
    images = keras.Input((28, 28, 1))
    y = keras.layers.RandomTranslation(0.1, 0.1, fill_mode="constant")(images)  # in training only
    for _ in range(2):
        y = keras.layers.Conv2D(WIDTH, 3, strides=2, padding="same", activation="swish")(y)
    y = keras.layers.Flatten()(middle(y))
    model = keras.Model(images, keras.layers.Dense(10)(y))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    return model


def train(name, middle, args, train_digits, test_digits):
    """A row of the table, and Keras' history of training."""
    keras.utils.set_random_seed(args.seed)
    print(name)
    model = build_model(middle)
    steps = min(args.steps, len(train_digits[0]) // BATCH_SIZE)  # in an epoch
    images = tf.data.Dataset.from_tensor_slices(train_digits).shuffle(10_000).repeat()
    start = time.perf_counter()
    history = model.fit(
        images.batch(BATCH_SIZE),
        steps_per_epoch=steps,
        epochs=args.steps // steps,
        validation_data=tf.data.Dataset.from_tensor_slices(test_digits).batch(BATCH_SIZE),
    ).history
    row = {
        "net": name,
        "weights": f"{model.count_params():,}",
        "evaluations of f": f"{history.get('nfe', [NUM_BLOCKS])[-1]:.1f}",
        "test loss": f"{history['val_loss'][-1]:.3f}",
        "test accuracy": f"{history['val_accuracy'][-1]:.3f}",
        "seconds": f"{time.perf_counter() - start:.0f}",
    }
    return row, history


def write_picture(path, histories):
    """Loss, accuracy and the evaluations of f over training."""
    figure = Figure(figsize=(13, 3.8), dpi=90, layout="constrained")  # no pyplot: needs no display
    axes = figure.subplots(1, 3)
    for name, history in histories.items():
        epochs = range(1, len(history["loss"]) + 1)
        (line,) = axes[0].plot(epochs, history["val_loss"], label=f"{name}, test")
        axes[0].plot(
            epochs, history["loss"], "--", color=line.get_color(), label=f"{name}, training"
        )
        axes[1].plot(epochs, [100 * x for x in history["val_accuracy"]], label=name)
    axes[0].set(title="loss", xlabel="epoch", yscale="log")
    axes[1].set(title="accuracy on test digits [%]", xlabel="epoch")
    plotting.evaluations({"nfe": histories["neural ODE"]["nfe"]}, ax=axes[2], label="neural ODE")
    axes[2].axhline(NUM_BLOCKS, color="C1", label="residual net")
    axes[2].set(title="evaluations of f in a forward pass", ylabel=None, ylim=(0, None))
    for ax in axes:
        ax.legend()
        ax.grid(alpha=0.3)
        ax.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path)


def main(argv=None):
    """Trains both nets, prints the table and draws the curves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=540, help="for each net; 27 are an epoch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", metavar="PATH", default="conv_mnist.png")
    args = parser.parse_args(argv)
    if args.steps < 1:
        parser.error(f"--steps must be at least 1. Received: {args.steps}")
    digits = load_digits()
    nets = {"neural ODE": ode_block, "residual net": residual_blocks}
    runs = [train(name, middle, args, *digits) for name, middle in nets.items()]
    print_table([row for row, _ in runs])
    write_picture(args.output, {row["net"]: history for row, history in runs})
    print(f"picture in {args.output}")


if __name__ == "__main__":
    main()
