"""The error norm of a batch: a hard sample gets the steps that it would get alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from modes import MODES, in_mode

from tf_neuralode import NeuralODE, gradients, odeint, solvers

FAST, SLOW, END = 20.0, 0.5, 0.2


def rates(size):
    """One fast sample among slow ones."""
    return tf.constant([[FAST]] + [[SLOW]] * (size - 1), tf.float64)


class Decay(keras.layers.Layer):
    """y' = -k y for a state (k, y), so that each sample brings its own rate."""

    def call(self, state):
        k, y = state[:, :1], state[:, 1:]
        return tf.concat([tf.zeros_like(k), -k * y], axis=1)


def relative_error(states):
    return float(abs(states[0, -1] / np.exp(-FAST * END) - 1))


def solve_by_odeint(size, mode="eager", **settings):
    def run(k):
        return odeint(lambda t, y: -k * y, tf.ones_like(k), [0.0, END], **settings).states[-1]

    return relative_error(in_mode(run, mode)(rates(size)))


def solve_by_layer(size, mode="eager", **settings):
    layer = NeuralODE(Decay(), (0.0, END), **settings)
    return relative_error(in_mode(layer, mode)(layer_state(size)))


def layer_state(size):
    return tf.cast(tf.concat([rates(size), tf.ones_like(rates(size))], axis=1), tf.float32)


@pytest.mark.parametrize("size", [10, 10_000])
@pytest.mark.parametrize("solver", ["dormand_prince", "dormand_prince8"])
def test_a_hard_sample_has_the_accuracy_in_a_batch_that_it_has_alone(solver, size):
    alone = solve_by_odeint(1, solver=solver)
    # It alone decides on all steps, which so are the same ones.
    settings = {"solver": solver, "batch_ndims": 1}
    assert solve_by_odeint(size, **settings) == pytest.approx(alone, rel=1e-6)
    if size > 1000:
        assert solve_by_odeint(size, norm="mean", **settings) > 10 * alone


@pytest.mark.parametrize("mode", MODES)
def test_a_hard_sample_has_its_accuracy_in_each_mode(mode):
    alone, among = solve_by_odeint(1), solve_by_odeint(1000, mode, batch_ndims=1)
    assert among == pytest.approx(alone, rel=1e-6)


def test_a_layer_takes_the_largest_or_the_mean():
    alone = solve_by_layer(1)
    # Rounding of float32.
    assert solve_by_layer(1000) == pytest.approx(alone, rel=1e-2)
    assert solve_by_layer(1000, "xla") == pytest.approx(alone, rel=1e-2)
    assert solve_by_layer(1000, norm="mean") > 5 * alone


def test_own_times_of_each_sample_take_the_largest_too():
    def error(size, **settings):
        layer = NeuralODE(Decay(), **settings)
        # The others rest from the start.
        times = tf.constant([[END]] + [[0.0]] * (size - 1))
        return relative_error(layer(layer_state(size), times)[:, -1])

    alone = error(1)
    assert error(100) == pytest.approx(alone, rel=1e-2)
    # Those at rest hide nothing in a mean, either.
    assert error(100, norm="mean") == pytest.approx(alone, rel=1e-2)


@pytest.mark.parametrize("gradient", ["adjoint", "interpolating_adjoint", "gauss_adjoint"])
def test_a_hard_sample_has_its_accuracy_in_backward_solves(gradient):
    # Tight forwards, so that the error is that of the backward solve.
    gradient = type(gradients.get(gradient))(rtol=1e-3, atol=1e-6)
    solver = solvers.DormandPrince8(1e-7, 1e-7)

    def derivative(k, norm):
        y0 = tf.ones_like(k)
        with tf.GradientTape() as tape:
            tape.watch(k)
            f = lambda t, y, k: -k * y
            end = odeint(
                f,
                y0,
                [0.0, END],
                k,
                gradient=gradient,
                solver=solver.copy(norm=norm),
                batch_ndims=1,
            ).states[-1]
        return tape.gradient(end, k)[0, 0]

    def error(size, norm="max"):
        exact = -END * np.exp(-FAST * END)
        return float(abs(derivative(rates(size), norm) / exact - 1))

    alone = error(1)
    assert error(1000) == pytest.approx(alone, rel=1e-2)
    assert error(1000, "mean") > 5 * alone


def test_solvers_of_tfp_interface_take_batch_ndims_forwards_and_backwards():
    def run(size, batch_ndims, **settings):
        k = rates(size)
        with tf.GradientTape() as tape:
            tape.watch(k)
            end = solvers.DormandPrince(**settings).solve(
                lambda t, y, k: -k * y, 0.0, tf.ones_like(k), [END],
                batch_ndims=batch_ndims, constants={"k": k},
            ).states[-1]  # fmt: skip
        derivative = tape.gradient(end, k)[0, 0]
        exact = -END * np.exp(-FAST * END)
        return relative_error(end), float(abs(derivative / exact - 1))

    alone = run(1, None)
    np.testing.assert_allclose(run(1000, 1), alone, rtol=2e-2)
    assert np.all(np.array(run(1000, None)) > 5 * np.array(alone))
    # An adjoint solver from outside has a norm over the whole augmented system, as in TFP.
    assert run(10, 1, make_adjoint_solver_fn=solvers.DormandPrince)[0] < 2 * alone[0]


@pytest.mark.parametrize("mode", MODES)
def test_a_sample_is_all_its_axes_in_all_leaves(mode):
    """The norm of two leaves with two axes of samples, against NumPy."""
    rng = np.random.default_rng(0)
    leaves = [rng.normal(size=shape).astype("float32") for shape in ((3, 2), (3, 2, 4, 2))]
    squares = [(x**2).reshape(3, 2, -1).sum(-1) for x in leaves]
    expected = np.sqrt(sum(squares) / 9)
    seen = []

    class Solver(solvers.DormandPrince):
        def steps(self, conditions, start, t1):
            steps = super().steps(conditions, start, t1)
            norms = steps.norm.of.of_samples(start.y)
            seen.append((norms, steps.norm.of.largest(norms)))
            return steps

    def run(*leaves):
        seen.clear()
        odeint(lambda t, y: y, leaves, [0.0, 0.1], solver=Solver(), batch_ndims=2, gradient="tape")
        return seen[0]

    norms, largest = in_mode(run, mode)(*map(tf.constant, leaves))
    np.testing.assert_allclose(norms, expected, rtol=1e-6)
    np.testing.assert_allclose(largest, expected.max(), rtol=1e-6)


@pytest.mark.parametrize("norm", ["max", "mean", lambda error: tf.reduce_max(error)])
@pytest.mark.parametrize("mode", MODES)
def test_a_step_in_which_a_sample_is_not_finite_is_rejected(mode, norm):
    """The slope of one sample is NaN behind t = 1/2."""

    def f(t, y):
        ends = tf.constant([[False], [True], [False]])
        return tf.where(ends & (t > 0.5), float("nan"), -0.1 * y)

    def run(y0):
        solver = solvers.DormandPrince(norm=norm, first_step_size=1.0)
        return odeint(f, y0, [0.0, 1.0], solver=solver, batch_ndims=1).diagnostics

    diagnostics = in_mode(run, mode)(tf.ones([3, 1]))
    assert diagnostics.status == -3
    assert float(diagnostics.final_time) == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_without_samples_is_solved(mode):
    run = lambda y0: odeint(lambda t, y: -y, y0, [0.0, 1.0], batch_ndims=1)[2]
    diagnostics = in_mode(run, mode)(tf.ones([0, 2]))
    assert diagnostics.status == 0


def test_samples_that_rest_or_are_zero_leave_the_first_step_alone():
    def attempts(y0, k):
        f = lambda t, y: -k * y + tf.where(k < 0, 1.0, 0.0)
        results = odeint(f, y0, [0.0, 1.0], batch_ndims=1)
        return int(results.diagnostics.num_ode_fn_evaluations)

    alone = attempts(tf.ones([1, 1]), tf.ones([1, 1]))
    # At rest, at rest in zero, and starting from zero.
    k = tf.constant([[1.0], [0.0], [1.0], [-1e-3]])
    assert attempts(tf.constant([[1.0], [1.0], [0.0], [0.0]]), k) == alone


@pytest.mark.parametrize(
    ("y0", "batch_ndims", "error", "message"),
    [
        (tf.ones([2]), 2, ValueError, r"batch_ndims must.*Received: batch_ndims=2.*\(2,\)"),
        ((tf.ones([2, 1]), tf.ones([3])), 1, ValueError, r"the same lengths.*\(2, 1\), \(3,\)"),
        (tf.ones([2]), -1, ValueError, "batch_ndims must be at least 0"),
        (tf.ones([2]), 0.5, TypeError, "batch_ndims must be an integer"),
    ],
)
def test_batch_ndims_that_does_not_fit_is_an_error(y0, batch_ndims, error, message):
    with pytest.raises(error, match=message):
        odeint(lambda t, y: y, y0, [0.0, 1.0], batch_ndims=batch_ndims)


def test_a_norm_beside_a_solver_that_carries_its_own_is_an_error():
    dense = keras.layers.Dense(2)
    for solver in (solvers.Tsit5(), tfp.math.ode.BDF()):
        with pytest.raises(ValueError, match=r"norm are for a solver given by name.*norm=mean"):
            NeuralODE(dense, solver=solver, norm="mean")
    with pytest.raises(ValueError, match=r"one of 'max', 'mean'.*Received: norm='sum'"):
        NeuralODE(dense, norm="sum")
    with pytest.raises(TypeError, match=r"one of 'max', 'mean'.*Received: norm=2"):
        solvers.Tsit5(norm=2)


def test_norm_is_part_of_the_configs_and_configs_without_it_mean_the_default():
    layer = NeuralODE(keras.layers.Dense(2), norm="mean")
    config = layer.get_config()
    assert NeuralODE.from_config(config).solver == solvers.DormandPrince(norm="mean")
    del config["norm"]
    assert NeuralODE.from_config(config).solver == solvers.DormandPrince()
    solver = solvers.Tsit5(norm="mean")
    assert solver != solvers.Tsit5()
    assert solver == solvers.Tsit5.from_config(solver.get_config())
    with pytest.raises(ValueError, match="function norm can't be serialized"):
        NeuralODE(keras.layers.Dense(2), norm=tf.norm).get_config()


def test_a_function_norm_of_a_solver_holds_in_a_layer():
    def num_evaluations(**settings):
        solver = solvers.DormandPrince(1e-6, 1e-6, **settings)
        layer = NeuralODE(Decay(), solver=solver, track_stats=True)
        layer(layer_state(1), training=True)
        return float(layer.metrics[0].result())

    assert num_evaluations(norm=lambda scaled: 1e-6 * tf.norm(scaled)) < num_evaluations() / 2
