"""What the competitors on PyTorch share."""

import os

import numpy as np
import torch

if "BENCHMARK_NUM_THREADS" in os.environ:
    torch.set_num_threads(int(os.environ["BENCHMARK_NUM_THREADS"]))


class Field(torch.nn.Module):
    """f(t, y) as a module; PyTorch holds images and kernels with the channels first."""

    def __init__(self, workload):
        super().__init__()
        layers = []
        for w in workload.weights:
            if workload.is_convolution:
                layer = torch.nn.Conv2d(w.shape[2], w.shape[3], 3, padding=1, bias=False)
                value = w.transpose(3, 2, 0, 1)
            else:
                layer = torch.nn.Linear(*w.shape, bias=False)
                value = w.T
            layer.weight = torch.nn.Parameter(torch.tensor(np.ascontiguousarray(value)))
            layers += [layer, torch.nn.Tanh()]
        self.layers = torch.nn.Sequential(*layers)

    def forward(self, t, y):
        return self.layers(y)


def initial_state(workload):
    y0 = workload.y0.transpose(0, 3, 1, 2) if workload.is_convolution else workload.y0
    return torch.tensor(np.ascontiguousarray(y0), requires_grad=True)


class Competitor:
    """A training step made of `solve()`, the states at the output times."""

    def __init__(self, workload):
        self.workload = workload
        self.field = Field(workload)
        self.y0 = initial_state(workload)
        self.times = torch.tensor(workload.times.astype("float32"))

    def solve(self):
        raise NotImplementedError

    def step(self):
        loss = (self.solve() ** 2).sum()
        return torch.autograd.grad(loss, [self.y0, *self.field.parameters()])

    def to_numpy(self, gradients):
        y0, *weights = [g.numpy() for g in gradients]
        if self.workload.is_convolution:
            return [y0.transpose(0, 2, 3, 1), *[w.transpose(2, 3, 1, 0) for w in weights]]
        return [y0, *[w.T for w in weights]]
