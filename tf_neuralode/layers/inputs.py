"""What a dynamics gets beside time and state: the value of a control, and a context.

They are parameters of the field: in no state, and in no error norm.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tf_neuralode import controls
from tf_neuralode.field import Clock, as_constant, checked, first_behind
from tf_neuralode.layers.call_times import CallTimes
from tf_neuralode.layers.check_call import same_shapes
from tf_neuralode.layers.samples import GoodSamples

KINDS = {
    "linear": controls.Linear,
    "hermite": controls.Hermite,
    "previous": controls.Previous,
}
# Called with the time since the initial one and the values of `SolveInputs.tensors`.
InputsAt = Callable[[tf.Tensor, list[tf.Tensor]], list[Any]]


class Inputs(NamedTuple):
    """The arguments of a call, tensors; `()` stands for none.

    Attributes:
      context: A nest, each tensor `(batch, ...)`.
      control: `(knots, values)` or `(knots, values, mask)`, see `controls.Control`.
    """

    context: Any = ()
    control: Any = ()


def check_inputs(name: str, kind: str | None, y0: Any, inputs: Inputs) -> None:
    """Raises ValueError unless a layer's arguments `context` and `control` fit; shapes alone."""
    layer = f"Layer {name!r} (NeuralODE)"
    batch = getattr(y0, "shape", [None])[0]
    for x in keras.tree.flatten(inputs.context):
        if not hasattr(x, "shape"):
            raise TypeError(
                f"Argument context of layer {name!r} (NeuralODE) must hold tensors or arrays, "
                f"(batch, ...). Received: {x!r}"
            )
        if not same_shapes(tuple(x.shape)[:1], (batch,)):
            raise ValueError(
                f"Argument context of layer {name!r} (NeuralODE) must hold tensors "
                "(batch, ...), with a row for each sample. Received: context of shape "
                f"{tuple(x.shape)}, y0 of shape {tuple(y0.shape)}"
            )
    if kind is None and inputs.control:
        raise ValueError(
            f"{layer} is called with a control, but wasn't told how to interpolate it. Make it "
            f"with control={' or '.join(map(repr, KINDS))}. Received: control=None"
        )
    if kind is not None and not inputs.control:
        raise ValueError(
            f"{layer} has control={kind!r}, so it must be called with the signal, "
            "layer(y0, ..., control=(knots, values)). Received: no control"
        )
    if inputs.control:
        _check_control(name, inputs.control, tuple(y0.shape))


def _check_control(name: str, control: Any, state: tuple) -> None:
    what = f"Argument control of layer {name!r} (NeuralODE)"
    if not isinstance(control, list | tuple) or len(control) not in (2, 3):
        raise ValueError(
            f"{what} must be (knots, values) or (knots, values, mask). Received: {control!r}"
        )
    knots, values = (tuple(x.shape) for x in control[:2])
    fits = len(values) in (1, 2) and same_shapes(knots, values[:1])
    fits |= len(values) == 3 and (same_shapes(knots, values[1:2]) or same_shapes(knots, values[:2]))
    if not fits:
        raise ValueError(
            f"{what} must have knots (num_knots,) or (batch, num_knots), and values (num_knots,), "
            f"(num_knots, channels) or (batch, num_knots, channels). Received: knots of shape "
            f"{knots}, values of shape {values}"
        )
    if len(values) == 3 and not same_shapes(values[:1], state[:1]):
        raise ValueError(
            f"{what} must have values with a row for each sample, (batch, num_knots, channels). "
            f"Received: values of shape {values}, y0 of shape {state}"
        )


class Breaks(NamedTuple):
    """Times elapsed at which a field is not smooth, `(num,)`; `None` if there are none.

    Attributes:
      kinks: Where it has a kink: ends of steps.
      jumps: Where it jumps: the slope is taken afresh, too.
    """

    kinks: tf.Tensor | None
    jumps: tf.Tensor | None

    def limit(self, t: tf.Tensor) -> tf.Tensor:
        """The first kink behind `t`, or a time that no solve comes to."""
        assert self.kinks is not None
        return first_behind(tf.stop_gradient(self.kinks), t)


class SolveInputs:
    """The inputs of one solve.

    Args:
      inputs: The arguments.
      settings: Of the layer, see `batch.Settings`. With `on_failure="raise"` a control that doesn't
        cover the solve, or whose knots don't rise, is an error; in any case it makes a sample bad.
      times: Of the solve.
      dtype: Of the state.

    Attributes:
      usable: `(batch,)` or a scalar, boolean: the samples whose inputs are finite, and fit; `None`
        if there are none to look at.
    """

    def __init__(
        self,
        inputs: Inputs,
        settings: Any,
        times: CallTimes,
        dtype: tf.DType,
    ) -> None:
        cast = lambda x: tf.cast(x, dtype) if x.dtype.is_floating else x
        self._context = tf.nest.map_structure(cast, inputs.context)
        self._control: controls.Control | None = None
        self._of_rate, kind = settings.of_rate, settings.control
        usable = [_finite(x) for x in self._context_leaves() if x.dtype.is_floating]
        if inputs.control:
            assert kind is not None
            clock, last = times.clock(dtype), tf.convert_to_tensor(times.knots[-1])
            knots, values, *mask = inputs.control
            self._control = KINDS[kind].or_nan(_since(knots, clock), cast(values), *mask)
            usable.append(
                self._control_is_usable(clock.signed(last), settings.on_failure == "raise")
            )
        self.usable = None
        for one in usable:
            self.usable = one if self.usable is None else self.usable & one

    def _context_leaves(self) -> list[tf.Tensor]:
        return tf.nest.flatten(self._context)

    def _control_is_usable(self, last: tf.Tensor, strict: bool) -> tf.Tensor:
        control = self._control
        assert control is not None
        ends = [tf.zeros_like(last), last]
        covers = control.covers(tf.reduce_min(ends, axis=0)) & control.covers(
            tf.reduce_max(ends, axis=0)
        )
        fits = control.rises & covers
        if strict:
            message = (
                "Argument control must have knots that rise, and cover the solve of each sample "
                "from the initial to the last time. Sort them, or give more of the signal."
            )
            received = lambda: f"Received: knots, counted from the initial time, {control.times}"
            fits = checked(fits, tf.reduce_all(fits), message, received, control.times)
        return fits & control.is_known()

    def without_bad(self, samples: GoodSamples) -> SolveInputs:
        """The same with the stand-ins for bad samples."""
        given = copy.copy(self)
        given._context = tf.nest.map_structure(samples.without_bad, self._context)
        if self._control is not None:
            given._control = self._control.map_samples(samples.without_bad)
        return given

    def breaks(self, times: CallTimes, solver: Any, wanted: bool) -> Breaks:
        """Where steps are to end, as the control has a kink or a jump there.

        Only if all samples are there together; equal steps end where they end. The derivative by a
        knot jumps where the control has a kink; `wanted` is whether gradients are.
        """
        control = self._control
        together = times.are_shared and control is not None and control.times.shape.rank == 1
        if not (together and solver.is_ours and solver.is_adaptive):
            return Breaks(None, None)
        assert control is not None
        elapsed = times.direction * tf.cast(control.times, tf.as_dtype(times.knots.dtype))
        if isinstance(control, controls.Linear) and not (wanted or self._of_rate):
            return Breaks(elapsed, None)
        return Breaks(None, None if isinstance(control, controls.Hermite) else elapsed)

    def at(self, wanted: bool, breaks: Breaks) -> tuple[list[tf.Tensor], InputsAt]:
        """Tensors whose gradients are wanted, and a function of time and those: what f gets.

        Args:
          wanted: Whether any are; otherwise they are constants of the solve.
          breaks: Those of the control.
        """
        context, control, of_rate = self._context, self._control, self._of_rate
        leaves = tf.nest.flatten(context)
        real = [i for i, x in enumerate(leaves) if x.dtype.is_floating]
        tensors = [leaves[i] for i in real]
        num = len(tensors)
        if control is not None:
            if isinstance(control, controls.Previous) and breaks.jumps is None:
                control = control.without_gradients_of_times(
                    "the knots of control='previous' have gradients where steps end at them: with "
                    "an adaptive solver of tf_neuralode.solvers, and with knots and times that the "
                    "batch shares. Pass them through tf.stop_gradient if none is wanted"
                )
            tensors += control.tensors
        if not wanted:
            constants, tensors = [as_constant(x) for x in tensors], []

        def further(since: tf.Tensor, values: list[tf.Tensor]) -> list[Any]:
            values = values if wanted else constants
            filled = list(leaves)
            for i, x in zip(real, values[:num], strict=True):
                filled[i] = x
            result = []
            if control is not None:
                signal = control.with_tensors(values[num:])
                of_samples = signal.rate_of_samples if of_rate else signal.value_of_samples
                result.append(of_samples(since))
            if leaves:
                result.append(tf.nest.pack_sequence_as(context, filled))
            return result

        return tensors, further


def _finite(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_all(tf.math.is_finite(x), axis=list(range(1, x.shape.rank)))


def _since(knots: tf.Tensor, clock: Clock) -> tf.Tensor:
    """`knots` counted from the initial time, which may be each sample's, in its direction."""
    if not clock.of_samples:
        return clock.signed(clock.elapsed(knots))
    columns = knots[:, tf.newaxis] if knots.shape.rank == 1 else tf.transpose(knots)
    return tf.transpose(clock.signed(clock.elapsed(columns)))
