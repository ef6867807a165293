"""Step sizes that are set count in the user's time where each sample has times of its own, too."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from all_gradients import ALL_GRADIENTS
from modes import in_mode

from tf_neuralode import NeuralODE, solvers

AREA = 0.5 * np.sqrt(np.pi)


class Pulse(keras.layers.Layer):
    """y' = w exp(-((t - 57) / 0.5)^2): of area 0.886 w, and 1 % as long as the interval."""

    def build(self, shapes):
        self.w = self.add_weight(shape=(), initializer="ones")
        self.seen = []

    def call(self, inputs):
        t, y = inputs
        if tf.executing_eagerly():
            self.seen.append(t.numpy().ravel())
        return 0 * y + self.w * tf.exp(-(((t - 57.0) / 0.5) ** 2))


def pulse(gradient="adjoint", t_span=(0.0, 100.0), **settings):
    solver = solvers.DormandPrince(1e-6, 1e-6, max_num_steps=500, **settings)
    field = Pulse(dtype="float64")
    layer = NeuralODE(
        field, t_span, solver=solver, gradient=gradient, time_dependent=True, dtype="float64"
    )
    layer.build((None, 1))
    return layer


def with_gradients(layer, times, mode):
    """The states, and the gradients of their sum by the weight and the initial state."""
    y0 = tf.zeros([len(times), 1], tf.float64)
    weight = layer.dynamics.w.value

    def of(times):
        with tf.GradientTape() as tape:
            tape.watch(y0)
            states = layer(y0, times)
            loss = tf.reduce_sum(states)
        return states, tape.gradient(loss, [weight, y0])

    return in_mode(of, mode)(tf.constant(times))


# The last sample rests in the second segment; all do in the third.
TIMES = np.array([[20.0, 90.0, 90.0], [30.0, 80.0, 80.0], [70.0, 70.0, 70.0]])
CASES = [
    *[(gradient, "graph") for gradient in ALL_GRADIENTS],
    ("adjoint", "xla"),
]


@pytest.mark.parametrize(("gradient", "mode"), CASES)
def test_steps_are_no_longer_than_the_longest_that_is_allowed(gradient, mode):
    layer = pulse(gradient, max_step_size=0.5)
    states, (d_weight, d_y0) = with_gradients(layer, TIMES, mode)
    rows = AREA * np.array([[0, 1, 1], [0, 1, 1], [1, 1, 1]])
    # The tolerance holds for each step, of which the pulse takes about ten.
    np.testing.assert_allclose(states[..., 0], rows, atol=1e-5)
    np.testing.assert_allclose(d_weight, rows.sum(), rtol=1e-5)
    np.testing.assert_allclose(d_y0, np.full((3, 1), 3.0), rtol=1e-9)


@pytest.mark.parametrize("end", [100.0, 0.01])
def test_the_first_step_is_that_of_the_sample_with_the_longest_way(end):
    layer = pulse(t_span=(0.0, end), first_step_size=0.02 * end)
    layer(np.zeros((2, 1)), end * np.array([[0.25, 0.5], [0.5, 1.0]]))
    second_stage = layer.dynamics.seen[1]
    np.testing.assert_allclose(second_stage, [0.2 * 0.01 * end, 0.2 * 0.02 * end], rtol=1e-12)


def test_short_segments_take_one_step_each_where_that_is_allowed():
    layer = pulse(max_step_size=0.1, first_step_size=1.0)
    layer(np.zeros((2, 1)), np.tile(np.linspace(0.01, 0.1, 10), (2, 1)))
    # One evaluation in front of a segment, six in each step.
    assert len(layer.dynamics.seen) == 10 * (1 + 6)


def test_a_step_size_may_be_a_tensor_of_a_graph():
    @tf.function
    def solved(size):
        solver = solvers.DormandPrince(1e-6, 1e-6, max_num_steps=500, max_step_size=size)
        layer = NeuralODE(field, (0.0, 100.0), solver=solver, time_dependent=True, dtype="float64")
        return layer(tf.zeros([2, 1], tf.float64), tf.constant([[70.0], [100.0]], tf.float64))

    field = pulse().dynamics
    np.testing.assert_allclose(solved(tf.constant(0.5))[..., 0], [[AREA], [AREA]], atol=1e-5)
