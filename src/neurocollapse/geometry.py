"""Simplex geometry: the frame that collapse tends to, distances from it, and every numerical tolerance.

Rows are vectors throughout: class means and classifier are both (classes, features).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

EPSILON = torch.finfo(torch.float64).eps

#: Two scores of one sample closer than this, relative to the size of what was summed, are a tie. Sums of a few
#: thousand products in float64 are good to about 1e-13; without a margin the summands' order would break exact ties.
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


def normalized_distance(
    A: Float[Tensor, "rows columns"], B: Float[Tensor, "rows columns"], scale: float = 0.0
) -> float:
    """‖A/‖A‖_F − B/‖B‖_F‖_F, between 0 (same direction) and 2 (opposite); nan where one of them vanishes.

    A vanishes up to max(rows, columns) · 2.2e-16 · `scale`, the size of what it was computed from.
    """
    norm = torch.linalg.norm(A)
    if norm <= max(A.shape) * EPSILON * scale:
        return float("nan")
    return torch.linalg.norm(A / norm - B / torch.linalg.norm(B)).item()


def simplex_distance(
    A: Float[Tensor, "classes features"], B: Float[Tensor, "classes features"], scale: float = 0.0
) -> float:
    """‖G/‖G‖_F − (I − 11ᵀ/C)/√(C−1)‖_F: how far G = A Bᵀ is from a simplex ETF's Gram matrix, whatever its scale.

    nan where G vanishes, up to C · 2.2e-16 · `scale`, the size of what it was computed from.
    """
    num_classes = len(A)
    sizes = [matrix.abs().max() for matrix in (A, B)]
    if not all(sizes):
        return float("nan")
    A, B = A / sizes[0], B / sizes[1]  # the fourth powers below would not fit, of features of 1e100
    scale = scale / (sizes[0] * sizes[1]).item()
    norm = sum((A[rows] @ B.T).square().sum().item() for rows in _row_tiles(num_classes)) ** 0.5
    if norm <= num_classes * EPSILON * scale:
        return float("nan")
    square = 0.0
    for rows in _row_tiles(num_classes):
        difference = A[rows] @ B.T / norm + 1 / (num_classes * (num_classes - 1) ** 0.5)
        difference.diagonal(rows.start).sub_(1 / (num_classes - 1) ** 0.5)
        square += difference.square().sum().item()
    return square**0.5


def shifted_cosines(vectors: Float[Tensor, "classes features"]) -> Float[Tensor, " pairs"]:
    """|cos(v_c, v_c') + 1/(C−1)| for every pair c < c'; nan where one of the two is zero."""
    units = vectors / torch.linalg.norm(vectors, dim=1, keepdim=True)
    return (_pairs(units, lambda first, second: first @ second.T) + 1 / (len(vectors) - 1)).abs()


def pair_distances(vectors: Float[Tensor, "classes features"]) -> Float[Tensor, " pairs"]:
    """‖v_c − v_c'‖ for every pair c < c', in the order of `pair_sums`."""
    return _pairs(vectors, _distances)


def pair_sums(values: Float[Tensor, " classes"]) -> Float[Tensor, " pairs"]:
    """x_c + x_c' for every pair c < c'."""
    return _pairs(values[:, None], lambda first, second: first + second.T)


def half_distance_to_nearest(vectors: Float[Tensor, "classes features"]) -> Float[Tensor, " classes"]:
    """Half the distance from each row to the nearest other row: what lies within is nearer to it than to any other."""
    nearest = []
    for rows in _row_tiles(len(vectors)):
        distances = _distances(vectors[rows], vectors)
        distances.diagonal(rows.start).fill_(torch.inf)
        nearest.append(distances.amin(dim=1) / 2)
    return torch.cat(nearest)


#: Numbers in a tile of a matrix over pairs of classes, which as a whole would be 800 MB for 10,000 classes.
_TILE = 2**22


def _row_tiles(num_classes: int) -> Iterator[slice]:
    height = max(1, _TILE // num_classes)
    return (slice(start, min(start + height, num_classes)) for start in range(0, num_classes, height))


def _pairs(vectors: Tensor, function: Callable[[Tensor, Tensor], Tensor]) -> Float[Tensor, " pairs"]:
    """`function` of the rows c and c', for every pair c < c'."""
    values = []
    for rows in _row_tiles(len(vectors)):
        tile = function(vectors[rows], vectors[rows.start :])
        above = torch.ones_like(tile, dtype=torch.bool).triu_(diagonal=1)
        values.append(tile[above])
    return torch.cat(values)


def _distances(
    first: Float[Tensor, "rows features"], second: Float[Tensor, "columns features"]
) -> Float[Tensor, "rows columns"]:
    """By ‖a‖² + ‖b‖² − 2⟨a, b⟩, and where that cancels, by the differences."""
    sizes = first.square().sum(dim=1)[:, None] + second.square().sum(dim=1)
    squares = sizes - 2 * (first @ second.T)
    rows, columns = (squares <= _CANCELLED * sizes).nonzero(as_tuple=True)
    for part in torch.arange(len(rows), device=rows.device).split(max(1, _TILE // first.shape[1])):
        squares[rows[part], columns[part]] = (first[rows[part]] - second[columns[part]]).square().sum(dim=1)
    return squares.sqrt()


#: Below this share of what was subtracted a difference has lost more than three of its digits.
_CANCELLED = 1e-3


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


def pseudo_inverse_root(
    covariance: Float[Tensor, "features features"], scale: float = 0.0
) -> Float[Tensor, "features rank"]:
    """A with A Aᵀ = Σ⁺ of a positive semi-definite matrix.

    Eigenvalues up to p · 2.2e-16 · max(the largest, `scale`) count as zero, where `scale` is the size of what the
    matrix was computed from. Σ⁺ itself is not formed: one spurious eigenvalue, harmless in A, would fill it with
    numbers of 1e15 that no longer cancel.
    """
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    kept = eigenvalues > len(covariance) * EPSILON * max(eigenvalues[-1].item(), scale)
    return vectors[:, kept] / eigenvalues[kept].sqrt()


def tied_for_largest(
    scores: Float[Tensor, "samples classes"], size: Float[Tensor, " samples"]
) -> Bool[Tensor, "samples classes"]:
    """Which scores equal their sample's largest to rounding: to `TIE_TOLERANCE` times `size`.

    `size` bounds the terms that were summed, such as ‖h‖ max_c ‖W^c‖; where they cancel, the scores are much smaller.
    """
    return scores >= scores.amax(dim=1, keepdim=True) - TIE_TOLERANCE * size[:, None]


def first_largest(scores: Float[Tensor, "samples classes"], size: Float[Tensor, " samples"]) -> Int[Tensor, " samples"]:
    """argmax over classes, where ties, to rounding, go to the lowest class."""
    return tied_for_largest(scores, size).to(torch.uint8).argmax(dim=1)
