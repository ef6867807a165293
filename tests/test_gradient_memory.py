"""Peak memory of the gradients, measured in processes of their own."""

import pathlib

import pytest
from subprocesses import run_python

HERE = pathlib.Path(__file__).parent


def megabytes(what, gradient, mode):
    environment = {
        "XLA_FLAGS": "",  # a thousand steps, which XLA does well to optimize
        # What is freed is given back at once. Else each thread of a busy machine keeps its own.
        "MALLOC_MMAP_THRESHOLD_": "131072",
    }
    done = run_python(
        HERE / "gradient_memory.py", what, gradient, mode, cwd=HERE.parent, **environment
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
    # The rest of the process moves by up to a quarter of a copy between two readings.
    assert megabytes("parameters", "gauss_adjoint", mode) <= 5.25 * copy


@pytest.mark.parametrize("mode", ["graph", "xla"])
@pytest.mark.parametrize("gradient", ["tape", "gauss_adjoint"])
def test_a_thousand_times_of_each_sample_take_memory_of_the_output_alone(gradient, mode):
    output = 1000 * 256 * 64 * 4 / 2**20
    # Three are the loss's own: rows, squares, cotangents. The rest copies rows and cotangents from
    # one layout to another. A step to each time would keep seven stages of each.
    assert megabytes("times", gradient, mode) <= 8 * output
