"""What a dynamics gets beside time and state: context, a control signal, an initial time."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from all_gradients import ALL_GRADIENTS
from modes import MODES, in_mode, pairs
from round_trip import saved_and_exported
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicHermiteSpline

from tf_neuralode import NeuralODE, gradients, odeint, solvers

KEPT = gradients.Tape(checkpoint=False)
RNG = np.random.default_rng(0)
Y0 = RNG.normal(size=(5, 2))
CONTEXT = RNG.normal(size=(5, 2))
KNOTS = np.linspace(0, 2, 9)
SIGNAL = RNG.normal(size=(5, 9, 2))
TIGHT = {"dtype": "float64", "rtol": 1e-8, "atol": 1e-8}
EVERYWHERE = pairs([*ALL_GRADIENTS, KEPT], MODES)


def with_gradients(layer, mode, call, *inputs):
    """What `call(layer, *inputs)` returns, and the gradients of its sum."""

    def function(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            states = call(layer, *inputs)
            loss = tf.reduce_sum(states)
        return states, tape.gradient(loss, inputs)

    return in_mode(function, mode)(*map(tf.constant, inputs))


# Context


@pytest.mark.parametrize(("gradient", "mode"), EVERYWHERE, ids=str)
def test_context_is_a_constant_of_each_sample_with_gradients(gradient, mode):
    layer = NeuralODE(lambda y, c: c * y, (0.0, 1.5), gradient=gradient, **TIGHT)
    call = lambda layer, y, c: layer(y, context=c)
    states, (d_y0, d_context) = with_gradients(layer, mode, call, Y0, CONTEXT)
    exact = Y0 * np.exp(1.5 * CONTEXT)
    np.testing.assert_allclose(states, exact, rtol=1e-6)
    np.testing.assert_allclose(d_y0, np.exp(1.5 * CONTEXT), rtol=1e-5)
    np.testing.assert_allclose(d_context, 1.5 * exact, rtol=1e-5)


def test_a_bad_row_of_context_spoils_its_own_sample():
    layer = NeuralODE(lambda y, c: c * y, on_failure="nan", **TIGHT)
    bad = CONTEXT.copy()
    bad[2, 0] = np.inf
    states, good = layer(Y0, context=bad).numpy(), [0, 1, 3, 4]
    assert np.isnan(states[2]).all()
    np.testing.assert_allclose(states[good], (Y0 * np.exp(CONTEXT))[good], rtol=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError, match="not finite"):
        NeuralODE(lambda y, c: c * y, **TIGHT)(Y0, context=bad)


@keras.saving.register_keras_serializable("tests")
class OfNest(keras.layers.Layer):
    """A slope of the state, numbers and labels."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embedding = keras.layers.Embedding(4, 3)
        self.concat, self.dense = keras.layers.Concatenate(), keras.layers.Dense(2)

    def build(self, shapes):
        self.embedding.build(shapes[1]["label"])
        self.dense.build((None, 2 + 3 + 3))

    def call(self, inputs):
        y, context = inputs
        return self.dense(self.concat([y, context["x"], self.embedding(context["label"])[:, 0]]))


def model_of_nest():
    keras.utils.set_random_seed(0)
    y0, x = keras.Input((2,)), keras.Input((3,))
    label = keras.Input((1,), dtype="int32")
    states = NeuralODE(OfNest(), solver="bosh3")(y0, context={"x": x, "label": label})
    return keras.Model([y0, x, label], states)


def data_of_nest(num):
    rng = np.random.default_rng(0)
    return [
        rng.normal(size=(num, 2)).astype("float32"),
        rng.normal(size=(num, 3)).astype("float32"),
        rng.integers(0, 4, (num, 1)).astype("int32"),
    ]


@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}, {"jit_compile": True}], ids=str)
def test_a_model_with_a_nest_as_context_trains(options):
    model = model_of_nest()
    model.compile(keras.optimizers.Adam(0.05), "mse", **options)
    inputs = data_of_nest(32)
    targets = inputs[0] + inputs[2] - 1.5
    epochs = 3 if "run_eagerly" in options else 20
    history = model.fit(inputs, targets, batch_size=16, epochs=epochs, verbose=0)
    losses = history.history["loss"]
    assert losses[-1] < (0.95 if epochs == 3 else 0.5) * losses[0]


def test_a_model_with_context_is_saved_and_exported(tmp_path):
    model, inputs = model_of_nest(), data_of_nest(6)
    expected = model.predict(inputs, verbose=0)
    loaded, exported = saved_and_exported(model, tmp_path)
    np.testing.assert_array_equal(loaded.predict(inputs, verbose=0), expected)
    served = exported.serve([tf.constant(x) for x in inputs])
    np.testing.assert_allclose(served, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "call", "message"),
    [
        (lambda: lambda y, c: c * y, {"context": CONTEXT[:3]}, "a row for each sample"),
        (lambda: lambda y: y, {"context": CONTEXT}, r"function f\(y, context\)"),
        (lambda: keras.layers.Dense(2), {"context": CONTEXT}, "must take what the layer gets"),
        (keras.layers.Concatenate, {"context": CONTEXT}, r"output of shape .* of a call on \[y,"),
        (lambda: lambda y, c, more: y, {"context": CONTEXT}, r"must be a function f\(y\)"),
    ],
)
def test_context_that_does_not_fit_is_an_error(make, call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        NeuralODE(make(), **({} if "Dense" in message else {"dtype": "float64"}))(Y0, **call)


def test_a_layer_that_was_built_without_context_says_so():
    layer = NeuralODE(keras.layers.Dense(2, dtype="float64"), dtype="float64")
    layer.build((None, 2))
    with pytest.raises(ValueError, match="that it was built with"):
        layer(Y0, context=CONTEXT)


# An initial time of each sample


@pytest.mark.parametrize(("gradient", "mode"), EVERYWHERE, ids=str)
def test_each_sample_has_an_initial_time_of_its_own(gradient, mode):
    """y' = cos(t) y: from t0 to t0 + 1.5, or to times of its own; both with gradients."""
    layer = NeuralODE(
        lambda t, y: tf.cos(t) * y, (0.0, 1.5), time_dependent=True, gradient=gradient, **TIGHT
    )
    t0 = RNG.uniform(-1, 1, 5)
    call = lambda layer, y, t0: layer(y, t0=t0)
    states, (_, d_t0) = with_gradients(layer, mode, call, Y0, t0)
    exact = Y0 * np.exp(np.sin(t0 + 1.5) - np.sin(t0))[:, np.newaxis]
    np.testing.assert_allclose(states, exact, rtol=1e-6)
    expected = exact.sum(axis=1) * (np.cos(t0 + 1.5) - np.cos(t0))
    np.testing.assert_allclose(d_t0, expected, rtol=1e-5, atol=1e-6)
    if mode != "graph":
        return  # one of the three will do for the rest
    times = np.sort(t0[:, np.newaxis] + RNG.uniform(0, 2, (5, 4)), axis=1)
    call = lambda layer, y, t0, times: layer(y, times, t0=t0)
    states, (_, d_t0, d_times) = with_gradients(layer, mode, call, Y0, t0, times)
    phase = np.sin(times) - np.sin(t0)[:, np.newaxis]
    exact = Y0[:, np.newaxis] * np.exp(phase)[..., np.newaxis]
    np.testing.assert_allclose(states, exact, rtol=1e-6)
    np.testing.assert_allclose(d_t0, -exact.sum(axis=(1, 2)) * np.cos(t0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(d_times, exact.sum(axis=2) * np.cos(times), rtol=1e-5, atol=1e-6)


def test_output_times_of_the_layer_shift_with_the_initial_one():
    layer = NeuralODE(
        lambda t, y: tf.cos(t) * y, (1.0, 0.0), t_eval=[0.7, 0.2], return_sequences=True,
        time_dependent=True, **TIGHT,
    )  # fmt: skip
    t0 = np.array([3.0, 1.0, 0.0, -1.0, 1.7e9])
    times = t0[:, np.newaxis] - np.array([0.3, 0.8])
    exact = np.exp(np.sin(times) - np.sin(t0)[:, np.newaxis])
    states = layer(Y0, t0=t0)
    np.testing.assert_allclose(states, Y0[:, np.newaxis] * exact[..., np.newaxis], rtol=1e-6)
    one = layer(Y0, t0=3.0)
    np.testing.assert_allclose(one[0], states[0], rtol=1e-6)


def test_a_bad_initial_time_spoils_its_own_sample():
    layer = NeuralODE(lambda t, y: tf.cos(t) * y, time_dependent=True, on_failure="nan", **TIGHT)
    t0 = np.array([0.0, np.nan, 1.0, 2.0, np.inf])
    states = layer(Y0, t0=t0).numpy()
    assert np.isnan(states[[1, 4]]).all() and np.isfinite(states[[0, 2, 3]]).all()
    with pytest.raises(ValueError, match=r"Argument t0 .* one for each sample"):
        layer(Y0, t0=t0[:3])


# A control signal


def signal_by_scipy(kind, knots, values):
    """A function of time, by NumPy and SciPy alone."""
    if kind == "linear":
        return lambda t: np.array([np.interp(t, knots, x) for x in values.T])
    if kind == "previous":
        return lambda t: values[np.searchsorted(knots, t, side="right") - 1]
    lines = np.diff(values, axis=0) / np.diff(knots)[:, np.newaxis]
    return CubicHermiteSpline(knots, values, np.concatenate([lines[:1], lines]))


def driven_by_scipy(kind, knots=KNOTS, signal=SIGNAL, end=1.5):
    """y' = u(t) - y, piece by piece, so that SciPy sees no kink."""
    states = []
    for y, values in zip(Y0, signal, strict=True):
        u = signal_by_scipy(kind, knots, values)
        ends = [0.0, *[t for t in knots if 0 < t < end], end]
        for a, b in itertools.pairwise(ends):
            slope = lambda t, y, u=u, a=a, b=b: u(min(max(t, a + 1e-13), b - 1e-13)) - y
            y = solve_ivp(slope, (a, b), y, "DOP853", rtol=1e-11, atol=1e-12).y[:, -1]
        states.append(y)
    return np.stack(states)


def driven(kind, **options):
    return NeuralODE(lambda y, u: u - y, (0.0, 1.5), control=kind, **{**TIGHT, **options})


@pytest.mark.parametrize(
    ("kind", "mode", "own"), pairs(["linear", "hermite", "previous"], MODES, [False, True])
)
def test_a_control_drives_the_state(kind, own, mode):
    knots = np.tile(KNOTS, (5, 1)) if own else KNOTS
    run = in_mode(lambda y, knots, signal: driven(kind)(y, control=(knots, signal)), mode)
    states = run(*map(tf.constant, (Y0, knots, SIGNAL)))
    # Where steps don't end at knots the error estimate meets kinks and jumps.
    tolerance = 1e-5 if own else 1e-6
    np.testing.assert_allclose(states, driven_by_scipy(kind), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("kind", "gradient"),
    [
        ("linear", "tape"),
        ("linear", KEPT),
        ("previous", "tape"),
        ("previous", KEPT),
        ("linear", "interpolating_adjoint"),
        ("previous", "gauss_adjoint"),
    ],
    ids=str,
)
def test_a_control_has_gradients_by_values_and_knots(kind, gradient):
    call = lambda layer, knots, signal: layer(Y0, control=(knots, signal))
    layer = driven(kind, gradient=gradient)
    _, (d_knots, d_signal) = with_gradients(layer, "graph", call, KNOTS, SIGNAL)
    step = 1e-5
    for i in (2, 5):
        shift = step * (np.arange(9) == i)
        plus, minus = (driven_by_scipy(kind, KNOTS + s * shift).sum() for s in (1, -1))
        np.testing.assert_allclose(d_knots[i], (plus - minus) / (2 * step), rtol=1e-4, atol=1e-5)
    shift = np.zeros(SIGNAL.shape)
    shift[1, 3, 0] = step
    plus, minus = (driven_by_scipy(kind, signal=SIGNAL + s * shift).sum() for s in (1, -1))
    np.testing.assert_allclose(d_signal[1, 3, 0], (plus - minus) / (2 * step), rtol=1e-5)


def test_knots_of_a_held_signal_whose_gradient_would_be_lost_are_an_error():
    call = lambda layer, knots: layer(Y0, control=(knots, SIGNAL))
    for layer, knots in (
        (driven("previous"), np.tile(KNOTS, (5, 1))),
        (driven("previous", solver=solvers.RK4(30), rtol=None, atol=None), KNOTS),
    ):
        with pytest.raises(LookupError, match="where steps end at them"):
            with_gradients(layer, "graph", call, knots)


def test_knots_of_a_held_signal_are_ends_of_steps():
    layer = driven("previous", track_stats=True)
    layer(Y0, control=(KNOTS, SIGNAL), training=False)
    together = float(layer._nfe.result())
    layer = driven("previous", track_stats=True)
    layer(Y0, control=(np.tile(KNOTS, (5, 1)), SIGNAL), training=False)
    assert together < 0.5 * float(layer._nfe.result())


def test_a_bad_signal_spoils_its_own_sample():
    layer = driven("hermite", on_failure="nan")
    knots, signal = np.tile(KNOTS, (5, 1)), SIGNAL.copy()
    signal[0, :, 1] = np.nan  # a channel without any
    signal[1, 3] = np.nan  # one that is missing
    knots[2, 4] = knots[2, 3]  # that don't rise
    knots[3] /= 2  # that end at 1
    states = layer(Y0, control=(knots, signal)).numpy()
    assert np.isnan(states[[0, 2, 3]]).all() and np.isfinite(states[1]).all()
    np.testing.assert_allclose(states[4], driven_by_scipy("hermite")[4], rtol=1e-5)


@pytest.mark.parametrize(
    ("control", "message"),
    [
        (None, "must be called with the signal"),
        ((KNOTS / 2, SIGNAL), "cover the solve"),
        ((KNOTS[::-1], SIGNAL), "knots that rise"),
        ((KNOTS[:5], SIGNAL), "must have knots"),
        ((KNOTS, SIGNAL[:3]), "a row for each sample"),
    ],
)
def test_a_control_that_does_not_fit_is_an_error(control, message):
    with pytest.raises(ValueError, match=message):
        driven("linear")(Y0, control=control)


def test_a_control_that_the_layer_was_not_told_of_is_an_error():
    with pytest.raises(ValueError, match="wasn't told how to interpolate"):
        NeuralODE(lambda y: y, **TIGHT)(Y0, control=(KNOTS, SIGNAL))
    with pytest.raises(ValueError, match="Argument control must be one of"):
        NeuralODE(lambda y, u: y, control="spline")


def test_held_behind_the_last_knot_and_backwards():
    layer = driven("previous", on_failure="raise")
    np.testing.assert_allclose(
        layer(Y0, control=(KNOTS[:3], SIGNAL[:, :3])),
        driven_by_scipy("previous", KNOTS[:3], SIGNAL[:, :3]),
        rtol=1e-6,
    )
    back = NeuralODE(lambda y, u: u - y, (1.5, 0.0), control="previous", **TIGHT)
    there = driven_by_scipy("previous")
    np.testing.assert_allclose(back(there, control=(KNOTS, SIGNAL)), Y0, rtol=1e-6)


# Times of jumps


def switched(y0, before, after, tau, t):
    """y' = -y + before, from tau on -y + after, at times t."""
    grown = lambda y, level, dt: y * np.exp(-dt) + level * (1 - np.exp(-dt))
    at_tau = grown(y0, before, np.minimum(t, tau))
    return np.where(t <= tau, at_tau, grown(at_tau, after, np.maximum(t - tau, 0)))


TIMES = np.array([0.0, 0.4, 1.1, 2.0])
VALUES = np.array([0.3, 1.0, -4.0, 0.7])


@pytest.mark.parametrize(
    ("gradient", "mode", "num_times"),
    [*[(*case, 4) for case in EVERYWHERE], ("tape", "graph", 2), (KEPT, "graph", 2)],
    ids=str,
)
def test_the_time_of_a_jump_has_a_gradient(gradient, mode, num_times):
    times = TIMES if num_times == 4 else TIMES[[0, 3]]
    weights = np.arange(1.0, 1 + len(times))

    def function(y0, before, after, tau):
        with tf.GradientTape() as tape:
            watched = [y0, before, after] if gradient == "adjoint" else [y0, before, after, tau]
            tape.watch(watched)
            f = lambda t, y, p: -y + tf.where(t < p[2], p[0], p[1])
            results = odeint(
                f, y0, times, [before, after, tf.stop_gradient(tau)], gradient=gradient,
                rtol=1e-9, atol=1e-9, jump_times=[tau, 7.0], compile=False,
            )  # fmt: skip
            loss = tf.reduce_sum(weights * results.states)
        return results.states, results.diagnostics, tape.gradient(loss, watched)

    states, report, found = in_mode(function, mode)(*map(tf.constant, VALUES))
    np.testing.assert_allclose(states, switched(*VALUES, times), rtol=1e-7)
    # Not one attempt is lost at the jump; a solve that isn't told of it needs dozens.
    assert int(report.num_rejected_steps) <= 2
    loss = lambda values: np.sum(weights * switched(*values, times))
    steps = 1e-6 * np.eye(4)
    expected = [(loss(VALUES + s) - loss(VALUES - s)) / 2e-6 for s in steps]
    np.testing.assert_allclose(found, expected[: len(found)], rtol=1e-6, atol=1e-6)


def test_the_time_of_a_jump_has_none_by_the_adjoint():
    with tf.GradientTape() as tape:
        tau = tf.constant(0.7)
        tape.watch(tau)
        f = lambda t, y: tf.where(t < 0.7, -y, y)
        y = odeint(f, tf.constant(1.0), [0.0, 1.0], gradient="adjoint", jump_times=[tau]).states
    with pytest.raises(NotImplementedError, match="jump_times"):
        tape.gradient(y, tau)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"jump_times": [[0.5]]}, "one-dimensional"),
        ({"jump_times": [np.nan]}, "must be finite"),
        ({"jump_times": [0.5], "solver": "rk4"}, "needs an adaptive solver"),
        ({"jump_times": [0.5], "t": np.array([[0.0], [1.0]])}, "that the batch shares"),
    ],
)
def test_bad_jump_times_are_named(how, message):
    how = {"t": [0.0, 1.0], "batch_ndims": 1, **how}
    with pytest.raises(ValueError, match=message):
        odeint(lambda t, y: -y, np.ones((1, 2)), **how)
