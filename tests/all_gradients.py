"""The gradients by name; "auto", the default, is one of them."""

from tf_neuralode import gradients

ALL_GRADIENTS = tuple(name for name in gradients.names() if name != "auto")
