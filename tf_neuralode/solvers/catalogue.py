"""The methods: a tableau, an order and an interpolant each, and nothing else."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow_probability as tfp
from numpy.polynomial import Polynomial

from tf_neuralode.methods import ButcherTableau
from tf_neuralode.methods import dop853_coefficients as dop853
from tf_neuralode.solvers.adaptive_solver import AdaptiveRungeKutta
from tf_neuralode.solvers.fixed_solver import FixedStepRungeKutta

_registered = keras.saving.register_keras_serializable("tf_neuralode")


@_registered
class DormandPrince(AdaptiveRungeKutta, tfp.math.ode.DormandPrince):
    """Dormand-Prince 5(4): 6 evaluations a step, FSAL, fourth-order dense output [1, 2].

    The usual first choice. A `tfp.math.ode.DormandPrince` whose stepping is ours; takes the
    arguments of `AdaptiveRungeKutta`.

    References:
      [1] J. R. Dormand, P. J. Prince, A family of embedded Runge-Kutta formulae, J. Comput. Appl.
          Math. 6 (1980).
      [2] L. F. Shampine, Some practical Runge-Kutta formulas, Math. Comput. 46 (1986).
    """

    order = 5
    tableau = ButcherTableau(
        c=(0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1),
        a=(
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        ),
        b=(35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0),
        b_err=(71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    )
    # Shampine (1986), with the optimal value of his free parameter.
    dense_weights = np.array(
        [
            [
                1,
                -8048581381 / 2820520608,
                8663915743 / 2820520608,
                -12715105075 / 11282082432,
            ],
            [0, 0, 0, 0],
            [
                0,
                131558114200 / 32700410799,
                -68118460800 / 10900136933,
                87487479700 / 32700410799,
            ],
            [0, -1754552775 / 470086768, 14199869525 / 1410260304, -10690763975 / 1880347072],
            [
                0,
                127303824393 / 49829197408,
                -318862633887 / 49829197408,
                701980252875 / 199316789632,
            ],
            [0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844],
            [0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423],
        ]
    )


def _tsit5_dense_weights() -> np.ndarray:
    """Weights over theta, theta^2, theta^3, theta^4 (Tsitouras 2011, section 3)."""
    x = Polynomial([0, 1])
    stages = [
        -1.0530884977290216 * x * (x - 1.3299890189751412)
        * (x**2 - 1.4364028541716351 * x + 0.7139816917074209),
        0.1017 * x**2 * (x**2 - 2.1966568338249754 * x + 1.2949852507374631),
        2.490627285651252793 * x**2 * (x**2 - 2.38535645472061657 * x + 1.57803468208092486),
        -16.54810288924490272 * (x - 1.21712927295533244) * (x - 0.61620406037800089) * x**2,
        47.37952196281928122 * (x - 1.203071208372362603) * (x - 0.658047292653547382) * x**2,
        -34.87065786149660974 * (x - 1.2) * (x - 2 / 3) * x**2,
        2.5 * (x - 1) * (x - 0.6) * x**2,
    ]  # fmt: skip
    return np.array([stage.coef[1:5] for stage in stages])


@_registered
class Tsit5(AdaptiveRungeKutta):
    """Tsitouras 5(4): 6 evaluations a step, FSAL, its own fourth-order dense output [1].

    As `DormandPrince`, often with a slightly smaller error for the same work; takes the arguments
    of `AdaptiveRungeKutta`.

    Reference:
      [1] Ch. Tsitouras, Runge-Kutta pairs of order 5(4) satisfying only the first column
          simplifying assumption, Comput. Math. Appl. 62 (2011).
    """

    order = 5
    tableau = ButcherTableau(
        c=(0, 0.161, 0.327, 0.9, 0.9800255409045097, 1, 1),
        a=(
            (),
            (0.161,),
            (-0.008480655492356989, 0.335480655492357),
            (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
            (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
            (
                5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401,
                -0.028269050394068383,
            ),
            (
                0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742,
                -3.290069515436081, 2.324710524099774,
            ),
        ),
        b=(
            0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081,
            2.324710524099774, 0,
        ),
        b_err=(
            -0.00178001105222577714, -0.0008164344596567469, 0.007880878010261995,
            -0.1447110071732629, 0.5823571654525552, -0.45808210592918697, 1 / 66,
        ),
    )  # fmt: skip
    dense_weights = _tsit5_dense_weights()


@_registered
class Verner6(AdaptiveRungeKutta):
    """Verner 6(5), his "robust" pair: 8 evaluations a step, FSAL, fourth-order dense output [1].

    For tolerances of 1e-3 to 1e-8 in smooth fields: about as many evaluations as `DormandPrince`
    and a fifth of its error, and often the whole of a short interval in one step. Takes the
    arguments of `AdaptiveRungeKutta`.

    Reference:
      [1] J. H. Verner, Numerically optimal Runge-Kutta pairs with interpolants, Numer. Algorithms
          53 (2010).
    """

    order = 6
    tableau = ButcherTableau(
        c=(0, 9 / 50, 1 / 6, 1 / 4, 53 / 100, 3 / 5, 4 / 5, 1, 1),
        a=(
            (),
            (9 / 50,),
            (29 / 324, 25 / 324),
            (1 / 16, 0, 3 / 16),
            (79129 / 250000, 0, -261237 / 250000, 19663 / 15625),
            (1336883 / 4909125, 0, -25476 / 30875, 194159 / 185250, 8225 / 78546),
            (
                -2459386 / 14727375, 0, 19504 / 30875, 2377474 / 13615875, -6157250 / 5773131,
                902 / 735,
            ),
            (
                2699 / 7410, 0, -252 / 1235, -1393253 / 3993990, 236875 / 72618, -135 / 49,
                15 / 22,
            ),
            (11 / 144, 0, 0, 256 / 693, 0, 125 / 504, 125 / 528, 5 / 72),
        ),
        b=(11 / 144, 0, 0, 256 / 693, 0, 125 / 504, 125 / 528, 5 / 72, 0),
        b_err=(
            15 / 848, 0, 0, -60 / 539, 312500 / 366177, -375 / 392, 125 / 528, 9145 / 71064,
            -2995 / 17766,
        ),
    )  # fmt: skip
    # Verner's own interpolants take further stages. This one doesn't: of all that meet the order
    # conditions up to 4, and states and slopes at both ends, it has the least error of order 5 for
    # weights of this size (RMS over [0, 1] and trees: 3e-5, where DormandPrince's has 2e-4).
    dense_weights = np.array(
        [
            [1, -10129 / 2544, 132997 / 19080, -8927 / 1590, 451 / 265],
            [0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0],
            [0, 11164 / 1617, -447382 / 24255, 4416 / 245, -214 / 35],
            [0, -7500 / 2597, 34250 / 2597, -46000 / 2597, 2750 / 371],
            [0, -2885 / 1176, 3814 / 441, -2557 / 294, 11 / 4],
            [0, 565 / 176, -3689 / 264, 39 / 2, -17 / 2],
            [0, 77 / 24, -125 / 9, 37 / 2, -31 / 4],
            [0, -4, 35 / 2, -24, 21 / 2],
        ]
    )


_B4 = (11 / 72, 25 / 72, 25 / 72, 11 / 72, 0)
_B3 = (
    1251515 / 8970912, 3710105 / 8970912, 2519695 / 8970912, 61105 / 8970912, 119041 / 747576,
)  # fmt: skip


@_registered
class SofroniouSpaletta4(AdaptiveRungeKutta):
    """Sofroniou-Spaletta 4(3): 4 evaluations a step, FSAL, cubic Hermite dense output [1].

    Between `Bosh3` and the pairs of order 5. Where one step is enough, as over a short interval at
    a tolerance of 1e-3, it is the cheapest step. Takes the arguments of `AdaptiveRungeKutta`.

    Reference:
      [1] M. Sofroniou, G. Spaletta, Construction of explicit Runge-Kutta pairs with stiffness
          detection, Math. Comput. Modelling 40 (2004).
    """

    order = 4
    tableau = ButcherTableau(
        c=(0, 2 / 5, 3 / 5, 1, 1),
        a=((), (2 / 5,), (-3 / 20, 3 / 4), (19 / 44, -15 / 44, 10 / 11), _B4[:4]),
        b=_B4,
        b_err=tuple(b4 - b3 for b4, b3 in zip(_B4, _B3, strict=True)),
    )


@_registered
class Bosh3(AdaptiveRungeKutta):
    """Bogacki-Shampine 3(2): 3 evaluations a step, FSAL, cubic Hermite dense output [1].

    For loose tolerances and rough fields; takes the arguments of `AdaptiveRungeKutta`.

    Reference:
      [1] P. Bogacki, L. F. Shampine, A 3(2) pair of Runge-Kutta formulas, Appl. Math. Lett. 2
          (1989).
    """

    order = 3
    tableau = ButcherTableau(
        c=(0, 1 / 2, 3 / 4, 1),
        a=((), (1 / 2,), (0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
        b=(2 / 9, 1 / 3, 4 / 9, 0),
        b_err=(-5 / 72, 1 / 12, 1 / 9, -1 / 8),
    )


def _dop853_dense_weights() -> np.ndarray:
    """The nested polynomial of HNW, II.6, equation 6.14, written out in powers of theta.

    y(x) = y + x (F0 + (1-x) (F1 + x (F2 + (1-x) (F3 + x (F4 + (1-x) (F5 + x F6))))))
    with F0 = y1 - y, F1 = h k_first - F0, F2 = 2 F0 - h (k_first + k_last), F3.. = h D k.
    """
    change = np.zeros(16)
    change[:12] = dop853.A[12]
    first, last = np.eye(16)[0], np.eye(16)[12]
    factors = [change, first - change, 2 * change - first - last, *np.array(dop853.D)]
    x = Polynomial([0, 1])
    weights = np.zeros((16, 7))
    basis = x
    for i, factor in enumerate(factors):
        coef = np.zeros(8)
        coef[: len(basis.coef)] = basis.coef
        weights += np.outer(factor, coef[1:])
        basis = basis * (1 - x if i % 2 == 0 else x)
    return weights


@_registered
class DormandPrince8(AdaptiveRungeKutta):
    """Dormand-Prince 8(5,3), DOP853: 12 evaluations a step, seventh-order dense output [1].

    For tight tolerances (1e-6 and below) in float64. Dense output takes three further evaluations
    a step, made only where it is asked for. Takes the arguments of `AdaptiveRungeKutta`.

    Reference:
      [1] Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, II.5 and II.6.
    """

    order = 8
    error_order = 7
    beta = 0.0  # as in Hairer's DOP853
    tableau = ButcherTableau(
        c=dop853.C[:13], a=dop853.A[:13], b=(*dop853.A[12], 0), b_err=dop853.E5
    )
    b_err_low = dop853.E3
    dense_weights = _dop853_dense_weights()
    extra_nodes = dop853.C[13:]
    extra_rows = dop853.A[13:]


@_registered
class Euler(FixedStepRungeKutta):
    """Explicit Euler: order 1, 1 evaluation a step. Arguments of `FixedStepRungeKutta`."""

    order = 1
    tableau = ButcherTableau(c=(0,), a=((),), b=(1,))


@_registered
class Midpoint(FixedStepRungeKutta):
    """Explicit midpoint rule: order 2, 2 evaluations a step.

    Arguments of `FixedStepRungeKutta`. Reference: HNW, II.1.
    """

    order = 2
    tableau = ButcherTableau(c=(0, 1 / 2), a=((), (1 / 2,)), b=(0, 1))


@_registered
class Heun(FixedStepRungeKutta):
    """Heun's method (explicit trapezoidal rule): order 2, 2 evaluations a step.

    Arguments of `FixedStepRungeKutta`. Reference: HNW, II.1.
    """

    order = 2
    tableau = ButcherTableau(c=(0, 1), a=((), (1,)), b=(1 / 2, 1 / 2))


@_registered
class RK4(FixedStepRungeKutta):
    """The classical Runge-Kutta method: order 4, 4 evaluations a step.

    Arguments of `FixedStepRungeKutta`. Reference: HNW, II.1, table 1.2.
    """

    order = 4
    tableau = ButcherTableau(
        c=(0, 1 / 2, 1 / 2, 1),
        a=((), (1 / 2,), (0, 1 / 2), (0, 0, 1)),
        b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    )
