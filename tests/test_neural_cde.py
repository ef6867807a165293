"""`NeuralCDE`: dy = f(y) dX along a path through a series."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from modes import MODES, in_mode, pairs
from round_trip import saved_and_exported
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicHermiteSpline
from scipy.linalg import expm

from tf_neuralode.layers import NeuralCDE

RNG = np.random.default_rng(0)
NUM = 6
# A linear field: a matrix for the time and for each of two channels, which don't commute.
MATRICES = 0.5 * RNG.normal(size=(3, 2, 2))
TIMES = np.sort(RNG.uniform(0, 3, (4, NUM)), axis=1)
VALUES = RNG.normal(size=(4, NUM, 2))
Y0 = RNG.normal(size=(4, 2))


@keras.saving.register_keras_serializable("tests")
class Linear(keras.layers.Layer):
    """f(y) = [A_c y for each channel c]."""

    def __init__(self, matrices=MATRICES, **kwargs):
        super().__init__(**kwargs)
        constant = lambda shape, dtype: tf.constant(matrices, dtype)
        self.matrices = self.add_weight(shape=np.shape(matrices), initializer=constant)

    def call(self, y):
        return tf.einsum("cij,bj->bic", self.matrices, y)


def linear_cde(**options):
    options = {"return_sequences": True, "rtol": 1e-8, "atol": 1e-8, **options}
    return NeuralCDE(Linear(dtype="float64"), 2, dtype="float64", **options)


def exact(times, values, y, control):
    """Along each line of the path the solution is an exponential of matrices."""
    points = [(times[0], *values[0])]
    for i in range(1, len(times)):
        if control == "previous":
            points.append((times[i], *values[i - 1]))  # the time goes on, and then the values
        points.append((times[i], *values[i]))
    states = [y]
    for a, b in itertools.pairwise(np.array(points)):
        y = expm(np.einsum("c,cij->ij", b - a, MATRICES)) @ y
        states.append(y)
    return np.stack(states[:: 2 if control == "previous" else 1])


def exact_batch(control, times=TIMES, values=VALUES):
    samples = zip(times, values, Y0, strict=True)
    return np.stack([exact(t, x, y, control) for t, x, y in samples])


@pytest.mark.parametrize(("control", "mode"), pairs(["linear", "previous"], MODES))
def test_states_along_lines_are_exponentials(control, mode):
    layer = linear_cde(control=control)
    run = in_mode(lambda values, times, y0: layer(values, times, y0=y0), mode)
    states = run(*map(tf.constant, (VALUES, TIMES, Y0)))
    np.testing.assert_allclose(states, exact_batch(control), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_a_cubic_path_is_that_of_scipy(mode):
    layer = linear_cde(return_sequences=False)
    run = in_mode(lambda values, times, y0: layer(values, times, y0=y0), mode)
    states = run(*map(tf.constant, (VALUES, TIMES, Y0)))
    for t, x, y, found in zip(TIMES, VALUES, Y0, states, strict=True):
        points = np.column_stack([t - t[0], x])
        lines = np.diff(points, axis=0)
        rate = CubicHermiteSpline(np.arange(NUM), points, [lines[0], *lines]).derivative()
        slope = lambda s, y, rate=rate: np.einsum("c,cij->ij", rate(s), MATRICES) @ y
        expected = solve_ivp(slope, (0, NUM - 1), y, rtol=1e-9, atol=1e-9).y[:, -1]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("control", ["linear", "previous", "hermite"])
def test_padding_and_what_is_left_out_move_nothing(control):
    mask = np.ones((4, NUM), bool)
    mask[0, 3:], mask[1, 2], mask[2, 0] = False, False, False
    garbage = np.where(mask[..., np.newaxis], VALUES, 1e9)
    layer = linear_cde(control=control, return_sequences=False)
    found = layer(garbage, np.where(mask, TIMES, 0.0), mask, y0=Y0)
    for b in range(4):
        if control == "hermite" and b == 1:
            continue  # one that is left out bends the cubic's path through the others
        kept = VALUES[b][mask[b]][np.newaxis], TIMES[b][mask[b]][np.newaxis]
        alone = layer(*kept, y0=Y0[b : b + 1])
        # A cubic goes a bit further than its last value, and comes back.
        np.testing.assert_allclose(found[b], alone[0], rtol=1e-5, atol=1e-5)


def test_a_missing_value_lies_on_the_line_between_its_neighbours():
    gap, filled = VALUES.copy(), VALUES.copy()
    gap[:, 2, 1] = np.nan
    part = (TIMES[:, 2] - TIMES[:, 1]) / (TIMES[:, 3] - TIMES[:, 1])
    filled[:, 2, 1] = VALUES[:, 1, 1] + part * (VALUES[:, 3, 1] - VALUES[:, 1, 1])
    layer = linear_cde()
    # Rounding can change a step, whose error is 1e-8.
    np.testing.assert_allclose(layer(gap, TIMES, y0=Y0), layer(filled, TIMES, y0=Y0), rtol=1e-6)
    held = VALUES.copy()
    held[:, 2, 1] = VALUES[:, 1, 1]
    layer = linear_cde(control="previous")
    np.testing.assert_allclose(layer(gap, TIMES, y0=Y0), layer(held, TIMES, y0=Y0), rtol=1e-6)


def test_a_held_path_knows_nothing_of_what_comes():
    layer = linear_cde(control="previous")
    other = VALUES.copy()
    other[:, 4:] += 1
    before, after = (layer(x, TIMES, y0=Y0).numpy() for x in (VALUES, other))
    np.testing.assert_allclose(before[:, :4], after[:, :4], rtol=1e-7)
    assert np.abs(before[:, 4] - after[:, 4]).min() > 1e-3


def test_without_a_time_channel_only_the_values_count():
    field = Linear(MATRICES[1:], dtype="float64")
    layer = NeuralCDE(field, 2, "linear", time_channel=False, dtype="float64", rtol=1e-8)
    np.testing.assert_allclose(
        layer(VALUES, TIMES, y0=Y0), layer(VALUES, 7 * TIMES, y0=Y0), rtol=1e-12
    )


def test_bad_series_spoil_their_own_sample():
    layer = linear_cde(on_failure="nan")
    values, times = VALUES.copy(), TIMES.copy()
    values[0, :, 1] = np.nan  # a channel without any
    values[1, 2, 0] = np.inf
    times[2] = times[2, ::-1]
    states = layer(values, times, y0=Y0).numpy()
    assert np.isnan(states[:3]).all()
    # The steps are those that the hardest sample needs, which is another one in a whole batch.
    alone = linear_cde()(VALUES[3:], TIMES[3:], y0=Y0[3:])[0]
    np.testing.assert_allclose(states[3], alone, rtol=1e-4)


def test_gradients_of_weights_are_those_of_differences():
    layer = linear_cde(control="linear", return_sequences=False)
    layer(VALUES, TIMES, y0=Y0)
    weight = layer.dynamics.matrices

    @tf.function
    def gradient():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(VALUES, TIMES, y0=Y0) ** 2)
        return tape.gradient(loss, weight.value)

    found = gradient().numpy()
    for entry in [(0, 0, 1), (2, 1, 0)]:
        values = []
        for step in (1e-5, -1e-5):
            shifted = MATRICES.copy()
            shifted[entry] += step
            weight.assign(shifted)
            values.append(np.sum(layer(VALUES, TIMES, y0=Y0).numpy() ** 2))
        weight.assign(MATRICES)
        np.testing.assert_allclose(found[entry], (values[0] - values[1]) / 2e-5, rtol=1e-4)


def model(**options):
    keras.utils.set_random_seed(0)
    field = keras.Sequential([keras.layers.Dense(16, "relu"), keras.layers.Dense(8 * 3, "tanh")])
    cde = NeuralCDE(field, 8, solver="bosh3", **options)
    return keras.Sequential([keras.Input((10, 2)), cde, keras.layers.Dense(1)])


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}], ids=str)
def test_it_trains_is_saved_and_exported(options, tmp_path):
    x = np.random.default_rng(0).normal(size=(32, 10, 2)).cumsum(axis=1).astype("float32")
    y = x[:, -1, :1]
    trained = model()
    trained.compile(keras.optimizers.Adam(0.01), "mse", **options)
    losses = trained.fit(x, y, epochs=15, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    expected = trained.predict(x, verbose=0)
    loaded, exported = saved_and_exported(trained, tmp_path)
    np.testing.assert_allclose(loaded.predict(x, verbose=0), expected, atol=1e-6)
    # Rounding, which is another without XLA, can change the steps, of a tolerance of 1e-3.
    np.testing.assert_allclose(exported.serve(x), expected, rtol=1e-2, atol=1e-2)


def test_the_mask_of_a_layer_before_is_heard():
    x = np.ones((2, 10, 2), "float32").cumsum(axis=1)
    x[1, 5:] = -7.0
    masked = keras.Sequential([keras.layers.Masking(-7.0), linear_32()])
    short = linear_32()
    short.build((None, 10, 2))
    masked.build((None, 10, 2))
    masked.layers[-1].set_weights(short.get_weights())
    np.testing.assert_allclose(masked(x)[1], short(x[1:, :5])[0], rtol=1e-3, atol=1e-4)


def linear_32():
    return NeuralCDE(Linear(), 2, "linear", rtol=1e-5, atol=1e-6)


def test_arguments_that_do_not_fit_are_errors():
    with pytest.raises(ValueError, match="a column for each channel"):
        NeuralCDE(keras.layers.Dense(4), 2)(np.ones((1, 3, 2), "float32"))
    with pytest.raises(ValueError, match="Argument control must be one of"):
        NeuralCDE(keras.layers.Dense(4), 2, control="spline")
    with pytest.raises(TypeError, match="must be a Keras layer"):
        NeuralCDE(lambda y: y, 2)
    with pytest.raises(ValueError, match="with a known number of channels"):
        NeuralCDE(keras.layers.Dense(4), 2)(np.ones((1, 3), "float32"))


def test_all_weights_are_there_once_it_is_built():
    layer = model().layers[0]
    assert len(layer.weights) == 6  # of two layers of the field, and of the one for the start
    again = NeuralCDE.from_config(layer.get_config())
    again.build((None, 10, 2))
    assert [w.shape for w in again.weights] == [w.shape for w in layer.weights]


def test_states_are_held_in_32_bits_under_a_mixed_policy():
    """Times of some thousands, which 16 bits round to units."""
    series = np.ones((2, 4, 2)).cumsum(axis=1).astype("float32")
    times = np.array([0.0, 1000.25, 1000.5, 2049.75], "float32")
    field = lambda: Linear(1e-3 * MATRICES)
    mixed = NeuralCDE(field(), 2, "linear", dtype="mixed_float16")
    plain = NeuralCDE(field(), 2, "linear")
    y0 = np.ones((2, 2), "float32")
    found = mixed(series, times, y0=y0)
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, plain(series, times, y0=y0), rtol=1e-5)
