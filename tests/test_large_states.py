"""States so large that TensorFlow's graph optimizer rearranges sums to save memory."""

import numpy as np
import pytest
import tensorflow as tf

from tf_neuralode import odeint, solvers

SIZE = (131_072, 20)  # 10 MB


# Two loops inside each other; the others have one where the state is summed up.
@pytest.mark.parametrize("gradient", ["adjoint", "interpolating_adjoint"])
@pytest.mark.parametrize(
    "solver", [solvers.DormandPrince(1e-3, 1e-3, max_num_steps=64), solvers.RK4(num_steps=3)]
)
def test_a_training_step_in_a_graph_can_be_called_again(gradient, solver):
    y0 = tf.fill(SIZE, 0.5)
    weights = tf.constant(np.random.default_rng(0).normal(size=(20, 20)) / 5, tf.float32)

    def f(t, y, weights):
        # A gradient with three summands, beside those of the method.
        return tf.tanh(y @ weights) - 0.1 * y + 0.01 * tf.sin(y)

    @tf.function
    def step(y0, weights):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            y1 = odeint(f, y0, [0.0, 1.0], weights, solver=solver, gradient=gradient).states[-1]
            loss = tf.reduce_mean(y1**2)
        return tape.gradient(loss, weights)

    first, second = step(y0, weights), step(y0, weights)
    assert np.all(np.isfinite(first))
    # Sums over the batch are made by several threads, in an order of their own.
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-6)
