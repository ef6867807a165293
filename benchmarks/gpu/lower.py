"""Write compiled training steps for a machine without TensorFlow.

    python -m gpu.lower --output travel
    python -m gpu.lower --output travel --problems mnist,lorenz2048 --rows "tape"

Needs tf_neuralode and SciPy, no GPU; takes more than an hour. For each row a program in StableHLO,
as TensorFlow's bridge hands it to XLA for a GPU, and what TensorFlow's own XLA makes of it here on
the CPU; for each problem float64 gradients. `manifest.json` lists them.
"""

import argparse
import json
import os
import pathlib
import re
import sys
import time
import traceback

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
import tensorflow as tf

from gpu import problems, rows
from tf_neuralode import NeuralODE, gradients, odeint, solvers

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"
SOLVERS = {"dopri5": solvers.DormandPrince, "tsit5": solvers.Tsit5}


def gradient_of(row):
    if row.gradient == "tape_kept":
        return gradients.Tape(checkpoint=False)
    return gradients.get(row.gradient)


def step_of(problem, row):
    """`step(tolerance, *inputs)`: gradients, then accepted and rejected steps and the status."""
    solve = lorenz if isinstance(problem, problems.Lorenz) else tanh

    def step(tolerance, *inputs):
        inputs = list(inputs)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            results, loss = solve(problem, row, tolerance, inputs)
        wanted = inputs[1:] if isinstance(problem, problems.Lorenz) else inputs
        d = results.diagnostics
        counts = tf.stack([d.num_accepted_steps, d.num_rejected_steps, d.status])
        return [*tape.gradient(loss, wanted), counts]

    return step


def tanh(problem, row, tolerance, inputs):
    y0, *weights = inputs
    convolve = len(y0.shape) == 4
    dtype = tf.bfloat16 if row.precision == "bfloat16" else tf.float32

    def f(t, y, weights):
        y = tf.cast(y, dtype)
        for w in weights:
            w = tf.cast(w, dtype)
            y = tf.tanh(tf.nn.conv2d(y, w, 1, "SAME") if convolve else tf.matmul(y, w))
        return tf.cast(y, tf.float32)

    solver = SOLVERS[row.solver](tolerance, tolerance, max_num_steps=row.room)
    settings = {"solver": solver, "gradient": gradient_of(row), "batch_ndims": 1}
    results = odeint(f, y0, problem.times, weights, **settings)
    return results, tf.reduce_sum(results.states[1:] ** 2)


def lorenz(problem, row, tolerance, inputs):
    """With `leaves` x, y, z are tensors of their own."""
    y0, rho = inputs
    apart = row.variant == "leaves"

    def f(t, state, rho):
        x, y, z = state if apart else tf.unstack(state, axis=-1)
        slope = (10 * (y - x), rho * x - y - x * z, x * y - tf.constant(8 / 3, x.dtype) * z)
        return slope if apart else tf.stack(slope, axis=-1)

    solver = SOLVERS[row.solver](tolerance, 1e-3 * tolerance, max_num_steps=row.room)
    settings = {"solver": solver, "gradient": gradient_of(row), "batch_ndims": 1}
    y0 = tuple(tf.unstack(y0, axis=-1)) if apart else y0
    results = odeint(f, y0, problem.times, rho, **settings)
    return results, sum(tf.reduce_sum(y[-1] ** 2) for y in tf.nest.flatten(results.states))


class Fit:
    """The MNIST example's model, its loss, gradients and an update by Adam, as one function."""

    def __init__(self, row):
        sys.path.append(str(EXAMPLES))
        import mnist
        from digits import load_digits

        keras.utils.set_random_seed(0)
        (images, labels), _ = load_digits()
        model = mnist.build_model(gradient=gradient_of(row), jit_compile=True)
        layers = [self._changed(layer, row) for layer in model.layers]
        self._model = keras.Sequential([keras.Input(model.input_shape[1:]), *layers])
        weights = [v.numpy() for v in self._model.trainable_variables]
        assert not self._model.non_trainable_variables
        moments = [np.zeros_like(w) for w in weights for _ in range(2)]
        x, y = images[: mnist.BATCH_SIZE], labels[: mnist.BATCH_SIZE]
        self.inputs = [*weights, *moments, np.float32(0), x, np.asarray(y, "int32")]
        self._loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @staticmethod
    def _changed(layer, row):
        """The solving layer without metrics, which are variables, and with the row's room."""
        if not isinstance(layer, NeuralODE):
            return layer
        config = {**layer.get_config(), "track_stats": False}
        if row.room:
            tolerance = layer.get_config()["rtol"]
            solver = solvers.DormandPrince(tolerance, tolerance, max_num_steps=row.room)
            config |= {"solver": solver, "rtol": None, "atol": None}
        return NeuralODE.from_config(config)

    def step(self, tolerance, *inputs):
        """Loss, gradients, then new weights and moments; as Keras' Adam does it, by hand.

        `tolerance` is not used: the layer has its own.
        """
        del tolerance
        weights, moments = list(inputs[:10]), inputs[10:30]
        count, x, y = inputs[30:]
        with tf.GradientTape() as tape:
            tape.watch(weights)
            logits, _ = self._model.stateless_call(weights, [], x, training=True)
            loss = self._loss(y, logits)
        d_weights = tape.gradient(loss, weights)
        count = count + 1.0
        alpha = 1e-3 * tf.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        new_weights, new_moments = [], []
        for i, (w, g) in enumerate(zip(weights, d_weights, strict=True)):
            m = moments[2 * i] + (g - moments[2 * i]) * (1 - 0.9)
            v = moments[2 * i + 1] + (tf.square(g) - moments[2 * i + 1]) * (1 - 0.999)
            new_weights.append(w - alpha * m / (tf.sqrt(v) + 1e-7))
            new_moments += [m, v]
        return [loss, *d_weights, *new_weights, *new_moments, count]


def fit_reference(inputs):
    """Loss and gradients in float64, by 32 steps of the classical method, in plain TensorFlow."""
    weights = [tf.constant(w, tf.float64) for w in inputs[:10]]
    x, y = tf.constant(inputs[-2], tf.float64), tf.constant(inputs[-1])
    with tf.GradientTape() as tape:
        tape.watch(weights)
        (first, first_bias, *dynamics, last, last_bias) = weights

        def f(z):
            for w, b in zip(dynamics[::2], dynamics[1::2], strict=True):
                z = tf.tanh(z @ w + b)
            return z

        z = tf.tanh(tf.reshape(x, (len(inputs[-2]), -1)) @ first + first_bias)
        h = 1 / 32
        for _ in range(32):
            k1 = f(z)
            k2 = f(z + h / 2 * k1)
            k3 = f(z + h / 2 * k2)
            k4 = f(z + h * k3)
            z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, z @ last + last_bias)
        loss = tf.reduce_mean(losses)
    return [x.numpy() for x in (loss, *tape.gradient(loss, weights))]


def stablehlo(function, arguments, platform):
    """The portable artifact, and the text without what counts or locates."""
    ir = function.experimental_get_compiler_ir(*arguments)
    artifact = ir(stage="stablehlo_serialized", platform_name=platform)
    text = ir(stage="stablehlo", platform_name=platform)
    text = re.sub(r"\s*loc\(.*?\)|^#loc.*$|__\w+_\d+__", "", text, flags=re.M)
    return artifact if isinstance(artifact, bytes) else artifact.encode(), text


class Writer:
    """Adds programs to a folder and its manifest; a row that fails is an entry with its error."""

    def __init__(self, folder):
        self._folder = pathlib.Path(folder)
        for name in ("programs", "expected", "reference", "inputs"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        self._file = self._folder / "manifest.json"
        self._manifest = {"programs": {}, "inputs": {}}
        if self._file.exists():
            self._manifest = json.loads(self._file.read_text())
        self._manifest["versions"] = {"tensorflow": tf.__version__, "keras": keras.__version__}

    def problem(self, problem, wanted):
        """All rows of a problem whose names match the regular expression `wanted`."""
        todo = [row for row in rows.ours(problem) if re.search(wanted, row.program_name)]
        todo = [row for row in todo if not row.on_device]  # the same programs
        fit = Fit(rows.ours(problem)[0]) if isinstance(problem, problems.Fit) else None
        inputs = fit.inputs if fit else problem.inputs()
        if fit:
            problems.save(self._folder / "inputs" / "fit.npz", inputs)
        self._manifest["inputs"][problem.name] = problems.checksum(inputs)
        file = self._folder / "reference" / f"{problem.name}.npz"
        if not file.exists():
            expected = fit_reference(inputs) if fit else problem.reference()
            problems.save(file, [problems.sampled(x) for x in expected])
        self._reference = problems.load(file)
        for row in todo:
            start = time.perf_counter()
            try:
                entry = self._program(problem, row, Fit(row).step if fit else None, inputs)
            except Exception as error:
                traceback.print_exc()
                entry = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
            key = f"{problem.name}/{row.program_name}"
            self._manifest["programs"][key] = entry
            self._file.write_text(json.dumps(self._manifest, indent=1))
            shown = {k: entry.get(k) for k in ("failed", "same_for_cpu", "errors", "steps")}
            print(f"{key}: {time.perf_counter() - start:.0f} s, {shown}", flush=True)

    def _program(self, problem, row, step, inputs):
        tf.config.experimental.enable_tensor_float_32_execution(row.precision == "tf32")
        step = step or step_of(problem, row)
        function = tf.function(step, jit_compile=True, autograph=False)
        inputs = [tf.constant(x) for x in inputs]
        dtype = tf.float64 if problem.float64 else tf.float32
        tolerances = [tf.constant(x, dtype) for x in rows.tolerances(problem, row)]
        # Others than the program is checked on: nothing of the inputs must be in it.
        arguments = (2 * tolerances[0], *[x // 2 if x.dtype.is_integer else x / 2 for x in inputs])
        artifact, text = stablehlo(function, arguments, "GPU")
        for_cpu, cpu_text = stablehlo(function, arguments, "CPU")
        name = f"{problem.name}.{row.program_name}".replace(" ", "_")
        entry = {"program": f"programs/{name}.vhlo", "same_for_cpu": text == cpu_text}
        (self._folder / entry["program"]).write_bytes(artifact)
        if not entry["same_for_cpu"]:
            entry["cpu_program"] = f"programs/{name}.cpu.vhlo"
            (self._folder / entry["cpu_program"]).write_bytes(for_cpu)
        entry |= {"expected": f"expected/{name}.npz", "errors": [], "steps": []}
        kept = []
        for tolerance in tolerances:
            outputs = [x.numpy() for x in function(tolerance, *inputs)]
            num = len(self._reference)
            if not isinstance(problem, problems.Fit):
                entry["steps"].append(outputs[num].tolist())
            entry["errors"].append(problems.error(outputs[:num], self._reference))
            kept += [problems.sampled(x) for x in outputs[:num]]
        problems.save(self._folder / entry["expected"], kept)
        return entry


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="travel")
    names = [name for name in problems.PROBLEMS if not name.startswith("tiny")]
    parser.add_argument("--problems", default=",".join(names), help="names, with commas")
    parser.add_argument("--rows", default="", help="regular expression, searched in their names")
    args = parser.parse_args()
    writer = Writer(args.output)
    for name in args.problems.split(","):
        writer.problem(problems.PROBLEMS[name], args.rows)
    size = sum(f.stat().st_size for f in pathlib.Path(args.output).rglob("*") if f.is_file())
    print(f"{size / 2**20:.1f} MiB in {args.output}")


if __name__ == "__main__":
    main()
