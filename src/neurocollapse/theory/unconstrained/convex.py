"""Solves the convex problem behind every square-loss optimum without a bias, with a certificate of optimality."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..._errors import InputError
from ...geometry import EPSILON
from .problem import check_decay, check_size


@dataclass(frozen=True, eq=False)
class ConvexSolution:
    """Outputs Z that minimise (1/2N) ‖Z − Y‖² + τ ‖Z‖_*, τ = √(λ_W λ_H), with a proof that they do.

    Equal columns of Y, the samples of a class, are kept once, with their number n_k. The whole C × N matrix has the
    norm of the kept one with its columns times √n_k.
    """

    #: Y and Z, one column for each kept sample
    targets: Float[Tensor, "classes columns"]
    outputs: Float[Tensor, "classes columns"]
    #: n_k, how often each column occurs
    counts: Float[Tensor, " columns"]
    weight_decay: float
    feature_decay: float

    @property
    def num_samples(self) -> int:
        """N."""
        return int(self.counts.sum())

    @property
    def tau(self) -> float:
        """√(λ_W λ_H)."""
        return math.sqrt(self.weight_decay * self.feature_decay)

    @cached_property
    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        U, singular_values, Vt = torch.linalg.svd(self.outputs * self.counts.sqrt(), full_matrices=False)
        return U, singular_values, Vt

    @property
    def rank(self) -> int:
        """The rank of Z, without singular values that rounding alone could have made."""
        singular_values = self._factors[1]
        tolerance = max(self.outputs.shape) * EPSILON * math.sqrt(self.num_samples)
        return int((singular_values > tolerance).sum())

    @cached_property
    def value(self) -> float:
        """The objective."""
        square = self.counts @ (self.outputs - self.targets).square().sum(dim=0)
        return (square / (2 * self.num_samples) + self.tau * self._factors[1].sum()).item()

    @cached_property
    def certificate(self) -> float:
        """‖Y − Z‖_op / (Nτ). Z is optimal if and only if this is at most 1 and the duality gap is zero."""
        residual = (self.targets - self.outputs) * self.counts.sqrt()
        return torch.linalg.matrix_norm(residual, ord=2).item() / (self.num_samples * self.tau)

    @cached_property
    def dual_value(self) -> float:
        """A lower bound of the minimum: (1/N) ⟨D, Y⟩ − (1/2N) ‖D‖² for D = Y − Z, shrunk to ‖D‖_op ≤ Nτ if needed."""
        D = (self.targets - self.outputs) / max(1.0, self.certificate)
        inner, square = self.counts @ (D * self.targets).sum(dim=0), self.counts @ D.square().sum(dim=0)
        return ((inner - square / 2) / self.num_samples).item()

    @property
    def duality_gap(self) -> float:
        """`value` less `dual_value`: the minimum is lower than `value` by no more than this."""
        return self.value - self.dual_value

    def to_dict(self) -> dict[str, Any]:
        """The solution as plain numbers for JSON."""
        return {
            "value": self.value,
            "dual_value": self.dual_value,
            "duality_gap": self.duality_gap,
            "certificate": self.certificate,
            "rank": self.rank,
            "tau": self.tau,
            "own_outputs": self.outputs.diagonal().tolist(),
        }

    def __str__(self) -> str:
        own = self.outputs.diagonal()
        spread = f"{own.max():.9g}" if own.max() == own.min() else f"{own.min():.9g} to {own.max():.9g}"
        return "\n".join(
            [
                f"convex form: {len(self.targets)} classes, {self.num_samples} samples, √(λ_Wλ_H) = {self.tau:g}",
                f"least value {self.value:.15g}, dual value {self.dual_value:.15g}, gap {self.duality_gap:.1e}",
                f"certificate ‖Y − Z‖_op / N√(λ_Wλ_H) = {self.certificate:.15g}, at most 1 at the optimum",
                f"rank {self.rank}; output of a class on itself {spread}"
                + ("" if self.rank else ": the decay is so strong that everything collapses to zero"),
            ]
        )

    def factorize(self) -> tuple[Float[Tensor, "classes rank"], Float[Tensor, "columns rank"]]:
        """Factorises Z = W H such that the objective of the unconstrained model equals `value`; returns W and Hᵀ.

        Z = U S Vᵀ gives W = (λ_H/λ_W)^{1/4} U √S and H = (λ_W/λ_H)^{1/4} √S Vᵀ, whose penalties sum to τ ‖Z‖_*.
        """
        U, singular_values, Vt = self._factors
        kept, balance = slice(self.rank), (self.feature_decay / self.weight_decay) ** 0.25
        root = singular_values[kept].sqrt()
        return balance * U[:, kept] * root, (Vt[kept] / self.counts.sqrt()).T * root / balance


def solve_convex(counts: Sequence[int], *, weight_decay: float, feature_decay: float) -> ConvexSolution:
    """Solves the convex problem for one-hot targets of classes of these sizes, in closed form.

        Z = U (S − Nτ)₊ Vᵀ  from the singular value decomposition of Y.

    Y Yᵀ = diag(n_k), so U = I, S = (√n_k), and Z has x_k = (1 − Nτ/√n_k)₊ for the output of class k, and zeros.
    For W and H with W H = Z, (λ_W ‖W‖² + λ_H ‖H‖²)/2 is at least τ ‖Z‖_*, with equality for the best W and H. So the
    unconstrained features model without a bias has the same minimum.

    Recht, Fazel and Parrilo (2010) for the penalty; Cai, Candès and Shen (2010) for the thresholded singular values.

    Raises `ValueError` for fewer than two classes, a class without samples, or a decay that is not positive and finite.

    >>> solution = solve_convex([20, 10, 5, 1], weight_decay=3e-2, feature_decay=5e-2)
    >>> solution.outputs.diagonal()
    tensor([0.6882, 0.5591, 0.3765, 0.0000], dtype=torch.float64)
    >>> solution.rank, round(solution.certificate, 12), abs(solution.duality_gap) < 1e-15
    (3, 1.0, True)
    """
    if len(counts) < 2:
        raise InputError(f"a classifier needs at least two classes, got {len(counts)}; pass the size of each class")
    for c, count in enumerate(counts):
        if count < 1:
            raise InputError(f"class {c} has {count} samples; pass sizes ≥ 1, or drop the class")
    check_decay("weight_decay", weight_decay)
    check_decay("feature_decay", feature_decay)
    check_size(len(counts) ** 2, f"{len(counts)} classes")
    n = torch.tensor(counts, dtype=torch.float64)
    x = (1 - n.sum() * math.sqrt(weight_decay * feature_decay) / n.sqrt()).clamp(min=0)
    return ConvexSolution(torch.eye(len(n), dtype=torch.float64), torch.diag(x), n, weight_decay, feature_decay)
