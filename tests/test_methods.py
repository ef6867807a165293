"""Methods: tableau, order and interpolant."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from all_solvers import ADAPTIVE, FIXED
from modes import MODES, in_mode
from problems import DETEST

from tf_neuralode import odeint, solvers
from tf_neuralode.field.field import Field
from tf_neuralode.methods import interpolation
from tf_neuralode.stepping import loop
from tf_neuralode.stepping.equal import EqualSteps
from tf_neuralode.stepping.types import Point

METHODS = ADAPTIVE + FIXED
# The methods with an interpolant of their own; the others have cubic Hermite, of order 3 at most.
DENSE_ORDER = {"DormandPrince": 4, "Tsit5": 4, "Verner6": 4, "DormandPrince8": 7}

# The orbit of eccentricity 0.3: nonlinear, of four components, and known exactly.
ORBIT = next(problem for problem in DETEST if problem.name == "D2")


FIELD = Field(lambda t, y, _: [ORBIT.tf_field(t, y[0])])


def observed_orders(step_sizes, errors):
    return -np.diff(np.log(errors)) / -np.diff(np.log(step_sizes))


@pytest.mark.core
@pytest.mark.parametrize("method", METHODS)
def test_measured_order_is_declared_order(method):
    end = 3.0
    start = tf.constant(ORBIT.y0, tf.float64)

    @tf.function(autograph=False)
    def solve(num_steps):
        t0, t1 = tf.constant(0.0, tf.float64), tf.constant(end, tf.float64)
        point = Point(t0, [start])
        return loop.solve(method().method, EqualSteps(num_steps, point, t1), FIELD, point).y[0]

    # Steps small enough for the leading term, and errors still far above rounding.
    fewest = {1: 8192, 2: 512, 3: 256, 4: 512, 5: 128, 6: 64, 8: 32}[method.order]
    counts = fewest * np.array([2, 3, 4]) // 2
    exact = ORBIT.reference([end])[0]
    errors = [np.abs(solve(tf.constant(n, tf.int32)).numpy() - exact).max() for n in counts]
    # 0.4: the next term of the error still shows at these step sizes, and no other order fits.
    np.testing.assert_allclose(observed_orders(1 / counts, errors), method.order, atol=0.4)


@pytest.mark.parametrize("method", METHODS)
def test_measured_order_of_the_interpolant_is_its_declared_order(method):
    expected = DENSE_ORDER.get(method.__name__, min(method.order, 3))
    method = method().method
    start = [tf.constant(ORBIT.y0, tf.float64)]
    t = tf.constant(0.0, tf.float64)
    thetas = np.linspace(0.1, 0.9, 9)

    def error(h):
        """Of one step's dense solution, from the exact state: of order h^(p + 1)."""
        t_next = tf.constant(h, tf.float64)
        taken = method.step(FIELD, t, t_next, start, FIELD(t, start))
        coefficients = method.dense(FIELD, t, t_next, start, taken)
        values = interpolation.evaluate(coefficients, tf.constant(thetas))[0].numpy()
        return np.abs(values - ORBIT.reference(thetas * h)).max()

    sizes = (0.2 if expected == 7 else 0.04) / 2 ** np.arange(3)
    orders = observed_orders(sizes, [error(h) for h in sizes])
    np.testing.assert_allclose(orders, expected + 1, atol=0.3)


@pytest.mark.parametrize("method", METHODS)
def test_interpolant_meets_the_state_at_both_ends_of_a_step(method):
    method = method().method
    start = [tf.constant(ORBIT.y0, tf.float64)]
    t, t_next = tf.constant(0.0, tf.float64), tf.constant(0.1, tf.float64)
    taken = method.step(FIELD, t, t_next, start, FIELD(t, start))
    coefficients = method.dense(FIELD, t, t_next, start, taken)
    ends = interpolation.evaluate(coefficients, tf.constant([0.0, 1.0], tf.float64))[0]
    # Rounding of weights of size 30.
    np.testing.assert_allclose(ends, [start[0], taken.y1[0]], atol=1e-13)


def test_fsal_is_derived_from_the_coefficients():
    fsal = {method.__name__ for method in METHODS if method.tableau.fsal}
    assert fsal == {
        "DormandPrince",
        "Tsit5",
        "Verner6",
        "SofroniouSpaletta4",
        "Bosh3",
        "DormandPrince8",
    }
    for method in METHODS:
        extended = method.tableau.with_fsal
        assert extended.fsal
        added = extended.num_stages - method.tableau.num_stages
        assert added == (method.__name__ not in fsal)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": ((), (1 / 2,), (0, 0.7), (2 / 9, 1 / 3, 4 / 9))}, "row 2 of a must sum to 0.75"),
        ({"b": (2 / 9, 1 / 3, 1 / 3, 0)}, "b must sum to 1.0"),
        ({"b_err": (-5 / 72, 1 / 12, 1 / 9, 0)}, "b_err must sum to 0.0"),
        ({"b": (2 / 9, 1 / 3, 4 / 9)}, "entry b must have one item for each of the 4 nodes"),
        ({"b_err": (0, 0)}, "entry b_err must have one item for each of the 4 nodes"),
        ({"a": ((), (1 / 2,), (0, 3 / 4))}, "entry a must have one item"),
        ({"a": ((0,), (1 / 2,), (0, 3 / 4), (0, 0, 1))}, "Row i of tableau entry a must have i"),
        ({"c": (0, 1 / 2, 5 / 4, 1)}, r"must start at 0 and lie in \[0, 1\]"),
    ],
)
def test_tableau_checks_itself(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(solvers.Bosh3.tableau, **change)


class Fehlberg(solvers.AdaptiveRungeKutta):
    """Fehlberg 4(5), as a user adds it: not FSAL, with cubic Hermite output."""

    order = 4
    error_order = 4
    tableau = solvers.ButcherTableau(
        c=(0, 1 / 4, 3 / 8, 12 / 13, 1, 1 / 2),
        a=((), (1 / 4,), (3 / 32, 9 / 32), (1932 / 2197, -7200 / 2197, 7296 / 2197),
           (439 / 216, -8, 3680 / 513, -845 / 4104),
           (-8 / 27, 2, -3544 / 2565, 1859 / 4104, -11 / 40)),
        b=(25 / 216, 0, 1408 / 2565, 2197 / 4104, -1 / 5, 0),
        b_err=(-1 / 360, 0, 128 / 4275, 2197 / 75240, -1 / 50, -2 / 55),
    )  # fmt: skip


@pytest.mark.core
@pytest.mark.parametrize("mode", MODES)
def test_method_added_in_a_dozen_lines_works(mode):
    def solve(y0):
        solver = Fehlberg(rtol=1e-9, atol=1e-9)
        return odeint(ORBIT.tf_field, y0, [0.0, 1.0, 5.0], solver=solver)

    results = in_mode(lambda y0: solve(y0)[:3], mode)(tf.constant(ORBIT.y0, tf.float64))
    # The error of a whole solve is a few hundred times the tolerance of a step, as SciPy's is.
    np.testing.assert_allclose(results[1], ORBIT.reference([0.0, 1.0, 5.0]), atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_added_method_has_gradients(mode):
    def gradient(rate):
        with tf.GradientTape() as tape:
            tape.watch(rate)
            y0 = tf.ones([], tf.float64)
            solver = Fehlberg(rtol=1e-9, atol=1e-9)
            results = odeint(lambda t, y, p: -p * y, y0, [0.0, 2.0], rate, solver=solver)
            end = results.states[-1]
        return tape.gradient(end, rate)

    result = in_mode(gradient, mode)(tf.constant(0.7, tf.float64))
    np.testing.assert_allclose(result, -2 * np.exp(-1.4), rtol=1e-7)


class HeunTwice(solvers.FixedStepRungeKutta):
    """Heun's method whose second stage repeats the first: a row of zeros."""

    order = 2
    tableau = solvers.ButcherTableau(c=(0, 0, 1), a=((), (0,), (0, 1)), b=(1 / 4, 1 / 4, 1 / 2))


def test_a_stage_may_repeat_the_first():
    y0 = tf.constant(ORBIT.y0, tf.float64)
    solve = lambda solver: odeint(ORBIT.tf_field, y0, [0.0, 1.0], solver=solver).states[-1]
    # The same sums in another order.
    np.testing.assert_allclose(solve(HeunTwice(10)), solve(solvers.Heun(10)), rtol=1e-13)
