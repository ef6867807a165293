"""Adjoint and parameter gradient integrated together on the stored solution."""

from __future__ import annotations

import keras

from tf_neuralode.field import Field
from tf_neuralode.gradients.backward_pass import PieceResult
from tf_neuralode.gradients.stored_adjoint import StoredAdjoint


@keras.saving.register_keras_serializable("tf_neuralode")
class InterpolatingAdjoint(StoredAdjoint):
    """Adjoint on the dense forward solution, parameter gradient by the same integration [1].

        [lambda; mu]' = [-f_y^T lambda; -f_p^T lambda],   y(t) from dense output

    Unlike `Adjoint` it never solves the state backwards, so it holds for contracting fields. The
    error of mu is left out of the norm. `GaussAdjoint` does the same with less work on the
    parameters; takes the arguments of `StoredAdjoint`: `rtol`, `atol`, `checkpoint`.

    Reference:
      [1] C. Rackauckas et al., Universal differential equations for scientific machine learning,
          2020 (InterpolatingAdjoint).
    """

    def _integrate_piece(self, solver, piece, adjoint_state, d_sources):
        num_leaves, pack = len(adjoint_state), piece.conditions.pack

        def f(u, z, _):
            of_state, of_sources = piece.products(u, z[:num_leaves])
            return [*of_state, *of_sources]

        conditions = piece.conditions.with_seminorm(num_parts=1)
        result = solver.integrate(
            Field(f),
            piece.start([*adjoint_state, *d_sources]),
            piece.length,
            conditions=conditions.but(pack=lambda z: (pack(z[:num_leaves]), z[num_leaves:])),
        )
        return PieceResult(
            adjoint_state=result.y[:num_leaves],
            d_sources=result.y[num_leaves:],
            h=result.h,
            num_evaluations=result.diagnostics.num_ode_fn_evaluations,
            status=result.diagnostics.status,
        )
