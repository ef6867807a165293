"""What the page on differentiation says of Jacobians, vectorized maps and forward mode."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from all_gradients import ALL_GRADIENTS

from tf_neuralode import NeuralODE, gradients, odeint, solvers

KEPT = gradients.Tape(checkpoint=False)
FIXED, ADAPTIVE = solvers.RK4(4), solvers.Bosh3(1e-4, 1e-4)
Y0 = tf.constant([[1.0, 2.0]])
# y' = a y, of which exp(a) is the Jacobian.
RATES = tf.constant([[0.0, 1.0], [-1.0, 0.0]])
JACOBIAN = np.array([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]])


def solve(y0, gradient, solver):
    return odeint(lambda t, y: y @ RATES, y0, [0.0, 1.0], solver=solver, gradient=gradient).states[
        -1
    ]


def jacobian(gradient, solver, batch=False, pfor=True):
    @tf.function(autograph=False)
    def function(y0):
        with tf.GradientTape() as tape:
            tape.watch(y0)
            y1 = solve(y0, gradient, solver)
        of = tape.batch_jacobian if batch else tape.jacobian
        return tf.reshape(of(y1, y0, experimental_use_pfor=pfor), [2, 2])

    return function(Y0)


def vectorizes(gradient, solver):
    return gradient in ("tape", KEPT) or (solver is FIXED and gradient != "adjoint")


CASES = [(g, s) for g in [*ALL_GRADIENTS, KEPT] for s in (FIXED, ADAPTIVE)]
per_case = pytest.mark.parametrize(
    ("gradient", "solver"), CASES, ids=[f"{g}-{type(s).__name__}" for g, s in CASES]
)


@per_case
def test_jacobians_in_a_graph(gradient, solver):
    # The tolerance, and as much in four steps of RK4.
    close = lambda found: np.testing.assert_allclose(found, JACOBIAN, atol=1e-3)
    if vectorizes(gradient, solver):
        close(jacobian(gradient, solver))
        close(jacobian(gradient, solver, batch=True))
    else:
        # TensorFlow's own.
        with pytest.raises((ValueError, AssertionError)):
            jacobian(gradient, solver)
    close(jacobian(gradient, solver, pfor=False))


@pytest.mark.parametrize("gradient", ALL_GRADIENTS)
def test_maps_over_solves(gradient):
    several = tf.constant([[[1.0, 2.0]], [[0.0, 1.0]]])
    expected = several @ JACOBIAN.T
    for run, solver in ((tf.vectorized_map, FIXED), (tf.map_fn, FIXED), (tf.map_fn, ADAPTIVE)):
        found = run(lambda y0, solver=solver: solve(y0, gradient, solver), several)
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("gradient", [*ALL_GRADIENTS, KEPT], ids=str)
def test_forward_mode_is_right_or_says_what_to_do(gradient):
    tangent = tf.constant([[0.5, -1.0]])

    def forward():
        with tf.autodiff.ForwardAccumulator(Y0, tangent) as accumulator:
            y1 = solve(Y0, gradient, FIXED)
        return accumulator.jvp(y1)

    if gradient is KEPT:
        np.testing.assert_allclose(forward(), tangent @ JACOBIAN.T, atol=1e-3)
    else:
        with pytest.raises(LookupError, match=r"nor any in forward mode; use .*checkpoint=False"):
            forward()


def test_rematerialization_of_a_dynamics_is_an_error_at_build():
    with keras.RematScope(mode="full"):
        layer = NeuralODE(keras.layers.Dense(2))
        with pytest.raises(ValueError, match=r"keras.RematScope.*Drop the rematerialization"):
            layer.build((None, 2))
