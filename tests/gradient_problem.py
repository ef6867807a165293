"""A small neural field in float64, and the gradients of a loss on its solution."""

import numpy as np
import tensorflow as tf

from tf_neuralode import odeint, solvers

TWO_TIMES = (0.0, 2.0)
FOUR_TIMES = (0.0, 0.3, 1.0, 2.0)
BACKWARDS = (2.0, 1.5, 0.0)


def make_inputs():
    rng = np.random.default_rng(0)
    y0 = rng.normal(size=(4, 3))
    first, second = rng.normal(size=(3, 5)), 0.5 * rng.normal(size=(5, 3))
    return [tf.constant(x) for x in (y0, first, second)]


def field(t, y, params):
    return tf.tanh(tf.tanh(y @ params["first"] * (1 + t)) @ params["second"])


def loss_of(states):
    """Touches the state at every output time, each with another weight."""
    weights = tf.range(1, 1 + tf.shape(states)[0])
    return tf.reduce_sum(tf.reshape(tf.cast(weights, states.dtype), [-1, 1, 1]) * states**2)


def solve(inputs, times, gradient, solver, counter=None):
    y0, first, second = inputs
    params = {"first": first, "second": second}
    return odeint(
        field, y0, times, params, solver=solver, gradient=gradient, backward_counter=counter
    )


def loss_and_gradients(inputs, times, gradient, solver):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = loss_of(solve(inputs, times, gradient, solver).states)
    return loss, tape.gradient(loss, inputs)


def reference_gradients(times):
    """Through the steps of an eighth-order solution at a tolerance of 1e-12."""
    solver = solvers.DormandPrince8(1e-12, 1e-12)
    function = tf.function(lambda inputs: loss_and_gradients(inputs, times, "tape", solver))
    return function(make_inputs())[1]


def finite_differences(function, inputs, step=1e-5):
    """Central differences of a scalar function with respect to every entry of every input."""
    result = []
    for index, tensor in enumerate(inputs):
        derivative = np.zeros(tensor.shape)
        for entry in np.ndindex(*tensor.shape):
            shift = np.zeros(tensor.shape)
            shift[entry] = step
            values = [
                float(function([x + s * shift if i == index else x for i, x in enumerate(inputs)]))
                for s in (1, -1)
            ]
            derivative[entry] = (values[0] - values[1]) / (2 * step)
        result.append(derivative)
    return result


def relative_error(actual, expected):
    """Largest relative error over the inputs, each in the Euclidean norm."""
    return max(
        float(np.linalg.norm(np.asarray(a) - np.asarray(e)) / np.linalg.norm(np.asarray(e)))
        for a, e in zip(actual, expected, strict=True)
    )
