"""How large an error is: norms over a state, each sample of a batch by itself or all together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_neuralode.tensors import State, infinite_if

NAMES = ("max", "mean")


def whole(state: Any) -> list[Any]:
    """The parts of a state that count, if all of it does."""
    return [state]


@dataclasses.dataclass(frozen=True)
class ErrorNorm:
    """Maps an error, scaled by the tolerance, to one number.

    Attributes:
      kind: `"max"`, the largest of the samples' root mean squares; `"mean"`, that over all samples
        (HNW, equation 4.11); or a function of a state.
      batch_ndims: How many axes of each leaf, the first, count samples; 0 for one sample in all.
      pack: Gives a flat state its structure and its shapes.
      governing: The parts of a state that count, a list of states.
      among: `(batch,)`, boolean: the samples that count in a mean; with further axes of the state,
        the entries that count. All of them if `None`.
    """

    kind: str | Callable[[Any], tf.Tensor] = "max"
    batch_ndims: int = 0
    pack: Callable[[State], Any] = list
    governing: Callable[[Any], list[Any]] = whole
    among: tf.Tensor | None = None

    def of_samples(self, scaled: State) -> tf.Tensor:
        """Norms of the shape of the batch, where that matters, otherwise a scalar; see `largest`.

        A sample without entries has the norm 0.
        """
        if callable(self.kind):
            return self._by_function(self.kind, scaled)
        if self.kind == "max" and self.batch_ndims:
            leaves = self._counted(scaled)
            check_batch_ndims(self.batch_ndims, leaves)
            # Whole samples needn't be left out of a maximum: those that don't count have no error,
            # or that of one that does.
            by_entry = self.among is not None and self.among.shape.rank > self.batch_ndims
            return _root_mean_square(leaves, self.batch_ndims, self.among if by_entry else None)
        if self.among is None and self.governing is whole:
            return _root_mean_square(scaled, 0)
        return _root_mean_square(self._counted(scaled), 0, self.among)

    def largest(self, norms: tf.Tensor) -> tf.Tensor:
        """The largest of the samples' norms; infinite if one is NaN, 0 if there are none."""
        if norms.shape.rank == 0:
            return norms
        # On a CPU XLA's maximum drops NaN.
        is_nan = tf.math.is_nan(norms)
        norms = tf.where(is_nan, infinite_if(is_nan, norms.dtype), norms)
        return tf.maximum(tf.reduce_max(norms), tf.zeros([], norms.dtype))

    def size_of_samples(self, y: State) -> State:
        """In the place of each entry the RMS over its sample's entries in the same leaf."""

        def one(x: tf.Tensor) -> tf.Tensor:
            squares = tf.square(tf.abs(x))
            axes = list(range(self.batch_ndims, x.shape.rank))
            size = tf.sqrt(tf.reduce_mean(squares, axis=axes, keepdims=True))
            return tf.broadcast_to(size, tf.shape(x))

        sizes = [one(x) for x in tf.nest.flatten(self.pack(y))]
        # Under XLA a state is held as vectors, see `flat_state`.
        return [tf.reshape(size, tf.shape(x)) for size, x in zip(sizes, y, strict=True)]

    def counts(self, samples: tf.Tensor) -> tf.Tensor:
        """`samples`, booleans of the shape of `of_samples`, false for those that don't count."""
        if samples.shape.rank == 0 or self.among is None:
            return samples
        axes = list(range(self.batch_ndims, self.among.shape.rank))
        return samples & tf.reduce_any(self.among, axis=axes)

    def _counted(self, scaled: State) -> State:
        return tf.nest.flatten(self.governing(self.pack(scaled)))

    def _by_function(self, function: Callable[[Any], tf.Tensor], scaled: State) -> tf.Tensor:
        # A function may take a maximum, too.
        is_nan = [tf.math.is_nan(x) for x in scaled]
        scaled = [
            tf.where(bad, infinite_if(bad, x.dtype), x)
            for bad, x in zip(is_nan, scaled, strict=True)
        ]
        parts = self.governing(self.pack(scaled))
        if len(parts) == 1:
            return function(parts[0])
        # Of parts of one size, so this is the RMS over all of them if the function is an RMS.
        return tf.sqrt(tf.add_n([function(part) ** 2 for part in parts]) / len(parts))


def _root_mean_square(leaves: State, batch_ndims: int, among: tf.Tensor | None = None) -> tf.Tensor:
    """Over all axes of all leaves but the first `batch_ndims`; `among` as in `ErrorNorm`."""

    def axes(x: tf.Tensor):
        if x.shape.rank is None:
            return tf.range(batch_ndims, tf.rank(x))
        return list(range(batch_ndims, x.shape.rank))

    sums, sizes = [], []
    for x in leaves:
        shape, squares = tf.shape(x, out_type=tf.int64), tf.square(x)
        if among is None:
            size = tf.reduce_prod(shape[batch_ndims:])
        else:
            rank = among.shape.rank
            counts = tf.reshape(among, tf.concat([tf.shape(among), [1] * (x.shape.rank - rank)], 0))
            squares = tf.where(counts, squares, tf.zeros_like(squares))
            num = tf.reduce_sum(tf.cast(among, tf.int64), axis=list(range(batch_ndims, rank)))
            size = num * tf.reduce_prod(shape[rank:])
        sums.append(tf.reduce_sum(squares, axis=axes(x)))
        sizes.append(size)
    size = tf.cast(tf.maximum(tf.add_n(sizes), 1), sums[0].dtype)
    return tf.sqrt(tf.add_n(sums) / size)


def check_batch_ndims(batch_ndims: int, leaves: Sequence[tf.Tensor]) -> None:
    """Raises ValueError unless the first `batch_ndims` axes of all leaves can be the same ones."""
    common = tf.TensorShape([None] * batch_ndims)
    for leaf in leaves:
        if leaf.shape.rank is None:
            continue
        if leaf.shape.rank < batch_ndims or not common.is_compatible_with(leaf.shape[:batch_ndims]):
            shapes = ", ".join(str(x.shape) for x in leaves)
            raise ValueError(
                "Argument batch_ndims must be a number of axes that every tensor of the state "
                "begins with, of the same lengths. Give it how many axes count samples, or 0. "
                f"Received: batch_ndims={batch_ndims}, a state of shape {shapes}"
            )
        common = common.merge_with(leaf.shape[:batch_ndims])
