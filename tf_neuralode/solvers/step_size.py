"""Tolerances, automatic first step and step-size control of the adaptive methods.

Reference: Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, II.4 (HNW).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tf_neuralode.not_finite import quotient_or_zero
from tf_neuralode.solvers.error_norm import ErrorNorm
from tf_neuralode.solvers.runge_kutta import State, advanced

# The error of a step that happens to be zero must not become an infinite step; the bounds of the
# factor cut in long before this.
_SMALLEST_ERROR = 1e-10
# As in Hairer's DOPRI5: one lucky step must not hold back the next.
_SMALLEST_PREVIOUS_ERROR = 1e-4

# Of a field that may depend on time, in fractions of the interval, so that the unit of time doesn't
# matter. A first step that the slope and its change speak for is at most this long, as is any step
# after an error of 0: a parameter whose factor is 0, as in a last layer of zeros, has a derivative
# that no error shows.
LARGEST_KNOWN_STEP = 0.1
# Where they vanish, or the error does, nothing is known of the field ahead: a step is at most so
# long,
LARGEST_BLIND_STEP = 0.01
# or so many times as long as the last one. The three were found on 800 problems with one narrow
# pulse: with them the methods step over no more of the pulses than SciPy's, at its evaluations.
BLIND_GROWTH = 3.0
# The step to a trial point where nothing is known.
_BLIND_TRIAL = 1e-6


def _without_overflow(norm: ErrorNorm, scaled: State) -> tf.Tensor:
    """`norm.of_samples`, where the squares of large entries may be more than the dtype holds."""
    largest = tf.reduce_max([tf.reduce_max(x) for x in scaled])
    # An empty leaf has the maximum -inf.
    usable = tf.math.is_finite(largest) & (largest > 0)
    unit = tf.where(usable, largest, tf.ones_like(largest))
    return unit * norm.of_samples([x / unit for x in scaled])


def _flatten_up_to(structure, value) -> list:
    """What `value` holds for each leaf of `structure`: numbers, arrays or lists."""
    if not tf.nest.is_nested(structure):
        raise ValueError("a single tensor has no structure")
    places = tf.nest.pack_sequence_as(structure, range(len(tf.nest.flatten(structure))))
    found: dict[int, Any] = {}
    keras.tree.map_structure_up_to(places, found.__setitem__, places, value)
    return [found[place] for place in sorted(found)]


def _leaves(name: str, value, y: State, structure) -> State:
    """The tolerance of each leaf, in the leaf's precision."""
    received = f"Received: {name}={value}"
    values = [value] * len(y)
    # For a state that is one tensor a list is an array.
    if isinstance(value, dict) or (tf.nest.is_nested(structure) and tf.nest.is_nested(value)):
        try:
            values = _flatten_up_to(structure, value)
        except (TypeError, ValueError):
            raise ValueError(
                f"Argument {name} must be a number, an array, or have the structure of the state. "
                f"{received}"
            ) from None
    result = []
    for leaf, held, x in zip(values, y, tf.nest.flatten(structure), strict=True):
        dtype = x.dtype.real_dtype
        leaf = tf.cast(leaf, dtype) if tf.is_tensor(leaf) else tf.constant(leaf, dtype)
        try:
            fits = tf.broadcast_static_shape(leaf.shape, x.shape).is_compatible_with(x.shape)
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                f"Argument {name} must broadcast against the state, of shape {x.shape}. {received}"
            )
        if leaf.shape.rank > 0 and held.shape.rank < x.shape.rank:
            # The state is held as a vector, see `flat_state`.
            leaf = tf.reshape(tf.broadcast_to(leaf, tf.shape(x)), [-1])
        result.append(leaf)
    return result


class Tolerances(NamedTuple):
    """`rtol` and `atol`, each a list with a tensor for each leaf of the state.

    `field_epsilon` is that of a field with fewer bits than its state, see `precision`, or 0.
    """

    rtol: State
    atol: State
    dtype: tf.DType
    field_epsilon: float = 0.0

    @classmethod
    def broadcast(cls, rtol, atol, y: State, pack, dtype: tf.DType) -> Tolerances:
        """From scalars, arrays, or nests of the structure that `pack` gives the state.

        Raises:
          ValueError: if they have another structure, or don't broadcast against the state.
        """
        structure = pack(y)
        return cls(_leaves("rtol", rtol, y, structure), _leaves("atol", atol, y, structure), dtype)

    def scaled(
        self, values: State, y: State, y1: State | None = None, noise: State | None = None
    ) -> State:
        """`|values| / (atol + rtol max(|y|, |y1|) + noise)`, real, in the time's dtype."""
        result = []
        for i, value in enumerate(values):
            size = tf.abs(y[i])
            if y1 is not None:
                size = tf.maximum(size, tf.abs(y1[i]))
            scale = self.atol[i] + self.rtol[i] * size
            if noise is not None:
                scale += noise[i]
            ratio = tf.abs(value) / scale
            result.append(tf.cast(ratio, self.dtype))
        return result

    def noise(self, slope: State, norm: ErrorNorm) -> State | None:
        """What rounding in the field makes of a slope, real; `None` if it has full precision.

        Of each entry alike, as the products of a network's last layer are all rounded at their
        common size.
        """
        if not self.field_epsilon:
            return None
        sizes = norm.size_of_samples(slope)
        # Rounding is off by half a spacing at most.
        return [tf.constant(self.field_epsilon / 2, x.dtype) * x for x in sizes]


class StepSizeController(NamedTuple):
    """Proportional-integral control (HNW, II.4; Gustafsson 1991).

    After an accepted step the next one is

        h * clip(safety_factor * error^(-1/q + 0.75 beta) * previous_error^beta,
                 min_step_size_factor, max_step_size_factor),   q = error_order + 1

    and does not grow just after a rejection. After a rejected one the integral part is left out.
    """

    error_order: int
    safety_factor: float
    min_step_size_factor: float
    max_step_size_factor: float
    beta: float

    def factor_after_accepted(self, error, previous_error, after_rejection):
        """Factor on the step after one whose error was at most 1."""
        error = tf.maximum(error, _SMALLEST_ERROR)
        factor = self.safety_factor * error ** (0.75 * self.beta - 1 / (self.error_order + 1))
        if self.beta:
            factor *= tf.maximum(previous_error, _SMALLEST_PREVIOUS_ERROR) ** self.beta
        growing = tf.clip_by_value(factor, self.min_step_size_factor, self.max_step_size_factor)
        return tf.where(after_rejection, tf.minimum(growing, 1.0), growing)

    def factor_after_rejected(self, error):
        """Factor on the step after one whose error was above 1, or not a number."""
        # What an error of 0, of an accepted step, gives here isn't used.
        error = tf.where(tf.equal(error, 0), tf.ones_like(error), error)
        factor = self.safety_factor * error ** (-1 / (self.error_order + 1))
        factor = tf.where(tf.math.is_finite(factor), factor, tf.zeros_like(factor))
        return tf.clip_by_value(factor, self.min_step_size_factor, 1.0)


def limit_blind_growth(grown, h, error, span):
    """`grown`, the step after `h`, where the field may depend on time: bounded if `error` is 0.

    It is 0 where the field vanishes or is constant, and then says nothing of what comes: a step may
    pass over a pulse that lies between its nodes.
    """

    def constant(value):
        return tf.constant(value, h.dtype)

    longest = tf.maximum(constant(BLIND_GROWTH) * h, constant(LARGEST_BLIND_STEP) * span)
    longest = tf.minimum(longest, constant(LARGEST_KNOWN_STEP) * span)
    blind = error < constant(_SMALLEST_ERROR)
    return tf.where(blind, tf.minimum(grown, longest), grown)


def first_step_size(f, start, longest_step, error_order, tolerances, norm, span=None):
    """Size of a first step that suits the field.

    Takes one evaluation of f, at an explicit Euler step h0 that changes y by about 1 % of its size
    (HNW, II.4), for a second derivative. With norms d in units of the tolerance and
    rate = d(y'') / d(y'), where the derivatives are taken to go on growing in that proportion, the
    error of a step h, as a Taylor polynomial's of the embedded order q, is

        d(y^(q+1)) h^(q+1) / (q+1)! = d(y') (rate h)^(q+1) / (rate (q+1)!)

    The step makes that 1: a pair's own estimate is smaller, by ten in the common ones. HNW's own
    rule takes the first and second derivatives for the one of order q + 1, so that its step, in
    smooth fields a tenth of what the tolerance allows, depends on the unit of time.

    Where the norm is one of each sample, so is all of this, and the shortest step is taken: a
    sample that rests asks for none.

    Args:
      f: `f(t, y)`, flat.
      start: `(t0, y0, k0)`, where k0 is `f(t0, y0)`.
      longest_step: The longest step allowed, negative for a solve backwards.
      error_order: Order of the embedded solution.
      tolerances: `Tolerances`.
      norm: Of the scaled error.
      span: Length of the interval, if f may depend on time. Then the step is at most 10 % of it,
        and 1 % where the slope or its change is 0: f may begin to move the state later. For an
        autonomous f a slope of 0 stays.
    """
    t0, y0, k0 = start
    direction, largest = tf.sign(longest_step), tf.abs(longest_step)

    def constant(value):
        return tf.constant(value, t0.dtype)

    d0 = norm.of_samples(tolerances.scaled(y0, y0))
    # A field may be steep by any power of ten.
    d1 = _without_overflow(norm, tolerances.scaled(k0, y0))
    flat = d1 < constant(1e-5)
    slope = tf.where(flat, tf.ones_like(d1), d1)
    # Samples that are zero, or rest, say nothing of a trial step.
    known = ~flat & (d0 >= constant(1e-5))
    # The change of the slope over h0 is to stand out from the field's rounding.
    part = constant(max(0.01, math.sqrt(tolerances.field_epsilon)))
    unknown_h0 = constant(t0.dtype.max)
    h0 = tf.reduce_min(tf.where(known, part * d0 / slope, unknown_h0))
    trial = constant(1e-6) if span is None else constant(_BLIND_TRIAL) * span
    h0 = tf.minimum(tf.where(h0 < unknown_h0, h0, trial), largest)
    # A constant, so that a v1 graph finds no way through it to the variables that f reads.
    h0 = tf.stop_gradient(h0)
    k1 = f(t0 + direction * h0, advanced(y0, direction * h0, [1.0], [k0]))
    change = [b - a for a, b in zip(k0, k1, strict=True)]
    d_change = _without_overflow(norm, tolerances.scaled(change, y0))
    noise = tolerances.noise(k0, norm)
    if noise is not None:
        seen = d_change - _without_overflow(norm, tolerances.scaled(noise, y0))
        d_change = tf.maximum(seen, tf.zeros_like(seen))
    # Without an interval h0 is 0.
    rate = quotient_or_zero(d_change / slope, h0)
    q = error_order
    h1 = (constant(math.factorial(q + 1)) * rate / slope) ** constant(1 / (q + 1))
    h1 = quotient_or_zero(h1, rate)
    # Where the slope doesn't change, y does: at most by its own size.
    h1 = tf.where(tf.equal(rate, 0), largest, h1)
    # A field that overflows at the trial point says nothing of the step; the loop finds out.
    h1 = tf.where(tf.math.is_finite(h1) & (h1 > 0), h1, h0)
    longest = constant(100.0) * h0
    if span is not None:
        blind = constant(LARGEST_BLIND_STEP) * span
        longest = tf.minimum(longest, constant(LARGEST_KNOWN_STEP) * span)
        unknown = norm.counts(~known | tf.equal(rate, 0))
        longest = tf.where(unknown, tf.where(known, tf.minimum(longest, blind), blind), longest)
    h = tf.minimum(tf.reduce_min(tf.minimum(longest, h1)), largest)
    return tf.where(tf.math.is_finite(h), h, h0)
