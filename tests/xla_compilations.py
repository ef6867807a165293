"""Training steps of a layer that XLA compiles, on states that take it one to three steps."""

import sys

import keras
import tensorflow as tf

from tf_neuralode import NeuralODE

keras.utils.set_random_seed(0)
field = keras.Sequential(
    [keras.Input((3,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(3)]
)
layer = NeuralODE(
    field,
    (0.0, 5.0),
    gradient=sys.argv[1],
    jit_compile=True,
    t_eval=[0.5, 1.0, 2.0, 5.0],
    return_sequences=True,
)


@tf.function(autograph=False)
def step(x):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x) ** 2)
    return tape.gradient(loss, layer.trainable_variables)


for size in range(1, 13, 2):
    step(size * tf.ones([2, 3]))
