"""Train a neural ODE on MNIST digits and compare ways to differentiate the solve.

The model is Flatten, Dense 784 -> 20 tanh, NeuralODE 20 -> 10 -> 10 -> 20 over t in [0, 1] and
Dense -> 10 logits: 16,450 weights. By default it learns the first 1,350 digits of MNIST and is
tested on the next 150; all 1,500 are in this repository, nothing is downloaded.

    python examples/mnist.py --gradient adjoint
    python examples/mnist.py --gradient all --jit
    python examples/mnist.py --dataset mnist --device gpu:0 --save digits_model
"""

import argparse
import concurrent.futures
import dataclasses
import math
import multiprocessing
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when TensorFlow is imported

import keras
import tensorflow as tf
from matplotlib.figure import Figure

from digits import load_digits
from tf_neuralode import NeuralODE, gradients, solvers

BATCH_SIZE = 128
TOLERANCE = 1e-3


@dataclasses.dataclass
class Epoch:
    """What one epoch took and what the model can do after it."""

    seconds: float
    train_accuracy: float
    test_accuracy: float
    num_forward: float  # evaluations of the dynamics in a training step's forward pass
    num_backward: float  # and in its backward pass


def batches(images, labels, shuffle_seed=None):
    """A `tf.data.Dataset` of batches, in order or, given a seed, shuffled anew every epoch."""
    dataset = tf.data.Dataset.from_tensor_slices((images, labels))
    if shuffle_seed is not None:
        dataset = dataset.shuffle(len(images), seed=shuffle_seed)
    return dataset.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)


def build_model(solver="dormand_prince", gradient="auto", jit_compile=False):
    """The compiled model of the experiment."""
    dynamics = keras.Sequential(
        [
            keras.layers.Dense(10, activation="tanh"),
            keras.layers.Dense(10, activation="tanh"),
            keras.layers.Dense(20, activation="tanh"),
        ]
    )
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(20, activation="tanh"),
            NeuralODE(
                dynamics,
                t_span=(0.0, 1.0),
                solver=solver,
                gradient=gradient,
                rtol=TOLERANCE,
                atol=TOLERANCE,
                track_stats=True,
            ),
            keras.layers.Dense(10),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=jit_compile,
    )
    return model


def warm_up(model, train, test):
    """Trace and compile all that the run needs, so that no epoch's time contains it.

    The model and its optimizer are left as they were.
    """
    model.optimizer.build(model.trainable_variables)
    variables = model.variables + model.optimizer.variables
    values = [variable.numpy() for variable in variables]
    for index, (images, labels) in enumerate((train, test)):
        # One full batch and the last, smaller one: XLA compiles for each shape.
        count = BATCH_SIZE + len(images) % BATCH_SIZE
        few = batches(images[:count], labels[:count])
        if index == 0:
            model.fit(few, shuffle=False, verbose=0)
        model.evaluate(few, verbose=0)
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


class EpochTable(keras.callbacks.Callback):
    """Prints a row after every epoch and keeps it in `epochs`; the row's own cost isn't timed."""

    def __init__(self, train, test):
        super().__init__()
        self.epochs = []
        self._train, self._test = batches(*train), batches(*test)

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.perf_counter() - self._start
        train_accuracy = self._accuracy(self._train)
        test_accuracy = self._accuracy(self._test)
        counts = logs["nfe"], logs["nfe_backward"]  # those of the training steps
        self.epochs.append(Epoch(seconds, train_accuracy, test_accuracy, *counts))
        row = f"[{epoch + 1}/{self.params['epochs']}] {seconds:.2f} s"
        print(f"{row}  train {train_accuracy:.3f}  test {test_accuracy:.3f}", flush=True)

    def _accuracy(self, split):
        return self.model.evaluate(split, verbose=0, return_dict=True)["accuracy"]


def train_model(model, train, test, num_epochs, seed):
    """Trains and prints the table; returns one `Epoch` per epoch."""
    warm_up(model, train, test)
    table = EpochTable(train, test)
    shuffled = batches(*train, shuffle_seed=seed)
    model.fit(shuffled, epochs=num_epochs, shuffle=False, verbose=0, callbacks=[table])
    return table.epochs


def memory(kind):
    """Resident memory of this process in MB, "VmRSS" now or "VmHWM" at its peak; Linux only."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return math.nan
    (line,) = [line for line in status.splitlines() if line.startswith(kind)]
    return int(line.split()[1]) / 1024


def run(gradient, args):
    """Trains with one gradient; returns the epochs, and the memory that training took in MB."""
    if args.device:
        select_device(args.device.lower())
    train, test = load_digits(args.dataset)
    before = memory("VmRSS")
    keras.utils.set_random_seed(args.seed)  # every gradient starts from the same weights
    model = build_model(args.solver, gradient, args.jit)
    print(f"{gradient}: {model.count_params():,} weights, {len(train[0]):,} digits", flush=True)
    epochs = train_model(model, train, test, args.epochs, args.seed)
    if args.save:
        keras.config.disable_interactive_logging()  # export prints every tensor it captures
        model.export(args.save)
    return epochs, memory("VmHWM") - before


def run_apart(gradient, args):
    """`run` in a process of its own, where a peak of memory is that of one gradient alone."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(run, gradient, args).result()


def summarize(gradient, epochs, peak_memory):
    """One row of the comparison, by column; a new column is a new entry here."""
    last = epochs[-1]
    return {
        "gradient": gradient,
        "train": f"{last.train_accuracy:.3f}",
        "test": f"{last.test_accuracy:.3f}",
        "s/epoch": f"{statistics.median(epoch.seconds for epoch in epochs):.2f}",
        "forward evals/step": f"{statistics.fmean(epoch.num_forward for epoch in epochs):.1f}",
        "backward evals/step": f"{statistics.fmean(epoch.num_backward for epoch in epochs):.1f}",
        # What tracing, compiling and training take above TensorFlow and the data.
        "peak memory": f"{peak_memory:.0f} MB",
    }


def print_table(rows):
    """Prints dicts with the same keys as aligned columns."""
    lines = [list(rows[0]), *(row.values() for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())


def write_plot(epochs_of, path):
    """Writes the accuracy curves, one line per gradient, as a picture to `path`."""
    figure = Figure(figsize=(9, 4), dpi=120, layout="constrained")  # no pyplot: needs no display
    figure.suptitle("MNIST with a neural ODE")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, split in zip(axes, ("train", "test"), strict=True):
        for index, (gradient, epochs) in enumerate(epochs_of.items()):
            accuracies = [100 * getattr(epoch, f"{split}_accuracy") for epoch in epochs]
            # The gradients agree, and so do their lines: the later, the thinner.
            width = 2 * (len(epochs_of) - index)
            axis.plot(
                range(1, len(epochs) + 1),
                accuracies,
                linewidth=width,
                marker="o",
                markersize=width + 4,
                label=gradient,
            )
        axis.set(title=f"{split} digits", xlabel="epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy [%]")
    axes[1].legend(title="gradient", loc="lower right")
    figure.savefig(path)


def select_device(name):
    """Leaves TensorFlow only the device `name`, "cpu" or "gpu:0", to compute on."""
    gpus = tf.config.list_physical_devices("GPU")
    devices = {"cpu": [], **{f"gpu:{index}": [gpu] for index, gpu in enumerate(gpus)}}
    if name not in devices:
        raise SystemExit(f"error: no device {name!r} here. Found: {', '.join(devices)}.")
    tf.config.set_visible_devices(devices[name], "GPU")


def parse_arguments(argv=None):
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--gradient",
        choices=[*gradients.names(), "all"],
        default="auto",
        help="how to differentiate the solve; all: each in turn, then one table",
    )
    parser.add_argument("--solver", choices=solvers.names(), default="dormand_prince")
    parser.add_argument("--jit", action="store_true", help="compile with XLA")
    parser.add_argument("--device", help="cpu, gpu:0, ...; default: TensorFlow's choice")
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--dataset",
        choices=["subset", "mnist"],
        default="subset",
        help="the 1,500 digits of this repository, or all 70,000 by tfds.load",
    )
    parser.add_argument("--save", metavar="PATH", help="write the model as a SavedModel")
    parser.add_argument("--plot", metavar="PATH", default="mnist.png", help="default: mnist.png")
    args = parser.parse_args(argv)
    if args.epochs < 1:
        parser.error(f"--epochs must be at least 1. Received: {args.epochs}")
    if args.save and args.gradient == "all":
        parser.error("--save needs one gradient, not all.")
    return args


def main(argv=None):
    """Runs the experiment; returns the epochs by gradient."""
    args = parse_arguments(argv)
    if args.gradient == "all":
        methods = [name for name in gradients.names() if name != "auto"]
        runs = {gradient: run_apart(gradient, args) for gradient in methods}
        print_table([summarize(gradient, *result) for gradient, result in runs.items()])
    else:
        runs = {args.gradient: run(args.gradient, args)}
    epochs_of = {gradient: epochs for gradient, (epochs, _) in runs.items()}
    write_plot(epochs_of, args.plot)
    return epochs_of


if __name__ == "__main__":
    main()
