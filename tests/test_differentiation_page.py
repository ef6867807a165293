"""The page on differentiation says what there is: each cell against an exact solution."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from all_gradients import ALL_GRADIENTS
from modes import in_mode

from tf_neuralode import NeuralODE, gradients, odeint, solvers

PAGE = Path(__file__).resolve().parent.parent / "docs" / "differentiation.md"
KEPT = gradients.Tape(checkpoint=False)
# Orders that there are, and the error of the next. "Any" is tried to the third.
CELLS = {
    "first": (1, LookupError),
    "first and second": (2, LookupError),
    "any order": (3, None),
    "error": (0, LookupError),
    "`NotImplementedError`": (0, NotImplementedError),
}
A, B = 0.3, 0.8  # what the losses below are differentiated by
VARIABLE = tf.Variable(A, dtype=tf.float64)
SPAN = [0.0, 1.0]
DENSE_TIME = "the time `s` of `results.solution.evaluate(s)`, and the initial state"
one = tf.ones([], tf.float64)


class Rate(keras.layers.Layer):
    """y' = rate y."""

    def __init__(self):
        super().__init__(dtype="float64")
        self.rate = self.add_weight(shape=(), initializer=lambda shape, dtype: tf.cast(A, dtype))

    def call(self, y):
        return self.rate * y


RATE = Rate()


def by_state_and_params(a, b, **how):
    return odeint(lambda t, y, p: p * y, a, SPAN, b, **how).states[-1]


def by_captures(a, b, **how):
    return odeint(lambda t, y: a * b * y, one, SPAN, **how).states[-1]


def layer(**how):
    return NeuralODE(RATE, dtype="float64", return_sequences=True, **how)


def by_weights(a, b, **how):
    return layer(**how)(tf.reshape(b, [1, 1]))[0, -1, 0]


def by_times(a, b, **how):
    return odeint(lambda t, y: 0.7 * t * y, one, tf.stack([a, b]), **how).states[-1]


def by_sample_times(a, b, **how):
    states = layer(**how)(tf.ones([1, 1], tf.float64), tf.reshape(tf.stack([a, b]), [1, 2]))
    return states[0, 0, 0] + 2 * states[0, 1, 0]


def dense(y0, params, s, **how):
    f = lambda t, y, p: p * y
    return odeint(f, y0, SPAN, params, dense_output=True, **how).solution.evaluate(s)


def by_complex_state(a, b, **how):
    f = lambda t, y, p: tf.complex(tf.zeros_like(p), p) * y
    return tf.math.real(odeint(f, tf.complex(a, one), SPAN, b, **how).states[-1])


# For each row of the table a loss, and the same from the solution.
ROWS = {
    "the initial state and `params`": (by_state_and_params, lambda a, b: a * tf.exp(b)),
    "tensors and `tf.Variable`s that `f` closes over": (by_captures, lambda a, b: tf.exp(a * b)),
    "the weights of a layer, and its initial state": (by_weights, lambda a, b: b * tf.exp(a)),
    "the times `t`, if they are a floating-point tensor": (
        by_times,
        lambda a, b: tf.exp(0.35 * (b**2 - a**2)),
    ),
    "the times of each sample in the call of a layer": (
        by_sample_times,
        lambda a, b: tf.exp(A * a) + 2 * tf.exp(A * b),
    ),
    "the initial state and `params`, where the loss is of `results.solution.evaluate(s)`": (
        lambda a, b, **how: dense(a, b, 0.35, **how),
        lambda a, b: a * tf.exp(0.35 * b),
    ),
    DENSE_TIME: (
        lambda a, b, **how: dense(a, 0.9 * one, b, **how),
        lambda a, b: a * tf.exp(0.9 * b),
    ),
    "complex initial states and real `params`": (
        by_complex_state,
        lambda a, b: a * tf.cos(b) - tf.sin(b),
    ),
}
OWN_SOURCES = {by_captures: lambda: VARIABLE, by_weights: lambda: RATE.rate.value}


def cells_of_the_page():
    """Of the first table: row, gradient, text of the cell without its notes."""
    first_table = re.search(r"(^\|.*\n)+", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    lines = first_table[0].splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    heads = [
        [KEPT if "(" in name else name.strip('"') for name in re.findall("`(.*?)`", head)]
        for head in table[0]
    ]
    return [
        (row[0], gradient, re.sub(r"( \[\d\],?)+$", "", cell))
        for row in table[2:]
        for names, cell in zip(heads[1:], row[1:], strict=True)
        for gradient in names
    ]


CELLS_OF_PAGE = cells_of_the_page()


def derivatives(loss, sources, order, refused=None):
    """Derivatives of each order up to `order`, and those of the next that raise no `refused`.

    Those of order n are derivatives, by all sources, of a weighted sum of those of order n - 1.
    """
    silent = []

    def of_order(n):
        if n == 0:
            return [], [loss()]
        with tf.GradientTape(persistent=n > order) as tape:
            tape.watch(sources)
            found, last = of_order(n - 1)
            total = tf.add_n([w * x for w, x in zip((1.0, 0.7), last, strict=False)])
        if n <= order:
            last = tape.gradient(total, sources)
            return [*found, last], last
        for i, x in enumerate(last):
            for j, source in enumerate(sources):
                try:
                    tape.gradient(x, source)
                except refused:
                    continue
                silent.append((i, j))
        return found, last

    return of_order(order + (refused is not None))[0], silent


def found_by(row, gradient, solver, order, refused, mode):
    """`derivatives` of the loss of a row, in a mode."""
    loss = ROWS[row][0]

    def function(a, b):
        a = OWN_SOURCES[loss]() if loss in OWN_SOURCES else a
        solve = lambda: loss(a, b, solver=solver, gradient=gradient)
        found, silent = derivatives(solve, [a, b], order, refused)
        # By the time of a dense solution once more, or then by the state: no second pass through
        # the solve, but the interpolant's own derivative.
        once = [(1, 0), (1, 1)] if (row, gradient) == (DENSE_TIME, "tape") else []
        assert silent == once
        return found

    return in_mode(function, mode)(tf.constant(A, tf.float64), tf.constant(B, tf.float64))


def check(row, gradient, cell, mode, solver, highest=3):
    order, refused = CELLS[cell]
    if refused is NotImplementedError:
        with pytest.raises(refused):
            found_by(row, gradient, solver, 1, None, mode)
        return
    if highest < 3:  # compiled: with a further tape around, TensorFlow may refuse to compile
        order, refused = min(order, highest), None
    found = found_by(row, gradient, solver, order, refused, mode)
    sources = [tf.constant(A, tf.float64), tf.constant(B, tf.float64)]
    expected, _ = derivatives(lambda: ROWS[row][1](*sources), sources, order)
    # The solvers below leave up to 1e-3 in third derivatives (see there); a term that is missing
    # is some tenths.
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=3e-3, atol=1e-3)


def solver_for(row, mode, order):
    if row == DENSE_TIME:
        # The third derivative of a cubic is right in the middle of a step; 0.8 is near the seventh.
        # In it a step's own error, over its cube, is to be small: not so of two stages.
        return solvers.RK4(8)
    if mode != "graph":
        return solvers.RK4(4)  # (1/4)^4 / 120, where third derivatives lose three powers
    # The graph of a third derivative is large: take two stages, (1/40)^2.
    return solvers.Midpoint(40) if order > 2 else solvers.Bosh3(1e-5, 1e-5)


def test_every_row_has_a_problem_and_every_gradient_a_column():
    assert {row for row, _, _ in CELLS_OF_PAGE} == set(ROWS)
    assert {gradient for _, gradient, _ in CELLS_OF_PAGE} == {*ALL_GRADIENTS, KEPT}
    assert {cell for _, _, cell in CELLS_OF_PAGE} <= set(CELLS)


# Graphs of gradients of gradients take seconds to trace, each.
@pytest.mark.parametrize("mode", ["eager", pytest.param("graph", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("row", "gradient", "cell"), CELLS_OF_PAGE)
def test_a_cell_says_what_there_is(row, gradient, cell, mode):
    if (gradient, mode) == ("adjoint", "graph") and ROWS[row][0] in (by_captures, by_times):
        # An outer tape records TFP's backward pass, and TensorFlow fails to differentiate that.
        pytest.skip("an error of another kind: RuntimeError or KeyError, after up to a minute")
    check(row, gradient, cell, mode, solver_for(row, mode, CELLS[cell][0]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "gradient", "cell"),
    [
        cell
        for cell in CELLS_OF_PAGE
        # TensorFlow can't compile kept activations in the loop over each sample's times.
        if cell[1] == ("tape" if ROWS[cell[0]][0] is by_sample_times else KEPT)
    ],
)
def test_it_holds_under_xla(row, gradient, cell):
    check(row, gradient, cell, "xla", solver_for(row, "xla", 2), highest=2)


def test_third_derivatives_beside_a_tensor_of_times_are_an_error():
    a, b = tf.constant(A, tf.float64), tf.constant(B, tf.float64)
    f = lambda t, y, p: p * y
    solve = lambda: odeint(
        f, a, tf.constant(SPAN, tf.float64), b, solver=solvers.RK4(4), gradient=KEPT
    ).states[-1]
    found, silent = derivatives(solve, [a, b], 2, LookupError)
    assert silent == []
    second = np.exp(B) * np.array([0.7, A * 0.7 + 1])
    np.testing.assert_allclose(found[1], second, rtol=1e-3)  # as in `check`


def compiled(gradient, times=SPAN, solver=None):
    """A solve, compiled by XLA, with the tape outside."""
    f = lambda t, y, p: p * y
    solve = lambda a, b: odeint(
        f, a, times, b, solver=solver or solvers.RK4(4), gradient=gradient
    ).states[-1]
    return tf.function(solve, jit_compile=True, autograph=False)


def outer_derivatives(function, order):
    sources = [tf.constant(A, tf.float64), tf.constant(B, tf.float64)]
    return derivatives(lambda: function(*sources), sources, order)[0][-1]


@pytest.mark.slow
def test_a_tape_outside_of_compiled_code_has_first_derivatives_but_of_kept_activations():
    found = outer_derivatives(compiled("tape"), 1)
    np.testing.assert_allclose(found, np.exp(B) * np.array([1, A]), rtol=1e-3)
    with pytest.raises(tf.errors.UnimplementedError, match="TensorList"):
        outer_derivatives(compiled(KEPT), 1)


@pytest.mark.slow
def test_a_tape_outside_gets_an_error_as_it_runs_and_nan_of_compiled_code():
    def first(a, b):
        return outer_first(a, b)[0]

    def outer_first(a, b):
        solve = lambda: by_state_and_params(a, b, solver=solvers.RK4(2), gradient="adjoint")
        return derivatives(solve, [a, b], 1)[0][0]

    with pytest.raises(tf.errors.InvalidArgumentError, match="checkpoint=False"):
        outer_derivatives(in_mode(first, "graph"), 1)
    assert np.isnan(outer_derivatives(in_mode(first, "xla"), 1)).all()


@pytest.mark.slow
def test_second_derivatives_of_adaptive_steps_to_many_times_do_not_compile():
    solver = solvers.Bosh3(1e-3, 1e-3, max_num_steps=20)

    def function(a, b):
        solve = lambda: odeint(
            lambda t, y, p: p * y, a, [0.0, 0.5, 1.0], b, solver=solver, gradient=KEPT
        ).states[-1]
        return derivatives(solve, [a, b], 2)[0][-1]

    with pytest.raises(tf.errors.InvalidArgumentError):
        in_mode(function, "xla")(tf.constant(A, tf.float64), tf.constant(B, tf.float64))
