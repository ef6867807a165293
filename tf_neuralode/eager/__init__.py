"""Eager calls that compile themselves, and never run on with what has changed."""

from tf_neuralode.eager.guards import settings_key
from tf_neuralode.eager.layers import add_kind
from tf_neuralode.eager.recorded import recorded_once
from tf_neuralode.eager.solves import (
    NUM_BEFORE_COMPILING,
    check_compile,
    compiles_itself,
    solve_compiled,
    surroundings,
)
from tf_neuralode.eager.traced import with_autograph
