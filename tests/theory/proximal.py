"""The convex problem of the unconstrained features model by steps that know nothing of its solution."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from neurocollapse.theory.unconstrained import ConvexSolution


def solve_convex_numerically(
    targets: Float[Tensor, "classes samples"],
    *,
    weight_decay: float,
    feature_decay: float,
    tolerance: float = 1e-13,
    iterations: int = 1000,
) -> ConvexSolution:
    """The same problem for any targets Y, as the whole C × N matrix, by accelerated proximal gradient steps from zero.

    Z ← the singular values of A − η (A − Y)/N less ητ, with η = N/2 and A the extrapolation of the last two Z, until a
    step moves Z by less than `tolerance` √N. It knows nothing of one-hot targets: a check on `solve_convex`.

    Beck and Teboulle, "A fast iterative shrinkage-thresholding algorithm for linear inverse problems" (2009).

    Raises `ValueError` if so many iterations do not suffice.
    """
    Y = targets.double()
    N, tau = Y.shape[1], math.sqrt(weight_decay * feature_decay)
    step = N / 2
    Z = ahead = torch.zeros_like(Y)
    momentum = 1.0
    for _ in range(iterations):
        previous, Z = Z, _shrink(ahead - step / N * (ahead - Y), step * tau)
        if torch.linalg.norm(Z - previous) <= tolerance * math.sqrt(N):
            ones = torch.ones(N, dtype=torch.float64)
            return ConvexSolution(Y, Z, ones, weight_decay, feature_decay)
        if ((ahead - Z) * (Z - previous)).sum() > 0:  # the extrapolation went too far: start it again
            momentum = 1.0
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = Z + (momentum - 1) / following * (Z - previous)
        momentum = following
    raise ValueError(
        f"no convergence in {iterations} iterations; pass more iterations or a tolerance above {tolerance}"
    )


def _shrink(A: Float[Tensor, "classes samples"], threshold: float) -> Float[Tensor, "classes samples"]:
    """A with its singular values less the threshold, none below zero."""
    U, singular_values, Vt = torch.linalg.svd(A, full_matrices=False)
    return U * (singular_values - threshold).clamp(min=0) @ Vt
