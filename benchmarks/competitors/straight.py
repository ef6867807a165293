"""No solver: as many evaluations of f, and of its vector-Jacobian product, one after the other.

What a solve with that many evaluations can't go below.
"""

from competitors import tensorflow_field


def build(workload, xla, num_evaluations):
    return Straight(workload, xla, num_evaluations)


class Straight(tensorflow_field.Competitor):
    """Euler steps written out."""

    def __init__(self, workload, xla, num_evaluations):
        super().__init__(workload, xla)
        self._num_evaluations = num_evaluations

    def solve(self, y0, weights):
        y, h = y0, (self.workload.times[-1] - self.workload.times[0]) / self._num_evaluations
        for _ in range(self._num_evaluations):
            y = y + float(h) * self.field(y, weights)
        return y
