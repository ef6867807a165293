"""The Keras layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_neuralode import gradients, regularizers, solvers
from tf_neuralode.field import check_t_eval, check_t_span
from tf_neuralode.layers import build_dynamics, shared_dynamics
from tf_neuralode.layers.auto_compile import Choice, explanation
from tf_neuralode.layers.check_settings import check_settings
from tf_neuralode.layers.compiled import Compiled, OncePerTrace
from tf_neuralode.layers.eager_solves import EagerSolves
from tf_neuralode.layers.keras_layer import deserialized, init_keras
from tf_neuralode.layers.solving_layer import SolvingLayer
from tf_neuralode.solvers.checks import plain
from tf_neuralode.solvers.stock import adapted


@keras.saving.register_keras_serializable("tf_neuralode")
class NeuralODE(SolvingLayer):
    """Maps a state y(t0) to the solution of dy/dt = dynamics(y) at t1.

    The dynamics' weights are the layer's weights. What a dynamics writes is written once a call, in
    training and in prediction: random layers (Dropout) draw once, moving statistics
    (BatchNormalization) get one update. Activity regularizers and `add_loss` inside the dynamics
    have no effect. Settings are fixed at construction; a layer with others on the same weights is
    `NeuralODE.from_config({**layer.get_config(), "dynamics": layer.dynamics, ...})`.

    Args:
      dynamics: Keras layer or model whose output has the shape of its state input, or a function
        `f(y)` without weights. It is called on the state, or on the list of those that there are of
        `[t, y, control, context]`; a function on as many arguments. It may compute in fewer bits,
        under a mixed policy; tolerances too fine for those are a warning at build.
      t_span: Initial and final time, in units of time; may run backwards (t1 < t0). Numbers:
        variables and tensors go into the call, as `times`.
      solver: Name (`solvers.names()`), one of `tf_neuralode.solvers`, or any
        `tfp.math.ode.Solver`.
      gradient: Name (`gradients.names()`) or one of `tf_neuralode.gradients`. `"auto"` is
        `"tape"` for solvers of this package, `"adjoint"` for stock TFP ones.
      rtol, atol: Tolerances of an adaptive solver given by name, positive: numbers, or arrays that
        broadcast against the state. 1e-3 and 1e-6 if `None`.
      norm: Error norm of an adaptive solver given by name: `"max"`, each sample gets the accuracy
        that it would have alone, or `"mean"`, the batch as a whole does, in fewer steps; see
        `solvers.AdaptiveRungeKutta`. `"max"` if `None`.
      t_eval: Times at which to return the state, inside `t_span`, in its direction; both ends of
        `t_span` if `None`. Needs `return_sequences=True`.
      return_sequences: Whether to return the states at all times of `t_eval`.
      time_dependent: Whether dynamics is called on `[t, y]`, a function as `f(t, y)`, t of shape
        `(batch, 1)` in the state's dtype.
      regularizer: One of `tf_neuralode.regularizers` or a list of them: adds to the model's losses
        in training, from `t_span[0]` to the last output time; a prediction costs nothing more.
      on_failure: What becomes of a solve that fails. `"raise"`: an error that names the reason.
        `"nan"`: NaN in the output. `"last"`: the state that was reached, in all rows behind as
        well, with its gradient (the time reached is a constant); it needs adaptive steps of ours,
        and costs a forward solve more. `failed_solves` counts them (`track_stats`).
        Where XLA compiles the solve nothing can be raised and the output is NaN. A bad sample gives
        NaN for itself alone, and a dynamics sees a copy of a good one in its place; where a
        training call takes moving statistics of the batch (BatchNormalization) that would spoil
        them and the good samples, so the whole output is NaN and the statistics stay.
      track_stats: Whether the mean numbers of evaluations of the dynamics a call (`nfe`) and a
        backward pass (`nfe_backward`, in training, of solvers of ours), and the number of failed
        solves (`failed_solves`) appear in the logs of `fit` and `evaluate` (of one layer, if
        several track them); nothing of it is exported.
      jit_compile: Whether to compile this solve with XLA, whatever the model does. `"auto"`: in
        training on ten or more output times or equal steps, where the dynamics suits XLA (no
        convolutions on a CPU, no assertions, prints or Python functions), for the first three sizes
        of the batch; `explain` says what was chosen. Eager calls then run in a graph once they have
        evaluated a dynamics whose settings are known 128 times, see the guide. With True, numbers
        among the dynamics' attributes (`Dropout.rate`) are read as in a `tf.function`: anew after
        the model's `compile`, but not from one eager call to the next.

      control: How a control signal of the call is interpolated between its knots: `"linear"`,
        `"hermite"` (cubic, smooth, looking back) or `"previous"` (held), see `controls`; `None` if
        there is none.

    Call arguments:
      y0: State at `t_span[0]`: floating point, `(batch, ...)`.
      times: Times at which to return the state, in the direction of `t_span`, from `t_span[0]` on
        (`t_span[1]` and `t_eval` play no part then): `(num_times,)`, shared by the batch, or
        `(batch, num_times)`, for each sample its own, in one solve, however many they are. They may
        repeat. A list goes in by name, `times=[...]`. All times have gradients, those of the exact
        solution. They may have more precision than the state (float64, integers): `t_span[0]` is
        subtracted before they are cast. A time-dependent dynamics gets times in the state's dtype.
        `fit` and `predict` cast arrays of float64 to Keras' `floatx`, and a functional model its
        inputs to the dtype of their `keras.Input`: see the guide.
      mask: `(batch, num_times)`, boolean, false for times that are padding: there the row repeats
        the state at the last valid time before (the input, if there is none). Without `times` the
        state's mask, which Keras fills in.
      y0_mask: The state's mask beside `times`, `(batch, ...)`, as many of the state's first axes as
        it has; Keras fills it in. The dynamics gets it with the state, as any layer does, and what
        is masked rests: its slope is 0, and it is in no error norm.
      training: Passed to the dynamics.
      context: A nest of tensors `(batch, ...)` that the dynamics gets behind the state: labels,
        embeddings, masses, doses. Constant in a solve, and differentiable if floating point.
      control: `(knots, values)` or `(knots, values, mask)` of a signal in time that the dynamics
        gets behind the state, as `(batch, channels)`: knots `(num_knots,)` or
        `(batch, num_knots)`, rising, that cover the solve; values `(batch, num_knots, channels)`,
        where NaN or a false mask is missing. Differentiable in both. Steps end at shared knots of
        `"linear"` and `"previous"`, if they are adaptive and the batch shares its times.
      t0: Where each sample begins, `(batch,)` or a number; `t_span[0]` if `None`. Without `times` a
        sample then runs to `t0 + t_span[1] - t_span[0]`, and `t_eval` shifts likewise; `times`
        stay as they are. It has gradients.

    Input shape: `(batch, ...)`, any shape behind the batch axis.

    Output shape: that of the input; with `return_sequences=True` or `times`
    `(batch, num_times, ...)`.

    Raises:
      ValueError, TypeError: at construction or build, for arguments that don't fit, and for a
        dynamics that writes its trainable variables, or reads variables in a `tf.function` or a
        custom gradient inside.
      tf.errors.InvalidArgumentError: from a solve that fails, with `on_failure="raise"`.

    Example:
    ```python
    model = keras.Sequential([
        keras.Input((2,)),
        NeuralODE(keras.Sequential([keras.layers.Dense(16, "tanh"), keras.layers.Dense(2)])),
    ])
    model.compile("adam", "mse")
    ```

    Reference: R. T. Q. Chen et al., Neural ordinary differential equations, NeurIPS 2018.
    """

    read_only = (
        "dynamics",
        "t_span",
        "solver",
        "gradient",
        "rtol",
        "atol",
        "norm",
        "t_eval",
        "return_sequences",
        "time_dependent",
        "regularizer",
        "on_failure",
        "track_stats",
        "jit_compile",
        "control",
    )
    another = (
        "Make another layer, with the same weights: NeuralODE.from_config({{**layer.get_config(), "
        "'dynamics': layer.dynamics, '{name}': ...}})."
    )

    def __init__(
        self,
        dynamics: keras.layers.Layer | Callable[..., tf.Tensor],
        t_span: Sequence[float] | np.ndarray = (0.0, 1.0),
        *,
        solver: str | tfp.math.ode.Solver = "dormand_prince",
        gradient: str | gradients.Gradient = "auto",
        rtol: Any = None,
        atol: Any = None,
        norm: str | Callable[[Any], tf.Tensor] | None = None,
        t_eval: Sequence[float] | np.ndarray | None = None,
        return_sequences: bool = False,
        time_dependent: bool = False,
        regularizer: regularizers.Regularizer | Sequence[regularizers.Regularizer] | None = None,
        on_failure: Literal["raise", "nan", "last"] = "raise",
        track_stats: bool = False,
        jit_compile: bool | Literal["auto"] = "auto",
        control: Literal["linear", "hermite", "previous"] | None = None,
        **kwargs: Any,
    ) -> None:
        init_keras(self, super().__init__, kwargs)
        self.dynamics = build_dynamics.as_layer(
            dynamics, time_dependent, control is not None, self.dtype_policy
        )
        shared_dynamics.hold(self, self.dynamics)
        self.t_span = check_t_span(t_span)
        self.t_eval = check_t_eval(t_eval, self.t_span, return_sequences)
        self._knots = np.array(self.t_eval or self.t_span)
        if self._knots[0] != self.t_span[0]:
            self._knots = np.array([self.t_span[0], *self._knots])
        self._solver_identifier = solver
        self.rtol, self.atol, self.norm = rtol, atol, norm
        self.solver = solvers.get(solver, rtol, atol, norm)
        self.gradient = gradients.get(gradient)
        self._solver = adapted(self.solver)
        self.return_sequences = return_sequences
        self.time_dependent = time_dependent
        # A list could be changed.
        self.regularizer = tuple(regularizer) if isinstance(regularizer, list) else regularizer
        self._regularizers = tuple(regularizers.as_list(regularizer))
        if any(one.needs_noise for one in self._regularizers):
            self._seed = keras.random.SeedGenerator()
        self.on_failure = on_failure
        self.track_stats = track_stats
        self.jit_compile = jit_compile
        self.control = control
        self.supports_masking = True
        self._hands_mask_on = not return_sequences
        if track_stats:
            self._make_stats()
        self._compiled_solve = Compiled(self._solve)
        self._eager_solves = EagerSolves(self)
        self._choices: dict[str, Choice] = {}  # of whether to compile it
        self._refusals = OncePerTrace()  # of XLA
        self._writes = (True, True)  # whether calls of dynamics may: in inference, in training
        self._num_probed = 0  # trainable weights
        check_settings(self)

    def explain(self) -> str:
        """What was chosen for this layer's solves, and why: solver, gradient, XLA; a few lines."""
        return explanation(self)

    def get_config(self) -> dict[str, Any]:
        regularizer = self.regularizer
        if isinstance(regularizer, tuple):
            regularizer = list(regularizer)
        config = {
            "dynamics": keras.saving.serialize_keras_object(self.dynamics),
            "t_span": self.t_span,
            "solver": solvers.serialize(self._solver_identifier),
            "gradient": gradients.serialize(self.gradient),
            "rtol": plain(self.rtol),
            "atol": plain(self.atol),
            "norm": solvers.serialize_norm(self.norm),
            "t_eval": self.t_eval,
            "return_sequences": self.return_sequences,
            "time_dependent": self.time_dependent,
            "regularizer": keras.saving.serialize_keras_object(regularizer),
            "on_failure": self.on_failure,
            "track_stats": self.track_stats,
            "jit_compile": self.jit_compile,
            "control": self.control,
        }
        return {**super().get_config(), **config}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> NeuralODE:
        objects = ("dynamics", "solver", "gradient", "regularizer")
        return cls(**deserialized(config, objects))
