"""Room for steps: what is used in a graph, all of it under XLA, or a refusal."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from all_gradients import ALL_GRADIENTS
from modes import in_mode
from subprocesses import run_python

from tf_neuralode import odeint, solvers

HERE = pathlib.Path(__file__).parent
MANY = 2**31 - 1

SOLVE = f"""
import resource, sys
import tensorflow as tf
from modes import in_mode
from tf_neuralode import odeint, solvers

# Room for so many times alone would be 8 GiB; TensorFlow itself takes some of address space.
resource.setrlimit(resource.RLIMIT_DATA, (6 * 2**30, 6 * 2**30))
solver = solvers.DormandPrince(1e-6, 1e-6, max_num_steps={MANY})

def gradient_of(y0):
    with tf.GradientTape() as tape:
        tape.watch(y0)
        results = odeint(
            lambda t, y: -y, y0, [0.0, 0.5, 1.0], solver=solver, gradient=gradient,
            dense_output=True,
        )
        loss = tf.reduce_sum(results.states[-1])
    return tape.gradient(loss, y0), results.solution.evaluate(0.3)

for gradient in sys.argv[1:]:
    for mode in ("eager", "graph"):
        found = in_mode(gradient_of, mode)(tf.ones([2], tf.float64))
        print(*[float(x[0]) for x in found], flush=True)
"""


def test_no_bound_of_the_steps_takes_no_memory():
    # One process, which takes seconds to start.
    done = run_python("-c", SOLVE, *ALL_GRADIENTS, cwd=HERE.parent)
    assert done.returncode == 0, (done.stdout, done.stderr[-2000:])
    found = np.array([line.split() for line in done.stdout.splitlines()], float)
    # Ten times the tolerance.
    expected = [np.exp([-1.0, -0.3])] * 2 * len(ALL_GRADIENTS)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("gradient", [name for name in ALL_GRADIENTS if name != "adjoint"])
def test_under_xla_it_is_refused_with_the_arithmetic(gradient):
    solver = solvers.DormandPrince(max_num_steps=MANY)
    solve = lambda y: odeint(lambda t, y: -y, y, [0.0, 1.0], solver=solver, gradient=gradient)
    with pytest.raises(ValueError, match=r"max_num_steps is room.*8.0 GiB.*smaller max_num_steps"):
        in_mode(lambda y: solve(y).states, "xla")(tf.ones([2]))
