"""tf_neuralode: a model of `NeuralCDE` and a Dense layer."""

from competitors import ours

import keras  # isort: skip
import tensorflow as tf

from tf_neuralode.layers import NeuralCDE

NOTHING_CHOSEN = "auto"


def build(workload, gradient, xla, solver=None, norm="max", max_num_steps=None, api="step"):
    """`api` says what `xla=True` compiles: the whole step, or with "layer" the layer's solve."""
    settings = {"gradient": ours.gradient_of(gradient)}
    if gradient == NOTHING_CHOSEN:
        settings |= {"rtol": workload.rtol, "atol": workload.atol}
    else:
        room = max_num_steps or workload.max_num_steps
        make = ours.SOLVERS[solver or "dormand_prince"]
        settings["solver"] = make(workload.rtol, workload.atol, max_num_steps=room, norm=norm)
    whole = xla is True and api == "step"
    return Cde(workload, False if whole else xla, settings, whole)


class Cde(ours.Layer):
    """The path is made in the step, from times and values: the layer takes no other."""

    def __init__(self, workload, xla, settings, whole):
        super().__init__(workload, xla, settings, whole)
        self._data = [tf.constant(workload.values), tf.constant(workload.times)]
        self._labels = tf.constant(workload.labels)

    def call(self, model, y0):
        return model(self._data, training=True)

    def loss(self, y0, weights):
        logits = self.solve(y0, weights)
        return tf.reduce_mean(
            tf.nn.sigmoid_cross_entropy_with_logits(labels=self._labels, logits=logits)
        )

    def sources(self, y0, weights):
        return weights

    def _dynamics(self):
        layers = [keras.layers.Dense(len(bias), "tanh") for bias in self.workload.field[1::2]]
        return keras.Sequential(layers)

    def _counted_dynamics(self):
        return Counted(self._dynamics(), self.field)

    def _make(self, field, xla):
        workload = self.workload
        inputs = [keras.Input(data.shape[1:]) for data in self._data]
        units = workload.initial[0].shape[1]
        states = NeuralCDE(field, units, jit_compile=xla, **self._settings)(*inputs)
        model = keras.Model(inputs, keras.layers.Dense(1)(states))
        model.set_weights(workload.weights)
        return model, [w.value for w in model.trainable_weights]


class Counted(keras.layers.Layer):
    """A layer whose eager calls `counts` counts, see `tensorflow_field.Field`."""

    def __init__(self, layer, counts):
        super().__init__()
        self._layer, self._counts = layer, counts

    def call(self, y):
        self._counts.num_calls += int(tf.executing_eagerly())
        return self._layer(y)
