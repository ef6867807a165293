"""Adjoint on the stored solution, parameter gradient by Gauss-Legendre quadrature."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from tf_neuralode.field import Field
from tf_neuralode.gradients.backward_pass import Piece, PieceResult
from tf_neuralode.gradients.stored_adjoint import StoredAdjoint
from tf_neuralode.methods import interpolation
from tf_neuralode.stepping import Recorder
from tf_neuralode.tensors import State, each, scale, while_loop


@keras.saving.register_keras_serializable("tf_neuralode")
class GaussAdjoint(StoredAdjoint):
    """Adjoint on the dense forward solution, parameter gradient by Gauss quadrature [1].

    Integrates lambda alone. After each accepted backward step of size h

        mu += h/2 sum_j w_j f_p^T lambda   at n = floor((order + 1) / 2) Gauss-Legendre nodes

    so that no stage of the integration touches anything the size of the parameters. Takes the
    arguments of `StoredAdjoint`: `rtol`, `atol`, `checkpoint`.

    Reference:
      [1] A. Norcliffe, M. P. Deisenroth, Faster training of neural ODEs using Gauss-Legendre
          quadrature, TMLR 2023.
    """

    def _integrate_piece(self, solver, piece, adjoint_state, d_sources):
        quadrature = _Quadrature(piece, d_sources, num_nodes=(solver.order + 1) // 2)
        result = solver.integrate(
            Field(lambda u, z, _: piece.products(u, z, of_sources=False)[0]),
            piece.start(adjoint_state),
            piece.length,
            [quadrature],
            piece.conditions,
        )
        report = result.diagnostics
        return PieceResult(
            adjoint_state=result.y,
            d_sources=result.saved[0],
            h=result.h,
            num_evaluations=report.num_ode_fn_evaluations
            + report.num_accepted_steps * quadrature.num_nodes,
            status=report.status,
        )


class _Quadrature(Recorder):
    """Adds up the parameters' part of the adjoint over the accepted steps."""

    needs_dense = True

    def __init__(self, piece: Piece, initial: State, num_nodes: int):
        self.num_nodes = num_nodes
        self._piece = piece
        self._initial = initial

    def start(self, start):
        del start
        return self._initial

    def record(self, saved, slot):
        h = slot.t_next - slot.t
        points, weights = np.polynomial.legendre.leggauss(self.num_nodes)
        nodes = tf.constant((1 + points) / 2, h.dtype)
        factors = tf.constant(weights / 2, h.dtype) * h

        def add(j, total):
            theta = nodes[j]
            adjoint_state = interpolation.evaluate(slot.dense, theta)
            _, products = self._piece.products(slot.t + theta * h, adjoint_state, of_state=False)
            return j + 1, each(lambda a, b: a + scale(factors[j], b), total, products)

        # A loop and no branch: it adds in place, and holds one node's products at a time.
        num = tf.where(slot.accepted, self.num_nodes, 0)
        _, total = while_loop(
            lambda j, _: j < num, add, (tf.constant(0), saved), parallel_iterations=1
        )
        return total
