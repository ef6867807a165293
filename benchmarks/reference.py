"""The float64 gradient that all are compared with, by means that no competitor uses.

The classical Runge-Kutta method of order 4 with many fixed steps, and the exact gradient of those
steps, by hand in NumPy. Halving the steps tells its own error: a sixteenth of the change.
"""

import numpy as np

STEPS_PER_UNIT_TIME = 64


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
    """A 3x3 convolution, padded to the same size, as nine matrix products."""

    @staticmethod
    def forward(x, w):
        height, width = x.shape[1:3]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return sum(
            padded[:, i : i + height, j : j + width] @ w[i, j] for i in range(3) for j in range(3)
        )

    @staticmethod
    def backward(x, w, cotangent):
        height, width = x.shape[1:3]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        d_padded, d_w = np.zeros_like(padded), np.zeros_like(w)
        flat = cotangent.reshape(-1, cotangent.shape[-1])
        for i in range(3):
            for j in range(3):
                window = np.s_[:, i : i + height, j : j + width]
                d_padded[window] += cotangent @ w[i, j].T
                d_w[i, j] = padded[window].reshape(-1, x.shape[-1]).T @ flat
        return d_padded[:, 1:-1, 1:-1], d_w


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


def gradient(workload, steps_per_unit_time=STEPS_PER_UNIT_TIME):
    """Gradients of the loss for y0 and the weights, a list."""
    field = Field(workload)
    y = workload.y0.astype("float64")
    starts = []  # (state, step size, whether the step ends at an output time)
    for t, t_next in zip(workload.times[:-1], workload.times[1:], strict=True):
        num_steps = int(np.ceil(round((t_next - t) * steps_per_unit_time, 9)))
        h = (t_next - t) / num_steps
        for i in range(num_steps):
            starts.append((y, h, i == num_steps - 1))
            y, _ = _step(field, y, h)
    cotangent = np.zeros_like(y)
    d_weights = [np.zeros(w.shape) for w in workload.weights]
    for start, h, is_output in reversed(starts):
        end, kept = _step(field, start, h)
        if is_output:
            cotangent = cotangent + 2 * end
        cotangent = _step_backward(field, kept, h, cotangent, d_weights)
    return [cotangent, *d_weights]


def relative_error(gradients, reference):
    """The largest relative error (Euclidean norm) of the gradients' tensors."""
    return max(
        float(np.linalg.norm(g - r) / np.linalg.norm(r))
        for g, r in zip(gradients, reference, strict=True)
    )
