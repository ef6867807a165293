"""Signals that are lines from knot to knot, or steps."""

from __future__ import annotations

from tf_neuralode.controls.missing import last_in_gaps, linear_in_gaps
from tf_neuralode.controls.piecewise import Control


class Linear(Control):
    """A line from each value to the next; between values that are there, if some are missing.

    Takes the arguments of `Control`: `times`, `values`, `mask`. Its derivative jumps at the knots.
    """

    def _coefficients(self, data, steps):
        values = linear_in_gaps(data)
        begin, end = values[..., :-1, :], values[..., 1:, :]
        return [begin, (end - begin) / steps]


class Previous(Control):
    """Each value is held until the next one that is there; the last one for ever.

    Takes the arguments of `Control`: `times`, `values`, `mask`. What is known online: nothing of it
    depends on the future but where a channel begins with missing values.
    """

    min_knots = 1
    holds_last = True

    def _coefficients(self, data, steps):
        del steps
        return [last_in_gaps(data)]
