"""The field of `serve` with torchdiffeq, eager, without gradients, called from NumPy to NumPy."""

import torch
import torchdiffeq

from competitors import torch_field


def build(workload, solver):
    return Served(workload, solver)


class Served:
    def __init__(self, workload, solver):
        self._field = torch_field.Field(workload.weights)
        self._times = torch.tensor(workload.times.astype("float32"))
        self._options = {"method": solver, "rtol": workload.rtol, "atol": workload.atol}
        self._y0 = workload.y0

    def step(self):
        with torch.no_grad():
            y0 = torch.from_numpy(self._y0)
            return torchdiffeq.odeint(self._field, y0, self._times, **self._options)[-1].numpy()

    def to_numpy(self, states):
        return [states]
