"""What is solved: f on flat states, its time, its derivatives, and what it reads."""

from tf_neuralode.field.captures import Captures, as_constant, captures_of
from tf_neuralode.field.clock import Clock, is_resolved
from tf_neuralode.field.field import (
    Attempt,
    Field,
    FlatFn,
    dense_gradients,
    first_behind,
    solve_dtype,
    zeros_for,
)
from tf_neuralode.field.flat_state import FlatState
from tf_neuralode.field.jumps import jumps_between
from tf_neuralode.field.precision import EPSILON, FieldPrecision, warn_of_tolerance
from tf_neuralode.field.refusal import refusing_gradients
from tf_neuralode.field.sample_clock import SampleClock
from tf_neuralode.field.times import (
    as_times,
    check_distinct,
    check_t_eval,
    check_t_span,
    checked,
    output_times,
    unresolved,
)
