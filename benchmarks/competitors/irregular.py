"""tf_neuralode's layer, called with times of each sample's own.

`odeint` has no such times, so that all settings are the layer's.
"""

from competitors import ours

import tensorflow as tf  # isort: skip

NOTHING_CHOSEN = "auto"


def build(workload, gradient, xla, solver=None, norm="max", max_num_steps=None, api="step"):
    """`api` says what `xla=True` compiles: the whole step, or with "layer" the layer's solve."""
    settings = {
        "t_span": (float(workload.times[0, 0]), float(workload.times.max())),
        "gradient": ours.gradient_of(gradient),
    }
    if gradient == NOTHING_CHOSEN:
        settings |= {"rtol": workload.rtol, "atol": workload.atol}
    else:
        room = max_num_steps or workload.max_num_steps
        make = ours.SOLVERS[solver or "dormand_prince"]
        settings["solver"] = make(workload.rtol, workload.atol, max_num_steps=room, norm=norm)
    whole = xla is True and api == "step"
    return Irregular(workload, False if whole else xla, settings, whole)


class Irregular(ours.Layer):
    """The gradients of the weights, from a mean square at all times."""

    def __init__(self, workload, xla, settings, whole):
        super().__init__(workload, xla, settings, whole)
        self._times = tf.constant(workload.times[:, 1:])
        self._targets = tf.constant(workload.targets)

    def call(self, layer, y0):
        return layer(y0, self._times, training=True)

    def loss(self, y0, weights):
        return tf.reduce_mean((self.solve(y0, weights) - self._targets) ** 2)

    def sources(self, y0, weights):
        return weights
