"""What the parts of a solve tell each other: where it stands, its steps, what is kept of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_neuralode.field import FieldPrecision
from tf_neuralode.methods import whole
from tf_neuralode.tensors import State, along

# The time beyond which a step that starts at the time given must not go, which is behind that one.
# A step that gets near ends there exactly.
Limit = Callable[[tf.Tensor], tf.Tensor]


class Point(NamedTuple):
    """Where a solve stands: the end of one is the start of the next.

    Attributes:
      t: Time, a clock value.
      y: State.
      carry: What the method begins a step with; `None` for "take it from f".
      h: Size of the next step, a clock value, 0 for "choose one", as `None` is.
    """

    t: tf.Tensor
    y: State
    carry: State | None = None
    h: tf.Tensor | None = None

    @property
    def slope(self) -> State:
        """F there, with which every carry begins."""
        assert self.carry is not None
        return self.carry[: len(self.y)]


class Slot(NamedTuple):
    """One attempt at a step. A rejected one is overwritten by the next, in the same slot.

    Where samples have clocks of their own a slot is an attempt that moved somebody; those who rest,
    or were rejected, have no length in it.

    Attributes:
      index: Number of the slot, a scalar.
      t, t_next: Ends of the attempt.
      end: The end that counts: `t_next` if it was accepted, otherwise `t`.
      accepted: Boolean.
      y, carry: At `t`.
      y1: State at `t_next`.
      dense: The dense solution, see `interpolation`; empty if no recorder asks for it.
    """

    index: tf.Tensor
    t: tf.Tensor
    t_next: tf.Tensor
    end: tf.Tensor
    accepted: tf.Tensor
    y: State
    carry: State | None
    y1: State
    dense: State


class Recorder:
    """What a solve keeps: `start`, then `record` at each attempt, then `finish`.

    Each passes on `saved`. A recorder writes at every attempt, into the slot of the step that is
    being attempted: a rejected attempt is overwritten by the next one, which is cheaper than a
    branch around the write.
    """

    # Whether the recorder asks for dense output, which costs some methods further evaluations.
    needs_dense = False

    def start(self, start: Point) -> Any:
        """What is saved before the first step."""
        raise NotImplementedError

    def record(self, saved: Any, slot: Slot) -> Any:
        """What is saved after an attempt."""
        raise NotImplementedError

    def finish(self, saved: Any, t: tf.Tensor, y: State, num_slots: tf.Tensor) -> Any:
        """Called once, with the time reached and the state there (NaN after a failure)."""
        del t, y, num_slots
        return saved


def _as_it_is(tolerance: Any) -> Any:
    return tolerance


def _smallest(tolerance: Any) -> Any:
    leaves = tf.nest.flatten(tolerance)
    if any(tf.is_tensor(leaf) for leaf in leaves):
        return tf.reduce_min([tf.reduce_min(leaf) for leaf in leaves])
    return min(float(np.min(leaf)) for leaf in leaves)


@dataclasses.dataclass(frozen=True, eq=False)
class Conditions:
    """What a solve is told besides its problem: of the state, of the field, of its steps.

    Attributes:
      batch_ndims: How many axes of the state, the first, count samples.
      pack: Gives a flat state its structure.
      governing: The parts of a state that govern the steps, a list of states; what isn't among
        them is under no error control.
      tolerance: What becomes of a solver's tolerance for this state.
      among: The samples that count in a mean, see `ErrorNorm`.
      rtol, atol: Tolerances, if not the solver's own.
      field: The precision in which the field computes.
      autonomous: Whether the field doesn't depend on time. Of others an adaptive solver expects
        that they can change where nothing announces it, and begins with shorter steps where the
        slope is 0.
      whole_span: Length of the interval that this one is a part of: how short a step is where
        nothing is known of a field is a fraction of the whole.
      unit: What one unit of the solve's time is in that of the solver's settings: for each sample.
      further_steps: How many more steps than the solver's `max_num_steps` there may be.
      limit: How far a step may go.
    """

    batch_ndims: int = 0
    pack: Callable[[State], Any] = list
    governing: Callable[[Any], list[Any]] = whole
    tolerance: Callable[[Any], Any] = _as_it_is
    among: tf.Tensor | None = None
    rtol: Any = None
    atol: Any = None
    field: FieldPrecision = dataclasses.field(default_factory=FieldPrecision)
    autonomous: bool = False
    whole_span: tf.Tensor | None = None
    unit: tf.Tensor | None = None
    further_steps: int = 0
    limit: Limit | None = None

    def but(self, **changes: Any) -> Conditions:
        """The same with other values."""
        return dataclasses.replace(self, **changes)

    def part_of(self, span: tf.Tensor) -> Conditions:
        """For parts of an interval of length `span`."""
        own = self.whole_span
        return self.but(whole_span=span if own is None else tf.maximum(own, span))

    def among_also(self, samples: tf.Tensor) -> Conditions:
        """With none but `samples`, `(batch,)`, in a mean: those that rest would hide an error."""
        if self.among is None:
            return self.but(among=samples)
        return self.but(among=along(samples, self.among) & self.among)

    def for_field(self, field: FieldPrecision) -> Conditions:
        """For a field that computes in this precision, if no coarser one is known already."""
        coarser = max(self.field, field, key=lambda one: one.epsilon)
        return self.but(field=coarser)

    def beside_cost(self) -> Conditions:
        """For `(state, cost)`, whose cost, an integral along the way, governs no step."""
        return self.but(
            governing=lambda both: self.governing(both[0]),
            # Any tolerance will do for the cost.
            tolerance=lambda value: (self.tolerance(value), 1.0),
        )

    def with_seminorm(self, num_parts: int) -> Conditions:
        """For an augmented state whose first parts, each like the state, alone govern the steps.

        The parameters' part feeds back on nothing, so its error need not shorten the steps (Kidger
        et al. 2021, "Hey, that's not an ODE").
        """

        def governing(augmented: Any) -> list[Any]:
            return [inner for part in augmented[:num_parts] for inner in self.governing(part)]

        # A tolerance for each component has no counterpart among the parameters.
        smallest = lambda value: _smallest(self.tolerance(value))
        return self.but(governing=governing, tolerance=smallest)


NOTHING_KNOWN = Conditions()
