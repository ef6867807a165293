"""The Keras layers."""

from tf_neuralode.layers.neural_cde import NeuralCDE
from tf_neuralode.layers.neural_ode import NeuralODE
from tf_neuralode.layers.ode_cell import ODECell
from tf_neuralode.layers.ode_rnn import ODERNN
from tf_neuralode.layers.small import Augment, ConcatInputs, ConcatTime
from tf_neuralode.layers.time_gaps import TimeGaps

__all__ = [
    "ODERNN",
    "Augment",
    "ConcatInputs",
    "ConcatTime",
    "NeuralCDE",
    "NeuralODE",
    "ODECell",
    "TimeGaps",
]
