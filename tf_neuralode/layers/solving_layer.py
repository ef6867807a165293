"""What a layer around a solve does when it is built and called."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_neuralode import regularizers
from tf_neuralode.field import check_distinct, precision
from tf_neuralode.layers import build_dynamics
from tf_neuralode.layers.auto_compile import choose, in_loop_or_branch
from tf_neuralode.layers.backward_count import counter_into
from tf_neuralode.layers.batch import BatchSolution, solve_batch
from tf_neuralode.layers.call_times import (
    CallTimes,
    as_tensor_like,
    call_times,
    check_call,
    check_state_mask,
)
from tf_neuralode.layers.compiled import outermost_graph
from tf_neuralode.layers.dynamics import Dynamics
from tf_neuralode.layers.failure import check_success
from tf_neuralode.layers.many_traces import warn_of_traces
from tf_neuralode.layers.probe import probe_writes
from tf_neuralode.read_only import ReadOnly
from tf_neuralode.stepping import Diagnostics
from tf_neuralode.tensors import Tensors, inside_xla, may_be_recorded


class SolvingLayer(ReadOnly, keras.layers.Layer):
    """Base of the layers around a solve; their settings are set by their constructors."""

    def build(self, input_shape: Any) -> None:
        check_distinct(self._knots, self.compute_dtype)
        build_dynamics.build(
            self.dynamics, tuple(input_shape), self.compute_dtype, self.time_dependent
        )
        self._probe(tuple(input_shape))
        # A field with fewer bits than the state: its rounding bounds the tolerance from below.
        self._field = precision.of_layer(self.dynamics)
        precision.warn_of_tolerance(self._field, self._solver.tolerances, self.compute_dtype)
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
        warn_of_traces(self)
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
        dynamics = Dynamics(self.dynamics, self.time_dependent, training, self._writes[training])
        params, constants = dynamics.read_params(), dynamics.read_constants()
        # An export, or a prediction, stores nothing for a backward pass.
        expects_backward = training or may_be_recorded()
        solve: Callable[..., BatchSolution] = functools.partial(
            self._solve, dynamics, expects_backward
        )
        if self._compiles(dynamics, y0, chosen):
            bounded = self.jit_compile == "auto"
            solve = self._compiled_solve.for_dynamics(
                self.dynamics, dynamics, expects_backward, bounded=bounded
            )
        elif self._is_traced_again(dynamics):
            solve = self._compiled_solve.for_dynamics(
                self.dynamics, dynamics, expects_backward, xla=False
            )
        elif tf.executing_eagerly() and self.jit_compile == "auto":
            solve = functools.partial(self._eager_solves, dynamics, expects_backward)
        counter = None
        if logged and training and self._nfe_backward is not None:
            counter = counter_into(self._nfe_backward, [y0, *params])
        noise = None
        if training and any(one.needs_noise for one in self._regularizers):
            noise = regularizers.rademacher(y0, self._seed)
        if y0_mask is not None:
            y0_mask = tf.cast(y0_mask, tf.bool)
        solution = solve(y0, chosen, params, constants, noise, counter, y0_mask)
        dynamics.assign(solution.changed)
        if training and self._regularizers:
            self.add_loss(solution.cost)
        if logged:
            self._update_stats(solution.diagnostics)
        states = self._chosen_rows(solution.rows, chosen)
        if self.on_failure == "raise":
            states = check_success(states, solution.good, solution.diagnostics, self.name)
        return states

    def _compiles(self, dynamics: Dynamics, y0: tf.Tensor, times: CallTimes | None) -> bool:
        if self.jit_compile != "auto":
            # Inside a model that XLA compiles a second compiler would only be in the way.
            return self.jit_compile and not inside_xla()
        num_times: int | None = len(self._knots) - 1
        if times is not None:
            num = times.knots.shape[0]
            num_times = None if num is None or not times.are_shared else num - 1
        choice = choose(self, dynamics, y0, num_times)
        self._choices["training" if dynamics.training else "prediction"] = choice
        return choice.xla

    def _is_traced_again(self, dynamics: Dynamics) -> bool:
        """Whether what is traced may be traced once more at once, as Keras' training step is.

        Where XLA compiles all of it a function inside would be compiled for each number of steps.
        """
        return (
            dynamics.training
            and not tf.executing_eagerly()
            and not inside_xla()
            and outermost_graph() is not tf.compat.v1.get_default_graph()
            and not in_loop_or_branch()
            and not self.gradient.keeps_activations
            and tf.distribute.get_strategy().num_replicas_in_sync == 1
        )

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

    def _solve(
        self,
        dynamics: Dynamics,
        expects_backward: bool,
        y0: tf.Tensor,
        times: CallTimes | None,
        params: Tensors,
        constants: Tensors,
        noise: tf.Tensor | None,
        counter: tf.Tensor | None,
        y0_mask: tf.Tensor | None,
    ) -> BatchSolution:
        return solve_batch(
            dynamics,
            y0,
            self._fixed_times(y0.dtype) if times is None else times,
            params,
            constants,
            noise,
            y0_mask,
            solver=self._solver,
            gradient=self.gradient,
            field=self._field,
            backward_counter=counter,
            regularizers=self._regularizers,
            keep_last=self.on_failure == "last",
            expects_backward=expects_backward,
        )

    def _fixed_times(self, dtype: tf.DType) -> CallTimes:
        """Those of `t_eval` or `t_span`."""
        direction = float(np.sign(self.t_span[1] - self.t_span[0]))
        elapsed = direction * (self._knots - self._knots[0])
        last = self.t_span[1] if self.t_eval is None else self.t_eval[-1]
        return CallTimes(elapsed.astype(dtype.as_numpy_dtype), self.t_span[0], direction, last)

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
