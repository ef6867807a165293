"""What a layer around a solve does when it is built and called."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_neuralode import regularizers
from tf_neuralode.field import check_distinct, precision
from tf_neuralode.layers import build_dynamics
from tf_neuralode.layers.backward_count import counter_into
from tf_neuralode.layers.batch import BatchSolution, Settings, solve_batch
from tf_neuralode.layers.call_times import CallTimes, call_times, direction_of, times_from
from tf_neuralode.layers.called_layer import CalledLayer
from tf_neuralode.layers.choose_solve import chosen_solve, may_be_wanted
from tf_neuralode.layers.dynamics import Dynamics
from tf_neuralode.layers.failure import check_success
from tf_neuralode.layers.inputs import Inputs
from tf_neuralode.layers.many_traces import warn_of_traces
from tf_neuralode.layers.probe import probe_writes
from tf_neuralode.results import DenseSolution
from tf_neuralode.stepping import Diagnostics
from tf_neuralode.tensors import Tensors, may_be_recorded


class SolvingLayer(CalledLayer):
    """Base of the layers around a solve; their settings are set by their constructors."""

    _of_rate = False  # whether the dynamics gets the derivative of a control

    def _make_stats(self) -> None:
        self._nfe = keras.metrics.Mean(name="nfe")
        self._nfe_backward = None
        if self._solver.is_ours:
            self._nfe_backward = keras.metrics.Mean(name="nfe_backward")
        self._failed_solves = keras.metrics.Sum(name="failed_solves")

    def build(self, input_shape: Any) -> None:
        check_distinct(self._knots, self.compute_dtype)
        shape = tuple(input_shape)
        build_dynamics.build(self._dynamics(), shape, self.compute_dtype)
        self._probe(shape)
        # A field with fewer bits than the state: its rounding bounds the tolerance from below.
        self._field = precision.of_layer(self.dynamics)
        precision.warn_of_tolerance(self._field, self._solver.tolerances, self.compute_dtype)
        self.built = True

    def _dynamics(self, training: bool = False) -> Dynamics:
        writes = self._writes[training]
        further = self._further
        return Dynamics(self.dynamics, self.time_dependent, training, writes, further=further)

    def _probe(self, state_shape: tuple) -> None:
        self._writes = probe_writes(self._dynamics(), state_shape, self.compute_dtype)
        self._num_probed = len(self.dynamics.trainable_variables)

    def call(
        self,
        y0: Any,
        times: Any = None,
        mask: Any = None,
        y0_mask: Any = None,
        training: bool | None = None,
        *,
        context: Any = None,
        control: Any = None,
        t0: Any = None,
    ) -> tf.Tensor:
        inputs, t0 = self._check_inputs(y0, context, control, t0)
        times, mask, y0_mask = self._check_call(y0, times, mask, y0_mask)
        warn_of_traces(self)
        y0 = tf.cast(y0, self.compute_dtype)
        if len(self.dynamics.trainable_variables) > self._num_probed:
            self._probe((None, *y0.shape[1:]))  # some were frozen then
        chosen = self._call_times(times, mask, y0, t0)
        # Keras' own loops say True or False. A call by hand, or an export, says nothing, and has no
        # logs to appear in.
        logged = self.track_stats and training is not None
        training = bool(training)
        dynamics = self._dynamics(training)
        params, constants = dynamics.read_params(), dynamics.read_constants()
        # An export, or a prediction, stores nothing for a backward pass.
        expects_backward = training or may_be_recorded()
        wanted = may_be_wanted({"times": [times, t0], "inputs": inputs})
        settings = (expects_backward, wanted, times is not None)
        solve = chosen_solve(self, dynamics, y0, chosen, settings)
        counter = None
        if logged and training and self._nfe_backward is not None:
            counter = counter_into(self._nfe_backward, [y0, *params])
        noise = None
        if training and any(one.needs_noise for one in self._regularizers):
            noise = regularizers.rademacher(y0, self._seed)
        if y0_mask is not None:
            y0_mask = tf.cast(y0_mask, tf.bool)
        solution = solve(y0, chosen, inputs, params, constants, noise, counter, y0_mask)
        dynamics.assign(solution.changed)
        if training and self._regularizers:
            self.add_loss(solution.cost)
        if logged:
            self._update_stats(solution.diagnostics)
        states = solution.rows
        if self.on_failure == "raise":
            states = check_success(states, solution.good, solution.diagnostics, self.name)
        return states

    def dense_solution(
        self, y0: Any, *, context: Any = None, control: Any = None, t0: Any = None
    ) -> DenseSolution:
        """The solution at every time of the solve, to plot it, say, or to look up any moment.

        It is solved as in inference, to `t_span[1]`, or to the last of `t_eval`.

        Args:
          y0, context, control, t0: As in a call.

        Returns:
          A function of times: a scalar, or `(num,)`; with `t0` of each sample a scalar or
          `(..., batch)`. It returns `(batch, ...)`, or `(num, batch, ...)`, times first; NaN for
          bad samples, and at times that weren't solved. See `DenseSolution`.

        Raises:
          ValueError: for a stock TFP solver, which has none, and as a call.
          TypeError, tf.errors.InvalidArgumentError: as a call.
        """
        self._solver.check_ours("A dense solution needs a solver of tf_neuralode.solvers.")
        as_tensor = lambda x: None if x is None else keras.ops.convert_to_tensor(x)
        y0, context, control = keras.tree.map_structure(as_tensor, (y0, context, control))
        if not self.built:
            self(y0, context=context, control=control, t0=t0)
        inputs, t0 = self._check_inputs(y0, context, control, t0)
        self._check_call(y0, None, None, None)
        y0 = tf.cast(y0, self.compute_dtype)
        dynamics = self._dynamics()
        solution = self._solve(
            dynamics,
            may_be_recorded(),
            ("times", "inputs"),
            True,
            y0,
            self._call_times(None, None, y0, t0),
            inputs,
            dynamics.read_params(),
            dynamics.read_constants(),
            noise=None,
            counter=None,
            y0_mask=None,
            dense_output=True,
        )
        dynamics.assign(solution.changed)
        if self.on_failure == "raise":
            check_success(solution.rows, solution.good, solution.diagnostics, self.name)
        assert solution.solution is not None
        return solution.solution

    def _call_times(self, times: Any, mask: Any, y0: tf.Tensor, t0: Any) -> CallTimes | None:
        """Those of a call; `None` for those of `t_eval` or `t_span`."""
        if t0 is not None:
            t0 = tf.convert_to_tensor(t0)
        if times is not None:
            strict = self.on_failure == "raise"
            return call_times(times, mask, y0, self.t_span, strict, t0)
        if t0 is None:
            return None
        fixed = self._fixed_times(y0.dtype)
        return times_from(t0, fixed.knots, y0, fixed.direction)

    def _solve(
        self,
        dynamics: Dynamics,
        expects_backward: bool,
        wanted: tuple[str, ...],
        wants_all: bool,
        y0: tf.Tensor,
        times: CallTimes | None,
        inputs: Inputs,
        params: Tensors,
        constants: Tensors,
        noise: tf.Tensor | None,
        counter: tf.Tensor | None,
        y0_mask: tf.Tensor | None,
        dense_output: bool = False,
    ) -> BatchSolution:
        """The solution, of whose rows are left what the layer returns.

        Chosen here, where it may be compiled with the rest.
        """
        how = (self._solver, self.gradient, self._field, self.control, self._of_rate)
        settings = Settings(*how, self._regularizers, self.on_failure)
        times = self._fixed_times(y0.dtype) if times is None else times
        solution = solve_batch(
            settings,
            dynamics,
            y0,
            times,
            inputs,
            params,
            constants,
            noise,
            counter,
            y0_mask,
            expects_backward,
            wanted,
            dense_output,
        )
        return solution._replace(rows=self._chosen_rows(solution.rows, wants_all))

    def _fixed_times(self, dtype: tf.DType) -> CallTimes:
        """Those of `t_eval` or `t_span`."""
        direction = direction_of(self.t_span)
        elapsed = direction * (self._knots - self._knots[0])
        last = self.t_span[1] if self.t_eval is None else self.t_eval[-1]
        return CallTimes(elapsed.astype(dtype.as_numpy_dtype), self.t_span[0], direction, last)

    def _chosen_rows(self, rows: tf.Tensor, wants_all: bool) -> tf.Tensor:
        """What the layer returns of a solve's rows `(num_times + 1, batch, ...)`.

        Args:
          rows: Of the initial time and those behind it.
          wants_all: Whether the layer was called with times, those behind the initial one.
        """
        if not wants_all and not self.return_sequences:
            return rows[-1]
        wants_initial = not wants_all and len(self._knots) == len(self.t_eval or self.t_span)
        return tf.experimental.numpy.moveaxis(rows if wants_initial else rows[1:], 0, 1)

    def _update_stats(self, diagnostics: Diagnostics) -> None:
        self._nfe.update_state(diagnostics.num_ode_fn_evaluations)
        self._failed_solves.update_state(tf.cast(diagnostics.status < 0, tf.float32))
