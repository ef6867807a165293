"""TensorFlow Probability's own DormandPrince, as a layer without further thought uses it."""

from competitors import tensorflow_field

import tensorflow_probability as tfp  # isort: skip


def build(workload, xla):
    return Stock(workload, xla)


class Stock(tensorflow_field.Competitor):
    """`Solver.solve` with the weights as its constants, which makes the gradients complete."""

    def solve(self, y0, weights):
        times = self.workload.times
        solver = tfp.math.ode.DormandPrince(rtol=self.workload.rtol, atol=self.workload.atol)
        results = solver.solve(
            lambda t, y, weights: self.field(y, weights),
            times[0],
            y0,
            times[1:].astype("float32"),
            constants={"weights": tuple(weights)},
        )
        return results.states
