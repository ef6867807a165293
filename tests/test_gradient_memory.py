"""Peak memory of the gradients, measured in processes of their own."""

import pathlib

import pytest
from subprocesses import run_python

HERE = pathlib.Path(__file__).parent


def megabytes(what, gradient, mode):
    # A thousand steps, which XLA does well to optimize.
    done = run_python(
        HERE / "gradient_memory.py", what, gradient, mode, cwd=HERE.parent, XLA_FLAGS=""
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout)


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_tape_holds_square_root_many_of_a_thousand_states(mode):
    # 64 states of 1 MB as checkpoints, the rest for the activations of one step.
    assert megabytes("steps", "tape", mode) <= 150


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_gauss_adjoint_holds_at_most_five_copies_of_the_parameters(mode):
    copy = 4 * 3163**2 / 2**20
    assert megabytes("parameters", "gauss_adjoint", mode) <= 5 * copy
