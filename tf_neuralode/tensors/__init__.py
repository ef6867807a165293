"""What the package does with tensors everywhere: states as flat lists, loops, XLA, NaN."""

from tf_neuralode.tensors.algebra import (
    State,
    Tensors,
    add,
    advanced,
    all_finite,
    along,
    casts,
    each,
    in_rows,
    keep,
    scale,
    spacing,
    weighted_sum,
    zeros_like,
)
from tf_neuralode.tensors.loops import while_loop
from tf_neuralode.tensors.not_finite import infinite_if, nan_unless, or_nan, quotient_or_zero
from tf_neuralode.tensors.tapes import may_be_recorded, may_be_watched
from tf_neuralode.tensors.xla import asserting, compiled_as, inside_xla
