"""Our solvers as `tfp.math.ode.Solver`: the one file that meets TFP's abstract interface.

TFP's `Solver.solve` brings the signature, the checks and the adjoint (the state solved backwards);
a subclass supplies `_solve` and the state that one solve hands on to the next.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_neuralode.not_finite import nan_unless
from tf_neuralode.solvers import checks
from tf_neuralode.solvers.diagnostics import Diagnostics, diagnostics
from tf_neuralode.solvers.flat_state import FlatState
from tf_neuralode.solvers.integration import Integration
from tf_neuralode.solvers.method import Method
from tf_neuralode.solvers.output_times import output_recorder
from tf_neuralode.solvers.precision import FieldPrecision
from tf_neuralode.solvers.recording import AcceptedSteps, Recorder, StepHistory
from tf_neuralode.solvers.runge_kutta import Limit, OdeFn, State
from tf_neuralode.solvers.tableau import ButcherTableau
from tf_neuralode.times import checked

if TYPE_CHECKING:
    from typing_extensions import Self


class InternalState(NamedTuple):
    """What one solve hands on to the next, and what it kept of its steps.

    Attributes:
      step_size: Size of the next step; 0 for "choose one".
      rows: What the solve's states are a part of: those and the initial state, for each leaf
        `(num_times + 1, ...)` as the solve holds it, if the solver was asked to keep them.
      steps: `StepHistory` with dense solutions, if the solver was asked to keep it.
    """

    step_size: tf.Tensor
    rows: State | tuple = ()
    steps: StepHistory | tuple = ()


class RungeKutta(tfp.math.ode.Solver):
    """Base of all our solvers; a subclass is a method.

    Class attributes:
      order: Order of the solution.
      tableau: `ButcherTableau`.
      error_order: Order of the embedded solution; `order - 1` if `None`.
      dense_weights: Weights of dense output, see `interpolation`; cubic Hermite if `None`.
      extra_nodes, extra_rows, b_err_low: See `Method`; only `DormandPrince8` has them.
    """

    order: int
    tableau: ButcherTableau
    error_order: int | None = None
    dense_weights: np.ndarray | None = None
    extra_nodes: tuple[float, ...] = ()
    extra_rows: tuple[tuple[float, ...], ...] = ()
    b_err_low: tuple[float, ...] | None = None

    def __init__(
        self,
        make_adjoint_solver_fn: Callable[[], tfp.math.ode.Solver] | None,
        validate_args: bool,
        name: str | None,
    ) -> None:
        self._custom_adjoint = make_adjoint_solver_fn is not None
        # Set on copies only, by the gradients; see there.
        self._keep_rows = False
        self._keep_steps = False
        self._backward_span: tf.Tensor | None = None
        self._start_step_size: tf.Tensor | None = None
        self._batch_ndims: int | None = None
        self._whole_span: tf.Tensor | None = None
        self._autonomous = False
        self._finish_states = _as_they_are
        given = make_adjoint_solver_fn
        super().__init__(
            make_adjoint_solver_fn=self.for_adjoint if given is None else lambda: _for_all(given()),
            validate_args=validate_args,
            name=name or type(self).__name__,
        )

    @functools.cached_property
    def method(self) -> Method:
        """Tableau, order and interpolant as the loops need them."""
        dense_weights = self.dense_weights
        if dense_weights is None:
            dense_weights = self.tableau.hermite_weights
        return Method(
            tableau=self.tableau.with_fsal,
            error_order=self.order - 1 if self.error_order is None else self.error_order,
            dense_weights=np.asarray(dense_weights),
            extra_nodes=self.extra_nodes,
            extra_rows=self.extra_rows,
            b_err_low=self.b_err_low,
        )

    @property
    def max_num_steps(self) -> int:
        """The most steps that a solve can take."""
        raise NotImplementedError

    @property
    def batch_ndims(self) -> int:
        """How many axes of the state, the first, count samples: for error norms."""
        return self._batch_ndims or 0

    def for_samples(self, batch_ndims: int | None) -> RungeKutta:
        """The same solver for a state of samples, unless it is for one already."""
        batch_ndims = checks.count("batch_ndims", batch_ndims)
        return self if self._batch_ndims is not None else self.copy(batch_ndims=batch_ndims)

    def for_field(self, field: FieldPrecision, held_in: str | None = None) -> RungeKutta:
        """The same solver for a field of that precision.

        If `held_in`, the dtype of the state, is given it warns of tolerances that are too fine.
        """
        del field, held_in
        return self

    def integrate(
        self,
        f: OdeFn,
        t0: tf.Tensor,
        t1: tf.Tensor,
        y0: State,
        recorders: Sequence[Recorder] = (),
        pack: Callable[[State], Any] = list,
        previous_step_size: tf.Tensor | None = None,
        limit: Limit | None = None,
    ) -> Integration:
        """Integrates on flat lists; not differentiable. `pack` gives the state's structure."""
        raise NotImplementedError

    def for_adjoint(self) -> RungeKutta:
        """The solver of TFP's augmented system (state, adjoint state, variables, constants)."""
        # A solver of backward passes has one itself, where TensorFlow traces second derivatives.
        plain = self.copy(finish_states=_as_they_are, backward_span=None, keep_rows=False)
        return plain.with_seminorm(num_parts=2)

    def with_seminorm(self, num_parts: int) -> RungeKutta:
        """For an augmented state whose first parts, each like the state, alone govern the steps.

        The parameters' part feeds back on nothing, so its error need not shorten the steps (Kidger
        et al. 2021, "Hey, that's not an ODE").
        """
        del num_parts
        return self

    def given_adjoint(self) -> tfp.math.ode.Solver | None:
        """What the argument `make_adjoint_solver_fn` makes; `None` if there was none."""
        return self._make_adjoint_solver_fn() if self._custom_adjoint else None

    def with_adjoint(self, adjoint_solver: RungeKutta) -> RungeKutta:
        """The same solver, differentiated by TFP with `adjoint_solver`."""
        return self.copy(custom_adjoint=True, make_adjoint_solver_fn=lambda: adjoint_solver)

    def initial_step_size(self, span: tf.Tensor) -> tf.Tensor:
        """First step size of a backward pass over `span`, in parts; 0 for "choose one"."""
        return tf.zeros_like(span) if self._start_step_size is None else self._start_step_size

    def starting_with(self, step_size: tf.Tensor) -> RungeKutta:
        """The same solver, for a part of an interval: a warm start.

        Forward and backward solves begin with `step_size`, a scalar tensor in the time's dtype (0
        for "choose one"); of equal steps of that size as many are taken as the part needs.
        """
        return self.copy(start_step_size=step_size)

    def for_autonomous_fields(self) -> RungeKutta:
        """The same solver, told that the fields that it solves don't depend on time.

        Of others an adaptive solver expects that they can change where nothing announces it, and
        begins with shorter steps where the slope is 0.
        """
        return self.copy(autonomous=True)

    def as_part_of(self, span: tf.Tensor) -> RungeKutta:
        """The same solver, for parts of an interval of length `span`, in their unit of time.

        How short a step is where nothing is known of a field is a fraction of the whole.
        """
        own = self._whole_span
        return self.copy(whole_span=span if own is None else tf.maximum(own, span))

    def in_units_of(self, unit: tf.Tensor) -> RungeKutta:
        """The same solver where the time runs from 0 to 1, which is `unit` in the user's time."""
        del unit
        return self

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> RungeKutta:
        """The solver that `get_config` describes."""
        return cls(**config)

    def _check_serializable(self, has_functions: bool) -> None:
        if has_functions:
            raise ValueError(
                f"{type(self).__name__} with a function as norm or make_adjoint_solver_fn can't be "
                "serialized. Set backward tolerances on gradients.Adjoint instead."
            )

    def _settings(self) -> dict[str, Any] | None:
        try:
            return self.get_config()
        except ValueError:
            return None

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other):
            return NotImplemented
        # Functions can't be compared, so a solver that holds one equals itself alone.
        settings = self._settings()
        return settings is not None and settings == other._settings()

    def __hash__(self) -> int:
        settings = self._settings()
        if settings is None:
            return object.__hash__(self)
        return hash((type(self), checks.hashable(settings)))

    def __repr__(self) -> str:
        settings = (self._settings() or {}).items()
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in settings)})"

    def copy(self, **changes: Any) -> Self:
        """The same solver with other settings, given by the names of the constructor."""
        twin = copy.copy(self)
        for name, value in changes.items():
            # A misspelt setting must not be swallowed.
            assert hasattr(self, f"_{name}"), name
            setattr(twin, f"_{name}", value)
        if not twin._custom_adjoint:
            twin._make_adjoint_solver_fn = twin.for_adjoint
        return twin

    def _solve(
        self,
        ode_fn,
        initial_time,
        initial_state,
        solution_times,
        jacobian_fn=None,
        jacobian_sparsity=None,
        batch_ndims=None,
        previous_solver_internal_state=None,
    ):
        del jacobian_fn, jacobian_sparsity  # for implicit methods
        solver = self if batch_ndims is None else self.for_samples(batch_ndims)
        flat = FlatState(initial_state, "initial_state")
        solver = solver.for_field(flat.field_precision)
        t0 = tf.cast(initial_time, flat.time_dtype)
        by_solver = isinstance(solution_times, tfp.math.ode.ChosenBySolver)
        recorder: Recorder
        if by_solver:
            t1 = tf.cast(solution_times.final_time, flat.time_dtype)
            recorder = AcceptedSteps(self.max_num_steps)
        else:
            times = tf.cast(solution_times, flat.time_dtype)
            # The first output may be the initial time itself, or a later one.
            times = _in_order(tf.concat([[t0], times], axis=0))[1:]
            recorder = output_recorder(tf.concat([[t0], times], axis=0))
            t1 = times[-1]
        recorders = [recorder]
        if self._keep_steps:
            recorders.append(AcceptedSteps(self.max_num_steps, self.method.num_coefficients))
        previous = previous_solver_internal_state
        result = solver.integrate(
            flat.flat_fn(ode_fn),
            t0,
            t1,
            flat.leaves,
            recorders=recorders,
            pack=flat.pack_as_held,
            previous_step_size=None if previous is None else previous.step_size,
        )
        rows: State | tuple = ()
        if by_solver:
            history = result.saved[0]
            times, states = history.times, history.states
        else:
            states = [row[1:] for row in result.saved[0]]
            rows = result.saved[0] if self._keep_rows else ()
        return tfp.math.ode.Results(
            times=times,
            states=self._finish_states(flat.pack(states), diagnostics(result)),
            diagnostics=diagnostics(result),
            solver_internal_state=InternalState(result.step_size, rows, *result.saved[1:]),
        )

    def _initialize_solver_internal_state(self, ode_fn, initial_time, initial_state):
        # TFP calls this with the wrong sign of the time; we evaluate nothing here.
        del ode_fn, initial_time
        if self._backward_span is not None:
            return InternalState(self.initial_step_size(self._backward_span))
        if self._start_step_size is not None:
            return InternalState(self._start_step_size)
        return InternalState(tf.zeros([], FlatState(initial_state).time_dtype))

    def _adjust_solver_internal_state_for_state_jump(
        self, ode_fn, initial_time, initial_state, previous_solver_internal_state, previous_state
    ):
        # The step size still fits on the other side of an output time: a warm start.
        del ode_fn, initial_time, initial_state, previous_state
        return previous_solver_internal_state


def _as_they_are(states: Any, diagnostics: Diagnostics) -> Any:
    del diagnostics
    return states


def _in_order(times: tf.Tensor) -> tf.Tensor:
    """`times`, initial and output times, once it is sure that they are in order; NaN under XLA."""
    steps = times[1:] - times[:-1]
    in_order = tf.reduce_all(steps >= 0) | tf.reduce_all(steps <= 0)
    message = (
        "Argument solution_times must rise, or fall, from initial_time on. Sort it, or solve in "
        "each direction."
    )
    times = checked(times, in_order, message, f"times={tf.get_static_value(times)}", times)
    if tf.get_static_value(in_order) is None:
        times = tf.where(in_order, times, nan_unless(in_order, times.dtype))
    return times


def _for_all(adjoint_solver: tfp.math.ode.Solver) -> tfp.math.ode.Solver:
    """An adjoint solver from outside, as it is: with a norm over TFP's whole augmented system.

    Its parameters' parts have no axis of samples.
    """
    if isinstance(adjoint_solver, RungeKutta):
        return adjoint_solver.for_samples(0)
    return adjoint_solver
