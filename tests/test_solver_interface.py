"""The solvers as `tfp.math.ode.Solver`, and their settings."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from all_solvers import ADAPTIVE, FIXED
from modes import MODES, in_mode, pairs

from tf_neuralode import NeuralODE, gradients, odeint, solvers
from tf_neuralode.stepping import status

tfb, ode = tfp.bijectors, tfp.math.ode
TIGHT = {"rtol": 1e-9, "atol": 1e-9, "max_num_steps": 3000}
ONE = tf.ones([], tf.float64)


def decay(t, y):
    del t
    return -y


def attempts(diagnostics):
    return int(diagnostics.num_accepted_steps + diagnostics.num_rejected_steps)


@pytest.mark.core
@pytest.mark.parametrize("solver", ADAPTIVE + FIXED)
def test_every_solver_is_one_of_tfp(solver):
    assert isinstance(solver(), ode.Solver)


def test_dormand_prince_is_one_of_tfp():
    assert isinstance(solvers.DormandPrince(), ode.DormandPrince)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("solver", ADAPTIVE)
def test_solve_takes_the_whole_signature_and_differentiates_constants(solver, mode):
    def run(rate):
        with tf.GradientTape() as tape:
            tape.watch(rate)
            results = solver(**TIGHT).solve(
                ode_fn=lambda t, y, rate: -rate * y,
                initial_time=0.5,
                initial_state=ONE,
                solution_times=[1.0, 2.5],
                jacobian_fn=None,
                jacobian_sparsity=None,
                batch_ndims=None,
                previous_solver_internal_state=None,
                constants={"rate": rate},
            )
            end = results.states[-1]
        return results.states, tape.gradient(end, rate)

    states, gradient = in_mode(run, mode)(tf.constant(0.7, tf.float64))
    # The local tolerance is 1e-9; a solve takes some ten to hundred steps.
    np.testing.assert_allclose(states, np.exp([-0.35, -1.4]), atol=1e-7)
    np.testing.assert_allclose(gradient, -2 * np.exp(-1.4), atol=1e-7)


@pytest.mark.parametrize(
    ("solver", "end", "mode"), pairs([*ADAPTIVE, solvers.RK4], [2.0, -2.0], ["eager", "graph"])
)
def test_times_chosen_by_the_solver_are_its_steps(solver, end, mode):
    settings = TIGHT if solver in ADAPTIVE else {"num_steps": 100}

    def run():
        return solver(**settings).solve(decay, 0.0, ONE, ode.ChosenBySolver(end))

    results = in_mode(run, mode)()
    times = results.times.numpy()
    assert times[0] == 0 and times[-1] == end
    assert len(times) == results.diagnostics.num_accepted_steps + 1
    assert np.all(np.diff(times) * np.sign(end) > 0)
    np.testing.assert_allclose(results.states, np.exp(-times), rtol=1e-7)


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_previous_internal_state_is_a_warm_start(solver):
    solver = solver()
    first = solver.solve(decay, 0.0, ONE, [1.0])
    settings = {"previous_solver_internal_state": first.solver_internal_state}
    warm = solver.solve(decay, 1.0, first.states[-1], [2.0], **settings)
    cold = solver.solve(decay, 1.0, first.states[-1], [2.0])
    # No search for a first step, whose length suits as well as one that was searched for.
    assert warm.diagnostics.num_ode_fn_evaluations < cold.diagnostics.num_ode_fn_evaluations
    assert attempts(warm.diagnostics) <= attempts(cold.diagnostics)
    short = solver.copy(first_step_size=1e-3).solve(decay, 1.0, first.states[-1], [2.0])
    assert attempts(warm.diagnostics) < attempts(short.diagnostics)
    # The default tolerance, 1e-3, over some ten steps.
    np.testing.assert_allclose(warm.states[-1], np.exp(-2), rtol=1e-2)


def end_of_solve(solver, f):
    return solver.solve(f, 0.0, ONE, [4.0]).states[-1]


def end_of_odeint(solver, f):
    return odeint(f, ONE, [0.0, 4.0], solver=solver, gradient="adjoint").states[-1]


@pytest.mark.parametrize("end_of", [end_of_solve, end_of_odeint])
@pytest.mark.parametrize("rtol", [1e-2, 1e-9])
def test_adjoint_solver_is_the_one_that_is_asked_for(rtol, end_of):
    asked = []

    def make_adjoint_solver():
        asked.append(rtol)
        return solvers.DormandPrince8(rtol=rtol, atol=rtol)

    # Of high order, for few steps, which take long eagerly.
    solver = solvers.DormandPrince8(**TIGHT, make_adjoint_solver_fn=make_adjoint_solver)
    with tf.GradientTape() as tape:
        tape.watch(ONE)
        end = end_of(solver, lambda t, y: -tf.sin(5 * t) * y**2)
    error = abs(tape.gradient(end, ONE) - (end / ONE) ** 2)  # of y = 1 / (1 / y0 + ...)
    assert asked
    # Loose tolerances show in the gradient, and tight ones do, too.
    assert error < 1e-7 if rtol == 1e-9 else 1e-6 < error < 1


def test_ffjord_takes_the_solver():
    rates = tf.constant([0.5, -1.0], tf.float64)
    bijector = tfb.FFJORD(
        state_time_derivative_fn=lambda t, y: rates * y,
        ode_solve_fn=solvers.DormandPrince8(**TIGHT).solve,
        dtype=tf.float64,
    )
    x = tf.constant([[1.0, 2.0]], tf.float64)
    np.testing.assert_allclose(bijector.forward(x), x * tf.exp(rates), rtol=1e-7)
    np.testing.assert_allclose(bijector.inverse(x), x * tf.exp(-rates), rtol=1e-7)


@pytest.mark.parametrize("times", [[0.0, 1.0], [0.0, 0.3, 1.0]])
def test_stock_bdf_solver_is_accepted_as_it_is(times):
    # y' = -1000 (y - cos t): stiff. After the transient y = cos t to within 1e-3.
    solver = ode.BDF(rtol=1e-4, atol=1e-6)
    y0 = tf.ones([1], tf.float64)
    results = odeint(lambda t, y: -1000 * (y - tf.cos(t)), y0, times, solver=solver)
    assert results.diagnostics.status == 0
    np.testing.assert_allclose(results.states[-1], [np.cos(1.0)], atol=1e-3)
    # Our fields: where it got to; how many steps it took it doesn't tell.
    assert results.diagnostics.final_time == 1 and results.diagnostics.success
    assert results.diagnostics.num_accepted_steps == -1


@pytest.mark.parametrize("name", ["bosh3", "rk4"])
def test_equal_steps_by_the_method_of_any_solver(name):
    order = solvers.get(name).order

    def error(num_steps):
        solver = solvers.EqualSteps(name, num_steps)
        results = odeint(decay, ONE, [0.0, 0.3, 1.0], solver=solver, gradient="tape")
        assert results.diagnostics.num_accepted_steps == num_steps
        return abs(float(results.states[-1]) - np.exp(-1))

    assert np.log2(error(10) / error(20)) == pytest.approx(order, abs=0.2)


def test_equal_steps_are_saved_with_a_layer_and_check_the_name():
    layer = NeuralODE(keras.layers.Dense(2), solver=solvers.EqualSteps("bosh3", 5))
    twin = NeuralODE.from_config(layer.get_config())
    assert twin.solver == layer.solver and twin.solver.num_steps == 5
    with pytest.raises(ValueError, match=r"Argument method_of .*'bosh2' \(did you mean 'bosh3'"):
        solvers.EqualSteps("bosh2")
    with pytest.raises(TypeError, match="Argument method_of must be"):
        solvers.EqualSteps(solvers.Bosh3())


def test_dense_output_of_a_stock_solver_raises_an_error():
    with pytest.raises(ValueError, match=r"Argument dense_output .*solver=BDF"):
        odeint(decay, ONE, [0.0, 1.0], solver=ode.BDF(), dense_output=True)


def test_first_step_size_is_honoured():
    solver = solvers.DormandPrince(first_step_size=0.0625)
    for end in (1.0, -1.0):
        results = solver.solve(decay, 0.0, ONE, ode.ChosenBySolver(end))
        assert results.times[1] == np.sign(end) * 0.0625
    # It saves the evaluation that the search for a step takes.
    assert results.diagnostics.num_ode_fn_evaluations == 1 + 6 * attempts(results.diagnostics)


def test_max_step_size_is_honoured():
    solver = solvers.DormandPrince(max_step_size=0.25)
    for end in (2.0, 2.001, -2.001):
        steps = np.diff(solver.solve(decay, 0.0, ONE, ode.ChosenBySolver(end)).times)
        # To rounding: a step is the difference of two times.
        assert np.abs(steps).max() <= 0.25 * (1 + 1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_max_num_steps_is_the_number_of_attempts_allowed(mode):
    def solve(max_num_steps):
        solver = solvers.DormandPrince(1e-6, 1e-6, max_num_steps=max_num_steps)
        run = in_mode(lambda y0: odeint(decay, y0, [0.0, 3.0], solver=solver)[1:3], mode)
        return run(ONE)

    _, diagnostics = solve(1000)
    needed = attempts(diagnostics)
    states, diagnostics = solve(needed)
    assert diagnostics.status == status.SUCCESS
    np.testing.assert_allclose(states[-1], np.exp(-3), atol=1e-5)
    states, diagnostics = solve(needed - 1)
    assert diagnostics.status == status.MAX_NUM_STEPS
    assert attempts(diagnostics) == needed - 1
    assert np.isnan(states[-1]) and diagnostics.final_time < 3


def test_smaller_safety_factor_takes_shorter_steps():
    counts = []
    for safety_factor in (0.95, 0.7, 0.4):
        solver = solvers.Tsit5(1e-6, 1e-6, safety_factor=safety_factor)
        counts.append(int(solver.solve(decay, 0.0, ONE, [5.0]).diagnostics.num_accepted_steps))
    assert counts[0] < counts[1] < counts[2]


SETTINGS = [
    *[solver() for solver in ADAPTIVE + FIXED],
    solvers.Tsit5(rtol=[1e-3, 1e-4], atol=np.array([1e-6, 1e-7]), first_step_size=0.1),
    solvers.Bosh3(rtol={"a": 1e-3, "b": [1e-4, 1e-5]}, max_step_size=2.0, safety_factor=0.8),
    solvers.RK4(num_steps=7),
]


@pytest.mark.core
@pytest.mark.parametrize("solver", SETTINGS, ids=lambda solver: type(solver).__name__)
def test_config_round_trip_gives_an_equal_solver(solver):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(solver)))
    twin = keras.saving.deserialize_keras_object(config)
    assert type(twin) is type(solver)
    assert twin == solver and hash(twin) == hash(solver) and repr(twin) == repr(solver)


def test_solvers_with_other_settings_or_methods_differ():
    assert solvers.Tsit5(rtol=1e-4) != solvers.Tsit5(rtol=1e-5)
    assert solvers.Tsit5() != solvers.DormandPrince()
    assert solvers.Tsit5() != "tsit5"


def test_solver_with_functions_equals_itself_alone_and_has_no_config():
    solver = solvers.Tsit5(norm=tf.norm)
    assert solver == solver and solver != solvers.Tsit5(norm=tf.norm)
    assert len({solver, solvers.Tsit5()}) == 2
    with pytest.raises(ValueError, match="norm or make_adjoint_solver_fn can't be"):
        solver.get_config()


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("rtol", -1e-3, ValueError), ("rtol", 0, ValueError), ("rtol", "small", TypeError),
        ("rtol", None, TypeError), ("rtol", float("nan"), ValueError), ("rtol", [], ValueError),
        ("atol", [1e-3, -1.0], ValueError), ("atol", True, TypeError),
        ("first_step_size", 0.0, ValueError), ("first_step_size", "auto", TypeError),
        ("max_step_size", -1, ValueError), ("max_num_steps", 0, ValueError),
        ("max_num_steps", 10.5, TypeError), ("safety_factor", 1.0, ValueError),
        ("min_step_size_factor", 2, ValueError), ("max_step_size_factor", 0.5, ValueError),
        ("norm", 3, TypeError),
    ],
)  # fmt: skip
def test_bad_setting_raises_an_error_that_names_it_and_its_value(name, value, error):
    with pytest.raises(error, match=rf"Argument {name} .*Received: {name}="):
        solvers.DormandPrince(**{name: value})


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (2.0, TypeError)])
def test_bad_number_of_steps_raises_an_error(value, error):
    with pytest.raises(error, match=rf"Argument num_steps .*Received: num_steps={value}"):
        solvers.RK4(value)


def test_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError) as raised:
        odeint(decay, ONE, [0.0, 1.0], solver="tsit_5")
    assert all(name in str(raised.value) for name in solvers.names())
    assert "did you mean 'tsit5'?" in str(raised.value)
    with pytest.raises(TypeError, match="Received: solver=3"):
        solvers.get(3)


def test_misspelt_setting_is_not_swallowed():
    with pytest.raises(TypeError, match="rtoll"):
        solvers.Tsit5(rtoll=1e-3)


def test_equal_settings_have_equal_hashes_whatever_their_types():
    for one, other in (
        (solvers.Tsit5(1, 1e-3), solvers.Tsit5(np.float64(1), np.float64(1e-3))),
        (solvers.Tsit5([1, 2]), solvers.Tsit5(np.array([1.0, 2.0]))),
        (gradients.Adjoint([1, 2]), gradients.Adjoint(np.array([1.0, 2.0]))),
        (gradients.Adjoint({"q": 1, "p": 2}), gradients.Adjoint({"p": 2.0, "q": np.float32(1)})),
    ):
        assert one == other and hash(one) == hash(other)
