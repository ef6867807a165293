"""What XLA must do without knowing the batch, and how every method ends on a field gone bad."""

import numpy as np
import pytest
import tensorflow as tf
from modes import pairs

from tf_neuralode import odeint, solvers
from tf_neuralode.stepping import status

# Of y' = y cos t with 20 equal steps or the default tolerances of 1e-3 and 1e-6.
TOLERANCES = {"euler": 0.1, "midpoint": 1e-3, "heun": 1e-2}


TIMES = [[0.0, 1.0], [0.0, 0.1, 0.3, 1.0], [1.0, 0.4, 0.0]]
# XLA compiles anew for each batch size.
BATCHES = [(1, 3), (3, 0), (0, 1)]


@pytest.mark.parametrize(
    ("name", "times", "batches"), pairs(solvers.names(), TIMES, BATCHES), ids=str
)
def test_batch_unknown_to_xla_is_solved_at_times_that_are_known(name, times, batches):
    # Two times are the ends, which need no interpolation: another path than with more of them.
    @tf.function(
        input_signature=[tf.TensorSpec([None, 2], tf.float64)], jit_compile=True, autograph=False
    )
    def run(y0):
        return odeint(lambda t, y: y * tf.cos(t), y0, times, solver=name)[1:3]

    exact = np.exp(np.sin(times) - np.sin(times[0]))[:, None, None]
    for batch in batches:
        y0 = np.random.default_rng(0).uniform(1, 2, [batch, 2])
        states, diagnostics = run(tf.constant(y0))
        assert diagnostics.status == status.SUCCESS
        np.testing.assert_allclose(states, exact * y0, atol=TOLERANCES.get(name, 2e-3))


def test_axes_unknown_to_xla_may_be_several():
    @tf.function(input_signature=[tf.TensorSpec([None, None, 2], tf.float64)], jit_compile=True)
    def run(y0):
        return odeint(lambda t, y: -y, y0, [0.0, 0.3, 1.0]).states

    y0 = np.random.default_rng(0).uniform(1, 2, [3, 4, 2])
    exact = np.exp([-0.0, -0.3, -1.0])[:, None, None, None] * y0
    np.testing.assert_allclose(run(tf.constant(y0)), exact, rtol=1e-3)  # the solver's rtol


@pytest.mark.parametrize(
    ("name", "start", "mode"), pairs(solvers.names(), ["finite", "nan"], ["graph", "xla"])
)
def test_every_method_ends_with_the_right_status_where_f_is_not_finite(name, start, mode):
    cls = type(solvers.get(name))
    adaptive = issubclass(cls, solvers.AdaptiveRungeKutta)
    solver = cls(max_num_steps=100) if adaptive else cls(100)

    @tf.function(jit_compile=mode == "xla", autograph=False)
    def run(y0):
        f = lambda t, y: tf.where(t < 0.5, -y, np.nan)
        return odeint(f, y0, [0.0, 0.25, 1.0], solver=solver)[1:3]

    states, diagnostics = run(tf.constant([1.0 if start == "finite" else np.nan, 2.0]))
    assert diagnostics.status == status.NOT_FINITE
    assert diagnostics.num_accepted_steps + diagnostics.num_rejected_steps <= 100
    assert np.all(np.isnan(states[-1]))
    if start == "finite":
        # What was reached before is kept: to rtol = 1e-3, or the error of 25 equal steps.
        np.testing.assert_allclose(states[1], np.exp(-0.25) * np.array([1.0, 2.0]), rtol=2e-3)
