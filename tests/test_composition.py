"""A solve inside of other layers: cells of recurrent networks, and two solves of one dynamics."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_neuralode import NeuralODE, odeint


class Cell(keras.layers.Layer):
    """A GRU whose state moves by itself between two steps: y' = -y, over one unit of time."""

    def __init__(self, solve):
        super().__init__()
        self.gru = keras.layers.GRUCell(4)
        self.solve = solve
        self.state_size = self.output_size = 4

    def build(self, input_shape):
        self.gru.build(input_shape)
        if isinstance(self.solve, keras.layers.Layer):
            self.solve.build((None, 4))

    def call(self, x, states):
        return self.gru(x, [self.solve(states[0])])


def by_odeint(y):
    return odeint(lambda t, y: -y, y, [0.0, 1.0], gradient="tape").states[-1]


def exactly(y):
    return float(np.exp(-1)) * y


def trained(solve):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.RNN(Cell(solve)), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((5, 3)), *layers])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x = np.random.default_rng(0).normal(size=(8, 5, 3)).astype("float32")
    history = model.fit(x, x[:, :, 0].sum(1), epochs=3, verbose=0)
    return history.history["loss"]


@pytest.mark.parametrize("solve", ["layer", "odeint"])
def test_a_solve_in_the_cell_of_an_rnn_trains(solve):
    found = trained(NeuralODE(lambda y: -y) if solve == "layer" else by_odeint)
    # The default tolerance, over three updates.
    np.testing.assert_allclose(found, trained(exactly), rtol=1e-2)


def test_solves_that_share_a_dynamics_keep_their_weights_in_a_file_of_weights(tmp_path):
    def make():
        dynamics = keras.layers.Dense(2, "tanh")
        x = keras.Input((2,))
        return keras.Model(x, NeuralODE(dynamics)(NeuralODE(dynamics)(x)))

    model, other, x = make(), make(), tf.ones([3, 2])
    assert len(model.trainable_weights) == 2
    model.save_weights(tmp_path / "model.weights.h5")
    assert np.max(np.abs(other(x) - model(x))) > 0
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other(x), model(x))


def test_a_file_of_layers_that_share_a_dynamics_warns_when_it_is_written(tmp_path):
    dynamics = keras.layers.Dense(2, "tanh")
    model = keras.Sequential([keras.Input((2,)), NeuralODE(dynamics), NeuralODE(dynamics)])
    with pytest.warns(UserWarning, match=r"share one dynamics, dense.*save_weights"):
        model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="expected 2 variables, but received 0"):
        keras.saving.load_model(tmp_path / "model.keras")


def test_a_layer_in_place_of_another_one_is_saved_without_a_warning(tmp_path):
    layer = NeuralODE(keras.layers.Dense(2, "tanh"))
    layer(tf.ones([1, 2]))
    layer = NeuralODE.from_config({**layer.get_config(), "dynamics": layer.dynamics})
    # Nor is a config of two that live.
    other = NeuralODE.from_config({**layer.get_config(), "dynamics": layer.dynamics})
    other.get_config()
    del other
    keras.Sequential([keras.Input((2,)), layer]).save(tmp_path / "model.keras")
