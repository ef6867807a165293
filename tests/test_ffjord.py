"""Our solvers in TFP's continuous normalizing flow."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tf_neuralode import solvers


@pytest.mark.parametrize("solver", [solvers.DormandPrince(1e-4, 1e-5), solvers.Heun(num_steps=8)])
def test_a_density_trains_to_the_entropy_of_its_target(solver):
    """A linear field maps the normal distribution to every other one: the best fit is known.

    Maximum likelihood gives the samples' own mean and covariance S, at a loss of
    log det(2 pi e S) / 2.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 2)) @ [[1.2, 0.4], [0.0, 0.7]] + [0.5, -0.3]
    x = tf.constant(x, tf.float32)
    best = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * np.cov(x.numpy().T, bias=True))[1]
    matrix = tf.Variable(tf.zeros([2, 2]))
    offset = tf.Variable(tf.zeros([2]))
    flow = tfp.bijectors.FFJORD(
        lambda t, y: tf.linalg.matmul(y, matrix) + offset,
        ode_solve_fn=solver.solve,
        trace_augmentation_fn=tfp.bijectors.ffjord.trace_jacobian_exact,
    )
    base = tfp.distributions.MultivariateNormalDiag(tf.zeros([2]))
    density = tfp.distributions.TransformedDistribution(base, flow)
    optimizer = keras.optimizers.Adam(0.05)

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(density.log_prob(x))
        optimizer.apply(tape.gradient(loss, [matrix, offset]), [matrix, offset])
        return loss

    losses = [float(step()) for _ in range(120)]
    assert losses[0] > best + 0.1
    # The solver's error of 1e-4 for log_prob of a few units, and what Adam leaves.
    assert abs(losses[-1] - best) < 5e-3
