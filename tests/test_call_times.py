"""Times given in the call: shared by the batch or those of each sample, padded or not."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from all_gradients import ALL_GRADIENTS
from gradient_problem import finite_differences
from keras import layers
from modes import MODES, in_mode
from round_trip import saved_and_exported
from small_models import dense_field

from tf_neuralode import NeuralODE, solvers


@keras.saving.register_keras_serializable("tests")
class Swinging(layers.Layer):
    """dy/dt = a cos(t) y, so y(t) = y0 exp(a (sin t - sin t0)); a is a weight."""

    def build(self, input_shape):
        self.a = self.add_weight(shape=(), initializer="ones")

    def call(self, inputs):
        t, y = inputs
        return self.a * tf.cos(tf.reshape(t, [-1] + [1] * (y.shape.rank - 1))) * y


T0 = 0.3
Y0 = np.array([[1.0, 2.0], [3.0, -4.0], [0.5, 1.0]])
# Samples that start at once, rest between, and run much further than the others.
FORWARDS = np.array([[0.3, 0.5, 0.9, 1.0], [0.7, 0.7, 2.0, 9.0], [0.4, 0.6, 0.8, 0.8]])
TIMES = {"forwards": FORWARDS, "backwards": 0.6 - FORWARDS}
SHARED = {"behind": np.array([0.7, 1.0, 4.0]), "at once": np.array([0.3, 1.0, 4.0])}


def swinging(tolerance=1e-8, t_span=(T0, 10.0), **options):
    return NeuralODE(
        Swinging(dtype="float64"),
        t_span,
        time_dependent=True,
        rtol=tolerance,
        atol=tolerance,
        dtype="float64",
        **options,
    )


def span(direction):
    return (T0, 10.0) if direction == "forwards" else (T0, -10.0)


def exact(times, y0=Y0):
    """The solution at `times`, `(num_times,)` or `(batch, num_times)`."""
    times = np.broadcast_to(times, (len(y0), np.shape(times)[-1]))
    return y0[:, np.newaxis] * np.exp(np.sin(times) - np.sin(T0))[..., np.newaxis]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("direction", TIMES)
def test_each_sample_has_the_exact_solution_at_its_own_times(direction, mode):
    run = in_mode(swinging(t_span=span(direction)), mode)
    times = TIMES[direction]
    # The errors of some thirty steps of 1e-8 add up.
    np.testing.assert_allclose(run(Y0, times), exact(times), rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("start", SHARED)
def test_shared_times_give_the_exact_solution(start, mode):
    run = in_mode(swinging(), mode)
    np.testing.assert_allclose(run(Y0, SHARED[start]), exact(SHARED[start]), rtol=1e-6)


def test_shared_times_cost_what_t_eval_costs():
    times = tf.constant([0.7, 1.0, 4.0])
    nfe = []
    for options, arguments in [
        ({"t_eval": times.numpy(), "return_sequences": True}, []),
        ({}, [times]),
    ]:
        layer = swinging(1e-4, t_span=(T0, 4.0), track_stats=True, **options)
        layer(Y0, *arguments, training=False)
        nfe.append(float(layer._nfe.result()))
    assert nfe[0] == nfe[1]


def gradients_of_squares(layer, times, mode, mask=None):
    """Of the states' sum of squares, with respect to state, times and weight."""

    def function(y0, times):
        with tf.GradientTape() as tape:
            tape.watch([y0, times])
            loss = tf.reduce_sum(layer(y0, times, mask=mask) ** 2)
        return tape.gradient(loss, [y0, times, layer.trainable_variables[0].value])

    layer.build(Y0.shape)
    return [x.numpy() for x in in_mode(function, mode)(tf.constant(Y0), tf.constant(times))]


def exact_gradients(times):
    shared = np.ndim(times) == 1
    squares = (exact(times) ** 2).sum(axis=-1)
    phase = np.sin(np.broadcast_to(times, squares.shape)) - np.sin(T0)
    d_y0 = (2 * exact(times) * np.exp(phase)[..., np.newaxis]).sum(axis=1)
    d_times = 2 * squares * np.cos(times)
    return d_y0, d_times.sum(axis=0) if shared else d_times, np.sum(2 * squares * phase)


GRADIENT_TIMES = {
    "shared": np.array([0.7, 1.0, 2.0]),
    "shared at once": np.array([0.3, 1.0, 2.0]),
    "own": np.array([[0.3, 0.5, 0.9], [0.7, 0.7, 2.5], [0.4, 0.6, 0.6]]),
    "own backwards": 0.6 - np.array([[0.3, 0.5, 0.9], [0.7, 0.7, 2.5], [0.4, 0.6, 0.6]]),
}
# Every gradient and every mode once; what differs between the rest is tested elsewhere.
GRADIENT_CASES = [
    *[(gradient, "graph", "own backwards") for gradient in ALL_GRADIENTS],
    *[(gradient, mode, "own") for gradient in ("adjoint", "tape") for mode in ("eager", "xla")],
    *[("tape", mode, "shared at once") for mode in MODES],
    ("adjoint", "graph", "shared"),
]


@pytest.mark.parametrize(("gradient", "mode", "times"), GRADIENT_CASES)
def test_state_times_and_weights_have_the_exact_gradient(gradient, mode, times):
    direction = "backwards" if times.endswith("backwards") else "forwards"
    times = GRADIENT_TIMES[times]
    # Few stages are traced and compiled sooner, few steps are taken sooner eagerly.
    solver = "dormand_prince" if mode == "eager" else "bosh3"
    layer = swinging(1e-6, t_span=span(direction), gradient=gradient, solver=solver)
    actual = gradients_of_squares(layer, times, mode)
    # A hundred times the tolerance, in parts of the largest.
    for a, b in zip(actual, exact_gradients(times), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def test_the_tape_differentiates_the_very_steps_that_were_taken():
    """At a loose tolerance the exact solution's gradient is another one; finite differences agree.

    With equal steps, whose sizes don't move with the input. Times have the exact solution's.
    """
    layer = NeuralODE(
        Swinging(dtype="float64"),
        (T0, 10.0),
        time_dependent=True,
        solver=solvers.Heun(num_steps=6),
        gradient="tape",
        dtype="float64",
    )
    times = FORWARDS + np.array([0.1, 0.2, 0.3, 0.4])
    actual = gradients_of_squares(layer, times, "graph")
    loss = tf.function(lambda y0: tf.reduce_sum(layer(y0, times) ** 2))
    (expected,) = finite_differences(lambda inputs: loss(*inputs), [Y0], 1e-6)
    # Rounding of 1e-16 over a step of 1e-6, in a loss of some hundreds.
    np.testing.assert_allclose(actual[0], expected, rtol=1e-6, atol=1e-6)
    smooth = exact_gradients(times)[0]
    assert np.abs(actual[0] / smooth - 1).max() > 1e-4, "the steps should be coarse"
    rows = layer(Y0, times).numpy()
    slopes = np.cos(times)[..., np.newaxis] * rows
    np.testing.assert_allclose(actual[1], np.sum(2 * rows * slopes, axis=-1), rtol=1e-12)


MASK = np.array([[True, True, False, False], [False, True, True, True], [True, False, True, True]])


def padded(garbage):
    return np.where(MASK, FORWARDS, garbage)


@pytest.mark.parametrize(
    ("mode", "garbage"), [("eager", np.nan), ("graph", 0.0), ("graph", 99.0), ("xla", np.nan)]
)
def test_rows_of_masked_times_repeat_the_last_valid_state(mode, garbage):
    layer = swinging()
    rows = in_mode(lambda y, t: layer(y, t, mask=MASK), mode)(Y0, padded(garbage)).numpy()
    valid = exact(FORWARDS)
    expected = valid.copy()
    expected[0, 2] = expected[0, 3] = valid[0, 1]
    expected[1, 0] = Y0[1]
    expected[2, 1] = valid[2, 0]
    np.testing.assert_allclose(rows, expected, rtol=1e-6)
    np.testing.assert_array_equal(rows[0, 2], rows[0, 1])


@pytest.mark.parametrize("gradient", ["adjoint", "tape"])
def test_gradients_see_masked_rows_as_copies_of_the_last_valid_one(gradient):
    layer = swinging(1e-7, gradient=gradient)
    filled = np.array([[0.3, 0.5, 0.5, 0.5], [T0, 0.7, 2.0, 9.0], [0.4, 0.4, 0.8, 0.8]])
    d_y0, d_filled, d_a = exact_gradients(filled)
    d_times = np.where(MASK, d_filled, 0)
    d_times[0, 1] += d_filled[0, 2] + d_filled[0, 3]
    d_times[2, 0] += d_filled[2, 1]
    actual = gradients_of_squares(layer, padded(np.nan), "graph", mask=MASK)
    for a, b in zip(actual, (d_y0, d_times, d_a), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def test_a_mask_works_with_shared_times():
    times = FORWARDS[1] + np.array([0, 0.1, 0, 0])
    rows = swinging()(Y0, times, mask=MASK).numpy()
    np.testing.assert_allclose(rows[MASK], exact(times)[MASK], rtol=1e-6)
    np.testing.assert_array_equal(rows[0, 2:], np.stack([rows[0, 1]] * 2))


def evaluations(layer, times, mask=None):
    """Of the forward pass, for one sample a row of `times`."""
    layer(Y0[:1].repeat(len(times), axis=0), times, mask=mask, training=False)
    return float(layer._nfe.result())


@pytest.mark.parametrize("num", [1, 2, 30, 1000])
def test_times_of_each_sample_cost_what_the_solve_costs_without_them(num):
    rng = np.random.default_rng(0)
    times = T0 + (10.0 - T0) * np.sort(rng.uniform(size=(5, num)), axis=1)
    times[0, -1] = 10.0
    alone = evaluations(swinging(1e-6, track_stats=True), np.full((1, 1), 10.0))
    together = evaluations(swinging(1e-6, track_stats=True), times)
    assert together <= 1.1 * alone


def test_padding_and_repeated_times_cost_nothing():
    times = np.array([[0.5, 0.9, 2.0]] * 3)
    padded = np.concatenate([times, np.zeros((3, 5))], axis=1)
    mask = np.concatenate([np.ones((3, 3)), np.zeros((3, 5))], axis=1).astype(bool)
    lone = evaluations(swinging(1e-4, track_stats=True), times)
    assert evaluations(swinging(1e-4, track_stats=True), padded, mask) == lone
    repeated = np.repeat(times, 4, axis=1)
    assert evaluations(swinging(1e-4, track_stats=True), repeated) == lone


def test_resting_samples_do_not_hide_the_error_of_one_that_moves():
    tolerance = 1e-5
    y0 = np.ones((200, 2))
    times = np.full((200, 1), T0)
    times[7] = 10.0
    row = swinging(tolerance)(y0, times)[7].numpy()
    lone = swinging(tolerance)(y0[:1], times[7:8])[0].numpy()
    # The same steps as on its own.
    np.testing.assert_allclose(row, lone, rtol=1e-12)


@pytest.mark.parametrize("solver", ["euler", "rk4"])
def test_equal_steps_are_as_many_as_without_times(solver):
    solver = solvers.get(solver).copy(num_steps=24)
    layer = swinging(None, solver=solver, track_stats=True)
    layer(Y0, np.broadcast_to([3.3, 6.3, 6.3001, 9.3], (3, 4)), training=False)
    per_step = {"Euler": 1, "RK4": 4}[type(solver).__name__]
    # Dense output wants the slope at the end, too.
    assert layer._nfe.result() == per_step * 24 + 1


@pytest.mark.parametrize("mode", MODES)
def test_bad_states_and_bad_times_spoil_their_sample_alone(mode):
    layer = swinging(on_failure="nan")
    y0 = np.concatenate([Y0, Y0, Y0[:1]])
    times = np.concatenate([FORWARDS, FORWARDS, FORWARDS[:1]])
    y0[0, 1] = np.nan
    times[4, 2] = np.inf
    times[5, 1] = 0.35  # back in time
    times[6, 0] = 0.2  # before t_span[0]
    rows = in_mode(layer, mode)(y0, times).numpy()
    good = [1, 2, 3]
    assert np.all(np.isnan(rows[[0, 4, 5, 6]]))
    np.testing.assert_allclose(rows[good], exact(times[good], y0[good]), rtol=1e-6)
    expected = in_mode(layer, mode)(y0[good], times[good])
    np.testing.assert_allclose(rows[good], expected, rtol=1e-12)


def test_a_failed_solve_says_how_far_it_got_and_keeps_the_rows_before():
    times = np.array([[0.3001, 0.3002, 9.0]] * 3)
    solver = solvers.DormandPrince(1e-8, 1e-8, max_num_steps=5)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"(?s)status -1.*Time reached:'\n[0-8]\."
    ):
        swinging(None, solver=solver)(Y0, times)
    rows = swinging(None, solver=solver, on_failure="nan")(Y0, times).numpy()
    np.testing.assert_allclose(rows[:, :2], exact(times)[:, :2], rtol=1e-6)
    assert np.all(np.isnan(rows[:, 2]))


BAD_CALLS = [
    ({"times": FORWARDS[0, 0]}, ValueError, "must have the shape"),
    ({"times": FORWARDS[np.newaxis]}, ValueError, "must have the shape"),
    ({"times": np.zeros((3, 0))}, ValueError, "at least one time"),
    ({"times": FORWARDS[::-1, ::-1]}, ValueError, "in the direction of t_span for each sample"),
    ({"times": FORWARDS * np.nan}, ValueError, "for each sample"),
    ({"times": FORWARDS - 0.1}, ValueError, r"begin at t_span\[0\]"),
    ({"times": np.array([0.5, 0.7, 0.6])}, ValueError, "monotone in the direction of t_span"),
    ({"times": np.array([0.1, 0.5])}, ValueError, r"begin at t_span\[0\]"),
    ({"times": np.array([0.9, 0.5])}, ValueError, "Received: times="),
    ({"times": FORWARDS, "mask": MASK[:, :2]}, ValueError, "Argument mask must have the shape"),
    ({"times": FORWARDS, "mask": MASK[0]}, ValueError, "Argument mask must have the shape"),
    ({"times": FORWARDS > 0.5}, TypeError, "must hold numbers"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_CALLS)
def test_bad_arguments_are_named(arguments, error, message):
    arguments = {name: tf.constant(value) for name, value in arguments.items()}
    with pytest.raises(error, match=message):
        swinging()(Y0, **arguments)


def test_times_beside_t_eval_are_an_error():
    layer = swinging(t_eval=[1.0], return_sequences=True)
    with pytest.raises(ValueError, match="Use one of the two"):
        layer(Y0, FORWARDS)


@pytest.mark.parametrize("times", [FORWARDS[:, ::-1], np.array([0.9, 0.5])])
def test_bad_times_of_a_graph_are_found_when_it_runs(times):
    run = tf.function(swinging())
    with pytest.raises(tf.errors.InvalidArgumentError, match="in the direction of t_span"):
        run(Y0, times)


@pytest.mark.parametrize("times", [FORWARDS[:, ::-1], np.array([0.9, 0.5])])
def test_bad_times_under_xla_give_nan(times):
    rows = in_mode(swinging(), "xla")(Y0, times).numpy()
    bad = np.ones(3, bool) if times.ndim == 1 else np.any(np.diff(times) < 0, axis=1)
    assert np.all(np.isnan(rows[bad]))


def sequence_model(**options):
    keras.utils.set_random_seed(0)
    y0 = keras.Input((3,), name="y0")
    times = keras.Input((4,), name="times")
    mask = keras.Input((4,), dtype="bool", name="mask")
    states = NeuralODE(dense_field(), **options)(y0, times, mask=mask)
    assert states.shape == (None, 4, 3)
    return keras.Model([y0, times, mask], states)


def sequence_data(num=20):
    rng = np.random.default_rng(0)
    y0 = rng.normal(size=(num, 3)).astype("float32")
    times = np.sort(rng.uniform(0, 2, size=(num, 4)), axis=1).astype("float32")
    lengths = rng.integers(1, 5, size=num)
    mask = np.arange(4) < lengths[:, np.newaxis]
    targets = y0[:, np.newaxis] * np.exp(-times)[..., np.newaxis]
    return {"y0": y0, "times": np.where(mask, times, 0), "mask": mask}, targets


@pytest.mark.parametrize(
    "compile_options",
    [pytest.param({}, marks=pytest.mark.core), {"run_eagerly": True}, {"jit_compile": True}],
    ids=str,
)
def test_models_with_inputs_for_times_and_mask_train(compile_options):
    # Of three stages, where the default has seven: traced and compiled in half the time.
    model = sequence_model(solver="bosh3", rtol=1e-3, atol=1e-4)
    epochs = 3 if "run_eagerly" in compile_options else 20
    model.compile(keras.optimizers.Adam(0.02), "mse", **compile_options)
    inputs, targets = sequence_data()
    losses = model.fit(inputs, targets, batch_size=8, epochs=epochs, verbose=0).history["loss"]
    assert losses[-1] < (0.9 if epochs == 3 else 0.4) * losses[0]


def test_losses_leave_out_the_rows_that_are_masked():
    model = sequence_model()
    model.compile("sgd", "mse")
    inputs, targets = sequence_data()
    mask = inputs["mask"]
    clean = model.evaluate(inputs, targets, verbose=0)
    targets[~mask] = 1e6
    np.testing.assert_allclose(model.evaluate(inputs, targets, verbose=0), clean, rtol=1e-6)


def test_a_model_with_shared_times_of_an_input_solves():
    y0, times = keras.Input((2,)), keras.Input(batch_shape=(3,))
    layer = swinging()
    states = layer(y0, times)
    assert states.shape == (None, 3, 2)
    model = keras.Model([y0, times], states)
    np.testing.assert_allclose(
        model([tf.constant(Y0), tf.constant(SHARED["behind"])]), exact(SHARED["behind"]), rtol=1e-6
    )


@pytest.mark.parametrize("options", [{}, {"return_sequences": True}], ids=str)
def test_a_mask_of_the_state_is_handed_on_where_the_output_has_its_axes(options):
    tokens = keras.Input((5,))
    embedded = layers.Embedding(7, 2, mask_zero=True)(tokens)
    outputs = NeuralODE(dense_field(width=2), **options)(embedded)
    # The mean over the tokens that are not masked.
    if not options:
        model = keras.Model(tokens, [outputs, layers.GlobalAveragePooling1D()(outputs)])
        states, mean = model(np.array([[1, 2, 3, 0, 0]]))
        np.testing.assert_allclose(mean, np.mean(states[:, :3], axis=1), rtol=1e-6)
    else:
        assert getattr(outputs, "_keras_mask", None) is None


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "layer in XLA"])
def test_models_with_times_are_saved_and_exported(jit_compile, tmp_path):
    model = sequence_model(solver="bosh3", jit_compile=jit_compile)
    inputs, _ = sequence_data(num=5)
    expected = model.predict(inputs, verbose=0)
    loaded, exported = saved_and_exported(model, tmp_path)
    np.testing.assert_array_equal(loaded.predict(inputs, verbose=0), expected)
    for num in (5, 2):
        # Batches are solved with steps of their own, at a tolerance of 1e-3 of a few units.
        served = exported.serve(
            [tf.constant(inputs[name][:num]) for name in ("y0", "times", "mask")]
        )
        np.testing.assert_allclose(served, expected[:num], atol=1e-5 if num == 5 else 5e-3)


def test_images_have_times_of_their_own():
    y0 = np.random.default_rng(0).normal(size=(3, 4, 4, 2))
    rows = swinging()(y0, FORWARDS)
    scale = np.exp(np.sin(FORWARDS) - np.sin(T0)).reshape(3, 4, 1, 1, 1)
    np.testing.assert_allclose(rows, y0[:, np.newaxis] * scale, rtol=1e-6)


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_batch_and_number_of_times_may_be_known_at_run_time_only(mode):
    layer = swinging()
    signature = [tf.TensorSpec([None, 2], tf.float64), tf.TensorSpec([None, None], tf.float64)]
    run = tf.function(layer, input_signature=signature, jit_compile=mode == "xla", autograph=False)
    for num in (3, 2):
        rows = run(Y0, FORWARDS[:, :num])
        np.testing.assert_allclose(rows, exact(FORWARDS[:, :num]), rtol=1e-6)
    assert run(Y0[:0], FORWARDS[:0]).shape == (0, 4, 2)
