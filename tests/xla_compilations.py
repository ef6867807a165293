"""Training steps of a layer, or a model, that XLA compiles, on states that take few steps or many.

python xla_compilations.py GRADIENT {layer,model}
"""

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
    jit_compile=sys.argv[2] == "layer" or "auto",
    t_eval=[0.5, 1.0, 2.0, 5.0],
    return_sequences=True,
)


@tf.function(autograph=False)
def step(x):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x) ** 2)
    return tape.gradient(loss, layer.trainable_variables)


model = keras.Sequential([keras.Input((3,)), layer])
model.compile("sgd", "mse", jit_compile=True)
for size in range(1, 13, 2):
    x = size * tf.ones([2, 3])
    if sys.argv[2] == "layer":
        step(x)
    else:
        model.train_on_batch(x, tf.zeros([2, 4, 3]))
