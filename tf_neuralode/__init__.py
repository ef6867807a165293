"""Neural ODEs for TensorFlow and Keras 3."""

import keras as _keras

if _keras.backend.backend() != "tensorflow":
    raise ImportError(
        "tf_neuralode needs the TensorFlow backend of Keras. Set the environment variable "
        "KERAS_BACKEND=tensorflow before the first import of keras. "
        f"Received: backend {_keras.backend.backend()!r}"
    )

from tf_neuralode import gradients, plotting, solvers
from tf_neuralode.neural_ode import NeuralODE
from tf_neuralode.odeint import odeint

__all__ = ["NeuralODE", "gradients", "odeint", "plotting", "solvers"]
__version__ = "0.1.0"
