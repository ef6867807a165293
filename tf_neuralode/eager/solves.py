"""Eager solves that compile themselves, where nothing that f reads can go stale.

    key = what f reads and may change, structures, shapes, dtypes, settings
    y0, t, params, and the tensors and variables that f reads  ->  states, diagnostics

A function is kept for each of the last keys. It holds neither f nor anything that f reads: those
are there while it is traced, and come as arguments. An f of which that can't be said stays eager.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import keras
import tensorflow as tf

from tf_neuralode.eager.arguments import Arguments
from tf_neuralode.eager.call import Call
from tf_neuralode.eager.guards import Guard
from tf_neuralode.eager.kept import Kept, drop_the_oldest, look_up, uses_of
from tf_neuralode.results import Results
from tf_neuralode.stepping import status as status_codes

# As many evaluations of f, in all calls with one key, take about a third of the time that compiling
# takes: who makes a few short calls doesn't wait. Counted, not timed: a program's numbers are the
# same in each run.
NUM_BEFORE_COMPILING = 128


def check_compile(compile: Any) -> None:
    """Raises ValueError unless `compile` is one of the values of `odeint`'s argument."""
    if compile not in ("auto", True, False):
        raise ValueError(
            f"Argument compile must be 'auto', True or False. Received: compile={compile!r}"
        )


def compiles_itself(solver: Any, gradient: Any) -> bool:
    """Whether a call made here and now is one that may compile itself.

    Not within a function, nor under a strategy; kept activations are differentiated as they are.
    """
    return (
        tf.executing_eagerly()
        and solver.is_ours
        and not solver.has_functions()
        and not gradient.keeps_activations
        and not tf.config.functions_run_eagerly()
        and not tf.distribute.has_strategy()
    )


def solve_compiled(
    solve: Callable[..., Results],
    as_it_comes: Callable[..., Results],
    given: tuple,
    at_once: bool,
    **options: Any,
) -> Results:
    """`solve(f, y0, t, params, **options)`, compiled once that pays.

    Args:
      solve: `solve.solve_from`.
      as_it_comes: The same of these arguments, but for the options.
      given: f, y0, t and params, as in `odeint`.
      at_once: Whether to compile at the first call, and to raise ValueError if that can't be.
      options: Further arguments of `solve`.
    """
    f, y0, t, params = given
    attempt = _Attempt(solve, as_it_comes, at_once, options)
    try:
        arguments = Arguments(y0, t, params, options)
    except Exception:
        arguments = None
    if arguments is None:
        return as_it_comes(**options)  # says what is wrong with them
    try:
        results, refused = attempt(arguments, Guard(f))
    except Exception as error:  # of looking, where f may never look
        results, refused = None, str(error)
    if results is not None:
        return results
    if at_once:
        as_it_comes(**options)  # what is wrong with f says more
        raise ValueError(
            "Argument compile=True needs an f of which all that it reads is known: numbers, "
            "tuples, floating-point tensors, arrays and variables, functions. Take compile='auto'. "
            f"Received: an f that can't be compiled, as {refused}"
        )
    return as_it_comes(**options)


class _Attempt:
    """One call's solve, compiled, or as it comes where compiling doesn't pay."""

    def __init__(
        self,
        solve: Callable[..., Results],
        as_it_comes: Callable[..., Results],
        at_once: bool,
        options: dict[str, Any],
    ) -> None:
        self._solve, self._as_it_comes, self._at_once = solve, as_it_comes, at_once
        self._options = options

    def __call__(self, arguments: Arguments, read: Guard) -> tuple[Results | None, str | None]:
        """Results of an f that reads as `read` says, or `None`; and why it can't be compiled."""
        call = Call(self._solve, arguments, read, self._options)
        kept, uses = look_up((read.key, call.key, surroundings())), uses_of((read.code, call.key))
        if kept.function is None and kept.refused is None:
            if not (self._at_once or uses.may_compile):
                return None, None
            results = None if self._at_once else self._if_short(kept)
            if results is not None:
                return results, None
            try:
                with kept.lock:
                    if kept.function is None:
                        call.compile(kept)
                        uses.num_compiled += 1
                drop_the_oldest()
            except Exception as error:
                kept.refused = f"tracing it gave {type(error).__name__}: {error}"
        if kept.refused:
            return None, kept.refused
        uses.num_runs += 1
        return call.run(kept), None

    def _if_short(self, kept: Kept) -> Results | None:
        """The solve as it comes, if it, and those before, take few evaluations of f."""
        solver, conditions = self._options["solver"], self._options["conditions"]
        room = max(NUM_BEFORE_COMPILING - kept.num_evaluations, 0)
        num_steps = room // solver.method.num_evaluations
        cut = min(num_steps - solver.max_num_steps, 0)
        if num_steps == 0 or (cut < 0 and not solver.is_adaptive):
            return None
        fewer = {**self._options, "conditions": conditions.but(further_steps=cut)}
        results = self._as_it_comes(**fewer)
        report = results.diagnostics
        kept.num_evaluations += int(report.num_ode_fn_evaluations)
        was_cut = cut < 0 and int(report.status) == status_codes.MAX_NUM_STEPS
        return None if was_cut else results


def surroundings() -> Hashable:
    """What code that TensorFlow traces depends on, wherever it stands."""
    return (
        keras.config.floatx(),
        keras.config.epsilon(),
        keras.config.image_data_format(),
        hasattr(tf.Tensor, "astype"),  # whether NumPy's behaviour is on
        tf.__internal__.eager_context.get_device_name(),
        tf.config.experimental.tensor_float_32_execution_enabled(),
    )
