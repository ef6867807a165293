"""What all are compared with, by means that no competitor uses.

Of a known field the solution, by extrapolation in extended precision. Of a training step the
float64 gradient: the classical Runge-Kutta method of order 4 with many fixed steps, and the exact
gradient of those steps, by hand in NumPy. Halving the steps tells its own error: a sixteenth of the
change.
"""

import itertools

import numpy as np

NUM_EXTRAPOLATED = 8  # order 16
STEPS_PER_UNIT_TIME = 32  # errors below 1e-7 on all workloads; those measured are 1e-5 and more


class Field:
    """f(y) and its vector-Jacobian product."""

    def __init__(self, workload):
        self._weights = [w.astype("float64") for w in workload.weights]
        self._layer = Convolution if workload.is_convolution else Dense

    def forward(self, y):
        """f(y), and what `backward` needs."""
        inputs = []
        for w in self._weights:
            inputs.append(y)
            y = np.tanh(self._layer.forward(y, w))
        return y, (inputs, y)

    def backward(self, kept, cotangent, d_weights):
        """The cotangent of y; adds those of the weights to `d_weights`."""
        inputs, output = kept
        for i in reversed(range(len(inputs))):
            before_tanh = cotangent * (1 - output**2)
            cotangent, d_weight = self._layer.backward(inputs[i], self._weights[i], before_tanh)
            d_weights[i] += d_weight
            output = inputs[i]
        return cotangent


class Dense:
    """A matrix product and its gradients."""

    @staticmethod
    def forward(x, w):
        return x @ w

    @staticmethod
    def backward(x, w, cotangent):
        return cotangent @ w.T, x.T @ cotangent


class Convolution:
    """A 3x3 convolution, padded to the same size, as a matrix product with the windows."""

    @staticmethod
    def forward(x, w):
        windows = _windows(x)
        flat = windows.reshape(-1, windows.shape[-1]) @ w.reshape(-1, w.shape[-1])
        return flat.reshape(*x.shape[:-1], w.shape[-1])

    @staticmethod
    def backward(x, w, cotangent):
        flat = cotangent.reshape(-1, cotangent.shape[-1])
        windows = _windows(x)
        d_w = windows.reshape(-1, windows.shape[-1]).T @ flat
        # The transpose is the convolution with the kernel mirrored and its channels exchanged.
        mirrored = w[::-1, ::-1].transpose(0, 1, 3, 2)
        return Convolution.forward(cotangent, mirrored), d_w.reshape(w.shape)


def _windows(x):
    """The 3x3 neighbourhood of each pixel, `(batch, height, width, 9 * channels)`."""
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.concatenate(shifts, axis=-1)


def _step(field, y, h):
    """One step, and what its gradient needs."""
    k1, kept1 = field.forward(y)
    k2, kept2 = field.forward(y + h / 2 * k1)
    k3, kept3 = field.forward(y + h / 2 * k2)
    k4, kept4 = field.forward(y + h * k3)
    return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), (kept1, kept2, kept3, kept4)


def _step_backward(field, kept, h, cotangent, d_weights):
    d4 = field.backward(kept[3], h / 6 * cotangent, d_weights)
    d3 = field.backward(kept[2], h / 3 * cotangent + h * d4, d_weights)
    d2 = field.backward(kept[1], h / 3 * cotangent + h / 2 * d3, d_weights)
    d1 = field.backward(kept[0], h / 6 * cotangent + h / 2 * d2, d_weights)
    return cotangent + d1 + d2 + d3 + d4


def _walk(workload, field, steps_per_unit_time):
    """Yields (state before a step, after it, step size, number of the output time it ends at).

    The last is `None` for a step that ends at none; the size is `(batch, 1)` of own times.
    """
    y = workload.y0.astype("float64")
    for i, (t, t_next) in enumerate(itertools.pairwise(workload.knots)):
        num_steps = int(np.ceil(round(np.max(t_next - t) * steps_per_unit_time, 9)))
        h = (t_next - t) / num_steps
        for j in range(num_steps):
            start, (y, _) = y, _step(field, y, h)
            yield start, y, h, i if j == num_steps - 1 else None


def states(workload, steps_per_unit_time=STEPS_PER_UNIT_TIME, field=None):
    """The states at `workload.knots`, a list; of another `field` than `Field` if one is given."""
    steps = _walk(workload, field or Field(workload), steps_per_unit_time)
    return [workload.y0, *(y for _, y, _, output in steps if output is not None)]


def gradient(workload, steps_per_unit_time=STEPS_PER_UNIT_TIME, field=None):
    """Gradients of the loss for y0 and the weights, a list; `field` as in `states`."""
    field = field or Field(workload)
    steps = list(_walk(workload, field, steps_per_unit_time))
    cotangent = np.zeros(workload.y0.shape)
    d_weights = [np.zeros(w.shape) for w in workload.weights]
    for start, end, h, output in reversed(steps):
        _, kept = _step(field, start, h)
        if output is not None:
            cotangent = cotangent + workload.loss_slope(end, output)
        cotangent = _step_backward(field, kept, h, cotangent, d_weights)
    return [cotangent, *d_weights]


def solution(problem, steps_per_unit_time=STEPS_PER_UNIT_TIME):
    """The states of a `workloads.Problem` at its times, `(times, state)`.

    Gragg's midpoint rule, extrapolated (E. Hairer et al., Solving Ordinary Differential Equations
    I, section II.9), in NumPy's longest floats: chaos takes eight digits until t = 20.
    """
    y = problem.y0.astype(np.longdouble)
    rows = [y]
    for t, t_next in itertools.pairwise(problem.times.astype(np.longdouble)):
        num_steps = int(np.ceil((t_next - t) * steps_per_unit_time))
        for _ in range(num_steps):
            y = _extrapolated_step(problem.field, y, (t_next - t) / num_steps)
        rows.append(y)
    return np.array(rows, "float64")


def _extrapolated_step(field, y, h):
    """The midpoint rule with 2, 4, 6 ... substeps, its error a series in their squared size."""
    numbers = 2 * np.arange(1, NUM_EXTRAPOLATED + 1)
    row = []
    for j, number in enumerate(numbers):
        size = h / number
        before, now = y, y + size * np.array(field(y))
        for _ in range(number - 1):
            before, now = now, before + 2 * size * np.array(field(now))
        above, row = row, [now]
        for k in range(j):
            ratio = (np.longdouble(number) / numbers[j - k - 1]) ** 2
            row.append(row[k] + (row[k] - above[k]) / (ratio - 1))
    return row[-1]


def relative_error(tensors, reference):
    """The largest relative error (Euclidean norm) of the tensors."""
    return max(
        float(np.linalg.norm(g - r) / np.linalg.norm(r))
        for g, r in zip(tensors, reference, strict=True)
    )
