"""What a solve keeps of its steps. The loops know only the interface `Recorder`.

A recorder writes at every attempt, into the slot of the step that is being attempted: a rejected
attempt is overwritten by the next one, which is cheaper than a branch around the write.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import tensorflow as tf

from tf_neuralode.solvers.runge_kutta import State
from tf_neuralode.xla import inside_xla


@dataclasses.dataclass(frozen=True)
class Step:
    """One attempted step.

    Attributes:
      index: Number of accepted steps before it.
      t, t_next: Its ends.
      y, y1: The states there (y1 counts only if the step is accepted).
      accepted: Boolean scalar.
      dense: The step's dense solution, see `interpolation`; empty if no recorder asks for it.
    """

    index: tf.Tensor
    t: tf.Tensor
    t_next: tf.Tensor
    y: State
    y1: State
    accepted: tf.Tensor
    dense: State


class Recorder:
    """Interface: `start`, then `record` at each attempt, then `finish`, each passing on `saved`."""

    # Whether the recorder asks for dense output, which costs some methods further evaluations.
    needs_dense = False

    def start(self, t0: tf.Tensor, y0: State) -> Any:
        """What is saved before the first step."""
        raise NotImplementedError

    def record(self, saved: Any, step: Step) -> Any:
        """What is saved after an attempt."""
        raise NotImplementedError

    def finish(self, saved: Any, t: tf.Tensor, y: State, num_accepted: tf.Tensor) -> Any:
        """Called once, with the last time reached and the state there (NaN after a failure)."""
        del t, y, num_accepted
        return saved


# More slots than this aren't reserved where an array can grow.
_MAX_RESERVED = 2**16
# Under XLA it can't: the times alone of so many steps take a gigabyte.
_MAX_UNDER_XLA = 2**27


def room_for(dtype: tf.DType, size: int, element_shape: Any) -> tf.TensorArray:
    """A `TensorArray` of up to `size` items, which takes no more memory than what is written.

    Raises:
      ValueError: under XLA, where all of `size` are allocated, if they are too many.
    """
    grows = isinstance(size, int) and size > _MAX_RESERVED and not inside_xla()
    if isinstance(size, int) and size > _MAX_UNDER_XLA and inside_xla():
        raise ValueError(
            "Argument max_num_steps is room that XLA, whose shapes are fixed, allocates at once: "
            f"{size:,} steps need {size * dtype.size / 2**30:.1f} GiB for one number of each. Take "
            "a smaller max_num_steps, or no XLA"
        )
    return tf.TensorArray(
        dtype,
        1 if grows else size,
        dynamic_size=grows,
        element_shape=element_shape,
        clear_after_read=False,
    )


def state_arrays(y: State, size, leading: tuple[int | None, ...] = ()) -> list[tf.TensorArray]:
    """A `TensorArray` for each leaf, whose items have the leaf's shape behind `leading`."""
    return [room_for(x.dtype, size, [*leading, *x.shape]) for x in y]


def write(arrays: list[tf.TensorArray], index: tf.Tensor, y: State) -> list[tf.TensorArray]:
    """Each leaf of `y` written into its array."""
    return [array.write(index, x) for array, x in zip(arrays, y, strict=True)]


def read(arrays: list[tf.TensorArray], index: tf.Tensor) -> State:
    """The leaves that `write` wrote."""
    return [array.read(index) for array in arrays]


class AcceptedSteps(Recorder):
    """Times and states at the ends of all accepted steps, and their dense solutions if `dense`.

    Args:
      max_num_steps: The most steps that the solve can take.
      num_coefficients: How many coefficients of dense output to keep of each step (those of the
        method, see `interpolation`), or 0.

    Result: `StepHistory`.
    """

    def __init__(self, max_num_steps: int, num_coefficients: int = 0):
        self._max_num_steps = max_num_steps
        self.needs_dense = num_coefficients > 0
        self._num_coefficients = num_coefficients

    def start(self, t0, y0):
        """The initial state."""
        times = room_for(t0.dtype, self._max_num_steps + 1, [])
        states = write(state_arrays(y0, self._max_num_steps + 1), 0, y0)
        dense = []
        if self.needs_dense:
            dense = state_arrays(y0, self._max_num_steps, (self._num_coefficients,))
            # Without a step the solution is the initial state (and nothing can't be stacked).
            zeros = self._num_coefficients - 1
            dense = write(dense, 0, [tf.stack([x, *[tf.zeros_like(x)] * zeros]) for x in y0])
        return times.write(0, t0), states, dense

    def record(self, saved, step):
        """Adds the end of the step."""
        times, states, dense = saved
        times = times.write(step.index + 1, step.t_next)
        states = write(states, step.index + 1, step.y1)
        if self.needs_dense:
            dense = write(dense, step.index, step.dense)
        return times, states, dense

    def finish(self, saved, t, y, num_accepted):
        """A `StepHistory`."""
        times, states, dense = saved
        n = num_accepted
        if inside_xla():  # shapes are fixed there
            fill = lambda array, last: _repeat_from(array.stack(), last)
            ends = [fill(array, n) for array in (times, *states)]
            return StepHistory(ends[0], ends[1:], [fill(x, tf.maximum(n - 1, 0)) for x in dense], n)
        # Stacking would allocate the slots that were never written, too.
        ends = [array.gather(tf.range(n + 1)) for array in (times, *states)]
        dense = [array.gather(tf.range(tf.maximum(n, 1))) for array in dense]
        return StepHistory(ends[0], ends[1:], dense, n)


def _repeat_from(rows: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
    """`rows`, those behind row `last` replaced by it."""
    return tf.gather(rows, tf.minimum(tf.range(tf.shape(rows)[0]), last))


class StepHistory(NamedTuple):
    """Accepted steps of a solve.

    Under XLA the shapes are those of `max_num_steps` steps, the room behind the accepted ones
    filled with the last. Where no step was accepted one dense solution is left: an item to look
    up.

    Attributes:
      times: `(num_steps + 1,)`; entry 0 is the initial time.
      states: For each leaf `(num_steps + 1, *leaf.shape)`.
      dense: For each leaf `(num_steps, num_coefficients, *leaf.shape)`, or nothing.
      num_accepted: How many steps are valid.
    """

    times: tf.Tensor
    states: State
    dense: State
    num_accepted: tf.Tensor
