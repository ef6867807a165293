"""Several devices and several processes."""

import json

import numpy as np
from subprocesses import ROOT, run_python

# Two devices have to be there before TensorFlow starts, so this needs a process of its own.
MIRRORED = """
import json, sys
import keras, numpy as np, tensorflow as tf
from small_models import make_data, small_model
from tf_neuralode import NeuralODE, fields

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

def of_inputs(**options):
    y0, times, context = keras.Input((3,)), keras.Input((2,)), keras.Input((2,))
    control = keras.Input((2,)), keras.Input((2, 1))
    layer = NeuralODE(fields.MLP(5, 1, inputs=True), control="linear", **options)
    return keras.Model(
        [y0, times, context, *control],
        keras.layers.Flatten()(layer(y0, times, context=context, control=control)),
    )

def data_of_inputs(num):
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(size=(num, 2)), axis=1)
    knots = np.tile([0.0, 1.0], (num, 1))
    inputs = rng.normal(size=(num, 3)), times, rng.normal(size=(num, 2)), knots, rng.normal(
        size=(num, 2, 1)
    )
    as_float32 = lambda x: x.astype("float32")
    return tuple(map(as_float32, inputs)), as_float32(rng.normal(size=(num, 6)))

def train(strategy, options):
    options = dict(options)
    inputs = options.pop("inputs", False)
    make, arrays = (of_inputs, data_of_inputs) if inputs else (small_model, make_data)
    with strategy.scope():
        keras.utils.set_random_seed(0)
        # Equal steps: adaptive ones are those of a replica's own part of the batch.
        model = make(track_stats=True, solver="heun", **options)
        model.compile(keras.optimizers.SGD(0.1), "mse")
    data = tf.data.Dataset.from_tensor_slices(arrays(16)).batch(8)
    history = model.fit(data, epochs=3, verbose=0).history
    return {"weights": [w.tolist() for w in model.get_weights()], **history}

strategy = tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"])
assert strategy.num_replicas_in_sync == 2
one = tf.distribute.get_strategy()
every = json.loads(sys.argv[1])
print(json.dumps([[train(strategy, options), train(one, options)] for options in every]))
"""


OPTIONS = [{}, {"gradient": "tape", "jit_compile": True}, {"inputs": True}]


def test_two_mirrored_devices_train_as_one(tmp_path):
    done = run_python("-c", MIRRORED, json.dumps(OPTIONS), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for options, (mirrored, single) in zip(OPTIONS, found, strict=True):
        # Sums of float32 in another order.
        np.testing.assert_allclose(
            mirrored["loss"], single["loss"], rtol=1e-5, err_msg=str(options)
        )
        for a, b in zip(mirrored["weights"], single["weights"], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5, err_msg=str(options))
        # 20 steps of two; between times a row needs the slope at the end of the last one, too.
        nfe = 41 if "inputs" in options else 40
        assert mirrored["nfe"] == [nfe] * 3 and mirrored["failed_solves"] == [0] * 3
        assert mirrored["loss"][-1] < mirrored["loss"][0]


def test_two_processes_train_the_same_weights_as_one(tmp_path):
    example = ROOT / "examples" / "multi_worker.py"
    done = run_python(example, "--steps", "5", cwd=tmp_path)
    # The example compares the weights itself and ends with an error if they differ.
    assert done.returncode == 0, done.stderr[-3000:]
    line = done.stdout.splitlines()[-1]
    between, from_one = line.split("between workers: ")[1].split(", to one: ")
    assert float(between) == 0
    assert float(from_one) <= 1e-5
    assert len(example.read_text().splitlines()) < 150
