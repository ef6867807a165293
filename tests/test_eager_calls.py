"""Eager calls that compile themselves: the same numbers, and never stale ones."""

import collections
import functools
import gc
import math
import types
import weakref
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_neuralode import fields, odeint, solvers
from tf_neuralode.eager import kept

HEUN = solvers.Heun(num_steps=3)  # compiled in a moment
Y0 = tf.constant([1.0, 2.0], tf.float64)
TIMES = [0.0, 0.5, 2.0]
# XLA rounds sums in another order; a few steps don't amplify that.
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    for name in ("_kept", "_uses"):
        monkeypatch.setattr(kept, name, collections.OrderedDict())


def num_compiled():
    return sum(one.function is not None for one in kept._kept.values())


def solve(f, compile, y0=Y0, t=TIMES, params=None, solver=HEUN, **options):
    return odeint(f, y0, t, params, solver=solver, compile=compile, **options)


def check_same(f, **options):
    compiled, plain = solve(f, True, **options), solve(f, False, **options)
    assert_same = functools.partial(np.testing.assert_allclose, **CLOSE)
    tf.nest.map_structure(assert_same, compiled.states, plain.states)
    np.testing.assert_array_equal(compiled.times, plain.times)
    assert compiled.times.dtype == plain.times.dtype
    for a, b in zip(compiled.diagnostics, plain.diagnostics, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-12)
    return compiled


@pytest.mark.parametrize(
    "t", [TIMES, np.array([2, 1, 0]), tf.constant([1.0, 0.25]), [0.0]], ids=str
)
def test_a_compiled_call_returns_what_a_plain_one_does(t):
    check_same(lambda t, y: tf.sin(t) - 0.3 * y, t=t, solver=solvers.Bosh3(1e-4, 1e-6))


def test_nests_of_states_and_parameters_are_compiled():
    y0 = {
        "a": tf.constant(1.0),
        "b": (tf.constant([1.0, 2.0]), tf.constant([[3.0 + 1.0j]], tf.complex64)),
    }
    params = {"k": 2.0, "n": 3, "w": np.ones(2, "float32")}

    def f(t, y, p):
        a, (b, c) = y["a"], y["b"]
        return {"a": -a * p["k"], "b": (b * p["w"], 1j * c)}

    options = {"y0": y0, "params": params}
    compiled, plain = (solve(f, compile, **options).states for compile in (True, False))
    same = functools.partial(np.testing.assert_allclose, rtol=1e-5)  # in float32
    tf.nest.map_structure(same, compiled, plain)


def test_gradients_are_those_of_a_plain_call():
    w, a = tf.Variable([0.5, -1.0], dtype=tf.float64), tf.constant([2.0, 0.3], tf.float64)
    array = np.array([[0.0, 1.0], [-1.0, 0.0]])
    t, k = tf.constant(TIMES, tf.float64), tf.constant(0.7, tf.float64)

    def f(t, y, k):
        return tf.linalg.matvec(array, y) * k + w * tf.sin(a * y) * t

    sources = [Y0, a, t, k, w]
    counter = tf.constant(0.0)

    def gradients(compile):
        with tf.GradientTape() as tape:
            tape.watch([*sources, counter])
            states = solve(f, compile, t=t, params=k, backward_counter=counter).states
            loss = tf.reduce_sum(states**2 * tf.constant([[1.0], [2.0], [3.0]], tf.float64))
        return tape.gradient(loss, [*sources, counter])

    plain = gradients(False)
    for _ in range(2):  # as it is traced, and again
        for one, other in zip(gradients(True), plain, strict=True):
            np.testing.assert_allclose(one, other, **CLOSE)


def test_a_time_in_a_list_has_its_gradient():
    end = tf.constant(0.5, tf.float64)

    def gradient(compile):
        with tf.GradientTape() as tape:
            tape.watch(end)
            states = solve(lambda t, y: -t * y, compile, t=[0.0, end]).states
        return tape.gradient(states, end)

    np.testing.assert_allclose(gradient(True), gradient(False), **CLOSE)


def test_gradients_of_two_results_of_one_solve():
    w = tf.Variable([0.5, -1.0], dtype=tf.float64)

    def both(compile):
        with tf.GradientTape(persistent=True) as tape:
            states = solve(lambda t, y: w * y, compile).states
            first, second = tf.reduce_sum(states), tf.reduce_sum(states**2)
        return [tape.gradient(x, w) for x in (first, second)]

    np.testing.assert_allclose(both(True), both(False), **CLOSE)


def test_complex_weights_stay_eager_and_have_their_gradient():
    w = tf.Variable([1 + 1j, 2.0], dtype=tf.complex128)

    def gradient(compile):
        with tf.GradientTape() as tape:
            y0 = tf.constant([1.0, 1.0], tf.complex128)
            states = solve(lambda t, y: w * y, compile, y0=y0, t=[0.0, 1.0]).states
            loss = tf.reduce_sum(tf.abs(states))
        return tape.gradient(loss, w)

    np.testing.assert_allclose(gradient("auto"), gradient(False), **CLOSE)


def test_an_index_out_of_range_is_an_error_as_in_a_plain_call():
    table = tf.constant([1.0, 2.0, 3.0], tf.float64)
    with pytest.raises(tf.errors.InvalidArgumentError, match="not in"):
        solve(lambda t, y: tf.gather(table, tf.cast(t * 3, tf.int32)) * y, True)


def test_second_derivatives_are_refused_as_in_a_plain_call():
    y0 = tf.constant([1.0])
    with tf.GradientTape() as outer:
        outer.watch(y0)
        with tf.GradientTape() as inner:
            inner.watch(y0)
            states = solve(lambda t, y: -(y**2), True, y0=y0).states
        first = inner.gradient(states, y0)
    with pytest.raises(LookupError, match="second derivatives"):
        outer.gradient(first, y0)


# What f reads may change between two calls


module = types.ModuleType("of_a_user")
GLOBAL, ARRAY, PAIR = 1.0, np.array([1.0, 2.0]), (1.0, (2, "sum"))
SQUARE = np.array([[1.0, 2.0], [3.0, 4.0]])
variable = tf.Variable([1.0, 1.0], dtype=tf.float64)
tensor = tf.constant([1.0, 3.0], tf.float64)
layer = keras.layers.Dense(2, activation="tanh", dtype="float64", name="read")
layer.build((None, 2))
layer.set_weights([layer.get_weights()[0], np.array([0.3, -0.2])])
bias = layer.bias
inputs = lambda: keras.Input((2,), dtype="float64")
model = growing = None  # made anew for each test
own_activation = keras.layers.Activation(lambda x: GLOBAL * x, dtype="float64")
own_activation.build((None, 2))
mlp = fields.MLP(3, 1, time=True, dtype="float64")
mlp.build([(None, 1), (None, 2)])
of_keras = keras.Variable([1.0, 1.0], dtype="float64")


def helper(y, by=1.0, *, also=0.0):
    return GLOBAL * by * y + also


def marked(y):
    return y


def set_global(name, value):
    globals()[name] = value


def set_in(x, name, value):
    setattr(x, name, value)


def reading_a_cell():
    k = 1.0

    def change():
        nonlocal k
        k = 2.0

    return lambda t, y: k * y, change


def reading_an_object():
    it = types.SimpleNamespace(k=1.0)
    return lambda t, y: it.k * y, lambda: set_in(it, "k", 2.0)


def reading_a_list():
    ks = [1.0]
    return lambda t, y: ks[0] * y, lambda: ks.append(ks.pop() + 1)


def reading_a_dict():
    ks = {"k": 1.0}
    return lambda t, y: ks["k"] * y, lambda: ks.update(k=2.0)


def reading_through_a_helper_in_a_cell():
    k = tf.constant(1.0, tf.float64)
    inner = lambda y: k * y

    def change():
        nonlocal k
        k = tf.constant(2.0, tf.float64)

    return lambda t, y: inner(y), change


def replaced_code():
    f = lambda t, y: y
    g = lambda t, y: 2 * y
    return f, lambda: set_in(f, "__code__", g.__code__)


class Pair(NamedTuple):
    k: float


class WithMethod(NamedTuple):
    k: float

    def scaled(self, y):
        return self.k * GLOBAL * y

    @property
    def twice(self):
        return 2 * self.k * GLOBAL


@functools.wraps(tf.nn.relu)
def wrapped(y):
    return GLOBAL * tf.maximum(y, 0.0)


NAMED, METHOD = Pair(1.0), WithMethod(1.0)
GUARDED = {
    "weights": lambda: (
        lambda t, y: layer(y[tf.newaxis])[0],
        lambda: layer.set_weights([-w for w in layer.get_weights()]),
    ),
    "an activation": lambda: (
        lambda t, y: layer(y[tf.newaxis])[0],
        lambda: set_in(layer, "activation", keras.activations.relu),
    ),
    "weights of a layer in a model": lambda: (
        lambda t, y: model(y[tf.newaxis])[0],
        lambda: model.layers[1].set_weights([-w for w in model.layers[1].get_weights()]),
    ),
    "an activation in a model": lambda: (
        lambda t, y: model(y[tf.newaxis])[0],
        lambda: set_in(model.layers[0], "activation", lambda x: GLOBAL * x),
    ),
    "what an activation reads": lambda: (
        lambda t, y: own_activation(y[tf.newaxis])[0],
        lambda: set_global("GLOBAL", 2.0),
    ),
    "a layer added to a model": lambda: (
        lambda t, y: growing(y[tf.newaxis])[0],
        lambda: growing.add(keras.layers.Activation("tanh", dtype="float64")),
    ),
    "whether layers are one": lambda: (
        lambda t, y: model(y[tf.newaxis])[0],
        lambda: set_global("model", keras.Sequential([inputs(), model.layers[0], model.layers[0]])),
    ),
    "whether there is a bias": lambda: (
        lambda t, y: layer(y[tf.newaxis])[0],
        lambda: set_in(layer, "bias", None),
    ),
    "the order of an array's rows": lambda: (
        lambda t, y: -y * SQUARE[[1, 0]][0],
        lambda: set_global("SQUARE", SQUARE[::-1]),
    ),
    "an epsilon of Keras": lambda: (
        lambda t, y: keras.ops.normalize(y * 1e-8) + 0.0,
        lambda: keras.config.set_epsilon(1e-3),
    ),
    "weights of a field": lambda: (
        lambda t, y: mlp([t[None, None], y[tf.newaxis]])[0],
        lambda: mlp.set_weights([-w for w in mlp.get_weights()]),
    ),
    "a named tuple": lambda: (lambda t, y: NAMED.k * y, lambda: set_global("NAMED", Pair(2.0))),
    "a global in a generator": lambda: (
        lambda t, y: sum(GLOBAL * y for _ in range(2)),
        lambda: set_global("GLOBAL", 2.0),
    ),
    "a cell": reading_a_cell,
    "a global": lambda: (lambda t, y: GLOBAL * y, lambda: set_global("GLOBAL", 2.0)),
    "an int for a float": lambda: (lambda t, y: 1 / GLOBAL * y, lambda: set_global("GLOBAL", 3)),
    "the sign of zero": lambda: (
        lambda t, y: y * math.copysign(0.5, SIGN),
        lambda: set_global("SIGN", -0.0),
    ),
    "a global of a helper": lambda: (lambda t, y: helper(y), lambda: set_global("GLOBAL", 2.0)),
    "a default": lambda: (
        lambda t, y: helper(y),
        lambda: set_in(helper, "__defaults__", (3.0,)),
    ),
    "a default by keyword": lambda: (
        lambda t, y: helper(y),
        lambda: set_in(helper, "__kwdefaults__", {"also": 0.5}),
    ),
    "a helper itself": lambda: (
        lambda t, y: helper(y),
        lambda: set_global("helper", lambda y: -y),
    ),
    "a helper in a cell": reading_through_a_helper_in_a_cell,
    "code": replaced_code,
    "a tuple": lambda: (lambda t, y: PAIR[1][0] * y, lambda: set_global("PAIR", (1.0, (3, "a")))),
    "a module": lambda: (lambda t, y: module.K * y, lambda: set_in(module, "K", 2.0)),
    "a function of a module": lambda: (
        lambda t, y: module.f(y),
        lambda: set_in(module, "f", lambda y: -y),
    ),
    "an array": lambda: (lambda t, y: ARRAY * y, lambda: ARRAY.__setitem__(0, 5.0)),
    "another array": lambda: (lambda t, y: ARRAY * y, lambda: set_global("ARRAY", np.ones(2))),
    "a tensor": lambda: (
        lambda t, y: tensor * y,
        lambda: set_global("tensor", tf.constant([0.5, 0.1], tf.float64)),
    ),
    "a variable": lambda: (lambda t, y: variable * y, lambda: variable.assign([2.0, 3.0])),
    "another variable": lambda: (
        lambda t, y: variable * y,
        lambda: set_global("variable", tf.Variable([0.1, 0.2], dtype=tf.float64)),
    ),
    "a partial": lambda: (
        functools.partial(lambda k, t, y: k * y * GLOBAL, 2.0),
        lambda: set_global("GLOBAL", 2.0),
    ),
}  # fmt: skip
UNGUARDED = {
    "a variable of Keras": lambda: (
        lambda t, y: of_keras * y,
        lambda: of_keras.assign([2.0, 3.0]),
    ),
    "an object": reading_an_object,
    "a list": reading_a_list,
    "a dict": reading_a_dict,
    "an attribute of a helper, by another name": lambda: (
        lambda t, y: sum(h.k * y for h in (marked,)),
        lambda: set_in(marked, "k", 2.0),
    ),
    "a property": lambda: (lambda t, y: METHOD.twice * y, lambda: set_global("GLOBAL", 2.0)),
    "a wrapped function": lambda: (lambda t, y: wrapped(y), lambda: set_global("GLOBAL", 2.0)),
    "a method": lambda: (lambda t, y: METHOD.scaled(y), lambda: set_global("GLOBAL", 2.0)),
    "an attribute of a function": lambda: (
        lambda t, y: marked.k * y,
        lambda: set_in(marked, "k", 2.0),
    ),
    "a value in Python": lambda: (
        lambda t, y: float(y[0]) * y * GLOBAL,
        lambda: set_global("GLOBAL", 2.0),
    ),
}
SIGN = 0.0
BEFORE = {
    name: globals()[name]
    for name in ("GLOBAL", "ARRAY", "SQUARE", "PAIR", "tensor", "SIGN", "helper", "NAMED")
}


@pytest.fixture
def as_before():
    """What the changes change, put back."""
    keras.utils.set_random_seed(0)
    globals().update({**BEFORE, "ARRAY": np.array([1.0, 2.0])})
    helper.__defaults__, helper.__kwdefaults__, marked.k = (1.0,), {"also": 0.0}, 1.0
    module.K, module.f = 1.0, lambda y: y
    globals()["variable"] = tf.Variable([1.0, 1.0], dtype=tf.float64)
    layer.activation = keras.activations.tanh
    layer.bias = bias
    keras.config.set_epsilon(1e-7)
    dense = lambda: keras.layers.Dense(2, activation="tanh", dtype="float64")
    globals()["model"] = keras.Sequential([inputs(), dense(), dense()])
    globals()["growing"] = keras.Sequential([inputs(), dense()])
    of_keras.assign([1.0, 1.0])


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize(
    ("kind", "compile"), [*((k, True) for k in GUARDED), *((k, "auto") for k in UNGUARDED)]
)
def test_what_f_reads_is_never_stale(kind, compile, monkeypatch):
    monkeypatch.setattr("tf_neuralode.eager.solves.NUM_BEFORE_COMPILING", 0)
    f, change = {**GUARDED, **UNGUARDED}[kind]()
    before = solve(f, compile).states
    np.testing.assert_allclose(before, solve(f, False).states, **CLOSE)
    change()
    after, fresh = solve(f, compile).states, solve(f, False).states
    np.testing.assert_allclose(after, fresh, **CLOSE)
    assert np.abs(after - before).max() > 1e-3  # so the change was one


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize("kind", UNGUARDED)
def test_what_cannot_be_compiled_is_an_error_where_compiling_was_asked_for(kind):
    with pytest.raises(ValueError, match=r"compile='auto'. Received: an f that can't be compiled"):
        solve(UNGUARDED[kind]()[0], True)


class OwnLayer(keras.layers.Layer):
    def call(self, y):
        return -y


own_layer = OwnLayer(dtype="float64")


def catching(t, y):
    try:
        return float(t) * y
    except TypeError:
        return y


def placed(t, y):
    z = -y
    return z if z.device else y


@pytest.mark.parametrize(
    ("f", "reason"),
    [
        (catching, "it has a try or a with"),
        (placed, "it asks for .device of what it computes"),
        (lambda t, y: y * len(f"{t}"), "it formats text"),
        (lambda t, y: y * len("%s" % t), "it formats text"),  # noqa: UP031
        (lambda t, y: tf.cond(t > 0.5, lambda: y, lambda: -y), "it reads tf.cond"),
        (lambda t, y: -y * sum([1] * (tf.where(y > 0).shape[0] or 3)), "shapes depend on values"),
        (lambda t, y: y if y is t else -y, "what is the same object"),
        (lambda t, y: y * len(dict.fromkeys([1])), "it reads fromkeys of dict"),
        (
            lambda t, y: tf.keras.layers.Dense(2, dtype=y.dtype)(y[None])[0],
            "it reads tf.keras.layers.Dense",
        ),
        (lambda t, y: tf.cast(tf.executing_eagerly(), y.dtype) * y, "tf.executing_eagerly"),
        (lambda t, y: variable.assign_add(y) - y, "it reads assign_add of a tensor"),
        (lambda t, y: y * np.random.normal(), "it reads np.random.normal"),
        (lambda t, y: tf.random.normal([2], dtype=y.dtype), "it reads tf.random.normal"),
        (lambda t, y: print(y) or y, "it reads builtins.print"),
        (lambda t, y: own_layer(y), "a layer of type OwnLayer"),
        (tf.function(lambda t, y: -y), "an object of type"),
        (lambda t, y: setattr(module, "K", 2) or y, "it reads builtins.setattr"),
    ],
)
def test_the_error_says_what_is_in_the_way(f, reason):
    with pytest.raises(ValueError, match=reason):
        solve(f, True)


def test_the_same_code_with_the_same_values_is_compiled_once():
    for k in (2.0, 2.0, 2.0):
        for start in (1.0, 2.0):
            y0 = tf.constant([start], tf.float64)
            f = lambda t, y: k * y  # another object each time
            solve(f, True, y0=y0, t=[0.0, start])
    assert num_compiled() == 1


def test_a_function_is_compiled_for_few_values_of_what_it_reads(monkeypatch):
    monkeypatch.setattr("tf_neuralode.eager.solves.NUM_BEFORE_COMPILING", 0)
    numbers = []
    for k in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, *[1.0] * 30, 6.0):
        f = lambda t, y: -k * y
        np.testing.assert_allclose(solve(f, "auto").states, solve(f, False).states, **CLOSE)
        numbers.append(num_compiled())
    assert numbers == [1, 2, 3, 4, 4, 4, *[4] * 30, 5]  # one more, as others came again


def test_parameters_keep_their_order():
    def f(t, y, p):
        first, second = p.values()
        return -first * y + second

    for params in ({"a": 1.0, "b": 2.0}, {"b": 1.0, "a": 2.0}):
        check_same(f, params=params)


def test_tolerances_in_an_array_are_those_of_the_constructor():
    tolerance = np.array([1e-3, 1e-3])
    solver = solvers.Bosh3(tolerance, tolerance)
    f = lambda t, y: -y * tf.sin(5.0 * t)
    before = solve(f, True, solver=solver).diagnostics.num_ode_fn_evaluations
    tolerance[:] = 1e-8
    for compile in (True, False):
        after = solve(f, compile, solver=solver).diagnostics.num_ode_fn_evaluations
        assert after == before


def test_an_array_can_have_another_dtype_than_the_state():
    y0 = tf.constant([1.0, 2.0])
    f = lambda t, y: SQUARE[1] * -y * np.array([1, 2])
    compiled, plain = (solve(f, compile, y0=y0).states for compile in (True, False))
    np.testing.assert_allclose(compiled, plain, rtol=1e-5)  # in float32


@pytest.mark.parametrize("largest", [tf.reduce_max, lambda x: tf.maximum(x[0] * 0, x)])
def test_a_maximum_of_nan_is_nan(largest, monkeypatch):
    monkeypatch.setattr("tf_neuralode.eager.solves.NUM_BEFORE_COMPILING", 0)
    f = lambda t, y: y + largest(tf.sqrt(y[::-1] - 1.5))  # of -0.5, too
    compiled, plain = solve(f, "auto").states[-1], solve(f, False).states[-1]
    np.testing.assert_array_equal(np.isnan(compiled), np.isnan(plain))
    assert np.isnan(plain).any()


def test_few_evaluations_are_not_worth_compiling_for(monkeypatch):
    f = lambda t, y: -3.25 * y
    for _ in range(128 // 7):  # three steps of Heun's with dense output
        solve(f, "auto")
    assert num_compiled() == 0
    solve(f, "auto")
    assert num_compiled() == 1


def test_a_long_first_call_is_compiled():
    f = lambda t, y: -4.25 * y
    long = solve(f, "auto", t=[0.0, 30.0], solver=solvers.Bosh3(1e-6, 1e-6))
    assert num_compiled() == 1
    # The same steps as a plain call, and not those that it began with.
    plain = solve(f, False, t=[0.0, 30.0], solver=solvers.Bosh3(1e-6, 1e-6))
    np.testing.assert_allclose(long.states, plain.states, **CLOSE)
    assert long.diagnostics.num_accepted_steps == plain.diagnostics.num_accepted_steps


def solved_with_a_weight():
    weight = tf.Variable([1.0, 2.0])
    with tf.GradientTape() as tape:
        states = solve(lambda t, y: weight * y, True, y0=tf.ones([2])).states
    assert tape.gradient(states, weight) is not None
    return [weakref.ref(weight)]


def test_nothing_keeps_what_f_reads_alive():
    references = solved_with_a_weight()
    gc.collect()
    assert [reference() for reference in references] == [None]


def test_f_runs_by_hand_where_that_is_asked_for(monkeypatch):
    monkeypatch.setattr("tf_neuralode.eager.solves.NUM_BEFORE_COMPILING", 0)
    eager = []

    def f(t, y):
        eager.append(tf.executing_eagerly())
        return -y

    solve(f, False)
    monkeypatch.setattr(tf.config, "functions_run_eagerly", lambda: True)
    solve(f, "auto")
    assert eager.count(True) == 2 * 7  # and the traces that tell what it reads


def test_only_three_values_say_whether_to_compile():
    with pytest.raises(ValueError, match=r"'auto', True or False. Received: compile='always'"):
        solve(lambda t, y: y, "always")
