"""Fields: networks of the state's size, to be the dynamics of a NeuralODE."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from modes import MODES, in_mode

from tf_neuralode import ConcatTime, NeuralODE, fields, odeint, solvers

# A field of each kind, and the shape of one sample of its state.
CASES = {
    "MLP": (lambda **options: fields.MLP(8, 2, **options), (3,)),
    "MLP of rows": (lambda **options: fields.MLP(8, 1, **options), (5, 3)),
    "Conv of rows": (lambda **options: fields.Conv(4, **options), (6, 3)),
    "Conv of images": (lambda **options: fields.Conv(4, depth=2, **options), (6, 5, 3)),
    "Conv of volumes": (lambda **options: fields.Conv(4, kernel_size=2, **options), (4, 3, 3, 2)),
}
ALL = pytest.mark.parametrize("name", CASES)
KINDS = pytest.mark.parametrize("name", ["MLP", "Conv of images"])

# A solve that is compiled soon.
SHORT = {"solver": solvers.Euler(num_steps=2), "gradient": "tape"}


def state(name, num_samples=2):
    return np.random.default_rng(0).normal(size=(num_samples, *CASES[name][1])).astype("float32")


def make(name, **options):
    keras.utils.set_random_seed(0)
    return CASES[name][0](**options)


def model_of(name, **options):
    """A model that solves with a field that knows the time, and has all that it may have."""
    field = make(name, time=True, out_scale=True, **options)
    ode = NeuralODE(field, time_dependent=True, **SHORT)
    return keras.Sequential([keras.Input(CASES[name][1]), ode])


@ALL
def test_the_output_has_the_shape_of_the_state(name):
    y = state(name)
    field = make(name)
    assert field(y).shape == y.shape
    assert field.compute_output_shape((None, *y.shape[1:])) == (None, *y.shape[1:])
    in_time = make(name, time=True)
    assert in_time([np.ones((2, 1), "float32"), y]).shape == y.shape
    assert in_time.compute_output_shape([(None, 1), (None, *y.shape[1:])])[1:] == y.shape[1:]


@pytest.mark.parametrize(
    ("field", "y_shape", "shapes"),
    [
        (fields.MLP(8, 2), (1, 3), [(3, 8), (8, 8), (8, 3)]),
        (fields.Conv(8), (1, 4, 4, 3), [(3, 3, 3, 8), (3, 3, 8, 3)]),
        (fields.Conv(8, depth=2, kernel_size=5), (1, 9, 3), [(5, 3, 8), (5, 8, 8), (5, 8, 3)]),
    ],
)
def test_depth_counts_the_hidden_layers(field, y_shape, shapes):
    field.build(y_shape)
    assert [w.shape for w in field.weights if len(w.shape) > 1] == shapes
    assert all(w.shape == (s[-1],) for w, s in zip(field.weights[1::2], shapes, strict=True))


@KINDS
def test_weights_begin_uniform_between_one_over_the_root_of_the_inputs(name):
    """Of 3,000 numbers of U(-a, a) the largest is below 0.99 a once in 1e13."""
    keras.utils.set_random_seed(0)
    cls, shape = (fields.MLP, (1, 50)) if name == "MLP" else (fields.Conv, (1, 4, 4, 50))
    field = cls(60, depth=1)
    field.build(shape)
    for (kernel, bias), factor in zip(
        (field.weights[:2], field.weights[2:]), (1, 0.1), strict=True
    ):
        bound = factor / np.sqrt(np.prod(kernel.shape[:-1]))
        assert 0.99 * bound < np.abs(kernel).max() <= bound
        assert 0.8 * bound < np.abs(bias).max() <= bound
        assert abs(np.mean(kernel)) < 0.06 * bound  # more than 5 standard deviations


def test_a_solve_begins_nearer_to_rest_than_with_keras_layers():
    """What it moves a state by over (0, 1), RMS, the mean of 3 draws.

    A slope is a sum of 33 numbers of variance at most (0.1 / sqrt(32))^2 / 3, as |tanh| < 1: so
    below 0.06.
    """
    y = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
    moved = []
    for seed in range(3):
        keras.utils.set_random_seed(seed)
        by_hand = [layers.Dense(32, "tanh"), layers.Dense(32, "tanh"), layers.Dense(4)]
        for dynamics in (fields.MLP(32, 2), keras.Sequential(by_hand)):
            end = odeint(lambda t, y, f=dynamics: f(y), y, [0.0, 1.0], solver=SHORT["solver"])
            moved.append(np.sqrt(np.mean((end.states[-1] - y) ** 2)))
    ours, keras_own = np.mean(moved[::2]), np.mean(moved[1::2])
    assert ours < 0.06 and ours < keras_own / 4


@KINDS
def test_out_scale_is_one_weight_that_all_slopes_are_times(name):
    y, field = state(name), make(name, out_scale=True)
    at_first = field(y).numpy()
    np.testing.assert_array_equal(at_first, make(name)(y))
    (scale,) = [w for w in field.trainable_weights if w.shape == ()]
    scale.assign(-4.0)
    np.testing.assert_array_equal(field(y), -4 * at_first)


BY_HAND = {
    "MLP": lambda: [layers.Dense(8, "tanh"), layers.Dense(8, "tanh"), layers.Dense(3)],
    "Conv of rows": lambda: [
        layers.Conv1D(4, 3, padding="same", activation="tanh"),
        layers.Conv1D(3, 3, padding="same"),
    ],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_time_enters_as_concat_time_puts_it(name):
    """The same slopes as those of the layers by hand with the field's weights."""
    field, by_hand = make(name, time=True), keras.Sequential([ConcatTime(), *BY_HAND[name]()])
    y = state(name)
    of_field = NeuralODE(field, time_dependent=True, **SHORT)(y)
    solve = NeuralODE(by_hand, time_dependent=True, **SHORT)
    solve(y)
    solve.set_weights(field.get_weights())
    np.testing.assert_array_equal(solve(y), of_field)
    t = np.array([[0.5], [2.0]], "float32")
    assert np.abs(field([t, y]) - field([0 * t, y])).max() > 1e-2


@KINDS
def test_a_loaded_model_predicts_as_the_saved_one(name, tmp_path):
    model, x = model_of(name, activation="swish"), state(name)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), model(x))
    field = model.layers[-1].dynamics
    assert loaded.layers[-1].dynamics.get_config() == field.get_config()
    assert {*field.read_only} < {*field.get_config()}


def test_a_model_learns():
    model, x = model_of("MLP"), tf.constant(state("MLP", 8))
    optimizer = keras.optimizers.Adam(0.03)
    optimizer.build(model.trainable_variables)

    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(x, training=True) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    train = in_mode(step, "graph")
    losses = [float(train()) for _ in range(10)]
    assert losses[-1] < 0.8 * losses[0]


def test_an_exported_model_is_served(tmp_path):
    model, x = model_of("Conv of images"), state("Conv of images")
    model.export(tmp_path / "exported", verbose=False)
    served = layers.TFSMLayer(tmp_path / "exported", call_endpoint="serve")(x)
    np.testing.assert_allclose(served, model(x), atol=1e-5)  # float32, other kernels


@KINDS
def test_eager_graph_and_xla_agree(name):
    model, y = model_of(name), tf.constant(state(name))

    def output_and_gradients():
        if name != "MLP":  # those of convolutions take XLA seconds
            return (model(y),)
        with tf.GradientTape() as tape:
            output = model(y)
            loss = tf.reduce_sum(output**2)
        return output, *tape.gradient(loss, model.trainable_variables)

    eager, graph, xla = (in_mode(output_and_gradients, mode)() for mode in MODES)
    for one, other, compiled in zip(eager, graph, xla, strict=True):
        # Sums of some hundred numbers of size 1 in float32, in another order.
        np.testing.assert_allclose(other, one, atol=1e-4)
        np.testing.assert_allclose(compiled, one, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "policy"),
    [("MLP", "float64"), ("MLP", "mixed_bfloat16"), ("Conv of images", "mixed_float16")],
)
def test_the_layers_inside_follow_the_policy(name, policy):
    field = make(name, time=True, out_scale=True, dtype=policy)
    held_in = "float64" if policy == "float64" else "float32"
    ode = NeuralODE(field, time_dependent=True, dtype=held_in, **SHORT)
    output = ode(state(name).astype(held_in))
    assert output.dtype == held_in
    assert {w.dtype for w in field.weights} == {held_in}
    slope = field([np.ones((2, 1), held_in), state(name).astype(held_in)])
    assert slope.dtype == policy.removeprefix("mixed_")
    single = make(name, time=True, out_scale=True)
    close = NeuralODE(single, time_dependent=True, **SHORT)
    close(state(name))
    close.set_weights([w.astype("float32") for w in ode.get_weights()])
    # Eight bits of a bfloat16, in slopes of size 1.
    np.testing.assert_allclose(output, close(state(name)), atol=0.03)


def test_float64_is_computed_in_float64():
    """A field of weights in which float32 would lose y in 1e8."""
    field = fields.MLP(1, 1, "linear", dtype="float64")
    field.build((None, 1))
    field.set_weights([np.eye(1), np.array([1e8]), np.eye(1), np.array([-1e8])])
    assert float(field(np.array([[1.25]]))[0, 0]) == 1.25


def test_a_mask_goes_through_an_mlp_and_not_through_a_convolution():
    y = layers.Masking()(state("MLP of rows"))
    mask = np.ones((2, 5), bool)
    np.testing.assert_array_equal(fields.MLP(4, 1)(y)._keras_mask, mask)
    in_time = fields.MLP(4, 1, time=True)([np.ones((2, 1), "float32"), y])
    np.testing.assert_array_equal(in_time._keras_mask, mask)
    with pytest.warns(UserWarning, match="does not support mask"):
        fields.Conv(4)(y)


T, Y = np.ones((2, 1), "float32"), np.ones((2, 3), "float32")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fields.MLP(4, 1)([T, Y]), r"must be the state.*needs time=True"),
        (lambda: fields.MLP(4, 1, time=True)(Y), r"must be \[t, y\].*time_dependent=True"),
        (lambda: fields.MLP(4, 1, time=True)([Y, T]), r"must be \[t, y\], t of shape"),
        (lambda: NeuralODE(fields.MLP(4, 1, time=True))(Y), "needs time_dependent=True"),
        (lambda: NeuralODE(fields.MLP(4, 1), time_dependent=True)(Y), "needs time=True"),
        (lambda: fields.MLP(4, 1).build((None, None)), "known number of features"),
        (lambda: fields.Conv(4)(Y), r"one to three axes.*\(2, 3\)"),
    ],
)
def test_an_input_that_does_not_fit_is_an_error_that_says_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_built_field_says_the_same_of_another_input():
    field, in_time = fields.MLP(4, 1), fields.MLP(4, 1, time=True)
    field(Y), in_time([T, Y])
    with pytest.raises(ValueError, match="needs time=True"):
        field([T, Y])
    with pytest.raises(ValueError, match="needs time_dependent=True"):
        in_time(Y)


@pytest.mark.parametrize(
    ("cls", "wrong"),
    [
        (fields.MLP, {"width": 0}),
        (fields.MLP, {"width": 2.5}),
        (fields.MLP, {"depth": 0}),
        (fields.MLP, {"time": "yes"}),
        (fields.MLP, {"out_scale": 0.1}),
        (fields.Conv, {"filters": True}),
        (fields.Conv, {"depth": -1}),
        (fields.Conv, {"kernel_size": "3"}),
        (fields.Conv, {"data_format": "NHWC"}),
    ],
)
def test_a_setting_that_does_not_fit_is_named(cls, wrong):
    (name,) = wrong
    arguments = {"width": 4, "depth": 1} if cls is fields.MLP else {"filters": 4}
    with pytest.raises((TypeError, ValueError), match=f"Argument {name} must.*Received: {name}="):
        cls(**{**arguments, **wrong})


@pytest.mark.parametrize("field", [fields.MLP(4, 1), fields.Conv(4)], ids=["MLP", "Conv"])
def test_settings_are_read_only(field):
    for name in field.read_only:
        with pytest.raises(AttributeError, match=f"{name} is fixed"):
            setattr(field, name, 2)
