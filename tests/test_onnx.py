"""A model exported to ONNX answers in ONNX Runtime what the model itself predicts."""

import keras
import numpy as np
import onnxruntime
import pytest

from tf_neuralode import NeuralODE, gradients, solvers

X = np.random.default_rng(0).normal(size=(7, 3)).astype("float32")


def exported(path, **options):
    """A model, and what ONNX Runtime makes of its export, a function of the input."""
    keras.utils.set_random_seed(0)
    dynamics = keras.layers.Dense(3, activation="tanh")
    model = keras.Sequential([keras.Input((3,)), NeuralODE(dynamics, **options)])
    model.predict(X[:2], verbose=0)  # Keras exports what has been called
    model.export(path, format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    return model, lambda x: session.run(None, {name: x})[0]


@pytest.mark.parametrize(
    "options",
    [
        {"solver": "rk4"},
        {"solver": "bosh3", "gradient": gradients.Tape(checkpoint=False)},
        {"solver": "bosh3", "gradient": "gauss_adjoint", "return_sequences": True},
    ],
)
def test_it_gives_the_ends_of_a_solve_for_any_batch_size(options, tmp_path):
    model, predict = exported(tmp_path / "model.onnx", **options)
    for batch in (7, 1):
        # Other kernels round differently, which may change adaptive steps within the tolerance.
        rtol = 1e-5 if options["solver"] == "rk4" else 1e-3
        np.testing.assert_allclose(predict(X[:batch]), model(X[:batch]), rtol=rtol, atol=rtol)


def test_it_gives_nan_where_a_solve_fails(tmp_path):
    solver = solvers.Bosh3(1e-6, 1e-6, max_num_steps=3)
    _, predict = exported(tmp_path / "model.onnx", solver=solver, on_failure="nan")
    assert np.isnan(predict(X)).all()
