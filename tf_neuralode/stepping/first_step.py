"""The first step of an adaptive solve.

Reference: Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, II.4 (HNW).
"""

from __future__ import annotations

import math

import tensorflow as tf

from tf_neuralode.field import Field
from tf_neuralode.methods import Norm
from tf_neuralode.stepping.types import Point
from tf_neuralode.tensors import advanced, each, quotient_or_zero

# Of a field that may depend on time, in fractions of the interval, so that the unit of time doesn't
# matter. A first step that the slope and its change speak for is at most this long, as is any step
# after an error of 0: a parameter whose factor is 0, as in a last layer of zeros, has a derivative
# that no error shows.
LARGEST_KNOWN_STEP = 0.1
# Where they vanish, or the error does, nothing is known of the field ahead: a step is at most so
# long,
LARGEST_BLIND_STEP = 0.01
# or three times as long as the last one. The three were found on 800 problems with one narrow
# pulse: with them the methods step over no more of the pulses than SciPy's, at its evaluations.
# The step to a trial point where nothing is known.
_BLIND_TRIAL = 1e-6


def first_step_size(
    field: Field,
    start: Point,
    longest_step: tf.Tensor,
    error_order: int,
    norm: Norm,
    span: tf.Tensor | None = None,
) -> tf.Tensor:
    """Size of a first step that suits the field.

    Takes one evaluation of f, at an explicit Euler step h0 that changes y by about 1 % of its size
    (HNW, II.4), for a second derivative. With norms d in units of the tolerance and
    rate = d(y'') / d(y'), where the derivatives are taken to go on growing in that proportion, the
    error of a step h, as a Taylor polynomial's of the embedded order q, is

        d(y^(q+1)) h^(q+1) / (q+1)! = d(y') (rate h)^(q+1) / (rate (q+1)!)

    The step makes that 1: a pair's own estimate is smaller, by ten in the common ones. HNW's own
    rule takes the first and second derivatives for the one of order q + 1, so that its step, in
    smooth fields a tenth of what the tolerance allows, depends on the unit of time.

    Where the norm is one of each sample, so is all of this, and of samples with one clock the
    shortest step is taken: a sample that rests asks for none.

    Args:
      field: What is solved.
      start: With its carry.
      longest_step: The longest step allowed.
      error_order: Order of the embedded solution.
      norm: Of errors.
      span: Length of the interval, if f may depend on time. Then the step is at most 10 % of it,
        and 1 % where the slope or its change is 0: f may begin to move the state later. For an
        autonomous f a slope of 0 stays.
    """
    t0, y0, slope = start.t, start.y, start.slope

    def constant(value):
        return tf.constant(value, t0.dtype)

    def shortest(steps):
        return steps if norm.clock_rank else tf.reduce_min(steps)

    d0 = norm.of_samples(y0, y0)
    # A field may be steep by any power of ten.
    d1 = norm.without_overflow(slope, y0)
    flat = d1 < constant(1e-5)
    d1 = tf.where(flat, tf.ones_like(d1), d1)
    # Samples that are zero, or rest, say nothing of a trial step.
    known = ~flat & (d0 >= constant(1e-5))
    # The change of the slope over h0 is to stand out from the field's rounding.
    part = constant(max(0.01, math.sqrt(norm.field_epsilon)))
    unknown_h0 = constant(t0.dtype.max)
    h0 = shortest(tf.where(known, part * d0 / d1, unknown_h0))
    trial = constant(1e-6) if span is None else constant(_BLIND_TRIAL) * span
    h0 = tf.minimum(tf.where(h0 < unknown_h0, h0, trial), longest_step)
    # A constant, so that a v1 graph finds no way through it to the variables that f reads.
    h0 = tf.stop_gradient(h0)
    k1 = field(t0 + h0, advanced(y0, h0, [1.0], [slope]))
    d_change = norm.without_overflow(each(tf.subtract, k1, slope), y0)
    noise = norm.noise(slope)
    if noise is not None:
        seen = d_change - norm.without_overflow(noise, y0)
        d_change = tf.maximum(seen, tf.zeros_like(seen))
    # Without an interval h0 is 0.
    rate = quotient_or_zero(d_change / d1, h0)
    q = error_order
    h1 = (constant(math.factorial(q + 1)) * rate / d1) ** constant(1 / (q + 1))
    h1 = quotient_or_zero(h1, rate)
    # Where the slope doesn't change, y does: at most by its own size.
    h1 = tf.where(tf.equal(rate, 0), longest_step, h1)
    # A field that overflows at the trial point says nothing of the step; the loop finds out.
    h1 = tf.where(tf.math.is_finite(h1) & (h1 > 0), h1, h0)
    longest = constant(100.0) * h0
    if span is not None:
        blind = constant(LARGEST_BLIND_STEP) * span
        longest = tf.minimum(longest, constant(LARGEST_KNOWN_STEP) * span)
        unknown = norm.of.counts(~known | tf.equal(rate, 0))
        longest = tf.where(unknown, tf.where(known, tf.minimum(longest, blind), blind), longest)
    h = tf.minimum(shortest(tf.minimum(longest, h1)), longest_step)
    return tf.where(tf.math.is_finite(h), h, h0)
