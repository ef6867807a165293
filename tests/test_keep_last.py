"""`on_failure="last"`: a solve that fails ends where it got to."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from all_gradients import ALL_GRADIENTS
from modes import MODES, in_mode

from tf_neuralode import NeuralODE, gradients, solvers

KEPT = gradients.Tape(checkpoint=False)
W = 0.7


class Failing(keras.layers.Layer):
    """y' = w y up to a time from which on it is NaN."""

    def __init__(self, until=0.5):
        super().__init__(dtype="float64")
        self.until = until
        self.w = self.add_weight(initializer=keras.initializers.Constant(W))

    def call(self, inputs):
        t, y = inputs
        return tf.where(t <= self.until, self.w * y, tf.constant(np.nan, y.dtype))


def layer(until=0.5, t_span=(0.0, 1.0), **settings):
    settings = {"rtol": 1e-6, "atol": 1e-6, "track_stats": True, **settings}
    made = NeuralODE(
        Failing(until), t_span, time_dependent=True, on_failure="last", dtype="float64", **settings
    )
    made.build((None, 2))
    return made


Y0 = tf.constant([[1.0, 2.0], [0.5, -1.0]], tf.float64)


def run_of(made, *arguments):
    def run():
        with tf.GradientTape() as tape:
            tape.watch(Y0)
            rows = made(Y0, *arguments, training=True)
            loss = tf.reduce_sum(rows)
        return rows, tape.gradient(loss, [Y0, made.dynamics.w.value])

    return run


def check(rows, found, reached):
    """Of rows at the times `reached`, `(num_times,)` or one for each sample."""
    reached = np.broadcast_to(reached, rows.shape[:2])
    growth = np.exp(W * reached)[..., np.newaxis]
    # Within the tolerance.
    np.testing.assert_allclose(rows, Y0[:, np.newaxis] * growth, rtol=1e-5)
    d_y0 = np.broadcast_to(growth.sum(1), Y0.shape)
    d_w = np.sum(reached[..., np.newaxis] * growth * Y0[:, np.newaxis])
    np.testing.assert_allclose(found[0], d_y0, rtol=1e-4)
    np.testing.assert_allclose(found[1], d_w, rtol=1e-4)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("gradient", [*ALL_GRADIENTS, KEPT], ids=str)
def test_rows_behind_repeat_the_state_reached_and_have_its_gradient(gradient, mode):
    made = layer(gradient=gradient, t_eval=[0.2, 0.7, 1.0], return_sequences=True)
    rows, found = in_mode(run_of(made), mode)()
    # Bisection brings it close to the end.
    check(rows, found, [0.2, 0.5, 0.5])
    assert made._failed_solves.result() == 1


@pytest.mark.parametrize("gradient", ["adjoint", "tape"])
def test_so_it_is_under_xla_and_backwards(gradient):
    made = layer(gradient=gradient, t_eval=[0.2, 0.7, 1.0], return_sequences=True)
    check(*in_mode(run_of(made), "xla")(), [0.2, 0.5, 0.5])


@pytest.mark.parametrize("mode", MODES)
def test_times_of_each_sample(mode):
    made = layer(gradient="tape")
    times = tf.constant([[0.2, 0.4], [0.3, 0.9]], tf.float64)
    rows, found = in_mode(run_of(made, times), mode)()
    # All stop together: at 0.5 of the second, which has 0.9 to go, and as far on the first's way.
    check(rows, found, np.array([[0.2, 0.4 * 0.5 / 0.9], [0.3, 0.5]]))


@pytest.mark.parametrize("mode", MODES)
def test_a_solve_that_cannot_begin_returns_its_input(mode):
    made = layer(until=-1.0, gradient="tape")
    np.testing.assert_array_equal(in_mode(made, mode)(Y0), Y0)


@pytest.mark.parametrize("mode", MODES)
def test_where_nothing_fails_it_is_as_without(mode):
    made = layer(until=2.0)
    settings = {**made.get_config(), "dynamics": made.dynamics, "on_failure": "nan"}
    other = NeuralODE.from_config(settings)
    run, run_other = (in_mode(one, mode) for one in (made, other))
    # The last output time is a tensor in one of the two.
    np.testing.assert_allclose(run(Y0), run_other(Y0), rtol=1e-12)


def test_too_few_steps_go_as_far_as_they_can():
    made = layer(
        until=2.0, solver=solvers.Bosh3(1e-9, 1e-9, max_num_steps=20), rtol=None, atol=None
    )
    end = made(Y0, training=False)
    reached = np.log(end / Y0) / W
    assert 0.05 < reached.min() < 0.95
    np.testing.assert_allclose(reached, reached[0, 0], rtol=1e-7)
    assert made._failed_solves.result() == 1


@pytest.mark.parametrize("solver", ["rk4", "stock"])
def test_equal_steps_and_stock_solvers_are_an_error(solver):
    solver = tfp.math.ode.BDF() if solver == "stock" else solver
    with pytest.raises(ValueError, match=r"on_failure='last' needs an adaptive solver.*Received"):
        NeuralODE(keras.layers.Dense(2), solver=solver, on_failure="last")
