"""The dense solution of a layer: the solution of a batch at any time, for pictures."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from modes import MODES, in_mode

from tf_neuralode import NeuralODE

TIGHT = {"rtol": 1e-8, "atol": 1e-8, "dtype": "float64"}
Y0 = np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 4.0]])
# The interpolant of Dormand-Prince is of fourth order, the steps are of the fifth.
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


def of_time(t_span=(0.0, 2.0), **options):
    """dy/dt = -t y: y = y0 exp((t0^2 - t^2) / 2)."""
    return NeuralODE(lambda t, y: -t * y, t_span, time_dependent=True, **TIGHT, **options)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("t_span", [(0.0, 2.0), (2.0, 0.0)])
def test_it_is_the_solution_at_any_time_of_the_span(t_span, mode):
    layer, times = of_time(t_span), np.array([2.0, 0.0, 0.3, 1.7])
    states = in_mode(lambda y0: layer.dense_solution(y0)(times), mode)(Y0)
    factors = np.exp((t_span[0] ** 2 - times**2) / 2)
    np.testing.assert_allclose(states, factors[:, None, None] * Y0, **CLOSE)


def test_each_sample_has_its_own_time_where_it_has_its_own_start():
    start = np.array([0.0, 1.0, -1.0])
    solution = of_time().dense_solution(Y0, t0=start)
    assert solution.times.shape[1] == 3
    np.testing.assert_array_equal(solution.times[-1], start + 2)
    times = start + np.array([[0.0, 0.5, 1.0], [2.0, 1.1, 0.3]])
    expected = np.exp((start**2 - times**2) / 2)[..., None] * Y0
    np.testing.assert_allclose(solution(times), expected, **CLOSE)
    assert np.isnan(solution(start + np.array([0.0, 2.1, 1.0]))[1]).all()


def test_inputs_are_those_of_a_call():
    layer = NeuralODE(lambda y, u, c: c * u - 0 * y, (0.0, 1.0), control="linear", **TIGHT)
    context = np.array([[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]])
    control = (np.array([0.0, 1.0]), np.tile([[[0.0], [1.0]]], (3, 1, 1)))  # u = t
    solution = layer.dense_solution(Y0, context=context, control=control)
    np.testing.assert_allclose(solution(0.5), Y0 + context / 8, **CLOSE)
    np.testing.assert_allclose(solution(1.0), layer(Y0, context=context, control=control), **CLOSE)


def test_a_bad_sample_is_nan_alone_or_an_error():
    bad = np.where(np.arange(3)[:, None] == 1, np.nan, Y0)
    states = of_time(on_failure="nan").dense_solution(bad)(1.0).numpy()
    np.testing.assert_array_equal(np.isnan(states).all(axis=1), [False, True, False])
    np.testing.assert_allclose(states[[0, 2]], np.exp(-0.5) * Y0[[0, 2]], **CLOSE)
    with pytest.raises(tf.errors.InvalidArgumentError, match="not finite"):
        of_time().dense_solution(bad)


def test_it_has_gradients_of_weights_and_state():
    field = keras.layers.Dense(2, use_bias=False, dtype="float64")
    layer, y0 = NeuralODE(field, **TIGHT), tf.constant(Y0)
    layer.build(Y0.shape)
    loss = lambda: tf.reduce_sum(layer.dense_solution(y0)([0.3, 0.8]) ** 2)
    with tf.GradientTape() as tape:
        tape.watch(y0)
        value = loss()
    found = tape.gradient(value, [field.kernel.value, y0])
    kernel, step = field.kernel.numpy(), 1e-5
    for i, j in ((0, 0), (1, 0)):
        change = np.zeros((2, 2))
        change[i, j] = step
        ends = []
        for sign in (1, -1):
            field.kernel.assign(kernel + sign * change)
            ends.append(float(loss()))
        # An error of 1e-10 of the differences' own, and the solve's divided by the step.
        assert np.isclose(found[0][i, j], (ends[0] - ends[1]) / (2 * step), rtol=1e-5)
    field.kernel.assign(kernel)
    y0, ends = tf.constant(Y0), []
    for sign in (1, -1):
        y0 = tf.constant(Y0 + sign * step * np.eye(3, 2))
        ends.append(float(loss()))
    difference = (ends[0] - ends[1]) / (2 * step)
    assert np.isclose(found[1][0, 0] + found[1][1, 1], difference, rtol=1e-5)


def test_a_stock_solver_has_none():
    layer = NeuralODE(lambda y: -y, solver=tfp.math.ode.DormandPrince())
    with pytest.raises(ValueError, match=r"needs a solver of tf_neuralode\.solvers"):
        layer.dense_solution(Y0)
