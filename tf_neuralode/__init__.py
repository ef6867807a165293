"""Neural ODEs for TensorFlow and Keras 3."""

import keras as _keras

if _keras.backend.backend() != "tensorflow":
    raise ImportError(
        "tf_neuralode needs the TensorFlow backend of Keras. Set the environment variable "
        "KERAS_BACKEND=tensorflow before the first import of keras. "
        f"Received: backend {_keras.backend.backend()!r}"
    )

from tf_neuralode import controls, fields, gradients, plotting, regularizers, solvers
from tf_neuralode.layers import Augment, ConcatTime, NeuralODE
from tf_neuralode.odeint import odeint

__all__ = [
    "Augment",
    "ConcatTime",
    "NeuralODE",
    "controls",
    "fields",
    "gradients",
    "odeint",
    "plotting",
    "regularizers",
    "solvers",
]
__version__ = "0.2.0"
