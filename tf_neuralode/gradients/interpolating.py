"""Adjoint and parameter gradient integrated together on the stored solution."""

from __future__ import annotations

import keras

from tf_neuralode.gradients.stored_adjoint import PieceResult, StoredAdjoint


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

    def _integrate_piece(self, solver, problem, piece, adjoint_state, d_sources):
        num_leaves = len(adjoint_state)

        def field(t, z):
            of_state, of_sources = piece.products(t, z[:num_leaves])
            return [*of_state, *of_sources]

        result = solver.with_seminorm(num_parts=1).integrate(
            field,
            piece.start,
            piece.end,
            [*adjoint_state, *d_sources],
            pack=lambda z: (problem.pack(z[:num_leaves]), z[num_leaves:]),
            previous_step_size=piece.step_size,
            limit=piece.limit,
        )
        return PieceResult(
            adjoint_state=result.y[:num_leaves],
            d_sources=result.y[num_leaves:],
            step_size=result.step_size,
            num_evaluations=result.num_evaluations,
            status=result.status,
        )
