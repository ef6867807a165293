"""Settings of a layer that don't fit, alone or together."""

from __future__ import annotations

from typing import Any

from tf_neuralode.layers.inputs import KINDS

FAILURE_MODES = ("raise", "nan", "last")


def check_settings(layer: Any) -> None:
    """Raises ValueError or TypeError for settings of a `NeuralODE` that don't fit."""
    on_failure, solver, gradient = layer.on_failure, layer._solver, layer.gradient
    if on_failure not in FAILURE_MODES:
        raise ValueError(
            f"Argument on_failure must be one of {', '.join(map(repr, FAILURE_MODES))}. "
            f"Received: on_failure={on_failure!r}"
        )
    gradient.check_solver(solver)
    if layer.jit_compile not in (True, False, "auto"):
        raise TypeError(
            "Argument jit_compile must be True, False or 'auto'. "
            f"Received: jit_compile={layer.jit_compile!r}"
        )
    if layer.control is not None and layer.control not in KINDS:
        raise ValueError(
            f"Argument control must be one of {', '.join(map(repr, KINDS))}, or None: how a signal "
            f"is interpolated. Received: control={layer.control!r}"
        )
    if on_failure == "last" and not solver.is_adaptive:
        raise ValueError(
            "Argument on_failure='last' needs an adaptive solver of tf_neuralode.solvers: "
            "others don't tell how far they got. Take 'nan'. Received: "
            f"solver={layer.solver!r}"
        )
    if layer.jit_compile is True and gradient.keeps_activations:
        # TensorFlow's lists, which hold a loop's activations, can't leave compiled code.
        raise ValueError(
            "A layer with jit_compile=True can't keep activations. Take gradient='tape', or "
            "compile the whole model, model.compile(..., jit_compile=True). "
            f"Received: gradient={gradient}"
        )
