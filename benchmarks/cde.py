"""Series that a controlled differential equation learns to classify. NumPy only."""

import dataclasses

import numpy as np

import irregular

END = 2 * np.pi  # one turn of a spiral


@dataclasses.dataclass(frozen=True)
class Cde:
    """dz = F(z) dX along the Hermite path X through the observations, their times a channel.

    The path's parameter is the number of the observation, so that all samples share their knots
    though each has times of its own. From z = X(0) * w + b to the last observation; a further
    product gives the logit of the label, the loss is the mean of its cross-entropy.
    """

    name: str
    times: np.ndarray  # (batch, num_times), rising
    values: np.ndarray  # (batch, num_times, channels)
    labels: np.ndarray  # (batch, 1), 0 or 1
    field: list[np.ndarray]  # a kernel and a bias for each layer, tanh after each
    initial: list[np.ndarray]  # kernel and bias
    readout: list[np.ndarray]  # kernel and bias
    max_num_steps: int
    rtol: float
    atol: float
    is_convolution = False

    @property
    def weights(self):
        """All that has a gradient."""
        return [*self.field, *self.initial, *self.readout]

    @property
    def observations(self):
        """`(batch, num_times, 1 + channels)`: time, then the values."""
        return np.concatenate([self.times[..., np.newaxis], self.values], axis=-1)

    @property
    def y0(self):
        """Where a solve starts, before any training: a part of a step, not its data."""
        kernel, bias = self.initial
        return self.observations[:, 0] @ kernel + bias

    @property
    def last_knot(self):
        return self.times.shape[1] - 1


def spirals(rng, batch, num_times):
    """Times, values and labels: which way round a spiral goes, as in the examples of the peers.

    Each sample is seen at times of its own. The third channel has nothing to do with it. One way is
    rarer than the other, or the gradient of the last bias would be almost 0, and its error large.
    """
    times = irregular.sorted_times(rng, batch, num_times - 1, END)
    labels = np.arange(batch)[:, np.newaxis] % 3 == 0
    start, phase = rng.uniform(0, 2 * np.pi, (2, batch, 1))
    angle = start + np.where(labels, 1, -1) * times
    radius = 1 / (1 + times / 2)
    channels = [radius * np.cos(angle), radius * np.sin(angle), np.sin(times + phase)]
    values = np.stack(channels, axis=-1) + rng.normal(0, 0.01, (batch, num_times, 3))
    return times, values.astype("float32"), labels.astype("float32")


def hermite(observations):
    """Coefficients b, c, d of X = a + b u + c u^2 + d u^3 on each piece, of length 1.

    The slope at a knot is that of the line from the knot before (J. Morrill et al., Neural
    controlled differential equations for online prediction tasks, 2021), at the first of the line
    behind.
    """
    line = np.diff(observations, axis=1)
    begin = np.concatenate([line[:, :1], line[:, :-1]], axis=1)
    return begin, 2 * (line - begin), begin - line
