"""The Keras layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_neuralode import dynamics as dynamics_lib
from tf_neuralode import gradients, regularizers, shared_dynamics, solvers
from tf_neuralode.backward_count import counter_into
from tf_neuralode.batch_solve import BatchSolution, solve_batch
from tf_neuralode.call_times import (
    CallTimes,
    as_tensor_like,
    call_times,
    check_call,
    check_state_mask,
)
from tf_neuralode.compiled import Compiled
from tf_neuralode.dynamics import Dynamics
from tf_neuralode.failure import check_success
from tf_neuralode.probe import probe_writes
from tf_neuralode.read_only import ReadOnly
from tf_neuralode.solvers import precision
from tf_neuralode.solvers.diagnostics import Diagnostics
from tf_neuralode.solvers.runge_kutta import State
from tf_neuralode.solvers.solver import RungeKutta
from tf_neuralode.spelling import did_you_mean
from tf_neuralode.times import check_distinct, check_t_eval, check_t_span
from tf_neuralode.xla import inside_xla

_FAILURE_MODES = ("raise", "nan", "last")


@keras.saving.register_keras_serializable("tf_neuralode")
class NeuralODE(ReadOnly, keras.layers.Layer):
    """Maps a state y(t0) to the solution of dy/dt = dynamics(y) at t1.

    The dynamics' weights are the layer's weights. What a dynamics writes is written once a call, in
    training and in prediction: random layers (Dropout) draw once, moving statistics
    (BatchNormalization) get one update. Activity regularizers and `add_loss` inside the dynamics
    have no effect. Settings are fixed at construction; a layer with others on the same weights is
    `NeuralODE.from_config({**layer.get_config(), "dynamics": layer.dynamics, ...})`.

    Args:
      dynamics: Keras layer or model whose output has the shape of its state input, or a function
        `f(y)` without weights. It may compute in fewer bits, under a mixed policy; tolerances too
        fine for those are a warning at build.
      t_span: Initial and final time, in units of time; may run backwards (t1 < t0). Numbers:
        variables and tensors go into the call, as `times`.
      solver: Name (`solvers.names()`), one of `tf_neuralode.solvers`, or any
        `tfp.math.ode.Solver`.
      gradient: Name (`gradients.names()`) or one of `tf_neuralode.gradients`.
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
      jit_compile: Whether to compile this solve with XLA, whatever the model does. Numbers among
        the dynamics' attributes (`Dropout.rate`) are read then, as in a `tf.function`: anew after
        the model's `compile`, but not from one eager call to the next.

    Call arguments:
      y0: State at `t_span[0]`: floating point, `(batch, ...)`.
      times: Times at which to return the state, in the direction of `t_span`, from `t_span[0]` on
        (`t_span[1]` and `t_eval` play no part then): `(num_times,)`, shared by the batch, or
        `(batch, num_times)`, for each sample its own. They may repeat. A list goes in by name,
        `times=[...]`. Those of each sample are met by steps that end there: `max_num_steps` then
        holds for each interval between them, and a fixed-step solver takes its `num_steps` for the
        longest of the trajectories. All times have gradients. They may have more precision than the
        state (float64, integers): `t_span[0]` is subtracted before they are cast. A time-dependent
        dynamics gets times in the state's dtype. `fit` and `predict` cast arrays of float64 to
        Keras' `floatx`, and a functional model its inputs to the dtype of their `keras.Input`: see
        the guide.
      mask: `(batch, num_times)`, boolean, false for times that are padding: there the row repeats
        the state at the last valid time before (the input, if there is none). Without `times` the
        state's mask, which Keras fills in.
      y0_mask: The state's mask beside `times`, `(batch, ...)`, as many of the state's first axes as
        it has; Keras fills it in. The dynamics gets it with the state, as any layer does, and what
        is masked rests: its slope is 0, and it is in no error norm.
      training: Passed to the dynamics.

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
        gradient: str | gradients.Gradient = "adjoint",
        rtol: Any = None,
        atol: Any = None,
        norm: str | Callable[[Any], tf.Tensor] | None = None,
        t_eval: Sequence[float] | np.ndarray | None = None,
        return_sequences: bool = False,
        time_dependent: bool = False,
        regularizer: regularizers.Regularizer | Sequence[regularizers.Regularizer] | None = None,
        on_failure: Literal["raise", "nan", "last"] = "raise",
        track_stats: bool = False,
        jit_compile: bool = False,
        **kwargs: Any,
    ) -> None:
        # Keras would round float64 times to the layer's dtype in front of `call`.
        try:
            super().__init__(autocast=False, **kwargs)
        except ValueError as error:  # a keyword that Keras doesn't know, either
            raise ValueError(f"{error}{did_you_mean(kwargs, self.read_only)}") from error
        if on_failure not in _FAILURE_MODES:
            raise ValueError(
                f"Argument on_failure must be one of {', '.join(map(repr, _FAILURE_MODES))}. "
                f"Received: on_failure={on_failure!r}"
            )
        # Under a mixed policy the dynamics computes in 16 bits, the state is held in 32.
        if self.compute_dtype in ("float16", "bfloat16"):
            self.dtype_policy = keras.DTypePolicy("float32")
        self.dynamics = dynamics_lib.as_layer(dynamics, time_dependent, self.dtype_policy)
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
        self.gradient.check_solver(self.solver)
        if jit_compile not in (True, False):
            raise TypeError(
                f"Argument jit_compile must be True or False. Received: jit_compile={jit_compile!r}"
            )
        if on_failure == "last" and not isinstance(self.solver, solvers.AdaptiveRungeKutta):
            raise ValueError(
                "Argument on_failure='last' needs an adaptive solver of tf_neuralode.solvers: "
                "others don't tell how far they got. Take 'nan'. Received: "
                f"solver={self.solver!r}"
            )
        if jit_compile and self.gradient.keeps_activations:
            # TensorFlow's lists, which hold a loop's activations, can't leave compiled code.
            raise ValueError(
                "A layer with jit_compile=True can't keep activations. Take gradient='tape', or "
                "compile the whole model, model.compile(..., jit_compile=True). "
                f"Received: gradient={self.gradient}"
            )
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
        self.supports_masking = True
        self._hands_mask_on = not return_sequences
        if track_stats:
            self._nfe = keras.metrics.Mean(name="nfe")
            self._nfe_backward = None
            if isinstance(self.solver, RungeKutta):
                self._nfe_backward = keras.metrics.Mean(name="nfe_backward")
            self._failed_solves = keras.metrics.Sum(name="failed_solves")
        self._compiled_solve = Compiled(self._solve)
        self._writes = (True, True)  # whether calls of dynamics may: in inference, in training
        self._num_probed = 0  # trainable weights

    def build(self, input_shape: Any) -> None:
        check_distinct(self._knots, self.compute_dtype)
        dynamics_lib.build(
            self.dynamics, tuple(input_shape), self.compute_dtype, self.time_dependent
        )
        self._probe(tuple(input_shape))
        # A field with fewer bits than the state: its rounding bounds the tolerance from below.
        self._field = precision.of_layer(self.dynamics)
        if isinstance(self.solver, RungeKutta):
            self.solver.for_field(self._field, held_in=self.compute_dtype)
        self.built = True

    def _probe(self, state_shape: tuple) -> None:
        self._writes = probe_writes(
            self.dynamics, state_shape, self.compute_dtype, self.time_dependent
        )
        self._num_probed = len(self.dynamics.trainable_variables)

    def call(
        self,
        y0: Any,
        times: Any = None,
        mask: Any = None,
        y0_mask: Any = None,
        training: bool | None = None,
    ) -> tf.Tensor:
        times, mask, y0_mask = self._check_call(y0, times, mask, y0_mask)
        y0 = tf.cast(y0, self.compute_dtype)
        if len(self.dynamics.trainable_variables) > self._num_probed:
            self._probe((None, *y0.shape[1:]))  # some were frozen then
        chosen = None
        if times is not None:
            chosen = call_times(times, mask, y0, self.t_span, strict=self.on_failure == "raise")
        # Keras' own loops say True or False. A call by hand, or an export, says nothing, and has no
        # logs to appear in.
        logged = self.track_stats and training is not None
        training = bool(training)
        dynamics = self._bound_dynamics(training)
        params, constants = dynamics.read_params(), dynamics.read_constants()
        # Inside a model that XLA compiles as a whole a second compiler would only be in the way.
        compiled = self.jit_compile and not inside_xla()
        solve = self._solve
        if compiled:
            solve = self._compiled_solve.for_dynamics(self.dynamics, dynamics)
        counter = None
        if logged and training and self._nfe_backward is not None:
            counter = counter_into(self._nfe_backward, [y0, *params])
        noise = None
        if training and any(one.needs_noise for one in self._regularizers):
            noise = regularizers.rademacher(y0, self._seed)
        if y0_mask is not None:
            y0_mask = tf.cast(y0_mask, tf.bool)
        solution = solve(y0, chosen, params, constants, noise, counter, y0_mask, training=training)
        dynamics.assign(solution.changed)
        if training and self._regularizers:
            self.add_loss(solution.cost)
        if logged:
            self._update_stats(solution.diagnostics)
        states = self._chosen_rows(solution.rows, chosen)
        if self.on_failure == "raise":
            states = check_success(states, solution.finite, solution.diagnostics, self.name)
        return states

    def _check_call(self, y0: Any, times: Any, mask: Any, y0_mask: Any) -> tuple[Any, Any, Any]:
        """The times, and the masks of the times and of the state, `None` if there is none."""
        times = as_tensor_like("times", times)
        mask, y0_mask = as_tensor_like("mask", mask), as_tensor_like("y0_mask", y0_mask)
        if times is None:
            mask, y0_mask = None, y0_mask if mask is None else mask
        check_call(self.name, y0, times, mask, self.t_eval)
        check_state_mask(self.name, y0, y0_mask)
        # Keras hands over the state's own mask as well. It holds where the output has its axes.
        self._hands_mask_on = not self.return_sequences if times is None else mask is not None
        return times, mask, y0_mask

    def _bound_dynamics(self, training: bool) -> Dynamics:
        return Dynamics(self.dynamics, self.time_dependent, training, self._writes[training])

    def _solve(
        self,
        y0: tf.Tensor,
        times: CallTimes | None,
        params: State,
        constants: State,
        noise: tf.Tensor | None,
        counter: tf.Tensor | None,
        y0_mask: tf.Tensor | None,
        training: bool,
    ) -> BatchSolution:
        solver = self.solver
        if isinstance(solver, RungeKutta):
            solver = solver.for_field(self._field)
        return solve_batch(
            self._bound_dynamics(training),
            y0,
            self._fixed_times(y0.dtype) if times is None else times,
            params,
            constants,
            noise,
            y0_mask,
            solver=solver,
            gradient=self.gradient,
            backward_counter=counter,
            training=training,
            regularizers=self._regularizers,
            direction=float(np.sign(self.t_span[1] - self.t_span[0])),
            keep_last=self.on_failure == "last",
        )

    def _fixed_times(self, dtype: tf.DType) -> CallTimes:
        """Those of `t_eval` or `t_span`."""
        elapsed = (self._knots - self._knots[0]).astype(dtype.as_numpy_dtype)
        return CallTimes(
            elapsed, self.t_span[0], self.t_span[1] if self.t_eval is None else self.t_eval[-1]
        )

    def _chosen_rows(self, rows: tf.Tensor, times: CallTimes | None) -> tf.Tensor:
        """What the layer returns of a solve's rows `(num_times + 1, batch, ...)`."""
        if times is None and not self.return_sequences:
            return rows[-1]
        wants_initial = times is None and len(self._knots) == len(self.t_eval or self.t_span)
        return tf.experimental.numpy.moveaxis(rows if wants_initial else rows[1:], 0, 1)

    def _update_stats(self, diagnostics: Diagnostics) -> None:
        self._nfe.update_state(diagnostics.num_ode_fn_evaluations)
        self._failed_solves.update_state(tf.cast(diagnostics.status < 0, tf.float32))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        if not self.return_sequences:
            return tuple(input_shape)
        num_times = 2 if self.t_eval is None else len(self.t_eval)
        return (input_shape[0], num_times, *input_shape[1:])

    def compute_output_spec(
        self,
        y0: Any,
        times: Any = None,
        mask: Any = None,
        y0_mask: Any = None,
        training: bool | None = None,
    ) -> keras.KerasTensor:
        times, _, _ = self._check_call(y0, times, mask, y0_mask)
        shape = self.compute_output_shape(y0.shape)
        if times is not None:
            shape = (y0.shape[0], times.shape[-1], *y0.shape[1:])
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        return previous_mask if self._hands_mask_on else None

    def get_build_config(self) -> dict[str, Any] | None:
        # Keras asks for this where it saves a layer, and nobody else does.
        shared_dynamics.warn_if_shared(self.dynamics)
        return super().get_build_config()

    def get_config(self) -> dict[str, Any]:
        regularizer = self.regularizer
        if isinstance(regularizer, tuple):
            regularizer = list(regularizer)
        config = {
            "dynamics": keras.saving.serialize_keras_object(self.dynamics),
            "t_span": self.t_span,
            "solver": solvers.serialize(self._solver_identifier),
            "gradient": keras.saving.serialize_keras_object(self.gradient),
            "rtol": solvers.plain(self.rtol),
            "atol": solvers.plain(self.atol),
            "norm": solvers.serialize_norm(self.norm),
            "t_eval": self.t_eval,
            "return_sequences": self.return_sequences,
            "time_dependent": self.time_dependent,
            "regularizer": keras.saving.serialize_keras_object(regularizer),
            "on_failure": self.on_failure,
            "track_stats": self.track_stats,
            "jit_compile": self.jit_compile,
        }
        return {**super().get_config(), **config}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> NeuralODE:
        config = dict(config)
        for name in ("dynamics", "solver", "gradient", "regularizer"):
            if isinstance(config.get(name), dict | list):
                config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)
