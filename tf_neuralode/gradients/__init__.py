"""Gradients: how a solve is differentiated. Any of them works with any of our solvers."""

from __future__ import annotations

from typing import Any

import keras

from tf_neuralode.gradients.adjoint import Adjoint
from tf_neuralode.gradients.auto import Auto
from tf_neuralode.gradients.gauss import GaussAdjoint
from tf_neuralode.gradients.gradient import Gradient
from tf_neuralode.gradients.interpolating import InterpolatingAdjoint
from tf_neuralode.gradients.tape import Tape
from tf_neuralode.solvers.spelling import did_you_mean

__all__ = [
    "Adjoint",
    "Auto",
    "GaussAdjoint",
    "Gradient",
    "InterpolatingAdjoint",
    "Tape",
    "get",
    "names",
    "serialize",
]

_BY_NAME = {
    "auto": Auto,
    "adjoint": Adjoint,
    "tape": Tape,
    "interpolating_adjoint": InterpolatingAdjoint,
    "gauss_adjoint": GaussAdjoint,
}


def names() -> tuple[str, ...]:
    """The names that `get` knows."""
    return tuple(_BY_NAME)


def get(identifier: str | Gradient) -> Gradient:
    """The gradient that a name or an object stands for.

    Raises:
      ValueError: for an unknown name.
      TypeError: for anything that is neither a name nor a gradient.
    """
    if isinstance(identifier, Gradient):
        return identifier
    if not isinstance(identifier, str):
        raise TypeError(
            "Argument gradient must be a name or one of tf_neuralode.gradients. "
            f"Received: gradient={identifier!r}"
        )
    if identifier not in _BY_NAME:
        raise ValueError(
            f"Argument gradient must be a gradient or one of the names {', '.join(names())}. "
            f"Received: gradient={identifier!r}{did_you_mean([identifier], names())}"
        )
    return _BY_NAME[identifier]()


def serialize(gradient: Gradient) -> Any:
    """`gradient` for a config: the default by its name, any other with its settings."""
    return "auto" if type(gradient) is Auto else keras.saving.serialize_keras_object(gradient)
