"""What must hold for any layer: bad rows anywhere in a batch, and configs of any settings."""

import json

import keras
import numpy as np
import tensorflow as tf
from all_solvers import ADAPTIVE
from hypothesis import given, settings
from hypothesis import strategies as st
from random_problems import BATCH, WIDTH, arrays

from tf_neuralode import Augment, ConcatTime, NeuralODE, gradients, regularizers, solvers


def examples(number):
    """The same examples in every run; a first call traces, so no time limit."""
    return settings(max_examples=number, derandomize=True, deadline=None, database=None)


def make_layer():
    options = {"dtype": "float64"}  # the policy of other tests may be another
    dynamics = keras.Sequential(
        [
            keras.layers.Dense(5, activation="tanh", **options),
            keras.layers.Dense(WIDTH, **options),
        ]
    )
    layer = NeuralODE(dynamics, rtol=1e-5, atol=1e-5, on_failure="nan", dtype="float64")
    layer.build((None, WIDTH))
    return layer


def test_bad_rows_anywhere_become_nan_and_leave_the_others_as_without_them():
    layer = make_layer()
    run = tf.function(layer, autograph=False)
    bad_values = st.sampled_from([None, None, np.nan, np.inf, -np.inf])

    @examples(40)
    @given(
        arrays(BATCH, WIDTH, limit=2.0),
        st.lists(bad_values, min_size=BATCH, max_size=BATCH),
        st.lists(st.integers(0, WIDTH - 1), min_size=BATCH, max_size=BATCH),
        arrays(WIDTH, 5),
        arrays(5, WIDTH),
    )
    def check(y0, bad, columns, first, second):
        for variable, value in zip(layer.dynamics.weights[::2], (first, second), strict=True):
            variable.assign(value)
        for row, (value, column) in enumerate(zip(bad, columns, strict=True)):
            if value is not None:
                y0[row, column] = value
        good = np.array([value is None for value in bad])
        y = run(tf.constant(y0)).numpy()
        assert np.all(np.isnan(y[~good]))
        # The same steps on the same numbers: the rounding of sums alone.
        np.testing.assert_allclose(y[good], run(tf.constant(y0[good])), rtol=1e-9, atol=1e-9)

    check()


# Settings as a user may write them: Python's and NumPy's numbers, arrays, lists.
positive = st.floats(1e-12, 1.0)
tolerances = st.one_of(
    positive,
    positive.map(np.float32),
    positive.map(np.float64),
    st.lists(positive, min_size=WIDTH, max_size=WIDTH),
    st.lists(positive, min_size=WIDTH, max_size=WIDTH).map(np.array),
    st.lists(positive, min_size=WIDTH, max_size=WIDTH).map(lambda x: tf.constant(x, tf.float64)),
)
counts = st.one_of(st.integers(1, 2000), st.integers(1, 2000).map(np.int64))
names = st.one_of(st.none(), st.sampled_from(["a", "my_solver"]))


def optional(strategy):
    return st.one_of(st.none(), strategy)


adaptive_solvers = st.builds(
    lambda cls, **settings: cls(**settings),
    st.sampled_from(ADAPTIVE),
    rtol=tolerances,
    atol=tolerances,
    first_step_size=optional(positive),
    max_num_steps=counts,
    safety_factor=st.floats(0.1, 0.99),
    min_step_size_factor=st.floats(0.01, 0.99),
    max_step_size_factor=st.floats(1.01, 20.0),
    max_step_size=optional(positive.map(np.float32)),
    validate_args=st.booleans(),
    name=names,
)
fixed_solvers = st.builds(
    lambda cls, **settings: cls(**settings),
    st.sampled_from([solvers.Euler, solvers.Midpoint, solvers.Heun, solvers.RK4]),
    num_steps=counts,
    name=names,
)
solver_objects = st.one_of(adaptive_solvers, fixed_solvers)
gradient_objects = st.one_of(
    st.builds(gradients.Tape, checkpoint=st.booleans()),
    st.builds(gradients.Adjoint, rtol=optional(tolerances), atol=optional(tolerances)),
    st.builds(
        lambda cls, **settings: cls(**settings),
        st.sampled_from([gradients.InterpolatingAdjoint, gradients.GaussAdjoint]),
        rtol=optional(tolerances),
        atol=optional(tolerances),
        checkpoint=st.booleans(),
    ),
)
regularizer_objects = st.builds(
    lambda cls, strength: cls(strength),
    st.sampled_from([regularizers.KineticEnergy, regularizers.JacobianNorm]),
    positive,
)


def through_json(thing):
    """What is left after a save and a load of the config."""
    return keras.saving.deserialize_keras_object(
        json.loads(json.dumps(keras.saving.serialize_keras_object(thing)))
    )


@examples(100)
@given(solver_objects)
def test_a_solver_is_rebuilt_from_its_config(solver):
    twin = through_json(solver)
    assert type(twin) is type(solver)
    assert twin == solver and hash(twin) == hash(solver) and repr(twin) == repr(solver)


@examples(60)
@given(gradient_objects)
def test_a_gradient_is_rebuilt_from_its_config(gradient):
    twin = through_json(gradient)
    assert twin == gradient and hash(twin) == hash(gradient)


@examples(30)
@given(regularizer_objects)
def test_a_regularizer_is_rebuilt_from_its_config(regularizer):
    twin = through_json(regularizer)
    assert type(twin) is type(regularizer) and twin.get_config() == regularizer.get_config()


@examples(20)
@given(st.one_of(st.builds(Augment, counts), st.builds(ConcatTime, st.sampled_from([-1, 1, 2]))))
def test_a_small_layer_is_rebuilt_from_its_config(layer):
    twin = through_json(layer)
    assert type(twin) is type(layer) and twin.get_config() == layer.get_config()


@st.composite
def layer_settings(draw):
    """Settings of a NeuralODE that fit each other."""
    by_name = draw(st.booleans())
    start, length = draw(st.floats(-2, 2)), draw(st.floats(0.1, 2))
    t_span = (start, start + draw(st.sampled_from([-1, 1])) * length)
    number = draw(optional(st.integers(1, 4)))
    t_eval = None if number is None else np.linspace(*t_span, number + 1)[1:]
    gradient = draw(st.one_of(st.sampled_from(gradients.names()), gradient_objects))
    # A layer that compiles itself can't keep activations.
    jit_compile = draw(st.booleans()) and not gradients.get(gradient).keeps_activations
    return dict(
        t_span=np.array(t_span) if draw(st.booleans()) else t_span,
        solver=draw(st.sampled_from(solvers.names()) if by_name else solver_objects),
        rtol=draw(optional(tolerances)) if by_name else None,
        atol=draw(optional(tolerances)) if by_name else None,
        gradient=gradient,
        t_eval=t_eval,
        return_sequences=t_eval is not None or draw(st.booleans()),
        time_dependent=draw(st.booleans()),
        regularizer=draw(
            st.one_of(st.none(), regularizer_objects, st.lists(regularizer_objects, max_size=2))
        ),
        on_failure=draw(st.sampled_from(["raise", "nan"])),
        track_stats=draw(st.booleans()),
        jit_compile=jit_compile,
    )


@examples(60)
@given(layer_settings())
def test_a_layer_is_rebuilt_from_its_config(settings):
    layer = NeuralODE(keras.layers.Dense(WIDTH, activation="tanh"), **settings)
    twin = through_json(layer)
    assert twin.get_config() == layer.get_config()
    assert twin.solver == layer.solver and twin.gradient == layer.gradient
    for name in ("t_span", "t_eval", "return_sequences", "time_dependent", "on_failure"):
        assert getattr(twin, name) == getattr(layer, name)
    assert repr(twin._regularizers) == repr(layer._regularizers)
