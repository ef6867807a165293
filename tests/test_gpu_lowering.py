"""A whole training step lowers for a GPU, where there is none."""

import keras
import pytest
import tensorflow as tf
from all_gradients import ALL_GRADIENTS

from tf_neuralode import NeuralODE


@pytest.mark.parametrize("gradient", ALL_GRADIENTS)
def test_loss_and_gradients_of_a_training_step_lower_for_a_gpu(gradient):
    dynamics = keras.Sequential([keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(4)])
    model = keras.Sequential([keras.Input((4,)), NeuralODE(dynamics, gradient=gradient)])
    non_trainable = [tf.convert_to_tensor(v.value) for v in model.non_trainable_variables]

    # Weights come in as tensors: a resource argument has a device, and there is no GPU to have it.
    @tf.function(jit_compile=True, autograph=False)
    def loss_and_gradients(weights, x, target):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            prediction, _ = model.stateless_call(weights, non_trainable, x, training=True)
            loss = tf.reduce_mean((prediction - target) ** 2)
        return loss, tape.gradient(loss, weights)

    weights = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
    x = tf.ones([8, 4])
    ir = loss_and_gradients.experimental_get_compiler_ir(weights, x, x)
    hlo = ir(stage="hlo", platform_name="GPU")
    assert "while" in hlo  # the solve is in there
