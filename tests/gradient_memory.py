"""Prints a gradient's peak memory in MB; a process of its own, since peaks don't go down.

    python gradient_memory.py {steps,parameters,times} GRADIENT MODE

The same program has run on a small problem before, so that what tracing, compiling and the runtime
take is part of the baseline.
"""

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import psutil
import tensorflow as tf

from tf_neuralode import odeint, solvers

MEGABYTE = 2**20


def peak_memory(run, small, large):
    """Growth of the resident set's peak from a warm run on `small` to one on `large`, in MB."""
    for _ in range(2):
        run(*small)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # resets the peak, see proc(5)
    baseline = psutil.Process().memory_info().rss
    run(*large)
    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / MEGABYTE - baseline / MEGABYTE


def compiled(field, solver, gradient, mode, of_rows=lambda states: states[-1], **options):
    """Gradients of y0 and w as a function of them, of any shape, and of the output times."""

    @tf.function(jit_compile=mode == "xla", reduce_retracing=True, autograph=False)
    def function(y0, w, times):
        with tf.GradientTape() as tape:
            tape.watch([y0, w])
            results = odeint(field, y0, times, w, solver=solver, gradient=gradient, **options)
            loss = tf.reduce_sum(of_rows(results.states))
        return tape.gradient(loss, [y0, w]), results.diagnostics.num_accepted_steps

    def run(y0, w, times=(0.0, 1.0)):
        gradients, num_steps = function(y0, w, tf.constant(times, tf.float32))
        for g in gradients:
            g.numpy()
        return int(num_steps)

    return run


def many_steps(gradient, mode):
    """1,000 steps, room for 1,000, of a state of 1 MB."""
    solver = solvers.Bosh3(first_step_size=1e-3, max_step_size=1e-3, max_num_steps=1001)
    run = compiled(lambda t, y, w: tf.tanh(w * y), solver, gradient, mode)
    state = lambda size: tf.random.stateless_normal([size], [0, 0])
    small, large = [(state(size), tf.constant(-0.5)) for size in (16, MEGABYTE // 4)]
    assert run(*small) >= 1000
    return peak_memory(run, small, large)


def many_parameters(gradient, mode):
    """10 million parameters, 40 MB; the large ones are made before the baseline is read."""
    solver = solvers.DormandPrince(1e-3, 1e-3)
    run = compiled(lambda t, y, w: tf.tanh(y @ w), solver, gradient, mode)

    def problem(size):
        normal = lambda shape: tf.random.stateless_normal(shape, [0, 0])
        return normal([8, size]), normal([size, size]) / size

    large = problem(3163)
    assert tf.size(large[1]) > 10_000_000
    return peak_memory(run, problem(4), large)


def many_times(gradient, mode):
    """A thousand times of each of 256 samples, states of 64 numbers: an output of 62.5 MB."""
    solver = solvers.DormandPrince(1e-3, 1e-3, max_num_steps=100)
    run = compiled(lambda t, y, w: tf.tanh(w * y), solver, gradient, mode, tf.square, batch_ndims=1)

    def problem(batch, num_times):
        y0 = tf.random.stateless_normal([batch, 64], [0, 0])
        drawn = np.random.default_rng(0).uniform(0, 1, (num_times, batch))
        return y0, tf.constant(-0.5), np.sort(drawn, axis=0)

    return peak_memory(run, problem(2, 10), problem(256, 1000))


if __name__ == "__main__":
    what, gradient, mode = sys.argv[1:]
    measure = {"steps": many_steps, "parameters": many_parameters, "times": many_times}[what]
    print(f"{measure(gradient, mode):.0f}")
