"""ODE-RNN: a state that flows between observations, as a cell and as a layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from modes import MODES, in_mode
from round_trip import saved_and_exported
from scipy.integrate import solve_ivp

from tf_neuralode import fields, gradients, solvers
from tf_neuralode.layers import ODERNN, ODECell, TimeGaps

UNITS = 3
EXACT = {"rtol": 1e-8, "atol": 1e-10}
# Cheap to trace; what it computes is the same in every mode.
CHEAP = {"solver": solvers.Midpoint(2)}
FINE = {"solver": solvers.RK4(40)}


def series(num_times=4, batch=3, seed=0):
    """Observations `(batch, num_times, 2)` and their times, which begin at any time."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(0.7, (batch, num_times)), axis=1)
    return rng.normal(size=(batch, num_times, 2)), times


def make_layer(cell=layers.GRUCell, dtype="float64", **options):
    # Weights of order 1: a flow that did nothing would be seen.
    draw = keras.initializers.RandomNormal(stddev=0.6)
    arguments = {"kernel_initializer": draw, "bias_initializer": draw, "dtype": dtype}
    field = [layers.Dense(4, "tanh", **arguments), layers.Dense(UNITS, **arguments)]
    dynamics = keras.Sequential(field)
    cell = cell(UNITS, bias_initializer=draw, dtype=dtype)
    return ODERNN(dynamics, cell, dtype=dtype, **options)


# The numbers


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def gru(weights, x, states):
    """K. Cho et al. 2014, with the reset gate behind the product (Keras' `reset_after`)."""
    kernel, recurrent, bias = weights
    (h,) = states
    xz, xr, xh = np.split(x @ kernel + bias[0], 3, axis=-1)
    hz, hr, hh = np.split(h @ recurrent + bias[1], 3, axis=-1)
    z = sigmoid(xz + hz)
    return [z * h + (1 - z) * np.tanh(xh + sigmoid(xr + hr) * hh)]


def lstm(weights, x, states):
    """S. Hochreiter, J. Schmidhuber 1997, with the gates i, f, c, o in Keras' order."""
    kernel, recurrent, bias = weights
    h, c = states
    i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return [sigmoid(o) * np.tanh(c), c]


def simple(weights, x, states):
    kernel, recurrent, bias = weights
    return [np.tanh(x @ kernel + states[0] @ recurrent + bias)]


CELLS = {
    "gru": (layers.GRUCell, gru),
    "lstm": (layers.LSTMCell, lstm),
    "simple": (layers.SimpleRNNCell, simple),
}


def by_scipy(layer, formula, x, times, states, t0):
    """Outputs of one series: SciPy between observations, the cell's formulas at them."""
    w1, b1, w2, b2 = (w.numpy() for w in layer.dynamics.weights)
    field = lambda t, h: np.tanh(h @ w1 + b1) @ w2 + b2
    weights = [w.numpy() for w in layer.cell.weights]
    outputs = []
    for x_i, t in zip(x, times, strict=True):
        if t > t0:
            h = solve_ivp(field, (t0, t), states[0], rtol=1e-10, atol=1e-12, method="DOP853")
            states = [h.y[:, -1], *states[1:]]
        states, t0 = formula(weights, x_i, states), t
        outputs.append(states[0])
    return np.array(outputs), states


@pytest.mark.parametrize(
    ("name", "mode", "t0"),
    [("gru", "graph", 0.0), ("lstm", "xla", None), ("simple", "eager", "own")],
)
def test_numbers_are_those_of_scipy_between_observations_and_the_cells_formulas(name, mode, t0):
    cell, formula = CELLS[name]
    layer = make_layer(cell, return_sequences=True, return_state=True, **EXACT)
    x, times = series()
    starts = times[:, 0] if t0 is None else np.broadcast_to(0.0 if t0 == 0.0 else [0, -1, 0.1], 3)
    rng = np.random.default_rng(1)
    initial = [rng.normal(size=(3, UNITS)) for _ in range(2 if name == "lstm" else 1)]
    given = None if t0 is None else starts
    run = in_mode(lambda *xs: layer(*xs, initial_state=initial, t0=given), mode)
    outputs, *states = run(x, times)
    for b in range(3):
        begin = [state[b] for state in initial]
        expected, last = by_scipy(layer, formula, x[b], times[b], begin, starts[b])
        # A hundred times the tolerance, over a few solves.
        np.testing.assert_allclose(outputs[b], expected, rtol=1e-6, atol=1e-8)
        for found, wanted in zip(states, last, strict=True):
            np.testing.assert_allclose(found[b], wanted, rtol=1e-6, atol=1e-8)


def test_a_layer_is_an_rnn_of_its_cell_behind_the_gaps_of_its_times():
    x, times = series()
    layer = make_layer(**CHEAP)
    expected = layer(x, times, t0=0.0)
    cell = ODECell(layer.dynamics, layer.cell, dtype="float64", **CHEAP)
    sequence = tf.concat([x, TimeGaps(dtype="float64")(times)], axis=-1)
    np.testing.assert_array_equal(layers.RNN(cell, dtype="float64")(sequence), expected)


@keras.saving.register_keras_serializable("test_ode_rnn")
class Keeps(layers.Layer):
    """A cell whose state an observation doesn't move; without what Keras' own cells offer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.state_size = 2

    def call(self, inputs, states):
        return states[0], states


@pytest.mark.parametrize("mode", MODES)
def test_a_gap_of_zero_leaves_the_state_as_it_is(mode):
    cell = ODECell(lambda h: -h, Keeps(), **EXACT)
    inputs, h = np.array([[9, 0], [9, 1.0], [9, 0]], "float32"), tf.constant([[1.1, 2]] * 3)
    run = in_mode(lambda inputs, h: cell(inputs, [h])[0], mode)
    found = run(inputs, h)
    np.testing.assert_array_equal(found[::2], h[::2])
    np.testing.assert_allclose(found[1], h[1] * np.exp(-1), rtol=1e-5)
    np.testing.assert_array_equal(run(0 * inputs, h), h)


def test_a_plain_cell_begins_with_zeros_and_has_its_own_state():
    layer = ODERNN(lambda h: tf.ones_like(h), Keeps(), return_state=True)
    x, times = np.ones((2, 3, 1)), np.array([1.0, 2.0, 4.5])
    output, state = layer(x, times)
    np.testing.assert_allclose(output, np.full((2, 2), 3.5), rtol=1e-5)  # from the first on
    np.testing.assert_array_equal(output, state)
    np.testing.assert_allclose(layer(x, times, t0=0.0)[0], np.full((2, 2), 4.5), rtol=1e-5)


# Gradients


@pytest.mark.parametrize(
    ("mode", "cell", "options"),
    [
        ("graph", "lstm", {"gradient": "adjoint", **EXACT}),
        # The gradients of times are those of the solution, not of the steps.
        ("eager", "simple", {"gradient": "tape", "solver": solvers.RK4(12)}),
        ("xla", "gru", {"gradient": "tape", **EXACT}),
    ],
    ids=["graph", "eager", "xla"],
)
def test_gradients_are_those_of_finite_differences(mode, cell, options):
    """Along one direction in the space of all weights, observations, times and initial states."""
    cell = CELLS[cell][0]
    layer = make_layer(cell, return_sequences=True, **options)
    x, times = series()
    mask = np.array([[1, 1, 0, 1], [0, 1, 1, 1], [1, 1, 1, 0]], bool)
    layer.build((3, 4, 2))
    rng = np.random.default_rng(2)
    states = [rng.normal(size=(3, UNITS)) for _ in range(2 if cell is layers.LSTMCell else 1)]
    point = [x, times, times[:, 0] - 0.3, *states, *(w.numpy() for w in layer.weights)]
    direction = [rng.normal(size=array.shape) / 10 for array in point]
    weigh, num = tf.constant(rng.normal(size=(3, 4, UNITS))), 3 + len(states)

    def loss_and_gradient(x, times, t0, *states):
        watched = [x, times, t0, *states, *(w.value for w in layer.weights)]
        with tf.GradientTape() as tape:
            tape.watch(watched)
            x = tf.where(mask[..., np.newaxis], x, np.nan)  # whatever is missing
            y = layer(x, times, mask=mask, t0=t0, initial_state=list(states))
            loss = tf.reduce_sum(weigh * y**2)
        return loss, tape.gradient(loss, watched)

    run = in_mode(loss_and_gradient, mode)

    def moved(by):
        arrays = [array + by * d for array, d in zip(point, direction, strict=True)]
        layer.set_weights(arrays[num:])
        return run(*map(tf.constant, arrays[:num]))

    h = 2e-3
    one, two = (moved(n * h)[0] - moved(-n * h)[0] for n in (1, 2))
    expected = (8 * one - two) / (12 * h)  # its own error is h^4 times the fifth derivative
    slopes = moved(0.0)[1]
    assert abs(expected) > 0.1 and np.all(np.isfinite(slopes[0]))
    total = sum(np.sum(g * d) for g, d in zip(slopes, direction, strict=True))
    np.testing.assert_allclose(total, expected, rtol=1e-5)


# Padding, and series as they come


@pytest.mark.parametrize("mode", ["eager", "xla"])
def test_a_masked_observation_is_as_if_it_were_not_there(mode):
    layer = make_layer(return_sequences=True, return_state=True, **FINE)
    x, times = series(5)
    mask = np.ones((3, 5), bool)
    mask[0, 2] = mask[1, 0] = mask[1, 1] = mask[2, 4] = False
    x, times = np.where(mask[..., np.newaxis], x, np.nan), np.where(mask, times, np.inf)
    run = in_mode(lambda x, times: layer(x, times, mask=mask), mode)
    outputs, state = run(x, times)
    for b in range(3):
        expected, last = layer(x[b : b + 1, mask[b]], times[b : b + 1, mask[b]])
        # The steps that the batch shares are not those of one series: each is (gap / 40)^4 off.
        np.testing.assert_allclose(outputs[b][mask[b]], expected[0], atol=1e-6)
        np.testing.assert_allclose(state[b], last[0], atol=1e-6)
    np.testing.assert_array_equal(outputs[0, 2], outputs[0, 1])
    np.testing.assert_array_equal(outputs[1, :2], np.zeros((2, UNITS)))


def test_a_series_of_padding_alone_has_its_initial_state_and_finite_gradients():
    layer = make_layer(return_state=True, **CHEAP)
    x, times = series()
    x, h = tf.constant(x), tf.ones([3, UNITS], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch([x, h])
        output, state = layer(x, times, mask=np.zeros((3, 4), bool), initial_state=h)
    np.testing.assert_array_equal(state, h)
    np.testing.assert_array_equal(output, tf.zeros_like(h))
    slopes = tape.gradient(state, [x, h])
    np.testing.assert_array_equal(slopes[0], tf.zeros_like(x))
    np.testing.assert_array_equal(slopes[1], h)


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_one_observation_after_the_other_gives_the_numbers_of_one_call(name):
    layer = make_layer(CELLS[name][0], return_sequences=True, return_state=True, **CHEAP)
    x, times = series()
    whole, *last = layer(x, times)
    states, t0 = None, None
    for i in range(4):
        one = slice(i, i + 1)
        output, *states = layer(x[:, one], times[:, one], initial_state=states, t0=t0)
        t0 = times[:, i]
        np.testing.assert_allclose(output[:, 0], whole[:, i], rtol=1e-12)
    for state, expected in zip(states, last, strict=True):
        np.testing.assert_allclose(state, expected, rtol=1e-12)


def test_a_mask_of_the_inputs_counts_and_is_handed_on():
    layer = make_layer(dtype="float32", return_sequences=True, return_state=True, **CHEAP)
    x, times = (array.astype("float32") for array in series())
    x[1, 2:] = 0.0
    mask = np.any(x != 0, axis=-1)
    output, _ = layer(layers.Masking()(x), times)
    np.testing.assert_array_equal(output, layer(x, times, mask=mask)[0])
    inputs = keras.Input((None, 2)), keras.Input((None,))
    symbolic, state = layer(layers.Masking()(inputs[0]), inputs[1])
    assert symbolic.shape == (None, None, UNITS) and state.shape == (None, UNITS)
    model = keras.Model(inputs, layers.GlobalAveragePooling1D()(symbolic))
    weigh = mask / mask.sum(axis=1, keepdims=True)
    expected = tf.reduce_sum(weigh[..., np.newaxis] * output, axis=1)
    np.testing.assert_allclose(model([x, times]), expected, atol=1e-6)


# Dtypes


def test_times_far_from_zero_are_as_good_as_near_ones():
    layer = make_layer(dtype="float32", **CHEAP)
    x, _ = series()
    seconds = np.array([[1, 2, 4, 4], [2, 3, 5, 9], [0, 1, 2, 3]])
    expected = layer(x, seconds.astype("float32"), t0=-1.0)
    for dtype in ("float64", "int64"):
        far = tf.constant(1_700_000_000 + seconds, dtype)
        for t0 in (1_699_999_999, tf.constant([1_699_999_999] * 3, dtype)):
            np.testing.assert_allclose(layer(x, far, t0=t0), expected, atol=1e-6)
    with pytest.raises(ValueError, match="Argument times must be resolved to 1 %"):
        layer(x, tf.constant(1.7e9 + seconds, "float32"))


def test_a_cell_and_a_dynamics_of_16_bits_have_a_state_of_32():
    policy = {"dtype": "mixed_float16"}
    x, times = (array.astype("float32") for array in series())
    fine, coarse = make_layer(dtype="float32", **CHEAP), make_layer(**policy, **CHEAP)
    fine(x, times), coarse(x, times)
    coarse.set_weights(fine.get_weights())
    found = coarse(x, times)
    assert found.dtype == "float32" and coarse.cell.compute_dtype == "float16"
    # Ten times float16's rounding.
    np.testing.assert_allclose(found, fine(x, times), atol=1e-2)
    assert coarse.dtype_policy.name == "float32"


# In a model


def model_around(layer):
    x, times = keras.Input((None, 2)), keras.Input((None,))
    model = keras.Model([x, times], layers.Dense(1, dtype="float32")(layer(x, times)))
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


def losses_of(layer, **options):
    """Of two updates."""
    keras.utils.set_random_seed(1)
    model = model_around(layer)
    model.compile(keras.optimizers.SGD(0.01), "mse", **options)
    x, times = (array.astype("float32") for array in series())
    fit = model.fit([x, times], x[:, :, 0].sum(1), epochs=2, verbose=0)
    return fit.history["loss"]


def test_fit_is_the_same_with_xla_and_eagerly():
    found = {}
    for name, options in {
        "graph": {},
        "xla": {"jit_compile": True},
        "eager": {"run_eagerly": True},
    }.items():
        keras.utils.set_random_seed(0)
        found[name] = losses_of(make_layer(dtype="float32", **CHEAP), **options)
    assert found["graph"][1] < found["graph"][0]
    np.testing.assert_allclose(found["xla"], found["graph"], rtol=1e-5)
    np.testing.assert_allclose(found["eager"], found["graph"], rtol=1e-5)


@pytest.mark.core
def test_a_model_is_saved_loaded_and_exported(tmp_path):
    layer = make_layer(layers.LSTMCell, dtype="float32", **CHEAP)
    model = model_around(layer)
    x, times = (array.astype("float32") for array in series())
    expected = model([x, times])
    loaded, served = saved_and_exported(model, tmp_path)
    np.testing.assert_array_equal(loaded([x, times]), expected)
    # Neither the batch nor the number of observations is fixed.
    for inputs in ([x, times], [x[:1, :2], times[:1, :2]]):
        found = served.serve([tf.constant(array) for array in inputs])
        np.testing.assert_allclose(found, model(inputs), atol=1e-5)


def test_dropout_in_the_cell_and_in_the_dynamics_is_drawn_in_training_alone():
    dynamics = keras.Sequential([layers.Dense(UNITS), layers.Dropout(0.5)])
    cell = layers.GRUCell(UNITS, dropout=0.5, recurrent_dropout=0.5)
    layer = ODERNN(dynamics, cell, **CHEAP)
    x, times = (array.astype("float32") for array in series())
    predict = in_mode(lambda: layer(x, times), "graph")
    train = in_mode(lambda: layer(x, times, training=True), "graph")
    np.testing.assert_array_equal(predict(), predict())
    assert np.max(np.abs(train() - train())) > 1e-3


def test_dropout_in_the_cell_is_one_mask_for_all_observations():
    """As in Keras' own layers: a feature that is dropped stays so."""
    cell = layers.SimpleRNNCell(
        2, None, dropout=0.5, kernel_initializer="identity", recurrent_initializer="zeros"
    )
    layer = ODERNN(tf.zeros_like, cell, return_sequences=True, **CHEAP)
    for mode in ("eager", "xla"):
        run = in_mode(lambda x: layer(x, times=np.arange(4.0), training=True), mode)
        found = run(np.ones((30, 4, 2), "float32")).numpy()
        assert set(found.ravel()) == {0.0, 2.0}
        np.testing.assert_array_equal(found, np.repeat(found[:, :1], 4, axis=1))


def test_the_graph_does_not_grow_with_the_number_of_observations():
    layer = make_layer(dtype="float32", **CHEAP)
    layer.build((2, None, 2))

    def num_operations(num_times):
        x, times = tf.TensorSpec([2, num_times, 2]), tf.TensorSpec([2, num_times])

        def step(x, times):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(x, times, training=True))
            return tape.gradient(loss, layer.trainable_weights)

        graph = tf.function(step, autograph=False).get_concrete_function(x, times).graph
        definition = graph.as_graph_def()
        return len(definition.node) + sum(len(f.node_def) for f in definition.library.function)

    assert num_operations(4) == num_operations(400)


# What doesn't fit


def test_times_that_fall_are_an_error_or_nan_for_their_sample():
    x, times = series()
    times[1] = times[1, ::-1]
    layer = make_layer(**CHEAP)
    message = r"Argument times must be finite and rise.*Received"
    with pytest.raises(ValueError, match=message):
        layer(x, times)
    with pytest.raises(ValueError, match=message):
        layer(x[:1], times[:1], t0=times[:1, 0] + 0.1)
    with pytest.raises(ValueError, match=message):
        layer(x[:1], np.full((1, 4), np.nan))
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        in_mode(layer, "graph")(x, times)
    others = {"dynamics": layer.dynamics, "cell": layer.cell, "on_failure": "nan"}
    found = ODERNN.from_config({**layer.get_config(), **others})(x, times)
    np.testing.assert_array_equal(np.isnan(found).all(axis=1), [False, True, False])


@pytest.mark.parametrize("cls", [ODECell, ODERNN])
def test_settings_are_read_only_and_in_the_config(cls):
    settings = {
        "solver": "rk4",
        "gradient": gradients.Adjoint(),
        "rtol": None,
        "atol": None,
        "norm": None,
        "on_failure": "nan",
    }
    if cls is ODERNN:
        settings |= {"return_sequences": True, "return_state": True}
    layer = cls(fields.MLP(4, 1), layers.GRUCell(2), name="one", **settings)
    config = layer.get_config()
    assert set(config) == {"name", "trainable", "dtype", *cls.read_only}
    again = cls.from_config(config).get_config()
    for name in ("dynamics", "cell"):  # which Keras says were not built yet
        assert again[name]["config"] == config[name]["config"]
    assert {**again, "dynamics": 0, "cell": 0} == {**config, "dynamics": 0, "cell": 0}
    for name in cls.read_only:
        with pytest.raises(AttributeError, match=rf"{cls.__name__}\.{name} is fixed"):
            setattr(layer, name, settings.get(name))


def test_a_misspelt_setting_is_an_error_that_says_what_was_meant():
    with pytest.raises(ValueError, match="did you mean 'solver'"):
        ODECell(fields.MLP(4, 1), layers.GRUCell(2), slover="rk4")
    with pytest.raises(ValueError, match="did you mean 'return_sequences'"):
        ODERNN(fields.MLP(4, 1), layers.GRUCell(2), return_sequence=True)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (layers.GRU(3), r"such as keras.layers.GRUCell.*Of a layer, GRU, take the cell.*Received"),
        (layers.StackedRNNCells([Keeps()]), r"Stack layers instead, ODERNN\(.*Received"),
        ([Keeps()], r"Stack layers instead, ODERNN\(.*Received"),
        (layers.Dense(3), r"Argument cell must be a Keras RNN cell.*Received: cell=<Dense"),
        ("gru", r"Argument cell must be a Keras RNN cell.*Received: cell='gru'"),
    ],
    ids=["layer", "stack", "list", "dense", "name"],
)
def test_a_cell_must_be_a_cell(cell, message):
    with pytest.raises(TypeError, match=message):
        ODERNN(fields.MLP(4, 1), cell)


def test_dynamics_cell_and_layer_must_fit():
    x, times = series()
    with pytest.raises(ValueError, match=r"dynamics must return the shape of its state.*\(3, 3\)"):
        ODERNN(layers.Dense(4), layers.GRUCell(3))(x, times)
    with pytest.raises(
        ValueError, match=r"Argument cell must have the dtype.*Received: cell of .*32"
    ):
        ODERNN(layers.Dense(3, dtype="float64"), layers.GRUCell(3), dtype="float64")(x, times)
    with pytest.raises(ValueError, match=r"as the last of them, the gap.*Received.*\(3, 1\)"):
        ODECell(layers.Dense(3), layers.GRUCell(3))(np.ones((3, 1)), [np.ones((3, 3))])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": np.ones((3, 2))}, r"input of layer .*\(ODERNN\) must have.*Received.*\(3, 2\)"),
        ({"times": np.ones((3, 5))}, r"times must hold a time for each.*Received.*\(3, 5\)"),
        ({"times": np.ones(5)}, r"times must hold a time for each.*Received.*\(5,\)"),
        ({"times": np.ones((2, 4))}, r"times must hold a time for each.*Received.*\(2, 4\)"),
        ({"times": np.ones((3, 4, 1))}, r"times must have the shape.*Received.*\(3, 4, 1\)"),
        ({"mask": np.ones((3, 5))}, r"mask must have the shape.*Received.*\(3, 5\)"),
        ({"t0": np.ones((3, 1))}, r"t0 must be one time, or one for each.*Received.*\(3, 1\)"),
        ({"t0": np.ones(2)}, r"t0 must be one time, or one for each.*Received.*\(2,\)"),
        ({"initial_state": np.ones((3, 4))}, r"initial_state must hold the states.*\(3, 4\)"),
        ({"initial_state": [np.ones((3, 3))] * 2}, r"initial_state must hold.*\(3, 3\), \(3, 3\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_arguments_of_a_call_that_do_not_fit_are_an_error(arguments, message):
    x, times = series()
    with pytest.raises(ValueError, match=message):
        make_layer(**CHEAP)(**{"inputs": x, "times": times, **arguments})
