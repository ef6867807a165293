"""Pictures of solutions, fields, steps and training. They need matplotlib (extra `plot`).

Every function draws into `ax` if it is given, otherwise into a figure of its own, and returns the
Axes: `plotting.trajectories(times, states).figure.savefig("states.png")`. No figure is registered
with pyplot; for a window pass `ax=plt.gca()`.
"""

from __future__ import annotations

from tf_neuralode.plotting.states import phase_portrait, trajectories
from tf_neuralode.plotting.work import evaluations, step_sizes

__all__ = ["evaluations", "phase_portrait", "step_sizes", "trajectories"]
