"""tf_neuralode: `odeint`, or the layer `NeuralODE` around the same field."""

import functools

from competitors import tensorflow_field

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
    max_num_steps = options.pop("max_num_steps", workload.max_num_steps)
    solver = SOLVERS[solver](workload.rtol, workload.atol, max_num_steps=max_num_steps, norm=norm)
    if gradient == "tape_kept":
        gradient = gradients.Tape(checkpoint=False)
    make = {"odeint": Odeint, "layer": Layer}[api]
    return make(workload, xla, solver, gradient, **options)


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
    """The layer; with `xla` it compiles its solve by itself, the step around it is a graph."""

    def __init__(self, workload, xla, solver, gradient):
        super().__init__(workload, xla=False)
        self._make = functools.partial(
            NeuralODE,
            FieldLayer(self.field, workload.weights),
            (workload.times[0], workload.times[-1]),
            t_eval=workload.times[1:],
            return_sequences=True,
            solver=solver,
            gradient=gradient,
        )
        self._layer = self._make(jit_compile=xla)
        self._layer.build(self.y0.shape)
        self.weights = [w.value for w in self._layer.trainable_weights]

    def solve(self, y0, weights):
        return self._layer(y0)

    def count(self):
        self._layer = self._make(jit_compile=False)  # what XLA compiled doesn't call Python
        return super().count()


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
