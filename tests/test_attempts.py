"""The recorded attempts of a solve, compared with what the solve reports of itself."""

import numpy as np
import pytest
import tensorflow as tf

from tf_neuralode import odeint, solvers

VAN_DER_POL_START = np.array([2.0, 0.0])


def van_der_pol(t, y):
    del t
    return tf.stack([y[1], 5 * (1 - y[0] ** 2) * y[1] - y[0]])


@pytest.mark.parametrize("run", [lambda f: f, tf.function], ids=["eager", "graph"])
@pytest.mark.parametrize("t_span", [(0.0, 5.0), (1.0, 0.0)], ids=["forwards", "backwards"])
def test_attempts_are_those_of_the_solve(run, t_span):
    solver = solvers.Tsit5(rtol=1e-5, first_step_size=1.0)  # too long for the first step
    y0 = tf.constant(VAN_DER_POL_START)
    attempts = run(lambda: solvers.attempted_steps(solver, van_der_pol, y0, t_span))()
    diagnostics = odeint(van_der_pol, y0, t_span, solver=solver).diagnostics
    times, sizes, accepted = (x.numpy() for x in attempts)
    assert accepted.sum() == diagnostics.num_accepted_steps
    assert (~accepted).sum() == diagnostics.num_rejected_steps > 0
    # Accepted steps lie end to end; a rejected one is tried again from where it started, shorter.
    ends = times + np.where(accepted, sizes, 0.0)
    np.testing.assert_allclose(ends, [*times[1:], t_span[1]], rtol=1e-12, atol=1e-14)
    rejected = np.flatnonzero(~accepted)
    assert np.all(np.abs(sizes[rejected + 1]) < np.abs(sizes[rejected]))


def test_attempts_of_a_failed_solve_end_where_it_failed():
    y0 = tf.constant(VAN_DER_POL_START)
    solver = solvers.Tsit5(max_num_steps=7)
    assert len(solvers.attempted_steps(solver, van_der_pol, y0, (0.0, 20.0)).times) == 7
    nan = solvers.attempted_steps(solver, van_der_pol, y0 * np.nan, (0.0, 20.0))
    assert [len(x) for x in nan] == [0, 0, 0]


def test_attempts_need_a_solver_of_ours():
    with pytest.raises(TypeError, match=r"must be one of tf_neuralode.solvers: .* solver='tsit5'"):
        solvers.attempted_steps("tsit5", van_der_pol, VAN_DER_POL_START, (0.0, 1.0))
