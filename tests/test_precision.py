"""Dtype policies: low precision for the dynamics, at least float32 for state and time."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from modes import in_mode

import mnist
from digits import load_digits
from tf_neuralode import NeuralODE, odeint, solvers

POLICIES = ["mixed_float16", "mixed_bfloat16", "float64"]
HELD_IN = {"mixed_float16": "float32", "mixed_bfloat16": "float32", "float64": "float64"}


@pytest.fixture
def policy(request):
    old = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(old)


class Watched(keras.layers.Layer):
    """Notes the dtypes that it is called with."""

    def __init__(self):
        super().__init__(autocast=False)
        self.seen = set()
        self.inner = keras.layers.Dense(3)

    def build(self, input_shape):
        self.inner.build(input_shape[1])

    def compute_output_shape(self, input_shape):
        return input_shape[1]

    def call(self, inputs):
        t, y = inputs
        self.seen |= {t.dtype, y.dtype}
        slope = self.inner(y)
        self.seen_slope = slope.dtype
        return slope


@pytest.mark.parametrize("policy", POLICIES, indirect=True)
@pytest.mark.parametrize("times", [None, np.array([[0.5], [1.0]])], ids=["span", "own times"])
def test_state_and_time_are_held_in_at_least_float32(policy, times):
    dynamics = Watched()
    layer = NeuralODE(dynamics, time_dependent=True)
    output = layer(tf.ones([2, 3], keras.config.dtype_policy().compute_dtype), times)
    dtype = tf.as_dtype(HELD_IN[policy])
    assert output.dtype == dtype
    names = {tf.as_dtype(x).name for x in dynamics.seen}
    assert names == {dtype.name}
    assert dynamics.seen_slope == keras.config.dtype_policy().compute_dtype


def accuracies(epochs):
    keras.utils.set_random_seed(0)
    model = mnist.build_model("bosh3")  # fewer stages to trace
    (x, y), (x_test, y_test) = load_digits("subset")
    history = model.fit(
        x, y, batch_size=128, epochs=epochs, validation_data=(x_test, y_test), verbose=0
    ).history
    return model, history["accuracy"][-1], history["val_accuracy"][-1]


@pytest.fixture(scope="module")
def in_float32(once_a_run):
    return once_a_run("mnist-in-float32", lambda: accuracies(epochs=9)[1:])


@pytest.mark.parametrize("policy", POLICIES, indirect=True)
def test_mnist_reaches_the_accuracy_of_float32(policy, in_float32):
    model, train, test = accuracies(epochs=9)
    assert train > 0.85
    # Rounding of 16 bits moves a few of 1350 and of 150 digits.
    assert abs(train - in_float32[0]) <= 0.015
    assert abs(test - in_float32[1]) <= 0.03
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    if scaled:
        # No step was skipped for gradients that overflow: the scale is still the first one.
        assert float(model.optimizer.dynamic_scale) >= 2**15
        assert model.optimizer.inner_optimizer.iterations == 9 * 11


def dense(policy="float64"):
    return keras.layers.Dense(2, activation="tanh", dtype=policy)


def functional(dtype, policy="float64"):
    y = keras.Input((2,), dtype=dtype)
    return keras.Model(y, dense(policy)(y))


class Holding(keras.layers.Layer):
    """Calls another layer."""

    def __init__(self, inner, dtype="float64"):
        super().__init__(dtype=dtype)
        self.inner = inner

    def build(self, input_shape):
        self.inner.build(input_shape)

    def call(self, y):
        return self.inner(y)


def of_time(dtype):
    t, y = keras.Input((1,), dtype=dtype), keras.Input((2,), dtype="float64")
    joined = keras.layers.Concatenate(dtype="float64")([t, y])
    return keras.Model([t, y], dense()(joined))


ROUNDING = {
    "functional": lambda: functional("float32"),
    "sequential": lambda: keras.Sequential([keras.Input((2,)), dense()]),
    "inside a layer": lambda: Holding(functional("float32")),
    "inside a sequential": lambda: keras.Sequential([functional("float32"), dense()]),
    "a layer that casts": lambda: Holding(dense(), dtype="float32"),
    "between": lambda: keras.Sequential([keras.layers.Activation("tanh"), dense()]),
    "time": lambda: of_time("float32"),
}


@pytest.mark.parametrize("dynamics", ROUNDING)
def test_a_dynamics_in_which_keras_rounds_a_float64_state_is_an_error_at_build(dynamics):
    layer = NeuralODE(ROUNDING[dynamics](), time_dependent=dynamics == "time", dtype="float64")
    with pytest.raises(ValueError, match=r"rounds its input to float32.*float64"):
        layer.build((None, 2))


KEEPING = {
    "functional": lambda: functional("float64"),
    "sequential": lambda: keras.Sequential([dense(), keras.Sequential([dense()])]),
    "16 bits": lambda: functional("float32", "mixed_float16"),
    "inside a layer": lambda: Holding(keras.Sequential([dense()])),
    "time": lambda: of_time("float64"),
}


@pytest.mark.parametrize("dynamics", KEEPING)
def test_a_dynamics_that_keeps_float64_or_means_16_bits_is_none(dynamics):
    layer = NeuralODE(KEEPING[dynamics](), time_dependent=dynamics == "time", dtype="float64")
    layer.build((None, 2))


@pytest.mark.parametrize("policy", ["mixed_float16", "float32"])
def test_float32_layers_take_any_of_them(policy):
    NeuralODE(functional("float32", policy)).build((None, 2))


def test_a_float64_field_behind_a_float64_input_meets_a_tight_tolerance():
    layer = NeuralODE(
        functional("float64"), rtol=1e-12, atol=1e-12, track_stats=True, dtype="float64"
    )
    layer(np.ones((1, 2)), training=False)
    # With the state rounded to float32 it failed after 6,002.
    assert layer._nfe.result() < 500


# Half a spacing of the numbers above 1, as a share of a step's change, in a solution of size 1.
UNIT_ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
TOO_FINE = pytest.warns(UserWarning, match=r"computes in b?float16 .*Received: rtol=1e-05")


def too_fine(dtype, tolerance):
    """The warning that is due, if one is."""
    return TOO_FINE if dtype != "float32" and tolerance < 1e-4 else contextlib.nullcontext()


def solve_layer(dtype, tolerance, mode="eager"):
    """Evaluations, and the largest error, of 32 samples in a network."""
    keras.utils.set_random_seed(0)
    policy = dtype if dtype == "float32" else f"mixed_{dtype}"
    dense = [keras.layers.Dense(16, "tanh", dtype=policy), keras.layers.Dense(8, dtype=policy)]
    solver = solvers.DormandPrince(tolerance, tolerance)
    layer = NeuralODE(keras.Sequential(dense), solver=solver, track_stats=True)
    y0 = tf.constant(np.random.default_rng(0).normal(size=[32, 8]), tf.float32)
    with too_fine(dtype, tolerance):
        layer.build(y0.shape)
    end = in_mode(lambda y0: layer(y0, training=True), mode)(y0)
    weights = [tf.cast(w.value, tf.float64) for w in layer.trainable_weights]

    def f(t, y):
        return tf.tanh(y @ weights[0] + weights[1]) @ weights[2] + weights[3]

    exact = odeint(f, tf.cast(y0, tf.float64), [0.0, 1.0], rtol=1e-9, atol=1e-9).states[-1]
    return float(layer.metrics[0].result()), np.max(np.abs(end.numpy() - exact.numpy()))


def solve_odeint(dtype, tolerance, mode="eager"):
    """The same of a rotation by one radian."""
    f = lambda t, y: tf.stack([-y[1], y[0]])
    run = lambda y0: odeint(f, y0, [0.0, 1.0], rtol=tolerance, atol=tolerance)[1:3]
    with too_fine(dtype, tolerance):
        states, diagnostics = in_mode(run, mode)(tf.constant([1.0, 0.0], dtype))
    error = np.abs(tf.cast(states[-1], tf.float64) - [np.cos(1), np.sin(1)])
    return float(diagnostics.num_ode_fn_evaluations), np.max(error)


@pytest.mark.parametrize("solve", [solve_layer, solve_odeint])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_field_in_16_bits_takes_the_steps_of_float32(dtype, solve):
    for tolerance in (1e-3, 1e-5):
        evaluations, error = solve(dtype, tolerance)
        of_float32, error_of_float32 = solve("float32", tolerance)
        # A step more at most, where there are few.
        assert evaluations <= max(1.5 * of_float32, of_float32 + 6)
        # Rounding of a few operations, over a time that is about 1 in units of the field's rates.
        assert error <= 10 * tolerance + 8 * UNIT_ROUNDOFF[dtype]
        assert error_of_float32 <= 10 * tolerance


def test_a_field_in_16_bits_takes_few_steps_under_xla_and_backwards():
    few, _ = solve_layer("float32", 1e-5)
    assert solve_layer("bfloat16", 1e-5, "xla")[0] <= 1.5 * few

    def backward_evaluations(dtype):
        counter = tf.Variable(0.0)
        y0 = tf.constant([1.0, 0.0], dtype)
        with too_fine(dtype, 1e-5), tf.GradientTape() as tape:
            tape.watch(y0)
            f = lambda t, y: tf.stack([-y[1], y[0]])
            settings = {"rtol": 1e-5, "atol": 1e-5, "backward_counter": counter}
            loss = tf.reduce_sum(odeint(f, y0, [0.0, 1.0], **settings).states[-1])
        return float(tape.gradient(loss, counter))

    assert backward_evaluations("bfloat16") <= 1.5 * backward_evaluations("float32")


def test_a_layer_in_float32_behind_others_in_16_bits_hides_nothing():
    def build(dtype):
        layers = [keras.layers.Dense(8, "tanh", dtype=dtype), keras.layers.Dense(8)]
        NeuralODE(keras.Sequential(layers), rtol=1e-5).build((None, 8))

    build("float32")
    with TOO_FINE:
        build("mixed_float16")


def test_tf32_counts_where_a_gpu_has_it(monkeypatch):
    def build():
        NeuralODE(keras.layers.Dense(8), rtol=1e-5).build((None, 8))

    def gpus(capability):
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
        details = lambda gpu: {"compute_capability": capability}
        monkeypatch.setattr(tf.config.experimental, "get_device_details", details)

    build()
    gpus((7, 5))
    build()
    gpus((8, 0))
    with pytest.warns(UserWarning, match="computes in TF32.*enable_tensor_float_32_execution"):
        build()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        build()
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(True)
