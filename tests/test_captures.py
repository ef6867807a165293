"""Gradients of what f closes over: tensors beside variables, in every mode, in loops, in layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from all_gradients import ALL_GRADIENTS
from modes import in_mode, pairs

from tf_neuralode import NeuralODE, gradients, odeint, solvers

KEPT = gradients.Tape(checkpoint=False)
EVERY = [*ALL_GRADIENTS, KEPT]
ADAPTIVE, FIXED = solvers.Bosh3(1e-6, 1e-6, max_num_steps=200), solvers.RK4(20)
# The loss is the sum of y(0.5)^2 and y(1)^2, y = exp(v c t): its derivative by v c, for v c = 0.6.
DERIVATIVE = sum(2 * t * np.exp(2 * 0.6 * t) for t in (0.5, 1.0))
# Twenty times the tolerance of adaptive steps; 20 fixed ones have 1e-7.
CLOSE = {"rtol": 2e-5}
per_gradient = pytest.mark.parametrize("gradient", EVERY, ids=str)
BOTH = {"adaptive": ADAPTIVE, "fixed": FIXED}
# Equal steps are traced in half the time, adaptive ones, which are fewer, take less time eagerly.
SOON = {"eager": ADAPTIVE, "graph": FIXED}


def loss_at(c, variable, gradient, solver=FIXED, times=(0.0, 0.5, 1.0)):
    """Of y' = variable c y, y(0) = 1, where f closes over both."""
    y0 = tf.ones([1], tf.float64)
    results = odeint(lambda t, y: variable * c * y, y0, times, solver=solver, gradient=gradient)
    return tf.reduce_sum(results.states[1:] ** 2)


def gradients_of(loss, x, variable):
    with tf.GradientTape() as tape:
        tape.watch([x, variable])
        value = loss(x)
    return tape.gradient(value, [x, variable])


def check(derivatives):
    # By c with v = 2, by v with c = 0.3.
    np.testing.assert_allclose(derivatives, [2 * DERIVATIVE, 0.3 * DERIVATIVE], **CLOSE)


X = tf.constant(0.3, tf.float64)


def variable():
    return tf.Variable(2.0, dtype=tf.float64)


@pytest.mark.parametrize(
    ("mode", "solver"),
    [("eager", ADAPTIVE), ("graph", ADAPTIVE), ("graph", FIXED), ("xla", FIXED)],
    ids=["eager", "graph", "graph_fixed", "xla"],
)
@per_gradient
def test_a_tensor_beside_a_variable_gets_its_gradient(gradient, solver, mode):
    v = variable()
    function = lambda x: gradients_of(lambda x: loss_at(1.0 * x, v, gradient, solver), x, v)
    check(in_mode(function, mode)(X))


@per_gradient
def test_so_it_does_with_the_tape_outside_of_the_function(gradient):
    v = variable()
    check(gradients_of(tf.function(lambda x: loss_at(1.0 * x, v, gradient)), X, v))


@pytest.mark.parametrize("mode", ["graph"])
@per_gradient
def test_so_does_a_tensor_of_a_graph_further_out(gradient, mode):
    v = variable()

    def loss(x):
        c = 1.0 * x
        inner = tf.function(lambda: loss_at(c, v, gradient))
        return inner()

    check(in_mode(lambda x: gradients_of(loss, x, v), mode)(X))


@pytest.mark.parametrize("mode", ["eager", "graph"])
@per_gradient
def test_so_does_one_behind_a_function_that_f_calls(gradient, mode):
    v = variable()

    def loss(x):
        c = 1.0 * x
        inner = tf.function(lambda y: c * y)
        f = lambda t, y: v * inner(y)
        states = odeint(
            f, tf.ones([1], tf.float64), [0.0, 0.5, 1.0], solver=SOON[mode], gradient=gradient
        ).states
        return tf.reduce_sum(states[1:] ** 2)

    check(in_mode(lambda x: gradients_of(loss, x, v), mode)(X))


def in_while(solve, x):
    # The second turn has the tensor of a loop variable; the first counts nothing.
    body = lambda i, c, total: (i + 1, c, total + tf.cast(i, c.dtype) * solve(1.0 * c))
    return tf.while_loop(
        lambda i, *_: i < 2, body, (0, x, tf.zeros([], x.dtype)), maximum_iterations=2
    )[2]


def around_a_while(solve, x):
    c = 1.0 * x
    body = lambda i, total: (i + 1, total + solve(c) / 2)
    return tf.while_loop(
        lambda i, *_: i < 2, body, (0, tf.zeros([], x.dtype)), maximum_iterations=2
    )[1]


def in_map(solve, x):
    return tf.reduce_mean(tf.map_fn(lambda c: solve(1.0 * c), tf.stack([x, x])))


def in_cond(solve, x):
    return tf.cond(x > 0, lambda: solve(1.0 * x), lambda: tf.zeros([], x.dtype))


IN_LOOPS = ["adjoint", "tape", "gauss_adjoint"]


@pytest.mark.parametrize(
    ("where", "gradient", "steps"),
    pairs([in_while, around_a_while, in_map, in_cond], IN_LOOPS, [*BOTH]),
)
def test_so_does_one_in_a_loop_or_a_branch(where, gradient, steps):

    @tf.function(autograph=False)
    def function(x, v):
        # Not a variable nor an eager tensor: TensorFlow refuses to differentiate a loop with a
        # custom gradient that reads one.
        return gradients_of(
            lambda x: where(lambda c: loss_at(c, v, gradient, BOTH[steps]), x), x, v
        )

    check(function(X, tf.constant(2.0, tf.float64)))


@pytest.mark.parametrize(
    ("where", "gradient", "steps"), pairs([in_while, in_cond], IN_LOOPS, [*BOTH])
)
def test_parameters_in_a_loop_or_a_branch_get_their_gradients(where, gradient, steps):
    def loss(x, w):
        solve = lambda c: tf.reduce_sum(
            odeint(
                lambda t, y, p: p[0] * p[1] * y,
                tf.ones([1], tf.float64),
                [0.0, 0.5, 1.0],
                [c, 1.0 * w],
                solver=BOTH[steps],
                gradient=gradient,
            ).states[1:]
            ** 2
        )
        return where(solve, x)

    @tf.function
    def function(x, w):
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            value = loss(x, w)
        return tape.gradient(value, [x, w])

    check(function(X, tf.constant(2.0, tf.float64)))


@pytest.mark.parametrize("mode", ["eager", "graph"])
@per_gradient
def test_one_tensor_as_state_parameter_and_captured_counts_thrice(gradient, mode):
    def function(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            f = lambda t, y, p: p * x * y
            y = odeint(f, x, [0.0, 0.4, 1.0], x, solver=SOON[mode], gradient=gradient).states
            loss = tf.reduce_sum(y[-1])
        return tape.gradient(loss, x)

    # y(1) = x exp(x^2).
    expected = (1 + 2 * 0.3**2) * np.exp(0.3**2)
    np.testing.assert_allclose(in_mode(function, mode)(X), expected, **CLOSE)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_captured_tensor_of_16_bits_has_its_gradient_added_up_in_32(mode):
    def function(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            c = tf.cast(x, tf.float16)
            f = lambda t, y: tf.cast(c, tf.float32) + 0 * y
            end = odeint(f, tf.zeros([1]), [0.0, 1.0], solver=solvers.Euler(300), gradient="tape")
            y = end.states[-1]
        return tape.gradient(y, c)

    # The sum of 300 times 1/300: in 16 bits each adds an error of up to 5e-4 of the sum so far.
    np.testing.assert_allclose(in_mode(function, mode)(tf.constant(0.5)), 1.0, rtol=1e-3)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@per_gradient
def test_a_network_and_an_encoder_get_the_gradients_of_finite_differences(gradient, mode):
    keras.utils.set_random_seed(0)
    with_dtype = lambda units: keras.layers.Dense(units, "tanh", dtype="float64")
    net, encoder = with_dtype(2), with_dtype(2)
    x = tf.constant(np.random.default_rng(0).normal(size=(3, 4)))
    y0 = tf.ones([3, 2], tf.float64)
    net(y0), encoder(x)

    def loss():
        code = encoder(x)
        f = lambda t, y: net(y) * code
        return tf.reduce_sum(
            odeint(f, y0, [0.0, 1.0], solver=SOON[mode], gradient=gradient).states[-1]
        )

    def function():
        with tf.GradientTape() as tape:
            value = loss()
        return tape.gradient(value, [encoder.kernel.value, net.kernel.value])

    found = in_mode(function, mode)()
    for layer, derivative in zip((encoder, net), found, strict=True):
        kernel, step = layer.kernel.numpy(), 1e-4
        shift = np.zeros_like(kernel)
        shift[1, 0] = step
        values = []
        for sign in (1, -1):
            layer.kernel.assign(kernel + sign * shift)
            values.append(float(loss()))
        layer.kernel.assign(kernel)
        # Steps of 1e-4 at a tolerance of 1e-6 leave some 1e-4.
        np.testing.assert_allclose(
            derivative[1, 0], (values[0] - values[1]) / (2 * step), rtol=1e-3
        )


class Scaled(keras.layers.Layer):
    """A field with a weight and a tensor that is no weight."""

    def __init__(self):
        super().__init__(dtype="float64")
        self.weight = self.add_weight(
            shape=(), initializer=lambda shape, dtype: tf.cast(2.0, dtype)
        )
        self.code = None

    def call(self, y):
        return self.weight * self.code * y


@pytest.mark.parametrize(
    ("gradient", "times", "mode", "steps"),
    [
        *pairs(EVERY, [None, "shared", "own"], ["graph"], [*BOTH]),
        ("tape", "own", "eager", "adaptive"),
        *((gradient, "shared", "eager", "adaptive") for gradient in EVERY),
        ("adjoint", None, "eager", "adaptive"),
    ],
    ids=str,
)
def test_a_tensor_that_a_dynamics_holds_gets_its_gradient(gradient, times, mode, steps):
    field = Scaled()
    layer = NeuralODE(
        field,
        (0.0, 1.0),
        solver=BOTH[steps],
        gradient=gradient,
        dtype="float64",
        return_sequences=True,
        t_eval=None if times else (0.5, 1.0),
    )
    field.code = tf.ones([], tf.float64)
    layer.build((1, 1))
    shared = np.array([0.5, 1.0])
    chosen = {None: None, "shared": shared, "own": shared[np.newaxis]}[times]

    def loss(x):
        field.code = 1.0 * x
        return tf.reduce_sum(layer(tf.ones([1, 1], tf.float64), chosen) ** 2)

    check(in_mode(lambda x: gradients_of(loss, x, field.weight.value), mode)(X))


@pytest.mark.parametrize("gradient", ALL_GRADIENTS)
def test_an_f_that_cannot_be_traced_is_an_error_where_a_gradient_would_get_lost(gradient):
    def function(x, watched):
        with tf.GradientTape() as tape:
            tape.watch(watched)
            f = lambda t, y: x * y if t.numpy() < 2 else y
            y = odeint(f, tf.ones([1], tf.float64), [0.0, 1.0], gradient=gradient).states[-1]
        return tape.gradient(y, watched)

    with pytest.raises(ValueError, match="can't be traced"):
        function(X, X)
    assert function(X, 2 * X) is None


@pytest.mark.parametrize("gradient", ALL_GRADIENTS)
def test_symbolic_gradients_of_a_parameter_raise_no_alarm(gradient):
    def value(x):
        c = 1.0 * x
        f = lambda t, y, p: p * y
        return odeint(f, 1.0 * x, [0.0, 1.0], c, gradient=gradient, solver=ADAPTIVE).states[-1]

    # y = x exp(x).
    expected = [0.3 * np.exp(0.3), 1.3 * np.exp(0.3)]
    found = tf.function(lambda x: (value(x), tf.gradients(value(x), x)[0]))(X)
    np.testing.assert_allclose(found, expected, **CLOSE)
    found = tf.function(lambda x: tfp.math.value_and_gradient(value, x))(X)
    np.testing.assert_allclose(found, expected, **CLOSE)


def test_a_minimizer_in_a_graph_finds_a_rate():
    def value_and_gradient(x):
        def misfit(x):
            f = lambda t, y: x[0] * y
            # A minimizer traces it in several loops.
            y = odeint(f, tf.ones([1], tf.float64), [0.0, 1.0], solver=FIXED).states[-1]
            return tf.reduce_sum((y - np.exp(-0.5)) ** 2)

        return tfp.math.value_and_gradient(misfit, x)

    start = tf.zeros([1], tf.float64)
    found = tf.function(lambda: tfp.optimizer.bfgs_minimize(value_and_gradient, start).position)()
    # The minimizer stops where the gradient is 1e-8.
    np.testing.assert_allclose(found, [-0.5], atol=1e-6)
