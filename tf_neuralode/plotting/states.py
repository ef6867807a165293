"""Pictures of states: over time, and in the plane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tf_neuralode.layers.dynamics import Dynamics
from tf_neuralode.layers.neural_ode import NeuralODE
from tf_neuralode.plotting.axes import axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARGIN = 0.1  # around the trajectories of a phase portrait, as a part of their extent


def trajectories(
    times: Any,
    states: Any,
    *,
    batch_first: bool = False,
    labels: Sequence[str] | None = None,
    ax: Axes | None = None,
    **line_options: Any,
) -> Axes:
    """Draws states over time, one colour for each component and one line for each sample.

    Args:
      times: `(num_times,)`, in units of time; or, with `batch_first`, `(batch, num_times)`.
      states: `(num_times, ..., num_components)` as `odeint` returns them, or `(num_times,)`; NaN
        leaves a gap.
      batch_first: Whether `states` is `(batch, num_times, ..., num_components)`, as a `NeuralODE`
        returns it.
      labels: Names of the components for the legend, `num_components` of them.
      ax: Axes to draw into.
      **line_options: Passed to `Axes.plot`.

    Raises:
      ImportError: without matplotlib.
      ValueError: if the shapes don't fit each other.
    """
    times, states = _time_first(np.asarray(times), np.asarray(states), batch_first)
    num_components = states.shape[-1] if states.ndim > 1 else 1
    if labels is not None and len(labels) != num_components:
        raise ValueError(
            "Argument labels must name each component of the state. "
            f"Received: {len(labels)} labels, {num_components} components"
        )
    columns = (len(states), -1, num_components)
    times, states = np.broadcast_to(times, states.shape).reshape(columns), states.reshape(columns)
    ax = axes_or_new(ax)
    for i in range(num_components):
        lines = ax.plot(times[:, :, i], states[:, :, i], **{"color": f"C{i}", **line_options})
        if labels is not None:
            lines[0].set_label(labels[i])
    if labels is not None:
        ax.legend()
    ax.set(xlabel="time", ylabel="state")
    return ax


def phase_portrait(
    f: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | NeuralODE,
    states: Any = None,
    *,
    t: float = 0.0,
    xlim: tuple[float, float] | None = None,
    ylim: tuple[float, float] | None = None,
    num_arrows: int = 20,
    ax: Axes | None = None,
    **line_options: Any,
) -> Axes:
    """Draws a vector field of the plane, and trajectories in it.

    The arrows show the direction of f and have one length; their colour shows its size, |f|, in
    units of the state by units of time. Dots mark where the trajectories start.

    Args:
      f: Function `f(t, y)` of a scalar time and states `(num, 2)`, in the dtype of `states` or
        else float32; or a built `NeuralODE`.
      states: Trajectories, `(num_times, ..., 2)`, time first, or `None`.
      t: Time at which the field is drawn, if it depends on it.
      xlim, ylim: Limits of the picture, in units of the state; by default 10 % around `states`.
      num_arrows: Number of arrows along each axis.
      ax: Axes to draw into.
      **line_options: Passed to `Axes.plot` for the trajectories.

    Raises:
      ImportError: without matplotlib.
      ValueError: if `states` isn't of the plane, or nothing gives the limits.
    """
    paths = None
    if states is not None:
        states = np.asarray(states)
        if states.ndim < 2 or states.shape[-1] != 2:
            raise ValueError(
                "Argument states must be (num_times, ..., 2). "
                f"Received: states of shape {states.shape}"
            )
        paths = states.reshape(len(states), -1, 2)
    elif xlim is None or ylim is None:
        raise ValueError(
            "Without states the arguments xlim and ylim must be given. "
            f"Received: xlim={xlim}, ylim={ylim}"
        )
    limits = [
        _extent(states[..., i]) if given is None else given for i, given in enumerate((xlim, ylim))
    ]
    dtype = tf.float32 if paths is None else tf.as_dtype(paths.dtype)
    ax = axes_or_new(ax)
    _arrows(ax, f, tf.constant(t, dtype), limits, num_arrows)
    if paths is not None:
        lines = ax.plot(paths[..., 0], paths[..., 1], **{"color": "black", **line_options})
        for line, start in zip(lines, paths[0], strict=True):
            ax.plot(*start, "o", color=line.get_color(), markersize=5)
    ax.set(xlim=limits[0], ylim=limits[1], xlabel="$y_0$", ylabel="$y_1$")
    return ax


def _arrows(
    ax: Axes, f: Any, t: tf.Tensor, limits: Sequence[tuple[float, float]], num: int
) -> None:
    x, y = np.meshgrid(*[np.linspace(low, high, num) for low, high in limits])
    slopes = _slopes(f, t, x, y)
    speed = np.linalg.norm(slopes, axis=-1)
    unit = slopes / np.where(speed > 0, speed, 1.0)[..., np.newaxis]
    style: dict[str, Any] = {"pivot": "mid", "scale": 1.2 * num, "scale_units": "width"}
    # angles="xy": tangent to the trajectories, whatever the aspect of the axes.
    arrows = ax.quiver(x, y, *np.moveaxis(unit, -1, 0), speed, angles="xy", cmap="viridis", **style)
    ax.figure.colorbar(arrows, ax=ax, label="|f|")


def _time_first(
    times: np.ndarray, states: np.ndarray, batch_first: bool
) -> tuple[np.ndarray, np.ndarray]:
    """States with time first, and times that broadcast against them."""
    received = f"Received: times of shape {times.shape}, states of shape {states.shape}"
    if not batch_first:
        if times.ndim != 1 or times.shape != states.shape[:1]:
            raise ValueError(
                f"Arguments times and states must be (num_times,) and (num_times, ...). {received}"
            )
    elif states.ndim < 2 or times.shape not in (states.shape[1:2], states.shape[:2]):
        raise ValueError(
            "With batch_first=True argument states must be (batch, num_times, ...), and times "
            f"(num_times,) or (batch, num_times). {received}"
        )
    else:
        states = np.moveaxis(states, 0, 1)
    leading = times.T
    return leading.reshape(leading.shape + (1,) * (states.ndim - leading.ndim)), states


def _extent(values: np.ndarray) -> tuple[float, float]:
    low, high = np.nanmin(values), np.nanmax(values)
    margin = _MARGIN * (high - low) or 1.0  # a state that stands still
    return low - margin, high + margin


def _slopes(f: Callable[..., Any], t: tf.Tensor, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The field on a grid, `(*x.shape, 2)`."""
    if isinstance(f, NeuralODE):
        dynamics = Dynamics(f.dynamics, f.time_dependent, training=False)
        params, constants = dynamics.read_params(), dynamics.read_constants()
        f = lambda t, y: dynamics(t, y, params, constants)
    points = tf.constant(np.stack([x.ravel(), y.ravel()], axis=-1), t.dtype)
    return np.asarray(f(t, points)).reshape(*x.shape, 2)
