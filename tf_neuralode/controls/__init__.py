"""Signals on knots: interpolants that any field can call, differentiable in values and knots."""

from tf_neuralode.controls.cubic import Hermite, Natural
from tf_neuralode.controls.linear import Linear, Previous

__all__ = ["Hermite", "Linear", "Natural", "Previous"]
