"""torchdiffeq: `odeint` (through the steps) and `odeint_adjoint`, eager."""

import torch
import torchdiffeq

from competitors import torch_field


def build(workload, gradient, solver="dopri5", channels_last=False):
    return Torchdiffeq(workload, gradient, solver, channels_last)


class Torchdiffeq(torch_field.Competitor):
    """The adjoint takes the seminorm, which saves it evaluations (Kidger et al. 2021)."""

    def __init__(self, workload, gradient, solver, channels_last):
        super().__init__(workload)
        self._odeint = torchdiffeq.odeint
        self._options = {"method": solver, "rtol": workload.rtol, "atol": workload.atol}
        if gradient == "adjoint":
            self._odeint = torchdiffeq.odeint_adjoint
            self._options["adjoint_options"] = {"norm": "seminorm"}
        if channels_last:
            self.field = self.field.to(memory_format=torch.channels_last)
            y0 = self.y0.detach().to(memory_format=torch.channels_last)
            self.y0 = y0.requires_grad_()

    def solve(self):
        return self._odeint(self.field, self.y0, self.times, **self._options)[1:]

    def count(self):
        calls = []
        handle = self.field.register_forward_hook(lambda *_: calls.append(1))
        loss = self.loss()
        forward = len(calls)
        torch.autograd.grad(loss, self.sources())
        handle.remove()
        return forward, len(calls) - forward
