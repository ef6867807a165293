"""What TFP's own tests check of a solver, in the three ways in which they run: v1 graphs too."""

import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf
import tensorflow_probability as tfp
from modes import in_mode, pairs

from tf_neuralode import solvers
from tf_neuralode.stepping import status

ode = tfp.math.ode
TIGHT = {"rtol": 1e-8, "atol": 1e-12, "max_num_steps": 3000}
SOLVERS = [solvers.DormandPrince, solvers.Tsit5]
REGIMES = ["eager", "graph", "v1"]
# The local tolerance is 1e-8; a solve takes some tens of steps.
CLOSE = {"rtol": 1e-6, "atol": 1e-7}

in_every_regime = pytest.mark.parametrize("regime", REGIMES)
of_every_solver = pytest.mark.parametrize("solver", SOLVERS)
TIMES_TO = [ode.ChosenBySolver, lambda end: [0.4 * end, end]]
at_times = pytest.mark.parametrize("times_to", TIMES_TO)
of_every_pair = pytest.mark.parametrize(
    ("times_to", "solver", "regime"), pairs(TIMES_TO, SOLVERS, REGIMES)
)


def run(build, regime):
    """What `build` returns, as arrays."""
    if regime != "v1":
        return tf.nest.map_structure(np.asarray, in_mode(build, regime)())
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        return session.run(build())


def solved(solver, f, y0, times, **arguments):
    """Times and states, from t = 0 on."""
    results = solver(**TIGHT).solve(f, 0.0, y0, times, **arguments)
    return results.times, results.states


STATES = [np.float64(1.5), np.float64([[1.0, 2.0], [3.0, 4.0]]), np.float64([])]


@pytest.mark.parametrize(
    ("y0", "times_to", "solver", "regime"), pairs(STATES, TIMES_TO, SOLVERS, REGIMES)
)
def test_state_of_numpy_of_any_shape_decays(y0, times_to, solver, regime):
    times, states = run(lambda: solved(solver, lambda t, y: -y, y0, times_to(1.0)), regime)
    np.testing.assert_allclose(states, np.multiply.outer(np.exp(-times), y0), **CLOSE)


@of_every_pair
def test_zero_field_of_numpy_keeps_the_state(times_to, solver, regime):
    y0 = np.float64([1.0, 2.0, 3.0])
    zeros = lambda t, y: np.zeros_like(y0)
    times, states = run(lambda: solved(solver, zeros, y0, times_to(1.0)), regime)
    np.testing.assert_array_equal(states, np.tile(y0, (len(times), 1)))


@in_every_regime
@of_every_solver
def test_complex_states_and_a_jacobian_that_isnt_needed(solver, regime):
    rates = np.complex128([1j - 0.1, 1j])
    for jacobian_fn in (np.diag(rates), lambda t, y: tf.constant(np.diag(rates))):
        build = lambda fn=jacobian_fn: solved(
            solver, lambda t, y: rates * y, np.complex128([1, 2]), [0.5, 1.0], jacobian_fn=fn
        )
        times, states = run(build, regime)
        np.testing.assert_allclose(states, np.exp(np.outer(times, rates)) * [1, 2], **CLOSE)


@of_every_pair
def test_nests_of_states_keep_their_structure(times_to, solver, regime):
    y0 = (np.float64([1.0, 2.0]), [np.float64([5.0]), {"c": np.float64(9.0)}])
    rates = (0.5, [1.5, {"c": -2.5}])
    field = lambda t, y: tf.nest.map_structure(lambda rate, x: rate * x, rates, y)
    times, states = run(lambda: solved(solver, field, y0, times_to(0.2)), regime)
    exact = lambda rate, x: np.multiply.outer(np.exp(rate * times), x)
    exact = tf.nest.map_structure(exact, rates, y0)
    tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), states, exact)


@pytest.mark.parametrize(("as_list", "solver", "regime"), pairs([False, True], SOLVERS, REGIMES))
def test_coupled_components_follow_the_matrix_exponential(as_list, solver, regime):
    matrix = np.random.default_rng(0).normal(size=(5, 5))
    y0 = [np.float64(1.0)] * 5 if as_list else np.ones(5)

    def field(t, y):
        slope = tf.linalg.matvec(matrix, tf.stack(y) if as_list else y)
        return tf.unstack(slope) if as_list else slope

    _, states = run(lambda: solved(solver, field, y0, [0.0, 1.0]), regime)
    end = [x[-1] for x in states] if as_list else states[-1]
    np.testing.assert_allclose(end, scipy.linalg.expm(matrix) @ np.ones(5), **CLOSE)


@in_every_regime
@of_every_solver
def test_state_handed_on_makes_one_solve_of_two(solver, regime):
    rates, y0 = np.float64([-0.5, -1.0]), np.float64([1.0, 2.0])
    field = lambda t, y: rates * y

    def build():
        instance = solver(**TIGHT, validate_args=True)
        initial = instance._initialize_solver_internal_state(field, 0.0, y0)
        first = instance.solve(
            field, 0.0, y0, ode.ChosenBySolver(1.0), previous_solver_internal_state=initial
        )
        handed_on = {"previous_solver_internal_state": first.solver_internal_state}
        second = instance.solve(field, 1.0, first.states[-1], [1.5, 2.0], **handed_on)
        whole = instance.solve(field, 0.0, y0, [1.0, 1.5, 2.0])
        counts = [x.diagnostics.num_ode_fn_evaluations for x in (first, second, whole)]
        return first.times, first.states, second.states, whole.states, counts

    times, states, rest, whole, counts = run(build, regime)
    exact = lambda t: np.exp(np.outer(t, rates)) * y0
    np.testing.assert_allclose(states, exact(times), **CLOSE)
    np.testing.assert_allclose(rest, exact([1.5, 2.0]), **CLOSE)
    np.testing.assert_allclose(whole[1:], rest, **CLOSE)
    # Two solves and the one make the same steps but for those cut at t = 1, and their first slopes.
    assert counts[0] + counts[1] <= counts[2] + 2 * 6 + 2


@in_every_regime
@of_every_solver
def test_times_that_coincide_have_the_same_state(solver, regime):
    def build():
        one = np.float64(1.0)
        given = ([0.0], [0.0, 0.0, 1.0], [0.5, 0.5, 1.0], [1.0, 1.0], ode.ChosenBySolver(0.0))
        return [solved(solver, lambda t, y: -y, one, times) for times in given]

    for times, states in run(build, regime):
        np.testing.assert_allclose(states, np.exp(-times), **CLOSE)


@in_every_regime
def test_times_out_of_order_raise_an_error(regime):
    for times in ([1.0, 0.5], [-0.5, 0.5]):
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="solution_times"):
            run(lambda times=times: solved(solvers.Tsit5, lambda t, y: -y, 1.0, times), regime)


def test_times_out_of_order_give_nan_under_xla():
    times = lambda t: solved(solvers.Tsit5, lambda t, y: -y, tf.constant(1.0), t)
    _, states = in_mode(times, "xla")(tf.constant([1.0, 0.5]))
    assert np.all(np.isnan(states))


@in_every_regime
@of_every_solver
def test_diagnostics_are_those_of_a_success(solver, regime):
    build = lambda: solver(validate_args=True).solve(lambda t, y: -y, 0.0, 1.0, [1.0]).diagnostics
    diagnostics = run(build, regime)
    assert diagnostics.status == status.SUCCESS and diagnostics.num_ode_fn_evaluations > 0


@in_every_regime
def test_integer_state_raises_an_error(regime):
    with pytest.raises(TypeError, match="Argument initial_state must hold floating-point"):
        run(lambda: solved(solvers.Tsit5, lambda t, y: -y, np.int32(1), [1.0]), regime)


@pytest.mark.parametrize("regime", ["graph", "v1"])
@at_times
def test_adjoint_gradient_of_riccatis_equation(times_to, regime):
    def build():
        y0 = tf.constant(0.5, tf.float64)
        _, states = solved(solvers.DormandPrince, lambda t, y: (y - t) ** 2 + 1, y0, times_to(1.0))
        return tf.gradients(states[-1], y0)

    # y = 1 / (1 / y0 - t) + t
    np.testing.assert_allclose(run(build, regime)[0], 1 / (1 - 0.5) ** 2, **CLOSE)


@pytest.mark.parametrize("regime", ["graph", "v1"])
def test_adjoint_gradient_of_constants(regime):
    def build():
        rate, y0 = tf.constant([-0.5, -1.0], tf.float64), tf.constant([1.0, 2.0], tf.float64)
        field = lambda t, y, rate: rate * y
        times = ode.ChosenBySolver(1.0)
        times, states = solved(solvers.DormandPrince, field, y0, times, constants={"rate": rate})
        return times, tf.gradients(states, rate)[0]

    times, gradient = run(build, regime)
    exact = np.sum(times[:, None] * np.exp(np.outer(times, [-0.5, -1.0])) * [1.0, 2.0], axis=0)
    np.testing.assert_allclose(gradient, exact, **CLOSE)


class HandsStepSizeOn(ode.Solver):
    """A backward solver that makes a new one for each solve, with the last one's step size."""

    def __init__(self):
        super().__init__(make_adjoint_solver_fn=None, validate_args=False, name="hands_on")

    def _solve(self, **arguments):
        size = arguments.pop("previous_solver_internal_state")
        results = solvers.DormandPrince(**TIGHT, first_step_size=size).solve(**arguments)
        return results._replace(solver_internal_state=results.solver_internal_state.step_size)

    def _initialize_solver_internal_state(self, **arguments):
        return np.float64(1.0)

    def _adjust_solver_internal_state_for_state_jump(self, **arguments):
        return arguments["previous_solver_internal_state"]


@in_every_regime
def test_adjoint_solver_of_the_user_hands_its_step_size_on(regime):
    def build():
        y0 = tf.constant(0.5, tf.float64)
        solver = solvers.DormandPrince(**TIGHT, make_adjoint_solver_fn=HandsStepSizeOn)
        with tf.GradientTape() as tape:
            tape.watch(y0)
            results = solver.solve(lambda t, y: (y - t) ** 2 + 1, 0.0, y0, ode.ChosenBySolver(1.0))
            end = results.states[-1]
        return tape.gradient(end, y0)

    np.testing.assert_allclose(run(build, regime), 4.0, **CLOSE)


@pytest.mark.parametrize("regime", ["graph", "v1", "xla"])
@pytest.mark.parametrize("name", ["first_step_size", "max_step_size"])
def test_step_size_may_be_a_tensor_of_a_graph(name, regime):
    def build():
        size = tf.constant(0.0625) / 1
        solver = solvers.DormandPrince(**{name: size})
        with pytest.raises(ValueError, match=r"A tensor inside a tf.function can't be serialized"):
            solver.get_config()
        number = solvers.DormandPrince(**{name: 0.0625})
        counts = [
            x.solve(lambda t, y: -y, 0.0, tf.constant(1.0), [1.0]).diagnostics.num_accepted_steps
            for x in (solver, number)
        ]
        return counts

    as_tensor, as_number = run(build, regime)
    assert as_tensor == as_number > 1


def test_step_size_may_be_an_eager_tensor_and_is_then_a_number():
    solver = solvers.DormandPrince(first_step_size=tf.constant(0.5))
    assert solver == solvers.DormandPrince(first_step_size=0.5)
    with pytest.raises(ValueError, match="Argument first_step_size must be a positive number"):
        solvers.DormandPrince(first_step_size=tf.constant(-0.5))
    # A variable would be a constant in the solver.
    with pytest.raises(TypeError, match="Argument first_step_size must be a positive number"):
        solvers.DormandPrince(first_step_size=tf.Variable(0.5))


@pytest.mark.parametrize("name", ["first_step_size", "max_step_size"])
@pytest.mark.parametrize("size", [-1.0, 0.0, float("nan")])
def test_tensor_that_is_no_step_size_raises_an_error(size, name):
    def build(size):
        solver = solvers.DormandPrince(**{name: size})
        return solver.solve(lambda t, y: -y, 0.0, tf.constant(1.0), [1.0]).states

    with pytest.raises(tf.errors.InvalidArgumentError, match=f"Argument {name} must be a positive"):
        in_mode(build, "graph")(tf.constant(size))
    assert np.isnan(in_mode(build, "xla")(tf.constant(size)))
