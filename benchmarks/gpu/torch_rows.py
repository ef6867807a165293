"""Rows of torchdiffeq, eager as it is."""

import numpy as np
import torch
import torchdiffeq

from competitors.torch_field import Field, as_given, initial_state
from gpu import problems


class LowPrecision(torch.nn.Module):
    """A field whose products are of 16 bits."""

    def __init__(self, field):
        super().__init__()
        self.field = field

    def forward(self, t, y):
        with torch.autocast(y.device.type, torch.bfloat16):
            return self.field(t, y).to(y.dtype)


class Lorenz(torch.nn.Module):
    def __init__(self, rho):
        super().__init__()
        self.rho = torch.nn.Parameter(rho)

    def forward(self, t, state):
        x, y, z = state.unbind(-1)
        slope = [10 * (y - x), self.rho * x - y - x * z, x * y - 8 / 3 * z]
        return torch.stack(slope, dim=-1)


class Torchdiffeq:
    """A row on a problem: `step()` returns what is compared, a list of tensors."""

    def __init__(self, problem, row, inputs, device):
        self._problem, self._row, self._device = problem, row, torch.device(device)
        self._tensor = lambda x: torch.tensor(np.ascontiguousarray(x), device=self._device)
        # Its loop reads the times back: on the CPU they would be copied at each step.
        dtype = "float64" if problem.float64 else "float32"
        self._times = self._tensor(problem.times.astype(dtype))
        kind = {problems.Fit: self._fit, problems.Lorenz: self._lorenz}
        self._build = kind.get(type(problem), self._tanh)
        self._inputs = inputs

    def call(self, tolerance):
        """A function without arguments: one step, of a model of its own, since `fit` trains it."""
        step = self._build(self._inputs)

        def run():
            # Each time: they are the whole process's, and rows take turns.
            torch.backends.cuda.matmul.allow_tf32 = self._row.precision == "tf32"
            torch.backends.cudnn.allow_tf32 = self._row.precision == "tf32"
            return step(tolerance)

        return run

    def _solve(self, field, y0, tolerance, atol=None):
        options = {"method": self._row.solver, "rtol": tolerance, "atol": atol or tolerance}
        if self._row.gradient == "adjoint":
            options["adjoint_options"] = {"norm": "seminorm"}
            return torchdiffeq.odeint_adjoint(field, y0, self._times, **options)
        return torchdiffeq.odeint(field, y0, self._times, **options)

    def _tanh(self, inputs):
        y0, *weights = inputs
        field = Field(weights).to(self._device)
        y0 = initial_state(y0, self._device)
        if self._row.variant == "channels last":
            field = field.to(memory_format=torch.channels_last)
            y0 = y0.detach().to(memory_format=torch.channels_last).requires_grad_()
        if self._row.precision == "bfloat16":
            field = LowPrecision(field)
        parameters = [y0, *field.parameters()]

        def step(tolerance):
            loss = (self._solve(field, y0, tolerance)[1:] ** 2).sum()
            return as_given(torch.autograd.grad(loss, parameters))

        return step

    def _lorenz(self, inputs):
        y0, field = self._tensor(inputs[0]), Lorenz(self._tensor(inputs[1]))

        def step(tolerance):
            loss = (self._solve(field, y0, tolerance, 1e-3 * tolerance)[-1] ** 2).sum()
            return list(torch.autograd.grad(loss, [field.rho]))

        return step

    def _fit(self, inputs):
        w, x = inputs[:10], self._tensor(inputs[-2].reshape(len(inputs[-2]), -1))
        labels = self._tensor(inputs[-1].astype("int64"))
        first = Field(w[:1], w[1:2]).to(self._device)
        field = Field(w[2:8:2], w[3:8:2]).to(self._device)
        last = Field(w[8:9], w[9:10]).layers[0].to(self._device)
        parameters = [*first.parameters(), *field.parameters(), *last.parameters()]
        fused = self._device.type == "cuda"
        adam = torch.optim.Adam(parameters, lr=1e-3, eps=1e-7, fused=fused)

        def step(tolerance):
            adam.zero_grad(set_to_none=True)
            logits = last(self._solve(field, first(0, x), tolerance)[-1])
            loss = torch.nn.functional.cross_entropy(logits, labels)
            loss.backward()
            # Copies of the first step's, which is the one that is compared.
            grads = [p.grad.T if p.ndim == 2 else p.grad for p in parameters]
            result = [] if adam.state else [x.detach().clone() for x in (loss, *grads)]
            adam.step()
            return result

        return step


def wait(_=None):
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def kernels(call):
    """Names and microseconds of what a step ran on the GPU."""
    with torch.profiler.profile() as profiler:
        call()
        wait()
    cuda = torch.autograd.DeviceType.CUDA
    return [(e.name, e.time_range.elapsed_us()) for e in profiler.events() if e.device_type == cuda]


def about():
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"torch": torch.__version__, "torchdiffeq": torchdiffeq.__version__, "torch_on": device}
