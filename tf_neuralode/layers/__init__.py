"""The Keras layers."""

from tf_neuralode.layers.neural_ode import NeuralODE
from tf_neuralode.layers.small import Augment, ConcatTime

__all__ = ["Augment", "ConcatTime", "NeuralODE"]
