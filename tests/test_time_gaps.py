"""TimeGaps: differences of times in their own precision, and what padding does to them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from modes import MODES, in_mode
from round_trip import saved_and_exported

from tf_neuralode.layers import TimeGaps

TIMES = np.array([[0.5, 0.75, 2.0, 2.0], [-1.0, 3.0, 3.5, 8.0]])


def gaps(times, t0=0.0, mask=None, mode="eager", **options):
    layer = TimeGaps(t0, **options)
    return in_mode(lambda times: layer(times, mask=mask), mode)(times)[..., 0].numpy()


def test_gaps_are_the_differences_of_times():
    np.testing.assert_array_equal(gaps(TIMES), np.diff(TIMES, prepend=0.0))
    np.testing.assert_array_equal(gaps(TIMES, t0=-2), np.diff(TIMES, prepend=-2.0))
    np.testing.assert_array_equal(gaps(TIMES, t0=None)[:, 1:], np.diff(TIMES))
    np.testing.assert_array_equal(gaps(TIMES, t0=None)[:, 0], [0.0, 0.0])
    np.testing.assert_array_equal(TimeGaps()(TIMES[..., np.newaxis]), TimeGaps()(TIMES))
    assert TimeGaps().compute_output_shape((None, 7)) == (None, 7, 1)
    assert TimeGaps().compute_output_shape((None, None, 1)) == (None, None, 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("t0", [0.0, None])
def test_a_masked_time_has_no_gap_and_the_next_counts_from_the_last_valid_one(t0, mode):
    mask = np.array([[True, False, True, False], [False, False, True, True], [False] * 4])
    times = np.where(mask, [[0.5, 9, 2.0, 9], [9, 9, 3.5, 8.0], [9] * 4], np.nan)
    expected = [[0.5, 0, 1.5, 0], [0, 0, 3.5, 4.5], [0] * 4]
    if t0 is None:
        expected[0][0] = expected[1][2] = 0
    np.testing.assert_array_equal(gaps(times, t0, mask, mode), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("dtype", "origin", "gap"),
    [
        ("float64", 1.7e9, 0.125),
        ("int32", 1_700_000_000, 1),
        ("int64", 1_700_000_000_123_456_789, 1),  # nanoseconds, of which float64 holds every 256th
    ],
)
def test_times_are_subtracted_before_they_are_rounded_to_the_layers_dtype(dtype, origin, gap, mode):
    times = tf.constant(origin + gap * np.array([[1, 2, 4]]), dtype)
    found = gaps(times, origin, mode=mode)
    assert found.dtype == "float32"
    np.testing.assert_array_equal(found, [[gap, gap, 2 * gap]])
    mask = np.array([[True, False, True]])
    np.testing.assert_array_equal(gaps(times, origin, mask, mode), [[gap, 0, 3 * gap]])


def test_far_times_that_float32_does_not_resolve_are_an_error_and_nan_under_xla():
    times = (1.7e9 + 128 * np.arange(10.0)[np.newaxis]).astype("float32")
    for given in (times, times.astype("float64")):  # as `fit` makes them
        with pytest.raises(ValueError, match=r"Argument times must be resolved.*Received"):
            gaps(given, t0=None)
        with pytest.raises(tf.errors.InvalidArgumentError, match="Argument times must be resolved"):
            in_mode(TimeGaps(None), "graph")(given)
        assert np.all(np.isnan(gaps(given, None, mode="xla")))
    with pytest.raises(ValueError, match="Argument times must be resolved"):
        gaps(np.full((2, 9), 1.7e9, "float32"), t0=None)  # a second apart, before they were cast


def test_times_that_float32_resolves_are_no_error():
    days = 1_700_006_400 + 86400 * np.arange(10)[np.newaxis]  # of which float32 holds each
    for dtype in ("float32", "float64"):
        np.testing.assert_array_equal(gaps(days.astype(dtype), t0=None)[0, 1:], np.full(9, 86400))
    # Near ones may repeat, and the first observation of a series is no gap.
    np.testing.assert_array_equal(gaps(np.full((2, 9), 5, "float32"), t0=None), np.zeros((2, 9)))
    np.testing.assert_array_equal(
        gaps(np.full((9, 1), 1.7e9, "float32"), t0=None), np.zeros((9, 1))
    )
    # A few may be close, or be held by float32, by chance.
    np.testing.assert_array_equal(gaps(np.full((1, 2), 1.7e9), 1.7e9 - 5), [[5, 0]])
    close = np.array([[20_000, 20_000.0625]], "float32")
    np.testing.assert_array_equal(gaps(close, t0=None), [[0, 0.0625]])


def test_gradients_are_those_of_differences():
    times, weights = tf.constant(TIMES), np.array([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    mask = np.array([[True, False, True, True], [True, True, True, False]])
    with tf.GradientTape() as tape:
        tape.watch(times)
        loss = tf.reduce_sum(weights * TimeGaps(dtype="float64")(times, mask=mask)[..., 0])
    # w1 t1 + w3 (t3 - t1) + w4 (t4 - t3), and so on.
    expected = [[1 - 3, 0, 3 - 4, 4], [5 - 6, 6 - 7, 7, 0]]
    np.testing.assert_array_equal(tape.gradient(loss, times), expected)


def make_model():
    x, times = keras.Input((None, 2)), keras.Input((None,), dtype="int64")
    mask = keras.ops.any(keras.ops.not_equal(x, 0.0), axis=-1)
    features = keras.layers.Concatenate()([x, TimeGaps(None)(times, mask=mask)])
    return keras.Model([x, times], keras.layers.SimpleRNN(3)(features, mask=mask))


def test_a_model_in_front_of_an_rnn_is_trained_saved_loaded_and_exported(tmp_path):
    model = make_model()
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 5, 2)).astype("float32")
    x[:3, 3:] = 0.0
    times = 1_700_000_000 + np.cumsum(rng.integers(0, 4, (6, 5)), axis=1)
    losses = model.fit([x, times], np.ones((6, 3)), 4, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    loaded, served = saved_and_exported(model, tmp_path)
    np.testing.assert_array_equal(loaded([x, times]), model([x, times]))
    # Neither the padding's times nor where time begins make a difference.
    others = times - 10**6
    others[:3, 3:] = 0
    np.testing.assert_array_equal(loaded([x, others]), model([x, times]))
    inputs = [tf.constant(x[:2, :4]), tf.constant(times[:2, :4])]
    np.testing.assert_allclose(served.serve(inputs), model(inputs), atol=1e-6)


@pytest.mark.parametrize("t0", [None, 0.5, 1_700_000_000_123_456_789, np.float32(2.0)], ids=repr)
def test_the_initial_time_is_in_the_config_and_read_only(t0):
    layer = TimeGaps.from_config(TimeGaps(t0, name="gaps").get_config())
    assert layer.t0 == t0 and layer.name == "gaps"
    with pytest.raises(AttributeError, match=r"TimeGaps\.t0 is fixed"):
        layer.t0 = 1.0


@pytest.mark.parametrize("t0", ["0", True, np.nan, [0.0], tf.constant(0.0)], ids=repr)
def test_the_initial_time_must_be_a_number(t0):
    with pytest.raises(TypeError, match=r"Argument t0 must be a finite number.*Received: t0="):
        TimeGaps(t0)


@pytest.mark.parametrize(
    ("times", "mask", "message"),
    [
        (np.zeros((2, 3, 2)), None, r"times of shape \(batch, num_times\).*Received.*\(2, 3, 2\)"),
        (np.zeros(3), None, r"times of shape \(batch, num_times\).*Received.*\(3,\)"),
        (np.zeros((2, 3)), np.ones((2, 4), bool), r"Argument mask must .*Received.*\(2, 4\)"),
        (np.zeros((2, 3), bool), None, "Argument times must hold numbers.*Received: dtype bool"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_an_error(times, mask, message):
    with pytest.raises((ValueError, TypeError), match=message):
        TimeGaps()(times, mask=mask)
