"""Second derivatives: each mixed one is right or an error, and nothing else raises one."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from all_gradients import ALL_GRADIENTS
from modes import MODES, in_mode

from tf_neuralode import NeuralODE, gradients, odeint, solvers

KEPT = gradients.Tape(checkpoint=False)
ERRORS = (LookupError, tf.errors.InvalidArgumentError)
NAMES = ("x", "param", "captured", "variable", "t0", "t1")
per_gradient = pytest.mark.parametrize("gradient", ALL_GRADIENTS)
in_modes = pytest.mark.parametrize("mode", MODES)


def inputs():
    return [tf.constant(x, tf.float64) for x in (1.1, 0.8, 0.6, 0.3, 0.2, 1.5)]


def first_derivatives(values, variable, gradient, solver):
    """Of L = y(0.9)^3 + y(t1)^2 by all inputs; y' = sin(param captured y) + t cos(variable y)."""
    x, param, captured, t0, t1 = values
    with tf.GradientTape() as tape:
        tape.watch(values)
        closed_over = 1.0 * captured
        f = lambda t, y, p: tf.sin(p * closed_over * y) + t * tf.cos(variable * y)
        times = tf.stack([t0, tf.constant(0.9, t0.dtype), t1])
        y = odeint(f, x, times, param, solver=solver, gradient=gradient).states
        loss = y[1] ** 3 + y[2] ** 2
    x, param, captured, t0, t1 = values
    return tape.gradient(loss, [x, param, captured, variable, t0, t1])


def hessian_row(index, gradient, solver, variable):
    """A function that gives the derivatives of first derivative number `index`."""

    def function(x, param, captured, t0, t1):
        values = [x, param, captured, t0, t1]
        with tf.GradientTape() as outer:
            outer.watch(values)
            first = first_derivatives(values, variable, gradient, solver)[index]
        return first, outer.gradient(first, [x, param, captured, variable, t0, t1])

    return function


def without_variable():
    x, param, captured, variable, t0, t1 = inputs()
    return tf.Variable(variable), [x, param, captured, t0, t1]


@pytest.fixture(scope="module")
def hessian():
    """Central differences of first derivatives through an eighth-order solution."""
    variable, _ = without_variable()
    solver = solvers.DormandPrince8(1e-12, 1e-12)
    function = tf.function(
        lambda *values: first_derivatives(list(values), variable, "tape", solver), autograph=False
    )
    rows, step = [], 1e-5
    for shifted in range(len(NAMES)):
        ends = []
        for sign in (1, -1):
            x, param, captured, value, t0, t1 = [
                v + sign * step * (i == shifted) for i, v in enumerate(inputs())
            ]
            variable.assign(value)
            ends.append(np.array([float(d) for d in function(x, param, captured, t0, t1)]))
        rows.append((ends[0] - ends[1]) / (2 * step))
    return np.array(rows).T


@pytest.mark.parametrize(
    ("mode", "index"),
    [*(("graph", i) for i in range(len(NAMES))), ("eager", 4), ("xla", 5)],
    ids=lambda value: NAMES[value] if isinstance(value, int) else value,
)
def test_kept_activations_have_every_mixed_second_derivative(index, mode, hessian):
    variable, values = without_variable()
    row = hessian_row(index, KEPT, solvers.RK4(20), variable)
    # Fourth order: steps of 1/20 leave about 1e-6.
    _, second = in_mode(row, mode)(*values)
    np.testing.assert_allclose(second, hessian[index], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@per_gradient
def test_elsewhere_every_mixed_second_derivative_is_an_error(gradient, mode):
    variable, values = without_variable()

    def every(*values):
        names = dict(zip(NAMES, [*values[:3], variable, *values[3:]], strict=True))
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(values)
            first = first_derivatives(list(values), variable, gradient, solvers.Euler(3))
        silent = []
        for i, (name, derivative) in enumerate(zip(NAMES, first, strict=True)):
            # In a graph, where each takes a second, itself and the next.
            others = [*names] if mode == "eager" else [name, NAMES[(i + 1) % len(NAMES)]]
            for other in others:
                source = names[other]
                try:
                    outer.gradient(derivative, source)
                except LookupError:
                    continue
                silent.append((name, other))
        assert silent == []
        return tf.constant(0)

    if (gradient, mode) == ("adjoint", "graph"):
        # A persistent outer tape records TFP's loops, too: an error of another kind, not silence.
        with contextlib.suppress(RuntimeError, KeyError):
            in_mode(every, mode)(*values)
        return
    in_mode(every, mode)(*values)


@per_gradient
@pytest.mark.parametrize("kind", ["param", "variable", "layer"])
def test_a_gradient_penalty_is_an_error_and_not_ignored(kind, gradient):
    weight = tf.Variable([[1.0]])
    settings = {"solver": solvers.Midpoint(3), "gradient": gradient}
    layer = NeuralODE(keras.layers.Dense(1, use_bias=False), **settings)
    layer.build((None, 1))

    def solve(x):
        if kind == "layer":
            return layer(x)
        params = weight.value() if kind == "param" else None
        f = lambda t, y, *p: y @ (p[0] if p else weight)
        return odeint(f, x, [0.0, 1.0], params, **settings).states[-1]

    def function(x):
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = solve(x)
            penalty = tf.reduce_sum(inner.gradient(y, x) ** 2)
        return outer.gradient(penalty, [weight, layer.trainable_variables[0].value])

    with pytest.raises(LookupError, match="checkpoint=False"):
        in_mode(function, "graph")(tf.ones([2, 1]))


@in_modes
def test_a_gradient_penalty_by_kept_activations_is_right(mode):
    def function(x, w):
        with tf.GradientTape() as outer:
            outer.watch(w)
            with tf.GradientTape() as inner:
                inner.watch(x)
                f = lambda t, y, w: w * y
                y = odeint(f, x, [0.0, 1.0], w, solver=solvers.RK4(20), gradient=KEPT).states[-1]
            penalty = inner.gradient(y, x) ** 2
        return outer.gradient(penalty, w)

    x, w = (tf.constant(1.0, tf.float64) for _ in "xw")
    # d/dw exp(2 w).
    np.testing.assert_allclose(in_mode(function, mode)(x, w), 2 * np.exp(2), rtol=1e-5)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@per_gradient
def test_a_first_derivative_beside_a_penalty_elsewhere_raises_no_alarm(gradient, mode):
    settings = {"solver": solvers.Midpoint(20), "gradient": gradient}

    def function(x, w):
        with tf.GradientTape() as outer:
            outer.watch(w)
            with tf.GradientTape(persistent=True) as inner:
                inner.watch([x, w])
                code = tf.sin(w * x)
                y = odeint(lambda t, y, w: w * y, x, [0.0, 1.0], w, **settings).states[-1]
            unused = inner.gradient(y, x)
            loss = y + inner.gradient(code, x) ** 2
        return outer.gradient(loss, w), unused

    x, w = tf.constant(0.5, tf.float64), tf.constant(0.7, tf.float64)
    found, _ = in_mode(function, mode)(x, w)
    # x exp(w) + (w cos(w x))^2; steps of 1/20 leave 0.7^3 / (6 * 20^2), 1.4e-4.
    c, s = np.cos(0.35), np.sin(0.35)
    expected = 0.5 * np.exp(0.7) + 2 * 0.7 * c * (c - 0.35 * s)
    np.testing.assert_allclose(found, expected, rtol=1e-2)


@per_gradient
def test_a_function_may_return_its_gradients_under_a_tape(gradient):
    @tf.function
    def function(x):
        with tf.GradientTape() as inner:
            inner.watch(x)
            solver = solvers.Midpoint(20)
            y = odeint(lambda t, y: -y, x, [0.0, 1.0], solver=solver, gradient=gradient).states[-1]
        return y, inner.gradient(y, x)

    x = tf.constant(1.0)
    with tf.GradientTape() as outer:
        outer.watch(x)
        y, first = function(x)
    # Nobody asks for the second derivative here ...
    np.testing.assert_allclose(outer.gradient(y, x), np.exp(-1), rtol=1e-2)
    with tf.GradientTape() as outer:
        outer.watch(x)
        y, first = function(x)
    # ... and here it is asked for.
    with pytest.raises(ERRORS, match="checkpoint=False"):
        outer.gradient(first, x)


@in_modes
def test_the_second_derivative_by_an_output_time_is_that_of_the_solution(mode):
    def function(t1):
        with tf.GradientTape() as outer:
            outer.watch(t1)
            with tf.GradientTape() as inner:
                inner.watch(t1)
                times = tf.stack([tf.zeros_like(t1), t1])
                y0 = tf.ones([], tf.float64)
                f = lambda t, y: -y
                y = odeint(f, y0, times, solver=solvers.RK4(40), gradient=KEPT).states[-1]
            first = inner.gradient(y, t1)
        return outer.gradient(first, t1)

    # y = exp(-t): y'' = exp(-1).
    found = in_mode(function, mode)(tf.constant(1.0, tf.float64))
    np.testing.assert_allclose(found, np.exp(-1), rtol=1e-6)


def dense_gradient(gradient, solver, asked):
    """Derivatives of y(0.35)^2 of the dense solution, or of y(1)^2, by x and w; y = x exp(w t)."""

    def function(x, w):
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            f = lambda t, y, w: w * y
            results = odeint(
                f, x, [0.0, 1.0], w, solver=solver, gradient=gradient, dense_output=True
            )
            between = results.solution.evaluate(0.35)
            loss = between**2 if asked else results.states[-1] ** 2
        return tape.gradient(loss, [x, w]), between

    return function


@in_modes
def test_a_dense_solution_of_kept_activations_has_gradients(mode):
    x, w = tf.constant(1.3, tf.float64), tf.constant(0.7, tf.float64)
    (d_x, d_w), _ = in_mode(dense_gradient(KEPT, solvers.RK4(40), True), mode)(x, w)
    y = 1.3 * np.exp(0.7 * 0.35)
    # The cubic interpolant of steps of 1/40 has errors of about 1e-8, its derivatives of 1e-7.
    np.testing.assert_allclose([d_x, d_w], [2 * y * y / 1.3, 2 * y * y * 0.35], rtol=1e-5)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("gradient", [name for name in ALL_GRADIENTS if name != "tape"])
def test_elsewhere_the_gradient_of_a_dense_solution_is_an_error(gradient, mode):
    x, w = tf.constant(1.3, tf.float64), tf.constant(0.7, tf.float64)
    with pytest.raises(LookupError, match="dense solution"):
        in_mode(dense_gradient(gradient, solvers.RK4(3), True), mode)(x, w)


@per_gradient
def test_a_dense_solution_beside_a_loss_of_states_raises_no_alarm(gradient):
    x, w = tf.constant(1.3, tf.float64), tf.constant(0.7, tf.float64)
    expected = [2 * 1.3 * np.exp(1.4), 2 * 1.3**2 * np.exp(1.4)]
    inside = tf.function(dense_gradient(gradient, solvers.RK4(40), False))
    np.testing.assert_allclose(inside(x, w)[0], expected, rtol=1e-5)

    @tf.function
    def outputs(x):
        f = lambda t, y: 0.7 * y
        results = odeint(
            f, x, [0.0, 1.0], solver=solvers.RK4(40), gradient=gradient, dense_output=True
        )
        return results.states[-1] ** 2, results.solution.evaluate(0.35)

    with tf.GradientTape() as tape:
        tape.watch(x)
        loss, _ = outputs(x)
    np.testing.assert_allclose(tape.gradient(loss, x), expected[0], rtol=1e-5)
