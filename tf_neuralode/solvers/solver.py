"""Our solvers: settings, and the method that they step with. Each is a `tfp.math.ode.Solver`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_neuralode.field import Field
from tf_neuralode.methods import ButcherTableau, ExplicitRungeKutta, Method
from tf_neuralode.read_only import ReadOnly
from tf_neuralode.solvers import checks
from tf_neuralode.solvers.tfp_face import BackwardSolver, TFPSolver
from tf_neuralode.stepping import NOTHING_KNOWN, Conditions, Point, Recorder, Steps, loop

if TYPE_CHECKING:
    from typing_extensions import Self


class RungeKutta(ReadOnly, TFPSolver):
    """Base of all our solvers; a subclass is a method.

    An object holds what its constructor was given, readable under the same names, and nothing of a
    solve.

    Class attributes:
      is_ours: Whether its steps are made by this package, see `stock`.
      is_adaptive: Whether the error governs the steps.
      tolerances: rtol and atol; `None` if there are none.
      max_num_steps: The most steps that a solve can take.
      order: Order of the solution.
      tableau: `ButcherTableau`.
      error_order: Order of the embedded solution; `order - 1` if `None`.
      dense_weights: Weights of dense output, see `interpolation`; cubic Hermite if `None`.
      extra_nodes, extra_rows, b_err_low: See `ExplicitRungeKutta`; only `DormandPrince8` has them.
    """

    is_ours = True
    is_adaptive = False
    tolerances: tuple[Any, Any] | None = None
    max_num_steps: int
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
        self._given_adjoint_fn = make_adjoint_solver_fn
        super().__init__(
            make_adjoint_solver_fn=self._adjoint_solver,
            validate_args=validate_args,
            name=name or type(self).__name__,
        )

    @functools.cached_property
    def method(self) -> Method:
        """How a step is made."""
        return ExplicitRungeKutta(
            tableau=self.tableau,
            error_order=self.order - 1 if self.error_order is None else self.error_order,
            dense_weights=self.dense_weights,
            extra_nodes=self.extra_nodes,
            extra_rows=self.extra_rows,
            b_err_low=self.b_err_low,
        )

    def steps(self, conditions: Conditions, start: Point, t1: tf.Tensor) -> Steps:
        """The control of the steps of one solve, from `start` to `t1`."""
        raise NotImplementedError

    def check_ours(self, what: str) -> None:
        """Nothing: it is. See `stock`."""

    def step_size_of_parts(self, whole: tf.Tensor, warm: tf.Tensor | None = None) -> tf.Tensor:
        """Size of the first step in a part of an interval of length `whole`.

        `warm` is what the part before hands on. Both may be 0, for "choose one".
        """
        return tf.zeros_like(whole) if warm is None else warm

    def integrate(
        self,
        field: Field,
        start: Point,
        t1: tf.Tensor,
        recorders: Sequence[Recorder] = (),
        conditions: Conditions = NOTHING_KNOWN,
    ) -> loop.Solved:
        """Solves from `start` to `t1`, on flat states, forwards in time; not differentiable."""
        return loop.solve(self.method, self.steps(conditions, start, t1), field, start, recorders)

    def given_adjoint(self) -> tfp.math.ode.Solver | None:
        """What the argument `make_adjoint_solver_fn` makes; `None` if there was none."""
        return None if self._given_adjoint_fn is None else self._given_adjoint_fn()

    def _adjoint_solver(self) -> tfp.math.ode.Solver:
        given = self.given_adjoint()
        if given is not None:
            return given
        return BackwardSolver(self, self.conditions.with_seminorm(num_parts=2))

    def _integrator(self) -> RungeKutta:
        return self

    def copy(self, **changes: Any) -> Self:
        """The same solver with other settings, given by the names of the constructor."""
        given = {name: getattr(self, name) for name in self.read_only}
        further = {
            "make_adjoint_solver_fn": self._given_adjoint_fn,
            "validate_args": self._validate_args,
            "name": self._name,
        }
        return type(self)(**{**given, **further, **changes})

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor; a solver with functions among them has none.

        Raises:
          ValueError: if a setting is a function, or a tensor of a graph.
        """
        if self.has_functions():
            raise ValueError(
                f"{type(self).__name__} with a function as norm or make_adjoint_solver_fn can't be "
                "serialized. Set backward tolerances on gradients.Adjoint instead."
            )
        config = {name: checks.plain(getattr(self, name)) for name in self.read_only}
        return {**config, "validate_args": self._validate_args, "name": self._name}

    def has_functions(self) -> bool:
        """Whether functions are among the settings, so that two solvers can't be compared."""
        return self._given_adjoint_fn is not None

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> RungeKutta:
        """The solver that `get_config` describes."""
        return cls(**config)

    def _settings(self) -> dict[str, Any] | None:
        try:
            return self.get_config()
        except ValueError:
            return None

    def __reduce_ex__(self, protocol: Any) -> Any:
        settings = self._settings()
        if settings is None:  # functions among them
            return super().__reduce_ex__(protocol)
        return type(self).from_config, (settings,)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other):
            return NotImplemented
        # Functions can't be compared, so a solver that holds one equals itself alone.
        settings = self._settings()
        return settings is not None and settings == other._settings()

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        settings = self._settings()
        if settings is None:
            return object.__hash__(self)
        return hash((type(self), checks.hashable(settings)))

    def __repr__(self) -> str:
        settings = (self._settings() or {}).items()
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in settings)})"
