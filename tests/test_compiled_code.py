"""Compiler tests: what TensorFlow and XLA make of a solve.

They read traces and compiled programs, so that a new version of TensorFlow may break them. Nothing
that they guard is wrong then, but slow; each says what a user would notice.
"""

import math
import re

import numpy as np
import pytest
import tensorflow as tf
from all_gradients import ALL_GRADIENTS

from tf_neuralode import gradients, odeint, solvers


@pytest.mark.parametrize("gradient", ALL_GRADIENTS)
def test_xla_writes_a_row_at_a_time_and_as_a_vector(gradient):
    """Loops over short last axes have no vector instructions there; see `flat_state`."""

    @tf.function(jit_compile=True, autograph=False)
    def run(y0):
        times = np.linspace(0, 5, 13)
        return odeint(lambda t, y: tf.sin(y), y0, times, solver="bosh3", gradient=gradient).states

    compiled = run.experimental_get_compiler_ir(tf.ones([7, 3]))(stage="optimized_hlo")
    rows = re.findall(r"= f32\[(13,[\d,]*)\]\S* ([\w-]+)\(", compiled)
    written = {shape for shape, operation in rows if operation == "dynamic-update-slice"}
    assert written == {"13,21"}, "many output times under XLA would be twice as slow"
    # What leaves is what the loops have written, without a copy.
    leaving = {operation for shape, operation in rows if shape == "13,7,3"}
    assert leaving == {"bitcast"}, "many output times under XLA would take twice the memory"


def test_xla_copies_nothing_larger_than_a_state_inside_its_loops():
    """Neither the rows of the output times nor the room for the activations of all steps."""
    state_shape = (7, 3)

    @tf.function(jit_compile=True, autograph=False)
    def step(y0):
        with tf.GradientTape() as tape:
            tape.watch(y0)
            solver = solvers.Bosh3(1e-3, 1e-3, max_num_steps=64)
            gradient = gradients.Tape(checkpoint=False)
            times = np.linspace(0, 5, 13)
            results = odeint(lambda t, y: tf.sin(y), y0, times, solver=solver, gradient=gradient)
            loss = tf.reduce_sum(results.states**2)
        return tape.gradient(loss, y0)

    compiled = step.experimental_get_compiler_ir(tf.ones(state_shape))(stage="optimized_hlo")
    loops, _ = compiled.split("\nENTRY ")
    copied = re.findall(r"= \w+\[([\d,]*)\]\S* copy\(", loops)
    sizes = [math.prod(map(int, shape.split(","))) for shape in copied if shape]
    assert math.prod(state_shape) in sizes  # of the loop's own state, for one
    assert max(sizes) == math.prod(state_shape), "each step would be as slow as a whole solve"


def test_xla_knows_how_many_equal_steps_there_are_in_both_directions():
    @tf.function(jit_compile=True, autograph=False)
    def step(y0):
        with tf.GradientTape() as tape:
            tape.watch(y0)
            solver = solvers.RK4(num_steps=7)
            results = odeint(lambda t, y: tf.sin(y), y0, [0.0, 1.0], solver=solver, gradient="tape")
            loss = tf.reduce_sum(results.states[-1])
        return tape.gradient(loss, y0)

    compiled = step.experimental_get_compiler_ir(tf.ones([7, 3]))(stage="optimized_hlo")
    loops = [line for line in compiled.splitlines() if " while(" in line]
    known = [re.search(r"known_trip_count[^0-9]*(\d+)", loop) for loop in loops]
    assert [found and found[1] for found in known] == ["7", "7"], "a GPU would wait at each step"


@pytest.mark.parametrize("gradient", ["tape", "gauss_adjoint", "interpolating_adjoint"])
def test_what_solves_a_segment_again_is_traced_only_where_there_can_be_several(gradient):
    def num_calls_of_f(max_num_steps):
        calls = []

        def f(t, y):
            calls.append(t)
            return -y

        @tf.function(autograph=False)
        def step(y0):
            with tf.GradientTape() as tape:
                tape.watch(y0)
                solver = solvers.Bosh3(max_num_steps=max_num_steps)
                results = odeint(f, y0, [0.0, 1.0], solver=solver, gradient=gradient)
                loss = tf.reduce_sum(results.states)
            return tape.gradient(loss, y0)

        step.get_concrete_function(tf.TensorSpec([2]))
        return len(calls)

    # 32 steps are one segment whatever the memory; Bosh3 takes one again with three evaluations,
    # and its dense solution with four. An adjoint has two places for it, at the start and in its
    # loop.
    again = 3 if gradient == "tape" else 2 * 4
    found = num_calls_of_f(33) - num_calls_of_f(32)
    assert found == again, "a first call with few steps would be slower"
