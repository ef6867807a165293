"""Answer predictions of an exported model over HTTP, in the form of TensorFlow Serving's REST API.

The process needs TensorFlow, Flask and waitress, but neither Keras nor tf_neuralode.

    python examples/mnist.py --save digits && python examples/serve.py digits
    curl -d '{"instances": [[0.5, -1.0]]}' localhost:8501/v1/models/circle:predict

A model of several inputs takes an object for each instance: `{"y0": [0.5], "context": [2.0]}`.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when TensorFlow is imported

import flask
import tensorflow as tf
import waitress


def make_app(path):
    """A WSGI application that predicts with the SavedModel at `path`, under the folder's name."""
    model = tf.saved_model.load(path)
    specs = _signature(model).structured_input_signature[1]
    app = flask.Flask(__name__)

    @app.post(f"/v1/models/{Path(path).resolve().name}:predict")
    def predict():
        try:
            instances = flask.request.get_json(force=True)["instances"]
            (predictions,) = _signature(model)(**_batch(instances, specs)).values()
            return {"predictions": predictions.numpy().tolist()}
        # Not the form of the API, not the shape of the model, or a solve that failed.
        except (KeyError, TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
            return {"error": f"{type(error).__name__}: {error}"}, 400

    return app


def _batch(instances, specs):
    """The inputs by name: of a model with one of them an instance is its value alone."""
    if len(specs) == 1:
        (name,) = specs
        instances = [{name: instance} for instance in instances]
    batch = {}
    for name, spec in specs.items():
        batch[name] = tf.constant([instance[name] for instance in instances], spec.dtype)
        spec.shape.assert_is_compatible_with(batch[name].shape)
    return batch


def _signature(model):
    # Not model.serve: TensorFlow 2.21 refuses an input without releasing its lock, and the next
    # call from another thread waits for ever.
    return model.signatures["serving_default"]


def main(argv=None):
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder that model.export wrote")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8501, help="0: a free one")
    args = parser.parse_args(argv)
    server = waitress.create_server(make_app(args.model), host=args.host, port=args.port)
    name = Path(args.model).resolve().name
    print(f"http://{args.host}:{server.effective_port}/v1/models/{name}:predict", flush=True)
    server.run()


if __name__ == "__main__":
    main()
