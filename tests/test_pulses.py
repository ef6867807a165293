"""What nothing announces: pulses and jumps in time, which a step may pass over."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from modes import MODES, in_mode
from pulses import COUNTERPARTS, TOLERANCES, jump_errors, random_jumps, random_pulses
from pulses import share_of_misses as share_of

from tf_neuralode import NeuralODE, odeint, solvers


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", TOLERANCES)
@pytest.mark.parametrize("name", COUNTERPARTS)
def test_no_more_pulses_are_passed_over_than_by_scipy(name, tolerance):
    pulses = random_pulses()
    share, count = share_of(pulses, name, tolerance)
    scipy_share, scipy_count = share_of(pulses, COUNTERPARTS[name], tolerance)
    assert share <= scipy_share
    # Those that are seen take evaluations, too, and they are twice as many as SciPy misses.
    # Verner6, of order 6, has no counterpart there.
    assert count <= 1.3 * scipy_count or name == "Verner6"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Bosh3", "DormandPrince", "DormandPrince8"])
def test_jumps_cost_no_more_digits_than_scipys(name):
    errors, count = jump_errors(random_jumps(), name)
    scipy_errors, scipy_count = jump_errors(random_jumps(), COUNTERPARTS[name])
    # Both depend on where a step happens to fall: the median of 200 by some tens of per cent.
    assert np.median(errors) <= 1.3 * np.median(scipy_errors)
    assert np.max(errors) <= 1.1 * np.max(scipy_errors)
    assert count <= 1.1 * scipy_count


def bump(t, y, unit):
    # At rest at first, then a pulse of some 20 % of the interval.
    return tf.exp(-(((t / unit - 0.4) / 0.05) ** 2)) / unit + 0 * y


@pytest.mark.parametrize("start", [0.0, 1.0])
@pytest.mark.parametrize("name", COUNTERPARTS)
def test_pulse_after_a_rest_is_seen_in_any_unit_of_time(name, start):
    counts = []
    for unit in (2.0**-30, 1.0, 2.0**30):

        @tf.function(autograph=False)
        def solve(unit=unit):
            y0 = tf.constant(start, tf.float64)
            solver = getattr(solvers, name)(1e-6, 1e-9)
            results = odeint(bump, y0, [0.0, unit], tf.constant(unit, tf.float64), solver=solver)
            return results.states[-1] - y0, results.diagnostics.num_ode_fn_evaluations

        area, count = solve()
        # Of local errors of 1e-6 in some tens of steps.
        np.testing.assert_allclose(area, 0.05 * np.sqrt(np.pi), atol=1e-4)
        counts.append(int(count))
    # Powers of two change no digit.
    assert len(set(counts)) == 1


@pytest.mark.parametrize("mode", MODES)
def test_field_that_rests_takes_fewer_steps_if_it_is_known_to_be_autonomous(mode):
    def count(f):
        y0 = tf.ones([], tf.float64)
        run = lambda y0: odeint(f, y0, [0.0, 1e-4], solver="dormand_prince").diagnostics
        return int(in_mode(run, mode)(y0).num_accepted_steps)

    # One step over all, and 1, 3, 9, eight times 10, and 7 per cent.
    assert count(lambda t, y: 0 * y) == 1
    assert count(lambda t, y: 0 * t * y) == 12


@pytest.mark.parametrize("time_dependent", [False, True])
def test_layer_tells_its_solver_whether_the_field_depends_on_time(time_dependent):
    class Rest(keras.layers.Layer):
        def call(self, inputs):
            return 0 * (inputs[1] if time_dependent else inputs)

        def compute_output_shape(self, input_shape):
            return input_shape[1] if time_dependent else input_shape

    layer = NeuralODE(Rest(), (0.0, 1e-4), time_dependent=time_dependent, track_stats=True)
    layer(tf.ones([2, 3]), training=False)
    # Two for the first step, and six a step, see above.
    assert layer.metrics[0].result() == 2 + 6 * (12 if time_dependent else 1)
