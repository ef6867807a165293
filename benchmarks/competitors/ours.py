"""tf_neuralode: `odeint`, or the layer `NeuralODE` around the same field."""

from competitors import keras_field, tensorflow_field

import keras  # isort: skip
import tensorflow as tf

from tf_neuralode import NeuralODE, gradients, odeint, solvers

SOLVERS = {
    "bosh3": solvers.Bosh3,
    "dormand_prince": solvers.DormandPrince,
    "sofroniou_spaletta4": solvers.SofroniouSpaletta4,
    "tsit5": solvers.Tsit5,
    "verner6": solvers.Verner6,
}


def build(workload, gradient, xla, solver="dormand_prince", api="odeint", norm="max", **options):
    """With `norm="mean"` the error is the mean over the batch, as that of the peers."""
    if api == "layer":
        return Layer(workload, xla, _layer_settings(workload, gradient))
    max_num_steps = options.pop("max_num_steps", workload.max_num_steps)
    solver = SOLVERS[solver](workload.rtol, workload.atol, max_num_steps=max_num_steps, norm=norm)
    return Odeint(workload, xla, solver, gradient_of(gradient), **options)


def _layer_settings(workload, gradient):
    settings = {
        "t_span": (workload.times[0], workload.times[-1]),
        "gradient": gradient_of(gradient),
        "rtol": workload.rtol,
        "atol": workload.atol,
    }
    if len(workload.times) > 2:
        settings |= {"t_eval": workload.times[1:], "return_sequences": True}
    return settings


def gradient_of(name):
    """The argument `gradient` of that name in the tables."""
    return gradients.Tape(checkpoint=False) if name == "tape_kept" else name


class Odeint(tensorflow_field.Competitor):
    """The functional interface; with `xla` the whole step is compiled."""

    def __init__(self, workload, xla, solver, gradient, **options):
        super().__init__(workload, xla, **options)
        self._solver, self._gradient = solver, gradient

    def solve(self, y0, weights):
        return self.forward(y0, weights)[1:]

    def forward(self, y0, weights):
        # All rows: to leave the first out is a copy of the others, which is none of odeint's work.
        f = lambda t, y, weights: self.field(y, weights)
        settings = {"solver": self._solver, "gradient": self._gradient, "batch_ndims": 1}
        results = odeint(f, y0, self.workload.times, weights, **settings)
        return results.states


class Layer(tensorflow_field.Competitor):
    """The layer with its own solver, called to train; the step around it is a graph.

    `xla` is its `jit_compile`. With "auto", and `gradient` as well, nothing is chosen. `whole` says
    whether the step around it is compiled, and it in there.
    """

    def __init__(self, workload, xla, settings, whole=False):
        super().__init__(workload, xla=whole)
        self._settings = settings
        self._xla = xla
        self._layer = None

    def solve(self, y0, weights):
        return self.call(self._layer, y0)

    def call(self, layer, y0):
        return layer(y0, training=True)

    def step(self):
        if self._layer is None:  # a part of the first step, since it traces the field
            self._layer, self.weights = self._make(self._dynamics(), self._xla)
        return super().step()

    def count(self):
        measured = self._layer, self.weights
        # What XLA compiled doesn't call Python, nor does a Keras model count its calls.
        self._layer, self.weights = self._make(self._counted_dynamics(), xla=False)
        counts = super().count()
        self._layer, self.weights = measured
        return counts

    def _dynamics(self):
        return keras_field.make(self.workload)

    def _counted_dynamics(self):
        return FieldLayer(self.field, self.workload.weights)

    def _make(self, field, xla):
        layer = NeuralODE(field, jit_compile=xla, **self._settings)
        layer.build(self.y0.shape)
        return layer, [w.value for w in layer.trainable_weights]


class FieldLayer(keras.layers.Layer):
    """The field with its weights as variables."""

    def __init__(self, field, weights):
        super().__init__()
        self._field = field
        self._kernels = [
            self.add_weight(w.shape, initializer=keras.initializers.Constant(tf.constant(w)))
            for w in weights
        ]

    def call(self, y):
        return self._field(y, [tf.convert_to_tensor(w) for w in self._kernels])

    def compute_output_shape(self, input_shape):
        return input_shape
