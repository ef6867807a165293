"""Signals on knots: interpolants that any field can call, differentiable in values and knots."""

from tf_neuralode.controls.cubic import Hermite, Natural
from tf_neuralode.controls.linear import Linear, Previous
from tf_neuralode.controls.piecewise import Control

__all__ = ["Control", "Hermite", "Linear", "Natural", "Previous"]
