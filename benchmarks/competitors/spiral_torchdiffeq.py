"""The spiral with torchdiffeq and PyTorch's Adam, eager.

A call is a part of a run: `NUM_TIMED` steps from the initial weights, since all take minutes.
"""

import torch
import torchdiffeq

from competitors import torch_field  # noqa: F401, sets the threads

NUM_TIMED = 30


def build(workload, gradient):
    return Spiral(workload, gradient)


class Field(torch.nn.Module):
    """As in torchdiffeq's example, `ode_demo.py`."""

    def __init__(self, workload):
        super().__init__()
        layers = [torch.nn.Linear(2, 50), torch.nn.Linear(50, 2)]
        for layer, w, b in zip(layers, workload.weights, workload.biases, strict=True):
            layer.weight = torch.nn.Parameter(torch.tensor(w.T.copy()))
            layer.bias = torch.nn.Parameter(torch.tensor(b))
        self.layers = torch.nn.Sequential(layers[0], torch.nn.Tanh(), layers[1])

    def forward(self, t, y):
        return self.layers(y**3)


class Spiral:
    def __init__(self, workload, gradient):
        self.steps_per_call = min(NUM_TIMED, workload.num_steps)
        self._workload = workload
        adjoint = gradient == "adjoint"
        self._odeint = torchdiffeq.odeint_adjoint if adjoint else torchdiffeq.odeint
        self._settings = {"method": "dopri5", "rtol": workload.rtol, "atol": workload.atol}
        if adjoint:
            self._settings["adjoint_options"] = {"norm": "seminorm"}
        self._y0 = torch.tensor(workload.y0)
        self._times = torch.tensor(workload.times.astype("float32"))
        self._series = torch.tensor(workload.series)

    def step(self):
        field = Field(self._workload)
        optimizer = torch.optim.Adam(field.parameters(), lr=self._workload.learning_rate)
        for _ in range(self.steps_per_call):
            optimizer.zero_grad()
            self._loss(field).backward()
            optimizer.step()
        self._trained = field

    def figures(self):
        """The loss before a run, and after one that is whole."""
        with torch.no_grad():
            losses = {"initial_loss": self._loss(Field(self._workload)).item()}
            if self.steps_per_call == self._workload.num_steps:
                losses["final_loss"] = self._loss(self._trained).item()
        return losses

    def _loss(self, field):
        states = self._odeint(field, self._y0, self._times, **self._settings)[:, 0]
        return ((states - self._series) ** 2).mean()
