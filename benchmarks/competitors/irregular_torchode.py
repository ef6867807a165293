"""torchode on times of each sample's own, which is what it is made for: eager, its own steps."""

from competitors import torchode
from competitors.torch_field import FitsSeries


def build(workload, solver):
    return Irregular(workload, solver, joint=False)


class Irregular(FitsSeries, torchode.Torchode):
    """Its batched `t_eval`."""
