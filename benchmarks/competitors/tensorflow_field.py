"""What the competitors on TensorFlow share."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when TensorFlow is imported

import tensorflow as tf

NUM_THREADS = int(os.environ["BENCHMARK_NUM_THREADS"])
tf.config.threading.set_intra_op_parallelism_threads(NUM_THREADS)
tf.config.threading.set_inter_op_parallelism_threads(NUM_THREADS)


class Field:
    """f(y, weights); counts its eager calls, its evaluations: a trace evaluates nothing."""

    def __init__(self, workload):
        self.num_calls = 0
        self._is_convolution = workload.is_convolution

    def __call__(self, y, weights):
        self.num_calls += int(tf.executing_eagerly())
        for w in weights:
            y = tf.nn.conv2d(y, w, 1, "SAME") if self._is_convolution else tf.matmul(y, w)
            y = tf.tanh(y)
        return y


class Competitor:
    """A training step made of `solve(y0, weights)`, the states at the output times."""

    def __init__(self, workload, xla, forward_only=False):
        self.workload = workload
        self.field = Field(workload)
        self.y0 = tf.constant(workload.y0)
        self.weights = [tf.constant(w) for w in workload.weights]
        step = self.forward if forward_only else self._gradients
        self._compiled = tf.function(step, jit_compile=xla, autograph=False)

    def solve(self, y0, weights):
        raise NotImplementedError

    def forward(self, y0, weights):
        """What a forward solve is timed with."""
        return self.solve(y0, weights)

    def loss(self, y0, weights):
        return tf.reduce_sum(self.solve(y0, weights) ** 2)

    def sources(self, y0, weights):
        """What has a gradient."""
        return [y0, *weights]

    def _gradients(self, y0, weights):
        sources = self.sources(y0, weights)
        with tf.GradientTape() as tape:
            tape.watch(sources)
            loss = self.loss(y0, weights)
        return tape.gradient(loss, sources)

    def step(self):
        # On a CPU, calls of a tf.function from Python return when they are done.
        return self._compiled(self.y0, self.weights)

    def to_numpy(self, gradients):
        return [g.numpy() for g in gradients]

    def count(self):
        sources = self.sources(self.y0, self.weights)
        with tf.GradientTape() as tape:
            tape.watch(sources)
            before = self.field.num_calls
            loss = self.loss(self.y0, self.weights)
            forward = self.field.num_calls - before
        tape.gradient(loss, sources)
        return forward, self.field.num_calls - before - forward
