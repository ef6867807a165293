"""The mask of padded sequences reaches the dynamics, and padding changes nothing."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from all_gradients import ALL_GRADIENTS
from keras import layers, ops
from modes import MODES, in_mode

from tf_neuralode import ConcatTime, NeuralODE, gradients, regularizers

NUM_STEPS = 4
X = np.random.default_rng(0).normal(size=(3, NUM_STEPS, 4)).astype("float32")
# The valid rows of each sample.
LENGTHS = [NUM_STEPS, 3, 2]
# Sums over more rows are rounded in another order; that is all that padding may change.
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}


def padded(num, x=X):
    """`x` with rows of zeros behind each sample's valid ones, `num` beyond the longest."""
    rows = np.zeros((len(x), NUM_STEPS + num, 4), "float32")
    for row, sample, length in zip(rows, x, LENGTHS, strict=True):
        row[:length] = sample[:length]
    return rows


@keras.saving.register_keras_serializable("tests")
class Attention(layers.Layer):
    """Each row attends to the valid rows; takes its mask from the argument."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(2, 4)
        self.supports_masking = True

    def build(self, input_shape):
        self.attention.build(input_shape, input_shape)

    def call(self, y, mask=None):
        mask = None if mask is None else mask[:, None, :]
        return self.attention(y, y, attention_mask=mask)


@keras.saving.register_keras_serializable("tests")
class Pooling(layers.Layer):
    """Every row is pulled to the mean of the valid ones; a layer inside takes the mask."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.pool = layers.GlobalAveragePooling1D()
        self.supports_masking = True

    def call(self, y):
        return 3 * ops.tanh(self.pool(y))[:, None, :] - y


def functional():
    y = keras.Input((None, 4))
    attended = layers.MultiHeadAttention(2, 4)(y, y)
    return keras.Model(y, attended)


FIELDS = {
    "custom": Attention,
    "pooling": Pooling,
    "gru": lambda: layers.Bidirectional(layers.GRU(2, return_sequences=True)),
    "sequential": lambda: keras.Sequential([Attention(), layers.Dense(4)]),
    "functional": functional,
    "time-dependent": lambda: keras.Sequential([ConcatTime(), Attention(), layers.Dense(4)]),
}


def model_of(field, **options):
    keras.utils.set_random_seed(0)
    layer = NeuralODE(FIELDS[field](), time_dependent=field == "time-dependent", **options)
    return keras.Sequential([keras.Input((None, 4)), layers.Masking(), layer])


def moved(predict):
    """How far valid rows move when the padding grows from 1 to 9 rows."""
    few, many = predict(padded(1)), predict(padded(9))
    return [
        (row[:length], other[:length])
        for row, other, length in zip(few, many, LENGTHS, strict=True)
    ]


CASES = [*[(field, "eager") for field in FIELDS], *[("pooling", mode) for mode in MODES[1:]]]


@pytest.mark.parametrize(("field", "mode"), CASES)
def test_padding_moves_no_valid_row(field, mode):
    for few, many in moved(in_mode(model_of(field), mode)):
        np.testing.assert_allclose(few, many, **ROUNDING)


def test_padding_rests():
    x = padded(2)
    np.testing.assert_array_equal(model_of("pooling")(x)[2, 2:], x[2, 2:])


GRADIENTS = [*ALL_GRADIENTS, gradients.Tape(checkpoint=False)]


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_padding_changes_no_gradient_and_no_cost(gradient):
    """In a layer that is compiled by itself, too, where it can be."""
    found = []
    for num in (1, 9):
        model = model_of(
            "custom",
            gradient=gradient,
            jit_compile=gradient == "tape",
            regularizer=regularizers.KineticEnergy(1.0),
        )
        with tf.GradientTape() as tape:
            states = model(padded(num), training=True)
            loss = tf.reduce_sum(states[:, :2] ** 2) + tf.add_n(model.losses)
        found.append(tape.gradient(loss, model.trainable_variables))
    # Two solves of the tolerance 1e-3 with the same steps, their parameters' sums in another order.
    for few, many in zip(*found, strict=True):
        np.testing.assert_allclose(few, many, rtol=1e-3, atol=1e-4)


def test_beside_times_the_states_mask_is_another_one_than_that_of_the_times():
    keras.utils.set_random_seed(0)
    y0, times = keras.Input((None, 4)), keras.Input((2,))
    model = keras.Model([y0, times], NeuralODE(Pooling())(layers.Masking()(y0), times))
    own = np.array([[0.2, 0.5], [0.1, 0.9], [0.5, 1.0]], "float32")
    few, many = model([padded(1), own]), model([padded(9), own])
    np.testing.assert_allclose(few[2, :, :2], many[2, :, :2], **ROUNDING)
    layer, mask = NeuralODE(Pooling()), padded(1).any(axis=-1)
    by_hand = layer(padded(1), own, mask=np.ones((3, 2), bool), y0_mask=mask)
    np.testing.assert_allclose(by_hand, few, **ROUNDING)


def test_a_bad_samples_stand_in_has_the_mask_of_the_good_one():
    x = padded(2)
    x[1, 0] = np.nan
    model = model_of("pooling", on_failure="nan")
    expected = model(padded(2)[[0, 2]])
    actual = model(x)
    assert np.all(np.isnan(actual[1]))
    np.testing.assert_allclose(actual.numpy()[[0, 2]], expected, **ROUNDING)


def test_a_loaded_model_takes_the_mask_along(tmp_path):
    model = model_of("custom")
    expected = model(padded(1))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(padded(1)), expected, rtol=1e-6, atol=1e-6)
    for few, many in moved(loaded):
        np.testing.assert_allclose(few, many, **ROUNDING)


def test_a_mask_of_another_shape_is_an_error():
    with pytest.raises(ValueError, match="must have the state's first axes"):
        NeuralODE(Pooling())(X, mask=np.ones((3, NUM_STEPS + 1), bool))
    with pytest.raises(ValueError, match="must have the state's first axes"):
        NeuralODE(Pooling())(X, np.float32([1, 2]), y0_mask=np.ones((4,), bool))
