"""One call of `odeint` as a function of tensors: compiled, and run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any

import tensorflow as tf

from tf_neuralode.eager.arguments import Arguments
from tf_neuralode.eager.constants import Unguarded
from tf_neuralode.eager.guards import Guard
from tf_neuralode.eager.kept import Kept
from tf_neuralode.eager.operations import not_a_formula, same_in_xla
from tf_neuralode.eager.recorded import recorded_once
from tf_neuralode.results import Results
from tf_neuralode.tensors import may_be_recorded


class Call:
    """A solve with these arguments, of an f that reads as a `Guard` says.

    Attributes:
      key: What compiled code depends on but for what f reads.
    """

    def __init__(
        self,
        solve: Callable[..., Results],
        arguments: Arguments,
        read: Guard,
        options: dict[str, Any],
    ) -> None:
        self._solve, self._arguments, self._read = solve, arguments, read
        self._options = {**options, **arguments.options}
        self._given = (*arguments.given, read.tensors)
        self._inputs = tf.nest.flatten(self._given)
        self._traced_f: Callable[..., Any] | None = None
        self.key: Hashable = (
            arguments.key,
            tuple((x.shape, x.dtype) for x in self._inputs),
            options["solver"],
            options["gradient"],
            options["conditions"].batch_ndims,
        )

    def compile(self, kept: Kept, xla: bool | None = None) -> None:
        """Makes the function of `kept`, by XLA if `xla` or, if that is `None`, where it suits."""
        if xla is None:
            xla = self._suits_xla()

        def body(*inputs: tf.Tensor) -> list[tf.Tensor]:
            y0, t, params, counter, read = tf.nest.pack_sequence_as(self._given, inputs)
            kept.placeholders, self._traced_f = list(read), None
            params = params[0] if params else None
            options = {**self._options, "backward_counter": counter[0] if counter else None}
            with self._tracing(kept):
                results = self._solve(kept.call, y0, t, params, **options)
            returned = (results.states, results.times, results.diagnostics)
            kept.structure = tf.nest.map_structure(lambda x: 0, returned)
            return tf.nest.flatten(returned)

        function = tf.function(body, jit_compile=xla, autograph=False)
        specs = [tf.TensorSpec(x.shape, x.dtype) for x in self._inputs]
        kept.function, kept.xla = function.get_concrete_function(*specs), xla

    def _suits_xla(self) -> bool:
        """Whether XLA should compile it, by a look at f alone.

        Raises:
          Unguarded: if f draws random numbers, or is what else isn't a formula.
        """
        graph = self._arguments.trace(self._read.function, self._read.tensors)
        if found := not_a_formula(graph):
            raise Unguarded(f"it {found}")
        return same_in_xla(graph)

    def run(self, kept: Kept) -> Results:
        """What the compiled function returns; where a tape records, with its gradient."""
        called = functools.partial(self._called, kept)
        if may_be_recorded():
            num = len(self._arguments.flat.leaves)
            name = type(self._options["gradient"]).__name__
            in_trace = functools.partial(self._tracing, kept)
            outputs = recorded_once(called, self._inputs, num, name, in_trace)
        else:
            outputs = called(self._inputs)
        states, times, diagnostics = tf.nest.pack_sequence_as(kept.structure, outputs)
        return Results(times, states, diagnostics)

    def _called(self, kept: Kept, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
        with self._tracing(kept):
            try:
                return kept.function(*inputs)
            except tf.errors.OpError:
                if not kept.xla:
                    raise
        # What XLA can't compile a graph may run; if not it says why.
        with kept.lock:
            if kept.xla:
                self.compile(kept, xla=False)
        return self._called(kept, inputs)

    def _tracing(self, kept: Kept) -> Any:
        """In this context f is there: TensorFlow traces it, once more for its gradient."""

        def f(*arguments: Any) -> Any:
            if self._traced_f is None:
                self._traced_f = self._read.function(kept.placeholders)
            return self._traced_f(*arguments)

        return kept.tracing(f)
