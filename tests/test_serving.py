"""An exported model answers over HTTP, and as a TF Lite model, what the model itself predicts."""

import contextlib
import json
import os
import select
import subprocess
import sys
import urllib.error
import urllib.request
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import dense_field, make_data, small_model

from tf_neuralode import NeuralODE, fields

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 120
# As the steps are chosen for a batch as a whole, other batches would agree to rtol only; the same
# batch agrees to the rounding of float32 times a few steps.
CLOSE = {"rtol": 0, "atol": 1e-5}


def predict(model, x):
    return model.predict(x, batch_size=len(x), verbose=0)


# Over HTTP


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A model, and the address at which examples/serve.py answers for it."""
    model = small_model()
    path = tmp_path_factory.mktemp("served") / "small"
    model.export(path, verbose=False)
    with serving(path) as address:
        yield model, address


@contextlib.contextmanager
def serving(path):
    """The address at which examples/serve.py answers for the export at `path`."""
    process = subprocess.Popen(
        [sys.executable, ROOT / "examples" / "serve.py", path, "--port", "0"],
        cwd=path.parent,  # from where it couldn't import the package, if it were not installed
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        readable, _, _ = select.select([process.stdout], [], [], SECONDS)
        assert readable, "the server printed no address in time"
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait(SECONDS)
        process.stdout.close()


def post(address, body):
    """Status and body of the answer."""
    request = urllib.request.Request(address, body.encode(), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def ask(address, x):
    """Predictions for `x`."""
    status, body = post(address, json.dumps({"instances": x.tolist()}))
    assert status == 200, body
    return body["predictions"]


def test_server_answers_what_the_model_predicts(served):
    model, address = served
    assert address.endswith("/v1/models/small:predict")
    x, _ = make_data()
    for size in (12, 1, 5):
        np.testing.assert_allclose(ask(address, x[:size]), predict(model, x[:size]), **CLOSE)


def test_server_answers_several_clients_at_once(served):
    model, address = served
    batches = [make_data(12)[0] + i for i in range(6)]
    with ThreadPoolExecutor(6) as clients:
        answers = list(clients.map(lambda x: ask(address, x), batches))
    for x, answer in zip(batches, answers, strict=True):
        np.testing.assert_allclose(answer, predict(model, x), **CLOSE)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"inputs": [[1, 2, 3]]}', "KeyError: 'instances'"),
        ('{"instances": [[1, 2]]}', "Shapes (None, 3) and (1, 2) are incompatible"),
        ('{"instances": [[1, 2, "x"]]}', "ValueError"),
        ("[1, 2, 3]", "TypeError"),
        ('{"instances": [[NaN, 0, 0]]}', "neural_ode"),
    ],
    ids=["other_key", "other_shape", "not_a_number", "not_an_object", "failed_solve"],
)
def test_server_refuses_a_bad_request_and_goes_on(served, body, message):
    model, address = served
    for _ in range(8):  # more than the server has threads: none of them may be left hanging
        status, answer = post(address, body)
        assert status == 400
        assert message in answer["error"]
    x, _ = make_data(2)
    np.testing.assert_allclose(ask(address, x), predict(model, x), **CLOSE)


def model_of_inputs(**options):
    """A state, a context and an initial time of each sample."""
    keras.utils.set_random_seed(0)
    y0, context = keras.Input((2,), name="y0"), keras.Input((3,), name="context")
    t0 = keras.Input((), name="t0")
    field = fields.MLP(8, 1, time=True, inputs=True)
    layer = NeuralODE(field, time_dependent=True, **options)
    return keras.Model([y0, context, t0], layer(y0, context=context, t0=t0))


def inputs_of(size):
    rng = np.random.default_rng(0)
    shapes = {"y0": (size, 2), "context": (size, 3), "t0": (size,)}
    return {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}


def test_a_model_of_several_inputs_is_served_an_object_for_each_instance(tmp_path):
    model = model_of_inputs()
    model.export(tmp_path / "several", verbose=False)
    with serving(tmp_path / "several") as address:
        for size in (5, 1):
            given = inputs_of(size)
            rows = [{name: x[i].tolist() for name, x in given.items()} for i in range(size)]
            status, body = post(address, json.dumps({"instances": rows}))
            assert status == 200, body
            np.testing.assert_allclose(body["predictions"], predict_inputs(model, given), **CLOSE)
        del rows[0]["context"]
        status, body = post(address, json.dumps({"instances": rows}))
        assert status == 400 and body["error"] == "KeyError: 'context'"


def predict_inputs(model, given):
    return model.predict(list(given.values()), batch_size=len(given["t0"]), verbose=0)


# As a TF Lite model


def convert(model, path, select_tf_ops=False, **settings):
    """The TF Lite model, made from an export."""
    return make_converter(model, path, select_tf_ops, **settings).convert()


def make_converter(model, path, select_tf_ops=False, supported_types=(), **settings):
    model.export(path, verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(path))
    converter.target_spec.supported_types = list(supported_types)
    for name, value in settings.items():
        setattr(converter, name, value)
    if select_tf_ops:
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS,
            tf.lite.OpsSet.SELECT_TF_OPS,
        ]
    return converter


def interpret(content, x):
    """Its output for `x`, an array or some by name, by the interpreter in TensorFlow."""
    with warnings.catch_warnings():
        # TensorFlow 2.21 points to ai-edge-litert, the interpreter's new package.
        warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated", UserWarning)
        interpreter = tf.lite.Interpreter(model_content=content)
    sources, (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    name = lambda source: source["name"].removeprefix("serving_default_").removesuffix(":0")
    given = {source["index"]: x[name(source)] if isinstance(x, dict) else x for source in sources}
    for index, value in given.items():
        interpreter.resize_tensor_input(index, value.shape)
    interpreter.allocate_tensors()
    for index, value in given.items():
        interpreter.set_tensor(index, value)
    interpreter.invoke()
    return interpreter.get_tensor(target["index"])


@pytest.mark.parametrize("select_tf_ops", [False, True])
@pytest.mark.parametrize(
    "options",
    # TF Lite rounds differently, which changes adaptive steps, and with them the result within the
    # tolerance: so it must be below 1e-5.
    [
        {"solver": "rk4", "gradient": "gauss_adjoint"},
        {"solver": "dormand_prince", "rtol": 1e-6, "atol": 1e-6},
    ],
    ids=["equal_steps", "adaptive_steps"],
)
def test_tf_lite_gives_the_final_state_for_any_batch_size(options, select_tf_ops, tmp_path):
    model = small_model(**options)
    content = convert(model, tmp_path / "model", select_tf_ops)
    for size in (12, 3):
        x, _ = make_data(size)
        np.testing.assert_allclose(interpret(content, x), predict(model, x), **CLOSE)


@pytest.mark.parametrize("options", [{"solver": "rk4"}, {"rtol": 1e-6, "atol": 1e-6}], ids=str)
def test_tf_lite_takes_context_and_initial_times(options, tmp_path):
    model = model_of_inputs(**options)
    content = convert(model, tmp_path / "model")
    for size in (12, 3):
        given = inputs_of(size)
        np.testing.assert_allclose(interpret(content, given), predict_inputs(model, given), **CLOSE)


# Large enough for the converter to quantize its weights.
WIDE = 512


def wide_model(**options):
    field = keras.Sequential([keras.layers.Dense(WIDE, activation="tanh"), keras.layers.Dense(3)])
    return small_model(field, **options)


def samples():
    x, _ = make_data(12)
    yield [x]


QUANTIZED = {"optimizations": [tf.lite.Optimize.DEFAULT]}
INTEGER = {**QUANTIZED, "representative_dataset": samples}
# What a solver computes with; the matrix products and convolutions of the field are not among them.
SOLVER_OPS = (
    "ABS ADD DIV GATHER MAXIMUM MINIMUM MUL PACK REDUCE_MAX RESHAPE SELECT SELECT_V2 SQRT "
    "STRIDED_SLICE SUB SUM TANH UNPACK"
).split()


def relative_error(model, content):
    x, _ = make_data(12)
    expected = predict(model, x)
    return np.max(np.abs(interpret(content, x) - expected)) / np.max(np.abs(expected))


@pytest.mark.parametrize("solver", ["rk4", "dormand_prince"])
def test_tf_lite_keeps_a_solve_right_with_quantized_weights(solver, tmp_path):
    model = wide_model(solver=solver)
    dynamic = convert(model, tmp_path / "model", **QUANTIZED)
    float16 = convert(model, tmp_path / "model", **QUANTIZED, supported_types=[tf.float16])
    # Weights of 8 bits, and of 11, in a network of three layers.
    assert relative_error(model, dynamic) < 3 * 2**-7
    assert relative_error(model, float16) < 3 * 2**-10


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tf_lite_in_integers_is_right_only_with_the_solver_in_floats(tmp_path):
    model = wide_model(solver="rk4")
    assert relative_error(model, convert(model, tmp_path / "model", **INTEGER)) > 0.05
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=make_converter(model, tmp_path / "model", **INTEGER),
        debug_dataset=samples,
        debug_options=tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=SOLVER_OPS),
    )
    assert relative_error(model, debugger.get_nondebug_quantized_model()) < 0.02


def test_tf_lite_gives_nan_where_a_solve_fails(tmp_path):
    explode = keras.layers.Lambda(lambda y: 100 * y**2, output_shape=lambda shape: shape)
    model = keras.Sequential([keras.Input((3,)), NeuralODE(explode)])  # would raise an error
    content = convert(model, tmp_path / "model")
    assert np.isnan(interpret(content, np.ones((2, 3), "float32"))).all()


def test_tf_lite_converts_times_between_with_select_tf_ops_only(tmp_path):
    layer = NeuralODE(dense_field(), t_eval=(0.0, 0.5, 1.0), return_sequences=True)
    model = keras.Sequential([keras.Input((3,)), layer])
    with pytest.raises(Exception, match="TensorList"):
        convert(model, tmp_path / "model")
    assert convert(model, tmp_path / "model", select_tf_ops=True)
