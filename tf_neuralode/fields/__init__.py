"""Fields that train: networks with the size of the state, to be the dynamics of a NeuralODE."""

from tf_neuralode.fields.conv import Conv
from tf_neuralode.fields.mlp import MLP

__all__ = ["MLP", "Conv"]
