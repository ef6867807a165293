"""The same seed gives the same weights, bit for bit, on a CPU."""

import functools
import json

import keras
import numpy as np
import pytest
from small_models import dense_field, make_data
from subprocesses import run_python

from tf_neuralode import NeuralODE, regularizers


def trained(jit_compile):
    """The bits of the weights after a training with all that draws random numbers, as text."""
    keras.utils.set_random_seed(1)
    dynamics = dense_field()
    dynamics.add(keras.layers.Dropout(0.1))
    # Equal steps are compiled by XLA in half the time.
    solver = "heun" if jit_compile else "bosh3"
    penalty = regularizers.JacobianNorm(0.1)
    layer = NeuralODE(dynamics, solver=solver, gradient="tape", regularizer=penalty)
    model = keras.Sequential([keras.Input((3,)), layer, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(1e-2), "mse", jit_compile=jit_compile)
    model.fit(*make_data(24), batch_size=8, epochs=2, verbose=0)
    weights = [*model.get_weights(), *[v.numpy() for v in model.optimizer.variables]]
    assert all(np.all(np.isfinite(w)) for w in weights)  # NaN would hide a difference
    return [w.tobytes().hex() for w in weights]


first_trained = functools.cache(trained)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_the_same_seed_gives_the_same_weights_twice_in_a_process(jit_compile):
    assert trained(jit_compile) == first_trained(jit_compile)


def in_a_process(code, folder):
    """What the code prints last, as JSON."""
    done = run_python("-c", f"import json; from test_determinism import *\n{code}", cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_same_seed_gives_the_same_weights_in_another_process(tmp_path):
    graph, xla = in_a_process("print(json.dumps([trained(False), trained(True)]))", tmp_path)
    assert graph == first_trained(False)
    assert xla == first_trained(True)


# Not compared with weights without it: XLA compiles for another order of sums then.
WITH_OP_DETERMINISM = """
import tensorflow as tf
keras.utils.set_random_seed(0)  # asked for before anything draws
tf.config.experimental.enable_op_determinism()
print(json.dumps([trained(jit) for jit in (False, False, True, True)]))
"""


def test_enable_op_determinism_works(tmp_path):
    graph, graph_again, xla, xla_again = in_a_process(WITH_OP_DETERMINISM, tmp_path)
    assert graph == graph_again
    assert xla == xla_again
