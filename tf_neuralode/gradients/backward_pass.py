"""The backward pass of the adjoints on the stored solution, piece by piece."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tf_neuralode.field import Field, zeros_for
from tf_neuralode.gradients.output_cotangents import OutputCotangents
from tf_neuralode.gradients.stored_solution import Segment, StoredSolution
from tf_neuralode.stepping import Conditions, Point
from tf_neuralode.stepping import status as status_codes
from tf_neuralode.tensors import State, Tensors, add, keep, quotient_or_zero, scale, while_loop


class Piece(NamedTuple):
    """A stretch of the backward pass without jumps, in the time u that has passed since its start.

    Attributes:
      products: `products(u, lambda, of_state, of_sources)` gives `(f_y^T lambda, f_p^T lambda)` at
        one evaluation of f, an empty list for what isn't asked for.
      length: Of the stretch.
      h: First step size, 0 for "choose one".
      conditions: Of the solve.
    """

    products: Callable[..., tuple[State, State]]
    length: tf.Tensor
    h: tf.Tensor
    conditions: Conditions

    def start(self, y: State) -> Point:
        """Where a solve over the piece begins."""
        return Point(tf.zeros_like(self.length), y, h=self.h)


class PieceResult(NamedTuple):
    """State at the end of a `Piece`: lambda, mu, and what the solve said."""

    adjoint_state: State
    d_sources: Tensors
    h: tf.Tensor
    num_evaluations: tf.Tensor
    status: tf.Tensor


class _Place(NamedTuple):
    """Where a backward pass stands: loop variables."""

    t: tf.Tensor  # a clock value: of each sample, where it has its own times
    index: tf.Tensor  # of the segment
    segment: Segment
    adjoint_state: State
    d_sources: Tensors
    h: tf.Tensor
    num_evaluations: tf.Tensor
    status: tf.Tensor


class BackwardPass:
    """Start and body of its loop, piece by piece from the last time to the first.

    A piece ends at the last output time before it, or at the start of the segment. Where samples
    have times of their own each goes to its own, so that all are there at the piece's end: at v of
    its length, the largest of their ways w_b, sample b is at t_b - v w_b / length.
    """

    def __init__(
        self,
        problem: Any,
        field: Field,
        stored: StoredSolution,
        cotangents: OutputCotangents,
        conditions: Conditions,
        integrate: Callable[[Piece, State, State], PieceResult],
    ) -> None:
        self._problem, self._field, self._stored = problem, field, stored
        self._cotangents = cotangents.merged()
        self._conditions, self._integrate = conditions, integrate
        self._replay = functools.partial(stored.replay, method=problem.solver.method, field=field)

    def begin(self, span: tf.Tensor) -> _Place:
        problem, stored = self._problem, self._stored
        several, last = stored.has_several_segments, stored.last_index
        segment, replayed = self._replay(several, last, stored.segment)
        h = problem.first_h
        return _Place(
            t=problem.times[-1],
            index=last,
            segment=segment,
            adjoint_state=self._cotangents.at_end(),
            d_sources=zeros_for(self._field.sources),
            h=problem.solver.step_size_of_parts(span) if h is None else h,
            num_evaluations=replayed,
            status=tf.constant(status_codes.SUCCESS),
        )

    def unfinished(self, place: _Place) -> tf.Tensor:
        succeeds = tf.equal(place.status, status_codes.SUCCESS)
        return tf.reduce_any(tf.not_equal(place.t, self._problem.times[0])) & succeeds

    def piece(self, place: _Place) -> _Place:
        """Ends at the next output time, or before it at the start of the segment."""
        output_time, row = self._cotangents.before(place.t)
        segment_time = self._stored.time(place.index * self._stored.segment_size)
        # Who is behind the start of the segment already waits there for the others.
        end = tf.minimum(tf.maximum(segment_time, output_time), place.t)
        if self._field.has_jumps:
            end = tf.maximum(end, self._field.last_jump(place.t))
        result = self._integrate(self._piece_to(end, place), place.adjoint_state, place.d_sources)
        at_output = tf.equal(end, output_time) & (end < place.t)
        result = self._through_jump(end, place, result)
        enters = tf.reduce_all(end <= segment_time) & (place.index > 0)
        index = tf.where(enters, place.index - 1, place.index)
        segment, replayed = self._replay(enters, index, place.segment)
        return _Place(
            t=end,
            index=index,
            segment=segment,
            adjoint_state=keep(at_output, add(result.adjoint_state, row), result.adjoint_state),
            d_sources=result.d_sources,
            h=result.h,
            num_evaluations=place.num_evaluations + result.num_evaluations + replayed,
            status=result.status,
        )

    def _through_jump(self, end: tf.Tensor, place: _Place, result: PieceResult) -> PieceResult:
        """With the gradient of the time of a jump at the end of a piece."""
        field, d_y = self._field, result.adjoint_state
        if not field.has_jumps:
            return result
        state_at = self._stored.reader(place.index, place.segment, own_times=False)
        at = len(field.params) - 1

        def turn(i: tf.Tensor, d_sources: State) -> tuple:
            y = state_at(end)
            d_jumps = field.d_jumps(end, y, d_y, field.behind(end)(end, y))
            return i + 1, [*d_sources[:at], d_sources[at] + d_jumps, *d_sources[at + 1 :]]

        num = tf.cast(field.is_jump(end), tf.int32)
        _, d_sources = while_loop(
            lambda i, _: i < num, turn, (tf.constant(0), list(result.d_sources))
        )
        num_evaluations = result.num_evaluations + 2 * num
        return result._replace(d_sources=d_sources, num_evaluations=num_evaluations)

    def _piece_to(self, end: tf.Tensor, place: _Place) -> Piece:
        stored, index, own_times = self._stored, place.index, place.t.shape.rank > 0
        ways = place.t - end
        length, rates, conditions = ways, None, self._conditions
        if own_times:
            length = tf.maximum(tf.reduce_max(ways), tf.zeros([], ways.dtype))
            rates = quotient_or_zero(ways, length)
            conditions = conditions.among_also(ways > 0)
        state_at = stored.reader(index, place.segment, own_times)

        def time(v: tf.Tensor) -> tf.Tensor:
            passed = v if rates is None else v * rates
            return tf.maximum(place.t - passed, end)  # as v comes to the length, rounded

        def products(
            v: tf.Tensor, adjoint_state: State, of_state: bool = True, of_sources: bool = True
        ) -> tuple[State, State]:
            t = time(v)
            _, pullback = self._field.on(end, place.t).open_vjp(t, state_at(t))
            if rates is not None:
                adjoint_state = [scale(rates, x) for x in adjoint_state]
            return pullback(adjoint_state, of_state, of_sources)

        def limit(v: tf.Tensor) -> tf.Tensor:
            furthest = stored.limit(time(v), index)
            passed = place.t - furthest
            if rates is None:
                return passed
            # Who may go to its end holds nobody back: rounded, that can come before the others'.
            holds = (rates > 0) & (furthest > end)
            far = tf.fill(tf.shape(passed), passed.dtype.max)
            return tf.reduce_min(tf.where(holds, passed / rates, far))

        return Piece(products, length, place.h, conditions.but(limit=limit))
