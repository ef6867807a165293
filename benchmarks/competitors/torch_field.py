"""What the competitors on PyTorch share."""

import os

import numpy as np
import torch

if "BENCHMARK_NUM_THREADS" in os.environ:
    torch.set_num_threads(int(os.environ["BENCHMARK_NUM_THREADS"]))


class Field(torch.nn.Module):
    """f(t, y) as a module; PyTorch holds images and kernels with the channels first."""

    def __init__(self, weights, biases=()):
        super().__init__()
        layers = []
        for i, w in enumerate(weights):
            if w.ndim == 4:
                layer = torch.nn.Conv2d(w.shape[2], w.shape[3], 3, padding=1, bias=False)
                value = w.transpose(3, 2, 0, 1)
            else:
                layer = torch.nn.Linear(*w.shape, bias=len(biases) > 0)
                value = w.T
            layer.weight = torch.nn.Parameter(torch.tensor(np.ascontiguousarray(value)))
            if len(biases) > 0:
                layer.bias = torch.nn.Parameter(torch.tensor(biases[i]))
            layers += [layer, torch.nn.Tanh()]
        self.layers = torch.nn.Sequential(*layers)

    def forward(self, t, y):
        return self.layers(y)


def initial_state(y0, device=None):
    y0 = y0.transpose(0, 3, 1, 2) if y0.ndim == 4 else y0
    return torch.tensor(np.ascontiguousarray(y0), device=device, requires_grad=True)


def as_given(gradients):
    """Gradients of the state and of the weights, in the layout that those came in."""
    y0, *weights = gradients
    if y0.ndim == 4:
        return [y0.permute(0, 2, 3, 1), *[w.permute(2, 3, 1, 0) for w in weights]]
    return [y0, *[w.T for w in weights]]


class Competitor:
    """A training step made of `solve()`, the states at the output times."""

    def __init__(self, workload, field=None):
        self.workload = workload
        self.field = field or Field(workload.weights)
        self.y0 = initial_state(workload.y0)
        self.times = torch.tensor(workload.times.astype("float32"))

    def solve(self):
        raise NotImplementedError

    def loss(self):
        return (self.solve() ** 2).sum()

    def sources(self):
        """What has a gradient."""
        return [self.y0, *self.field.parameters()]

    def step(self):
        return torch.autograd.grad(self.loss(), self.sources())

    def to_numpy(self, gradients):
        return [g.numpy() for g in as_given(gradients)]


class FitsSeries(Competitor):
    """The gradients of the weights, of a mean square at each sample's own times, `Irregular`'s.

    Its `solve()` gives states `(samples, times, features)`.
    """

    def __init__(self, workload, *args, **options):
        super().__init__(workload, *args, **options)
        self.y0 = self.y0.detach()
        self._targets = torch.tensor(workload.targets)

    def loss(self):
        return ((self.solve() - self._targets) ** 2).mean()

    def sources(self):
        return list(self.field.parameters())

    def to_numpy(self, gradients):
        return [g.T.numpy() for g in gradients]
