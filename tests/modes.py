"""The three ways to run TensorFlow code; most bugs live in the one that wasn't tried."""

import collections
import itertools

import tensorflow as tf

MODES = ("eager", "graph", "xla")


def in_mode(function, mode):
    """`function` as it runs in the given mode."""
    if mode == "eager":
        return function
    return tf.function(function, jit_compile=mode == "xla", autograph=False)


def pairs(*factors):
    """Rows of a value of each factor, in which each pair of two factors' values occurs.

    All combinations of three factors and more would take too long.
    """
    indices = [*itertools.product(*(range(len(factor)) for factor in factors))]
    in_row = {row: {*itertools.combinations(enumerate(row), 2)} for row in indices}
    missing, used, rows = set().union(*in_row.values()), collections.Counter(), []
    while missing:
        # Of rows as good as one another the one whose values have occurred least often.
        often = {row: sum(used[value] for value in enumerate(row)) for row in indices}
        row = max(indices, key=lambda row: (len(in_row[row] & missing), -often[row]))
        missing -= in_row[row]
        used.update(enumerate(row))
        rows.append(tuple(factor[i] for factor, i in zip(factors, row, strict=True)))
    return rows
