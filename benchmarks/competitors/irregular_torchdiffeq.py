"""torchdiffeq on times of each sample's own, which it doesn't know: in the two ways around that."""

import torch

import irregular
from competitors import torchdiffeq
from competitors.torch_field import FitsSeries


def build(workload, solver, together):
    return (Together if together else OneByOne)(workload, "direct", solver, channels_last=False)


class Together(FitsSeries, torchdiffeq.Torchdiffeq):
    """Solved at the times of all samples, and picked from: a row is all samples at one of them."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        together, index = irregular.union(self.workload.times)
        self.times = torch.tensor(together)
        self._rows = torch.tensor(index[:, 1:] - 1)  # `solve` leaves the initial time out
        self._samples = torch.arange(len(index))[:, None]

    def solve(self):
        return super().solve()[self._rows, self._samples]


class OneByOne(FitsSeries, torchdiffeq.Torchdiffeq):
    """A solve for each sample."""

    def solve(self):
        solve = lambda y0, times: self._odeint(self.field, y0, times, **self._options)[1:]
        return torch.stack([solve(*sample) for sample in zip(self.y0, self.times, strict=True)])
