"""Eager calls that compile themselves, and never run on with what has changed."""

from tf_neuralode.eager.solves import check_compile, compiles_itself, solve_compiled
from tf_neuralode.eager.traced import with_autograph
