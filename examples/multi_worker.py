"""Train one neural ODE in several processes that share the work of each batch.

Each process is a worker of `tf.distribute.MultiWorkerMirroredStrategy`, here all on this machine,
connected over loopback; on a cluster each runs on a machine of its own with all of their
addresses in TF_CONFIG. Keras 3's `fit` doesn't support this strategy, hence the loop of our own.
At the end the weights of all workers are compared with each other, and with those of one process
that trains on the whole batches.

    python examples/multi_worker.py --workers 2 --steps 100
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when TensorFlow is imported

import keras
import numpy as np
import tensorflow as tf

from tf_neuralode import NeuralODE, solvers

BATCH_SIZE = 64  # of all workers together
TOLERANCE = 1e-5


def build_model():
    """A circle told from its surroundings; the same weights in every process."""
    keras.utils.set_random_seed(0)
    dynamics = keras.Sequential([keras.layers.Dense(32, activation="tanh"), keras.layers.Dense(3)])
    # Adaptive steps are those of a worker's own part of the batch, so workers would agree with one
    # process up to the solver's tolerance only. Equal steps are the same everywhere.
    solver = solvers.RK4(num_steps=5)
    layers = [keras.layers.Dense(3), NeuralODE(dynamics, solver=solver), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((2,)), *layers])


def batch(step):
    """The whole batch of a step: points in the plane, and whether they lie in the circle."""
    x = np.random.default_rng(step).normal(size=(BATCH_SIZE, 2)).astype("float32")
    return x, (np.linalg.norm(x, axis=1, keepdims=True) < 1.2).astype("float32")


def train(strategy, num_steps, part=slice(None), show_progress=False):
    """Trains on this process's part of each batch; returns the weights and the last loss."""
    with strategy.scope():
        model = build_model()
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build(model.trainable_variables)
    loss_function = keras.losses.BinaryCrossentropy(from_logits=True, reduction="sum")

    def replica_step(x, y):
        with tf.GradientTape() as tape:
            # Divided by the size of the whole batch, since the optimizer adds up the gradients.
            loss = loss_function(y, model(x, training=True)) / BATCH_SIZE
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    @tf.function
    def step(x, y):
        losses = strategy.run(replica_step, (x, y))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)

    progress = keras.utils.Progbar(num_steps, verbose=int(show_progress))
    for i in range(num_steps):
        x, y = batch(i)
        loss = float(step(tf.constant(x[part]), tf.constant(y[part])))
        progress.update(i + 1, [("loss", loss)])
    return model.get_weights(), loss


def run_worker(index, num_workers, num_steps, result):
    """What each of the processes does; TF_CONFIG is set."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    part = slice(index, None, num_workers)
    weights, loss = train(strategy, num_steps, part, show_progress=index == 0)
    np.savez(result, *weights, loss=loss)


def free_addresses(num):
    """Loopback addresses that nobody listens on."""
    sockets = [socket.socket() for _ in range(num)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return addresses


def start_workers(arguments, folder):
    """Runs all workers; returns each one's weights."""
    addresses = free_addresses(arguments.workers)
    processes = []
    for index in range(arguments.workers):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        options = ["--workers", str(arguments.workers), "--steps", str(arguments.steps)]
        command = [sys.executable, __file__, *options, "--worker", str(index), "--folder", folder]
        environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
        processes.append(subprocess.Popen(command, env=environment))
    try:
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.kill()
    if any(codes):
        raise SystemExit(f"error: workers ended with the codes {codes}")
    results = [np.load(Path(folder) / f"worker{i}.npz") for i in range(arguments.workers)]
    return [[x for name, x in r.items() if name != "loss"] for r in results], results[0]["loss"]


def difference(weights, others):
    """The largest difference between two sets of weights."""
    return max(float(np.abs(a - b).max()) for a, b in zip(weights, others, strict=True))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=2, help="number of processes")
    parser.add_argument("--steps", type=int, default=100, help="number of batches")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args(arguments)
    if arguments.worker is not None:
        result = Path(arguments.folder) / f"worker{arguments.worker}.npz"
        return run_worker(arguments.worker, arguments.workers, arguments.steps, result)
    with tempfile.TemporaryDirectory() as folder:
        weights, loss = start_workers(arguments, folder)
    between = max(difference(weights[0], other) for other in weights)
    alone, loss_alone = train(tf.distribute.get_strategy(), arguments.steps)
    from_one = difference(weights[0], alone)
    print(f"last loss: {loss:.6f}, of one process on whole batches: {loss_alone:.6f}")
    print(f"largest difference of weights between workers: {between:.1e}, to one: {from_one:.1e}")
    if between > 0 or from_one > TOLERANCE:
        raise SystemExit(f"error: the weights differ by more than {TOLERANCE}")


if __name__ == "__main__":
    main()
