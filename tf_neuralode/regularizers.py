"""Regularizers of a trajectory: what makes the dynamics simple, and the solve cheap.

Each adds, in training, strength times the mean over the batch of an integral along the solution

    integral of rate(t, y(t)) |dt|

to the model's losses, along the solution that is computed: from `t_span[0]` to the last output
time, which is `t_span[1]`, or the last of `t_eval` or of `times`, for each sample its own. The
integral is a further component of the solve, which doesn't count in the error norm: it feeds back
on nothing, and the steps are those of the state alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_neuralode.read_only import ReadOnly
from tf_neuralode.solvers import checks


class Regularizer(ReadOnly):
    """Base of the regularizers; a subclass defines `rate`.

    Args:
      strength: Factor of the integral, positive; in the loss's units for one unit of `rate`, and
        of time.
    """

    read_only = ("strength",)
    another = "Make another one, and a layer with it."
    # Whether `rate` reads the product of a random vector with the Jacobian.
    needs_noise = False

    def __init__(self, strength: float = 0.01) -> None:
        self.strength = checks.inside("strength", strength, 0, float("inf"))

    def rate(self, slope: tf.Tensor, noise_times_jacobian: tf.Tensor | None) -> tf.Tensor:
        """The integrand of each sample.

        Args:
          slope: `dynamics(t, y)`, `(batch, ...)`.
          noise_times_jacobian: `noise^T d dynamics / dy`, likewise; `None` unless `needs_noise`.

        Returns:
          `(batch,)`.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"strength": self.strength}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Regularizer:
        """The regularizer that `get_config` describes."""
        return cls(**config)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(strength={self.strength!r})"


@keras.saving.register_keras_serializable("tf_neuralode")
class KineticEnergy(Regularizer):
    """`rate = |dynamics(t, y)|^2`: short, straight paths at constant speed [1, equation 6].

    Args:
      strength: Factor of the integral, positive.

    Reference:
      [1] C. Finlay et al., How to train your neural ODE: the world of Jacobian and kinetic
          regularization, ICML 2020.
    """

    def rate(self, slope: tf.Tensor, noise_times_jacobian: tf.Tensor | None = None) -> tf.Tensor:
        return _sum_of_squares(slope)


@keras.saving.register_keras_serializable("tf_neuralode")
class JacobianNorm(Regularizer):
    """`rate = |noise^T d dynamics / dy|^2`: a field that changes little [1, equation 10].

    Its expectation is the squared Frobenius norm of the Jacobian (Hutchinson's estimate). The noise
    is drawn once for each solve, +1 or -1 with equal probability (Rademacher), so that one solve
    integrates one function.

    Args:
      strength: Factor of the integral, positive.

    Reference:
      [1] C. Finlay et al., How to train your neural ODE: the world of Jacobian and kinetic
          regularization, ICML 2020.
    """

    needs_noise = True

    def rate(self, slope: tf.Tensor, noise_times_jacobian: tf.Tensor | None) -> tf.Tensor:
        return _sum_of_squares(noise_times_jacobian)


def _sum_of_squares(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.square(x), axis=list(range(1, x.shape.rank)))


def as_list(regularizer: Regularizer | Sequence[Regularizer] | None) -> list[Regularizer]:
    """The argument `regularizer` of a layer, `None`, one or several, as a list.

    Raises:
      TypeError: for anything else.
    """
    if regularizer is None:
        return []
    given: list[Any] = [regularizer]
    if isinstance(regularizer, list | tuple):
        given = list(regularizer)
    if not all(isinstance(one, Regularizer) for one in given):
        raise TypeError(
            "Argument regularizer must be one of tf_neuralode.regularizers, or a list of them. "
            f"Received: regularizer={regularizer!r}"
        )
    return given


def rademacher(like: tf.Tensor, seed: keras.random.SeedGenerator) -> tf.Tensor:
    """+1 or -1, with equal probability, in the shape of `like`."""
    ones = keras.random.randint(tf.shape(like), 0, 2, seed=seed)
    return tf.ensure_shape(2 * tf.cast(ones, like.dtype) - 1, like.shape)


def with_cost(
    f: Callable[[tf.Tensor, tf.Tensor, Any], tf.Tensor],
    regularizers: Sequence[Regularizer],
    noise: tf.Tensor | None,
) -> Callable[[tf.Tensor, tuple, Any], tuple]:
    """`f` on states `(y, cost)`, the cost `(batch,)` growing along the solution.

    Args:
      f: `f(t, y, params)`, in a time that runs forwards.
      regularizers: At least one.
      noise: Like y, if one of them needs it.
    """

    def field(t: tf.Tensor, state: tuple, params: Any) -> tuple:
        y, _ = state
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(y)
            slope = f(t, y, params)
        product = None
        if noise is not None:
            product = tape.gradient(
                slope, y, noise, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
        rates = [one.strength * one.rate(slope, product) for one in regularizers]
        return slope, tf.add_n(rates)

    return field
