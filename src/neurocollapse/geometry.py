"""Simplex geometry: the frame that collapse tends to, distances from it, and every numerical tolerance.

Rows are vectors throughout: class means and classifier are both (classes, features).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

EPSILON = torch.finfo(torch.float64).eps

#: Two scores of one sample closer than this, relative to its largest, are a tie. Sums of a few thousand products
#: in float64 are good to about 1e-13; without a margin the order of the summands would break exact ties.
TIE_TOLERANCE = 1e-12


def simplex_etf(num_classes: int) -> Float[Tensor, "classes classes"]:
    """The canonical simplex equiangular tight frame, rows of unit norm and mutual cosine −1/(C−1).

    K* = √(C/(C−1)) (I − 11ᵀ/C), float64. Rangamani and Banburski-Fahey (2022), Section 2.2.

    Raises `ValueError` for fewer than two classes.

    >>> simplex_etf(2)
    tensor([[ 0.7071, -0.7071],
            [-0.7071,  0.7071]], dtype=torch.float64)
    """
    if num_classes < 2:
        raise ValueError(f"a simplex needs at least two classes, got {num_classes}")
    scale = (num_classes / (num_classes - 1)) ** 0.5
    return scale * centering(num_classes)


def centering(num_classes: int) -> Float[Tensor, "classes classes"]:
    """I − 11ᵀ/C, the projection that removes the mean over classes."""
    return torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes


def normalized_distance(A: Float[Tensor, "rows columns"], B: Float[Tensor, "rows columns"]) -> float:
    """‖A/‖A‖_F − B/‖B‖_F‖_F, between 0 (same direction) and 2 (opposite); nan where one of them vanishes."""
    return torch.linalg.norm(A / torch.linalg.norm(A) - B / torch.linalg.norm(B)).item()


def simplex_distance(G: Float[Tensor, "classes classes"]) -> float:
    """‖G/‖G‖_F − (I − 11ᵀ/C)/√(C−1)‖_F: how far a Gram matrix is from a simplex ETF's, whatever its scale."""
    return normalized_distance(G, centering(len(G)).to(G.device))


def shifted_cosines(vectors: Float[Tensor, "classes features"]) -> Float[Tensor, " pairs"]:
    """|cos(v_c, v_c') + 1/(C−1)| for every pair c < c'; nan where one of the two is zero."""
    units = vectors / torch.linalg.norm(vectors, dim=1, keepdim=True)
    num_classes = len(vectors)
    above = torch.triu_indices(num_classes, num_classes, offset=1, device=vectors.device)
    cosines = (units @ units.T)[above[0], above[1]]
    return (cosines + 1 / (num_classes - 1)).abs()


@dataclass(frozen=True)
class Span:
    """The subspace that the centred class means span: Ṁ = U diag(σ) V with the rows of V orthonormal."""

    directions: Float[Tensor, "rank features"]
    singular_values: Float[Tensor, " rank"]
    #: lengths of centred means, and of their differences, that rounding alone could have made
    tolerance: float

    @property
    def rank(self) -> int:
        return len(self.singular_values)


def centered_span(centered_class_means: Float[Tensor, "classes features"], scale: float) -> Span:
    """Singular directions of the centred class means, without those that rounding alone could have made.

    A singular value counts when it exceeds max(C, p) · 2.2e-16 · max(σ₁, `scale`), where `scale` is the largest
    entry of the data that the means were averaged from: the means of widely spread samples are known only to that.
    The rank of Σ_B is this rank, its tolerance the square of this one. It is at most min(p, C−1) by construction,
    since the rows sum to zero.
    """
    num_classes, num_features = centered_class_means.shape
    _, singular_values, directions = torch.linalg.svd(centered_class_means, full_matrices=False)
    largest = max(singular_values[0].item(), scale)
    tolerance = max(num_classes, num_features) * EPSILON * largest
    rank = min(int((singular_values > tolerance).sum()), num_classes - 1)
    return Span(directions[:rank], singular_values[:rank], tolerance)


def pseudo_inverse(covariance: Float[Tensor, "features features"]) -> Float[Tensor, "features features"]:
    """Σ⁺ of a positive semi-definite matrix; eigenvalues up to p · 2.2e-16 · (the largest) count as zero."""
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    kept = eigenvalues > len(covariance) * EPSILON * eigenvalues[-1].clamp(min=0)
    return (vectors[:, kept] / eigenvalues[kept]) @ vectors[:, kept].T


def tied_for_largest(scores: Float[Tensor, "samples classes"]) -> Bool[Tensor, "samples classes"]:
    """Which scores equal their sample's largest to rounding (`TIE_TOLERANCE`)."""
    margin = TIE_TOLERANCE * scores.abs().amax(dim=1, keepdim=True)
    return scores >= scores.amax(dim=1, keepdim=True) - margin


def first_largest(scores: Float[Tensor, "samples classes"]) -> Int[Tensor, " samples"]:
    """argmax over classes, where ties, to rounding, go to the lowest class."""
    return tied_for_largest(scores).to(torch.uint8).argmax(dim=1)
