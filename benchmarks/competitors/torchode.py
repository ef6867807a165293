"""torchode: `AutoDiffAdjoint`, eager.

TorchScript, which its documentation recommends, fails in torch 2.13 with an internal assertion.

torchode steps each sample by itself; with `joint` the batch is one sample, stepped as a whole, like
everybody else's.
"""

import torch
import torchode

from competitors import torch_field

METHODS = {"dopri5": torchode.Dopri5, "tsit5": torchode.Tsit5}


def build(workload, solver, joint):
    return Torchode(workload, solver, joint)


class FlatField(torch.nn.Module):
    """The field on `(samples, features)`, the only states that torchode knows."""

    def __init__(self, field, shape: list[int]):
        super().__init__()
        self.field = field
        self.shape = shape

    def forward(self, t, y):
        return self.field(t, y.reshape(self.shape)).reshape(y.shape)


class Torchode(torch_field.Competitor):
    """Step sizes are not differentiated, which is faster; nobody else does it either."""

    def __init__(self, workload, solver, joint):
        super().__init__(workload)
        self._num_samples = 1 if joint else len(workload.y0)
        term = torchode.ODETerm(FlatField(self.field, list(self.y0.shape)))
        self._solver = torchode.AutoDiffAdjoint(
            METHODS[solver](term=term),
            torchode.IntegralController(atol=workload.atol, rtol=workload.rtol, term=term),
            backprop_through_step_size_control=False,
        )

    def solve(self):
        return self._solution().ys

    def _solution(self):
        rows = lambda times: times.expand(self._num_samples, -1)
        times = rows(self.times)
        problem = torchode.InitialValueProblem(
            y0=self.y0.reshape(self._num_samples, -1),
            t_start=times[:, 0],
            t_end=times[:, -1],
            t_eval=times[:, 1:] if times.shape[1] > 2 else None,
        )
        return self._solver.solve(problem)

    def count(self):
        return int(self._solution().stats["n_f_evals"].max()), 0
