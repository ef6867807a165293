"""A batch in which each sample is seen at times of its own. NumPy only."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Irregular:
    """The field of a `Workload`, to be fitted to each sample's own series from its first state on.

    The loss is the mean square of what the states differ in from `targets`. The initial states are
    data: the weights alone have gradients.
    """

    name: str
    y0: np.ndarray  # (batch, features)
    weights: list[np.ndarray]  # (in, out)
    times: np.ndarray  # (batch, 1 + num_times), the initial time, then the output times, float32
    targets: np.ndarray  # (batch, num_times, features)
    max_num_steps: int
    rtol: float
    atol: float
    is_convolution = False

    @property
    def knots(self):
        """As of a `Workload`: `(1 + num_times, batch, 1)`."""
        return self.times.T[..., np.newaxis].astype("float64")

    def loss_slope(self, y, i):
        """The loss's derivative by the states y that belong to the output times number i."""
        return 2 * (y - self.targets[:, i]) / self.targets.size


def sorted_times(rng, batch, num_times, end):
    """0, then times drawn uniformly up to `end`, of each sample by itself: `Irregular.times`."""
    drawn = np.sort(rng.uniform(0, end, (batch, num_times)), axis=1)
    return np.pad(drawn, ((0, 0), (1, 0))).astype("float32")


def spirals(y0, times):
    """`(batch, times, features)`: pairs of features circle at the rate 1 and fade at the rate 0.1.

    The exact solution of a linear field, for targets that a field can come near to.
    """
    z0 = y0[:, ::2] + 1j * y0[:, 1::2]
    z = z0[:, np.newaxis] * np.exp((-0.1 + 1j) * times[..., np.newaxis])
    states = np.stack([z.real, z.imag], axis=-1).reshape(*times.shape, -1)
    return states.astype(y0.dtype)


def union(times):
    """All samples' times, rising, for a solver that shares them, and where each sample's are."""
    together, index = np.unique(times, return_inverse=True)
    return together, index.reshape(times.shape)
