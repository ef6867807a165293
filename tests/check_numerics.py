"""Solves with `tf.debugging.enable_check_numerics()`, in a process of its own: it can't be undone.

python check_numerics.py {eager,graph}
"""

import sys

import tensorflow as tf
from all_gradients import ALL_GRADIENTS

from tf_neuralode import NeuralODE, gradients, odeint, solvers

FIELDS = {
    "rest": lambda t, y: tf.zeros_like(y),
    "of time": lambda t, y: -t * y,
}
TIMES = {"ends": [0.0, 1.0], "between": [0.0, 0.5, 1.0], "no interval": [0.0, 0.0]}
GRADIENTS = [*ALL_GRADIENTS, gradients.Tape(checkpoint=False)]


def cases(mode):
    """Names, and functions of a state."""
    for i, solver in enumerate(solvers.names()):
        # In eager mode, where each operation is checked by itself, slowly, one field for each.
        names = [[*FIELDS][i % 2]] if mode == "eager" else FIELDS
        for name in names:
            f = FIELDS[name]
            run = lambda y, f=f, solver=solver: odeint(f, y, TIMES["between"], solver=solver).states
            yield f"{solver} {name}", run
    for gradient in GRADIENTS:
        for name, times in TIMES.items():

            def run(y, gradient=gradient, times=times):
                with tf.GradientTape() as tape:
                    tape.watch(y)
                    results = odeint(FIELDS["of time"], y, times, solver="bosh3", gradient=gradient)
                    loss = tf.reduce_sum(results.states**2)
                return tape.gradient(loss, y)

            yield f"{gradient} {name}", run
    for on_failure in ("raise", "nan"):
        layer = NeuralODE(FIELDS["of time"], time_dependent=True, on_failure=on_failure)
        yield f"layer {on_failure}", lambda y, layer=layer: layer(y[tf.newaxis])
        own = tf.constant([[0.0, 0.2, 0.2]])
        yield f"layer {on_failure} own", lambda y, layer=layer: layer(y[tf.newaxis], own)


if __name__ == "__main__":
    tf.debugging.enable_check_numerics()
    (mode,) = sys.argv[1:]
    for case, run in cases(mode):
        if mode == "graph":
            run = tf.function(run, autograph=False)
        try:
            # An entry is 0: relative to it everything is large.
            run(tf.constant([1.0, 0.0, 2.0]))
        except tf.errors.InvalidArgumentError as error:
            print(case, "|", str(error).replace("\n", " ")[:300])
    try:
        tf.math.log(tf.constant(-1.0))
    except tf.errors.InvalidArgumentError:
        print("the check is on")
