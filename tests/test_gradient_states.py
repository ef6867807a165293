"""Gradients for states and parameters of any shape, structure and dtype, and for times."""

import numpy as np
import pytest
import tensorflow as tf
from all_gradients import ALL_GRADIENTS
from modes import MODES, in_mode, pairs

from tf_neuralode import gradients, odeint, solvers

KEPT = gradients.Tape(checkpoint=False)
EVERY = [*ALL_GRADIENTS, KEPT]
SOLVERS = {
    "adaptive": solvers.DormandPrince(1e-6, 1e-6, max_num_steps=60),
    "fixed": solvers.RK4(40),
}
every_gradient = pytest.mark.parametrize("gradient", EVERY, ids=str)
# Equal steps are compiled in half the time, adaptive ones, which are few, take less time eagerly.
CASES = [
    *pairs(EVERY, ["eager"], ["adaptive"]),
    *pairs(EVERY, ["graph", "xla"], [*SOLVERS]),
]
every_pair = pytest.mark.parametrize(("gradient", "mode", "steps"), CASES, ids=str)
every_mode = pytest.mark.parametrize("mode", MODES)


def gradients_of(f, y0, params, gradient, mode, solver):
    """Of the sum over the last state, with respect to `y0` and `params`."""

    def function(y0, params):
        with tf.GradientTape() as tape:
            tape.watch([y0, params])
            results = odeint(f, y0, [0.0, 0.5, 1.0], params, solver=solver, gradient=gradient)
            ends = [tf.reduce_sum(x[-1]) for x in tf.nest.flatten(results.states)]
            loss = tf.add_n([tf.cast(end, tf.float64) for end in ends])
        return tape.gradient(loss, [y0, params])

    return in_mode(function, mode)(y0, params)


@every_pair
def test_nest_of_scalars_and_vectors_of_different_dtypes_has_gradients(gradient, mode, steps):
    y0 = {
        "half": tf.constant([1.0], tf.float16),
        "single": tf.constant([1.0, 1.0], tf.float32),
        "double": tf.constant(1.0, tf.float64),
    }
    rates = {
        "half": tf.constant(-1.0, tf.float16),
        "single": tf.constant([0.5, 7.0], tf.float32),
        "double": tf.constant(-2.0, tf.float64),
    }

    def f(t, y, rates):
        # tf.gather has sparse gradients; equal components make the permutation invisible.
        single = tf.gather(y["single"], [1, 0]) * tf.gather(rates["single"], [0, 0])
        half, double = (rates[name] * y[name] for name in ("half", "double"))
        return {"half": half, "single": single, "double": double}

    d_y0, d_rates = gradients_of(f, y0, rates, gradient, mode, SOLVERS[steps])
    for found, like in ((d_y0, y0), (d_rates, rates)):
        assert [x.dtype for x in found.values()] == [x.dtype for x in like.values()]
    # Rounding of float16, then float32, then the tolerance times ten.
    tolerances = {"half": 2e-3, "single": 1e-5, "double": 1e-5}
    e = np.exp
    expected_y0 = {"half": [e(-1)], "single": [e(0.5)] * 2, "double": e(-2)}
    expected_rates = {"half": e(-1), "single": [2 * e(0.5), 0.0], "double": e(-2)}
    for name, rtol in tolerances.items():
        np.testing.assert_allclose(d_y0[name], expected_y0[name], rtol=rtol)
        np.testing.assert_allclose(d_rates[name], expected_rates[name], rtol=rtol)


@every_pair
def test_batch_and_times_known_at_run_time_only_have_gradients(gradient, mode, steps):
    signature = [tf.TensorSpec([None, 2], tf.float64), tf.TensorSpec([None], tf.float64)]

    def function(y0, times):
        with tf.GradientTape() as tape:
            tape.watch([y0, times])
            f = lambda t, y: -t * y
            states = odeint(f, y0, times, solver=SOLVERS[steps], gradient=gradient).states
            loss = tf.reduce_sum(states[-1])
        return tape.gradient(loss, [y0, times])

    if mode != "eager":
        function = tf.function(function, signature, autograph=False, jit_compile=mode == "xla")
    cases = [(3, [0.5, 1.5]), (0, [0.5, 0.7, 1.5]), (3, [1.5, 0.7, 0.5])]
    if mode != "xla":  # which compiles anew for each pair of shapes
        cases += [(0, [0.5, 1.5]), (3, [0.5, 0.7, 1.5]), (0, [1.5, 0.7, 0.5])]
    for batch, times in cases:
        y0 = tf.ones([batch, 2], tf.float64)
        d_y0, d_times = function(y0, tf.constant(times, tf.float64))
        end = np.exp((times[0] ** 2 - times[-1] ** 2) / 2)
        # Twenty times the tolerance, for its growth over the interval and the way back.
        np.testing.assert_allclose(d_y0, np.full([batch, 2], end), rtol=2e-5)
        expected = np.zeros(len(times))
        expected[[0, -1]] = 2 * batch * end * np.array([times[0], -times[-1]])
        np.testing.assert_allclose(d_times, expected, rtol=2e-5, atol=1e-9)


@every_gradient
def test_gradients_of_sixteen_bit_parameters_add_up_in_32_bits(gradient):
    # 400 steps, each of which adds 1/400 to dy/dp: in bfloat16 the sum would stop at 1/2.
    y0, p = tf.constant([0.0]), tf.constant(1.0, tf.bfloat16)
    f = lambda t, y, p: tf.cast(p, tf.float32) * tf.ones_like(y)
    _, d_p = gradients_of(f, y0, p, gradient, "graph", solvers.Euler(400))
    assert d_p.dtype == tf.bfloat16 and d_p == 1


@every_mode
@every_gradient
def test_failed_solve_gives_the_parameters_nan(gradient, mode):
    # The first attempts are rejected until none are left.
    solver = solvers.Bosh3(1e-6, 1e-6, first_step_size=1.0, max_num_steps=2)
    f = lambda t, y, rate: rate * tf.reverse(y, [0]) * tf.constant([1.0, -1.0])
    y0, rate = tf.constant([1.0, 0.0]), tf.constant(100.0)
    _, d_rate = gradients_of(f, y0, rate, gradient, mode, solver)
    assert np.isnan(d_rate)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@every_gradient
def test_complex_states_have_gradients_but_by_tfps_adjoint(gradient, mode):
    # y' = -i p y, loss Re(w y(t1)): of t0, t1, p and y0.
    w, p, y0, times = 0.6 - 1.1j, 0.7, 1.2 + 0.4j, np.array([0.2, 1.0])
    solver = solvers.DormandPrince(1e-9, 1e-9, max_num_steps=60)

    def function(times, p, y0):
        with tf.GradientTape() as tape:
            tape.watch([times, p, y0])
            f = lambda t, y, p: -1j * tf.cast(p, y.dtype) * y
            y = odeint(f, y0, times, p, solver=solver, gradient=gradient).states[-1]
            loss = tf.math.real(w * y)
        return tape.gradient(loss, [times, p, y0])

    run = in_mode(function, mode)
    arguments = tf.constant(times), tf.constant(p, tf.float64), tf.constant(y0, tf.complex128)
    if gradient == "adjoint":
        with pytest.raises(NotImplementedError, match=r"complex states\. Take another.*imaginary"):
            run(*arguments)
        return
    span = times[1] - times[0]
    turn = np.exp(-1j * p * span)
    by_t1 = (w * -1j * p * y0 * turn).real
    by_p = (w * -1j * span * y0 * turn).real
    d_times, d_p, d_y0 = run(*arguments)
    np.testing.assert_allclose(d_times, [-by_t1, by_t1], rtol=1e-7)
    np.testing.assert_allclose(d_p, by_p, rtol=1e-7)
    # TensorFlow's gradient of a complex number is the conjugate of the derivative.
    np.testing.assert_allclose(d_y0, np.conj(w * turn), rtol=1e-7)
