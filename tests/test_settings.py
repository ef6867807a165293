"""Settings as objects: which don't fit each other, which are equal, how they print."""

import copy
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from all_gradients import ALL_GRADIENTS

from tf_neuralode import NeuralODE, gradients, odeint, solvers


def layer(**settings):
    return NeuralODE(keras.layers.Dense(3), **settings)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"solver": tfp.math.ode.BDF(), "gradient": gradients.Adjoint(rtol=1e-3)},
            ValueError,
            r"need a solver of tf_neuralode.*make_adjoint_solver_fn.*Received: solver=BDF",
        ),
        ({"rtol": []}, ValueError, r"rtol must not be empty.*Received: rtol=\[\]"),
        (
            {"t_eval": [0.0], "return_sequences": True},
            ValueError,
            r"t_eval must hold a time behind t_span\[0\].*Received",
        ),
    ],
    ids=["tolerances of a stock solver", "no tolerance", "no time to solve to"],
)
def test_settings_that_do_not_fit_are_named(settings, error, message):
    with pytest.raises(error, match=message):
        layer(**settings)


def test_times_that_are_equal_in_the_precision_of_the_state_are_an_error():
    ode = layer(t_span=(0.0, 1.0), t_eval=[1 - 1e-9, 1.0], return_sequences=True)
    with pytest.raises(ValueError, match=r"must hold times that differ in float32.*Received"):
        ode(np.zeros((2, 3), "float32"))


def test_times_of_each_sample_are_as_many_as_the_samples():
    with pytest.raises(ValueError, match=r"a row for each sample.*\(3, 2\), y0 of shape \(2, 3\)"):
        layer()(np.zeros((2, 3), "float32"), np.array([[0.5, 1.0]] * 3, "float32"))


def test_times_of_odeint_are_real_numbers():
    with pytest.raises(TypeError, match=r"t must hold real numbers.*Received"):
        odeint(lambda t, y: -y, np.ones(2), ["0", "1"])


@pytest.mark.parametrize("gradient", [gradients.Adjoint, gradients.GaussAdjoint])
def test_equal_steps_have_no_backward_tolerances(gradient):
    with tf.GradientTape() as tape:
        y0 = tf.Variable(np.ones(2))
        with pytest.raises(ValueError, match=r"need an adaptive solver.*Received: solver=RK4"):
            states = odeint(
                lambda t, y: -y, y0, [0.0, 1.0], solver="rk4", gradient=gradient(rtol=1e-3)
            ).states
            tape.gradient(states, y0)


def test_a_tolerance_of_a_graph_can_be_solved_with_but_not_saved():
    def gradient(y0, atol):
        with tf.GradientTape() as tape:
            tape.watch(y0)
            solver = solvers.Tsit5(1e-6, atol)
            end = odeint(lambda t, y: -(y**2), y0, [0.0, 1.0], solver=solver).states[-1]
        return tape.gradient(end, y0), solver

    y0 = tf.constant([1.0, 2.0], tf.float64)
    atol = tf.constant([1e-6, 1e-8], tf.float64)

    @tf.function(autograph=False)
    def in_a_graph(y0, atol):
        result, solver = gradient(y0, atol)
        with pytest.raises(ValueError, match=r"inside a tf.function can't be serialized"):
            solver.get_config()
        return result

    expected, _ = gradient(y0, atol.numpy())
    # The same arithmetic, but for rounding.
    np.testing.assert_allclose(in_a_graph(y0, atol), expected, rtol=1e-12)
    # y(t) = y0 / (1 + y0 t), so dy(1)/dy0 = 1 / (1 + y0)^2; tolerances of 1e-6, times ten.
    np.testing.assert_allclose(expected, 1 / (1 + y0) ** 2, atol=1e-5)


@pytest.mark.parametrize("name", ALL_GRADIENTS)
def test_gradients_with_equal_settings_are_equal(name):
    one, other = gradients.get(name), gradients.get(name)
    assert one == other and hash(one) == hash(other)
    setting = {"checkpoint": False} if "checkpoint" in one.get_config() else {"rtol": 1e-3}
    assert one != type(one)(**setting)
    assert all(one != gradients.get(another) for another in ALL_GRADIENTS if another != name)
    assert repr(one).startswith(f"{type(one).__name__}(")
    assert all(f"{key}={value!r}" in repr(one) for key, value in one.get_config().items())


def test_a_gradient_of_the_users_own_needs_no_settings():
    class Mine(gradients.Gradient):
        """Nothing of it is solved here."""

    assert Mine() == Mine() != gradients.Tape()
    assert Mine.from_config(Mine().get_config()) == Mine()
    assert repr(Mine()) == "Mine()"


def some_of_each():
    """A solver of each kind, with a setting that isn't the default."""
    for name in solvers.names():
        solver = solvers.get(name)
        changes = {"max_step_size": 0.5} if solver.is_adaptive else {"num_steps": 7}
        yield solver.copy(**changes)
    yield solvers.EqualSteps("bosh3", 7)


@pytest.mark.parametrize("solver", [*some_of_each()], ids=lambda solver: type(solver).__name__)
def test_a_solver_is_its_settings(solver):
    for twin in (pickle.loads(pickle.dumps(solver)), copy.deepcopy(solver), solver.copy()):
        assert twin == solver and hash(twin) == hash(solver) and type(twin) is type(solver)
    assert {name: getattr(solver, name) for name in solver.read_only}.items() <= (
        solver.get_config().items()
    )
    default = type(solver)("bosh3") if type(solver) is solvers.EqualSteps else type(solver)()
    assert solver != default
    # A solve leaves nothing behind.
    before = dict(vars(solver))
    odeint(lambda t, y: -y, tf.ones([2]), [0.0, 1.0], solver=solver, gradient="tape")
    assert {**vars(solver), "method": None} == {**before, "method": None}


def test_a_copy_is_checked_like_a_new_one():
    with pytest.raises(ValueError, match="Argument rtol must be positive"):
        solvers.Tsit5().copy(rtol=-1)
    with pytest.raises(TypeError, match="tolerance"):
        solvers.Tsit5().copy(tolerance=1e-3)
    with pytest.raises(AttributeError, match="rtol is fixed at construction"):
        solvers.Tsit5().rtol = 1e-5
