"""The polynomials of dense output."""

import numpy as np
import pytest
import tensorflow as tf

from tf_neuralode.methods import interpolation


@pytest.mark.parametrize("num_times", [0, 1, 3])
def test_pull_back_times_is_the_transpose_of_evaluate(num_times):
    rng = np.random.default_rng(0)
    theta = tf.constant(rng.uniform(size=num_times))
    coefs = [tf.constant(rng.normal(size=(4, *shape))) for shape in ((2, 3), ())]
    with tf.GradientTape() as tape:
        tape.watch(coefs)
        states = interpolation.evaluate(coefs, theta)
    cotangents = [tf.constant(rng.normal(size=x.shape)) for x in states]
    expected = tape.gradient(states, coefs, output_gradients=cotangents)
    found = interpolation.pull_back_times(cotangents, theta, 4)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15)  # rounding of a few operations


def test_pull_back_time_is_the_same_for_one_time():
    cotangents = [tf.constant([[1.0, 2.0], [3.0, 4.0]], tf.float64), tf.constant(5.0, tf.float64)]
    theta = tf.constant(0.5, tf.float64)
    found = interpolation.pull_back_time(cotangents, theta, 3)
    rows = interpolation.pull_back_times([x[tf.newaxis] for x in cotangents], theta[tf.newaxis], 3)
    for a, b in zip(found, rows, strict=True):
        np.testing.assert_array_equal(a, b)  # 0.5 is a power of two: no rounding
