"""A killed training run goes on where it was."""

import signal

import numpy as np
import pytest
from subprocesses import run_python

# Without Dropout: Keras 3.15 doesn't back up the state of random generators, of any layer.
TRAIN = """
import os, signal, sys
import keras, numpy as np, tensorflow as tf
from small_models import make_data
from tf_neuralode import NeuralODE

backup, result, kill_at, solver = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
keras.utils.set_random_seed(0)
dynamics = keras.Sequential([
    keras.layers.Dense(4, activation="tanh"),
    keras.layers.BatchNormalization(),
    keras.layers.Dense(3),
])
layers = [NeuralODE(dynamics, solver=solver, track_stats=True), keras.layers.Dense(1)]
model = keras.Sequential([keras.Input((3,)), *layers])
model.compile(keras.optimizers.Adam(0.01), "mse")
# The same order in each epoch: a data set's own random state is not in the backup.
data = tf.data.Dataset.from_tensor_slices(make_data(32))
data = data.shuffle(32, seed=0, reshuffle_each_iteration=False).batch(8)

class Kill(keras.callbacks.Callback):
    batches = 0

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1
        if self.batches == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

class Epochs(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        print("epoch", epoch, flush=True)

callbacks = [keras.callbacks.BackupAndRestore(backup), Kill(), Epochs()]
model.fit(data, epochs=4, callbacks=callbacks, verbose=0)
variables = [*model.variables, *model.optimizer.variables]
np.savez(result, *[v.numpy() for v in variables])
"""


# Euler's method is traced in a fraction of the time, and a backup doesn't know the solver.
@pytest.mark.parametrize(
    "solver", ["euler", pytest.param("dormand_prince", marks=pytest.mark.slow)]
)
def test_a_killed_run_is_resumed_to_the_weights_of_an_uninterrupted_one(solver, tmp_path):
    def run(name, kill_at):
        return run_python(
            "-c",
            TRAIN,
            tmp_path / f"{name}_backup",
            tmp_path / f"{name}.npz",
            kill_at,
            solver,
            cwd=tmp_path,
        )

    whole = run("whole", 0)
    assert whole.returncode == 0, whole.stderr[-3000:]
    # In the second of the four batches of the third epoch.
    assert run("killed", 10).returncode == -signal.SIGKILL
    assert not (tmp_path / "killed.npz").exists()
    resumed = run("killed", 0)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert resumed.stdout.split() == ["epoch", "2", "epoch", "3"]
    expected, actual = np.load(tmp_path / "whole.npz"), np.load(tmp_path / "killed.npz")
    assert len(expected.files) == len(actual.files)
    for name in expected.files:
        np.testing.assert_array_equal(actual[name], expected[name])
