"""torchcde: `cdeint` on torchdiffeq, eager; the path's coefficients are data, made beforehand."""

import torch
import torchcde

from competitors import torch_field


def build(workload, gradient, solver):
    return Cde(workload, gradient, solver)


class Field(torch_field.Field):
    """F(z), a matrix of each sample."""

    def forward(self, t, z):
        return super().forward(t, z).view(*z.shape, -1)


class Cde(torch_field.Competitor):
    """The gradients of the weights, from the labels' cross-entropy."""

    def __init__(self, workload, gradient, solver):
        super().__init__(workload, Field(workload.field[::2], workload.field[1::2]))
        self._initial, self._readout = (
            torch_field.Field([kernel], [bias]).layers[0]
            for kernel, bias in (workload.initial, workload.readout)
        )
        self._observations = torch.tensor(workload.observations)
        coefficients = torchcde.hermite_cubic_coefficients_with_backward_differences
        self._coefficients = coefficients(self._observations)
        self._labels = torch.tensor(workload.labels)
        self._options = {"method": solver, "rtol": workload.rtol, "atol": workload.atol}
        if gradient == "adjoint":
            self._options["adjoint_options"] = {"norm": "seminorm"}
        self._adjoint = gradient == "adjoint"

    def solve(self):
        path = torchcde.CubicSpline(self._coefficients)
        z0 = self._initial(self._observations[:, 0])
        states = torchcde.cdeint(
            X=path, func=self.field, z0=z0, t=path.interval, adjoint=self._adjoint, **self._options
        )
        return self._readout(states[:, -1])

    def loss(self):
        return torch.nn.functional.binary_cross_entropy_with_logits(self.solve(), self._labels)

    def sources(self):
        modules = (self.field, self._initial, self._readout)
        return [p for module in modules for p in module.parameters()]

    def to_numpy(self, gradients):
        return [g.numpy().T for g in gradients]

    def count(self):
        calls = []
        handle = self.field.register_forward_hook(lambda *_: calls.append(1))
        loss = self.loss()
        forward = len(calls)
        torch.autograd.grad(loss, self.sources())
        handle.remove()
        return forward, len(calls) - forward
