"""Pictures of the work: the steps of a solve, the evaluations of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tf_neuralode import solvers
from tf_neuralode.plotting.axes import axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def step_sizes(
    attempts: solvers.AttemptedSteps, *, ax: Axes | None = None, **line_options: Any
) -> Axes:
    """Draws the sizes of a solve's steps over time, and crosses for the rejected attempts.

    Args:
      attempts: What `solvers.attempted_steps` returns.
      ax: Axes to draw into.
      **line_options: Passed to `Axes.plot` for the accepted steps.

    Raises:
      ImportError: without matplotlib.

    Example:
    ```python
    f = lambda t, y: tf.stack([y[1], 5.0 * (1.0 - y[0] ** 2) * y[1] - y[0]])  # van der Pol
    y0 = tf.constant([2.0, 0.0])
    plotting.step_sizes(solvers.attempted_steps(solvers.Tsit5(), f, y0, (0.0, 20.0)))
    ```
    """
    times, sizes = np.asarray(attempts.times), np.abs(attempts.step_sizes)
    accepted = np.asarray(attempts.accepted)
    ax = axes_or_new(ax)
    ax.plot(
        times[accepted],
        sizes[accepted],
        **{"marker": ".", "label": f"{accepted.sum()} accepted", **line_options},
    )
    ax.plot(times[~accepted], sizes[~accepted], "rx", label=f"{(~accepted).sum()} rejected")
    ax.set(xlabel="time at the start of the step", ylabel="step size (units of time)")
    ax.set_yscale("log")
    ax.legend()
    return ax


def evaluations(history: Any, *, ax: Axes | None = None, **line_options: Any) -> Axes:
    """Draws how often the dynamics was evaluated in a forward pass, over the epochs of training.

    Args:
      history: What `model.fit` returned, or its dictionary `history.history`, of a model with a
        `NeuralODE(..., track_stats=True)`. Its entries `nfe`, `val_nfe` and the like are
        drawn, those of backward passes not.
      ax: Axes to draw into.
      **line_options: Passed to `Axes.plot`.

    Raises:
      ImportError: without matplotlib.
      ValueError: if the history has no such entry.
    """
    logs: Mapping[str, Sequence[float]] = getattr(history, "history", history)
    words = {name: name.split("_") for name in logs}
    names = [name for name in logs if "nfe" in words[name] and "backward" not in words[name]]
    if not names:
        raise ValueError(
            "Argument history must hold numbers of evaluations: train with NeuralODE(..., "
            f"track_stats=True). Received: a history of {', '.join(logs) or 'nothing'}"
        )
    ax = axes_or_new(ax)
    for name in names:
        epochs = np.arange(1, len(logs[name]) + 1)
        ax.plot(epochs, logs[name], **{"marker": ".", "label": name, **line_options})
    ax.set(xlabel="epoch", ylabel="evaluations of f in a forward pass")
    ax.locator_params(axis="x", integer=True)
    ax.legend()
    return ax
