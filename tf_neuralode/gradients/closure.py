"""Finds gradients that would get lost: those of tensors that f closes over."""

from __future__ import annotations

import tensorflow as tf

from tf_neuralode.gradients.gradient import Problem
from tf_neuralode.solvers import AdaptiveRungeKutta
from tf_neuralode.solvers.runge_kutta import State


def first_slope(problem: Problem) -> State | None:
    """F at the initial time, made to raise an error if a gradient would get lost; or `None`.

    A method with a backward pass of its own gives no gradient to a tensor that f closes over. So
    f's first evaluation, which the solve needs anyway, is made in sight of the surrounding tapes,
    with the state and the parameters as constants: what a tape then records of it depends on
    something else that it watches. The slope goes into the solve through an identity whose
    gradient is asked for just in that case, and is an error (under XLA it is NaN).

    Not for fixed steps, whose loop takes no first slope from outside, nor where f reads
    `tf.Variable`s, which get their gradients and can't be told from other dependences.

    Returns:
      The slope as the solve should take it, or `None` where nothing was checked.
    """
    if not isinstance(problem.solver, AdaptiveRungeKutta):
        return None
    constants = [tf.stop_gradient(x) for x in (*problem.y0, *problem.params)]
    y0, params = constants[: len(problem.y0)], constants[len(problem.y0) :]
    with tf.GradientTape() as tape:
        slope = problem.f(problem.times[0], y0, params)
    if tape.watched_variables():
        return [tf.stop_gradient(k) for k in slope]
    return _alarm(slope)


_MESSAGE = (
    "f closes over a tensor that a GradientTape watches, or that depends on one; its gradient "
    "would get lost. Pass it in params, or through tf.stop_gradient if no gradient is wanted. With "
    "gradients.Tape(checkpoint=False) it gets its gradient."
)


def _alarm(slope: State) -> State:
    forward_graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()

    @tf.custom_gradient
    def identity(*slope):
        def grad(*d_slope):
            if tf.executing_eagerly():
                raise ValueError(_MESSAGE)
            nan = [d + tf.constant(float("nan"), d.dtype) for d in d_slope]
            # Saving a model makes the gradient of each operation, in a graph apart, and a restored
            # one runs it even where tf.stop_gradient then drops it: an assertion would fail there.
            if not _is_inside(forward_graph):
                return nan
            # XLA drops the assertion and leaves the NaN.
            with tf.control_dependencies([tf.debugging.Assert(False, [_MESSAGE])]):
                return [tf.identity(d) for d in nan]

        return [tf.identity(k) for k in slope], grad

    return list(identity(*slope))


def _is_inside(outer: tf.Graph | None) -> bool:
    """Whether the graph being built is `outer` or one of its branches and loop bodies."""
    graph = tf.compat.v1.get_default_graph()
    while graph is not None:
        if graph is outer:
            return True
        graph = getattr(graph, "outer_graph", None)
    return False
