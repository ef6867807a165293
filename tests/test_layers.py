"""The small layers beside NeuralODE."""

import keras
import numpy as np
import pytest
from keras import layers

import tf_neuralode
from tf_neuralode import Augment, ConcatTime, NeuralODE


def test_augment_pads_the_last_axis_with_zeros():
    y = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype("float32")
    padded = Augment(2)(y).numpy()
    np.testing.assert_array_equal(padded, np.concatenate([y, np.zeros((2, 4, 4, 2))], axis=-1))
    assert Augment(2).compute_output_shape((None, 4, 3)) == (None, 4, 5)


def test_concat_time_adds_a_feature():
    t, y = np.array([[0.5], [2.0]], "float32"), np.ones((2, 3), "float32")
    np.testing.assert_array_equal(ConcatTime()([t, y]), [[0.5, 1, 1, 1], [2.0, 1, 1, 1]])


@pytest.mark.parametrize(
    ("axis", "shape"), [(-1, (2, 5, 4, 1)), (1, (2, 1, 4, 3)), (3, (2, 5, 4, 1))]
)
def test_concat_time_adds_a_channel(axis, shape):
    t, y = np.array([[0.5], [2.0]], "float32"), np.ones((2, 5, 4, 3), "float32")
    output = ConcatTime(axis=axis)([t, y]).numpy()
    time = np.broadcast_to(t.reshape(2, 1, 1, 1), shape)
    np.testing.assert_array_equal(output, np.concatenate([time, y], axis=axis))
    symbolic = ConcatTime(axis=axis)([keras.Input((1,)), keras.Input((None, 4, 3))])
    assert symbolic.shape[1 if axis == 1 else -1] in (None, y.shape[axis] + 1)


def test_a_field_of_time_alone_is_integrated():
    """dy/dt = t from Dense on [t, y], so y(t1) = y0 + (t1^2 - t0^2) / 2."""
    weights = keras.initializers.Constant(np.array([[1.0], [0.0]]))
    dynamics = keras.Sequential([ConcatTime(), layers.Dense(1, kernel_initializer=weights)])
    layer = NeuralODE(dynamics, (1.0, 3.0), time_dependent=True)
    np.testing.assert_allclose(
        layer(np.array([[0.0], [1.0]], "float32")), [[4.0], [5.0]], rtol=1e-5
    )


@pytest.mark.core
@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_a_model_with_both_is_trained_saved_and_exported(kind, tmp_path):
    keras.utils.set_random_seed(0)
    if kind == "dense":
        shape, field = (2,), [layers.Dense(8, activation="tanh"), layers.Dense(4)]
    else:
        shape, field = (6, 6, 2), [layers.Conv2D(4, 3, padding="same", activation="tanh")]
    dynamics = keras.Sequential([ConcatTime(), *field])
    parts = [
        Augment(2),
        NeuralODE(dynamics, time_dependent=True),
        layers.Flatten(),
        layers.Dense(1),
    ]
    model = keras.Sequential([keras.Input(shape), *parts])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    x = np.random.default_rng(0).normal(size=(16, *shape)).astype("float32")
    y = x.mean(axis=tuple(range(1, x.ndim)))
    losses = model.fit(x, y, batch_size=8, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), model(x))
    model.export(tmp_path / "exported", verbose=False)
    served = keras.layers.TFSMLayer(tmp_path / "exported", call_endpoint="serve")(x)
    np.testing.assert_allclose(served, model(x), atol=1e-5)


@pytest.mark.parametrize("dims", [0, -1, 1.5, True, "3"])
def test_augment_wants_a_positive_integer(dims):
    with pytest.raises((TypeError, ValueError), match=r"Argument dims.*Received: dims="):
        Augment(dims)


@pytest.mark.parametrize(
    ("axis", "inputs", "message"),
    [
        (-1, np.ones((2, 3)), r"must be \[t, y\].*time_dependent=True"),
        (-1, [np.ones((2,)), np.ones((2, 3))], r"must be \[t, y\]"),
        (2, [np.ones((2, 1)), np.ones((2, 3))], "Argument axis"),
        (0, None, "batch axis"),
        (1.0, None, "must be an integer"),
    ],
)
def test_concat_time_says_what_it_wants(axis, inputs, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ConcatTime(axis=axis)(inputs)


def test_public_names_are_listed_and_there():
    for name in tf_neuralode.__all__:
        assert hasattr(tf_neuralode, name)
