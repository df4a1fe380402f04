"""Simplex geometry: the simplex ETF that collapse tends to, distances from it, and all numerical tolerances.

Vectors are rows throughout: class means and classifier are both (classes, features).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ._errors import InputError, checks_arguments

EPSILON = torch.finfo(torch.float64).eps

#: Two scores of a sample are a tie if they differ by less than this, relative to the size of the terms that these two
#: sum. Sums of a few thousand products in float64 have errors of about 1e-13, and without a margin the order of the
#: terms would break exact ties.
TIE_TOLERANCE = 1e-12


@checks_arguments
def simplex_etf(num_classes: int) -> Float[Tensor, "classes classes"]:
    """The canonical simplex equiangular tight frame: C rows of unit norm and mutual cosine −1/(C−1).

    K* = √(C/(C−1)) (I − 11ᵀ/C), float64. Rangamani and Banburski-Fahey (2022), Section 2.2.

    Raises `ValueError` for fewer than two classes.

    >>> simplex_etf(2)
    tensor([[ 0.7071, -0.7071],
            [-0.7071,  0.7071]], dtype=torch.float64)
    """
    if num_classes < 2:
        raise InputError(f"a simplex needs at least two classes, got {num_classes}")
    scale = (num_classes / (num_classes - 1)) ** 0.5
    return scale * centering(num_classes)


def centering(num_classes: int) -> Float[Tensor, "classes classes"]:
    """I − 11ᵀ/C, the projection that removes the mean over classes."""
    return torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes


def normalized_distance(
    A: Float[Tensor, "rows columns"], B: Float[Tensor, "rows columns"], scale: float = 0.0
) -> float:
    """‖A/‖A‖_F − B/‖B‖_F‖_F, between 0 (same direction) and 2 (opposite); nan if A or B vanishes.

    A counts as zero if ‖A‖_F ≤ max(rows, columns) · 2.2e-16 · `scale`, where `scale` is the size of the numbers that A
    was computed from.
    """
    norm = torch.linalg.norm(A)
    if norm <= max(A.shape) * EPSILON * scale:
        return float("nan")
    return torch.linalg.norm(A / norm - B / torch.linalg.norm(B)).item()


#: Numbers in a tile of a matrix over pairs of classes. The whole matrix would take 800 MB for 10,000 classes.
_TILE = 2**22
#: A difference below this share of its terms has lost more than three digits.
_CANCELLED = 1e-3


class Gram:
    """The matrix ⟨a_c, b_c'⟩ of the rows of A and B, by default B = A; computed in tiles if it does not fit one."""

    def __init__(self, A: Float[Tensor, "classes features"], B: Float[Tensor, "classes features"] | None = None):
        self.A, self.B = A, A if B is None else B
        height = max(1, _TILE // len(A))
        self.rows = [slice(start, min(start + height, len(A))) for start in range(0, len(A), height)]

    @cached_property
    def _only_tile(self) -> Tensor:
        return self.A @ self.B.T

    def tiles(self) -> Iterator[tuple[slice, Float[Tensor, "rows classes"]]]:
        """Yields the matrix in tiles of consecutive rows."""
        for rows in self.rows:
            yield rows, self._only_tile if len(self.rows) == 1 else self.A[rows] @ self.B.T

    @cached_property
    def norms(self) -> Float[Tensor, " classes"]:
        """‖a_c‖."""
        return torch.linalg.norm(self.A, dim=1)

    def squared_distances(self) -> Iterator[tuple[slice, Float[Tensor, "rows classes"]]]:
        """‖a_c − a_c'‖², by ‖a_c‖² + ‖a_c'‖² − 2⟨a_c, a_c'⟩ and, where that cancels, by the differences."""
        squares = self.norms.square()
        for rows, products in self.tiles():
            sizes = squares[rows, None] + squares
            yield rows, _by_differences(sizes - 2 * products, sizes, self.A, rows)

    def squared_distances_of_directions(self) -> Iterator[tuple[slice, Float[Tensor, "rows classes"]]]:
        """‖a_c/‖a_c‖ − a_c'/‖a_c'‖‖² = 2 − 2 cos; nan for a row of zeros."""
        units = self.A / self.norms[:, None]
        for rows, cosines in self.cosines():
            yield rows, _by_differences(2 - 2 * cosines, torch.full_like(cosines, 2), units, rows)

    def cosines(self) -> Iterator[tuple[slice, Float[Tensor, "rows classes"]]]:
        """⟨a_c, a_c'⟩ / ‖a_c‖‖a_c'‖; nan for a row of zeros."""
        for rows, products in self.tiles():
            yield rows, products / self.norms[rows, None] / self.norms


def _by_differences(squares: Tensor, sizes: Tensor, vectors: Tensor, rows: slice) -> Tensor:
    """Recomputes squared distances to vectors[rows] from the differences where they are small against `sizes`."""
    near, others = (squares <= _CANCELLED * sizes).nonzero(as_tuple=True)
    for part in torch.arange(len(near), device=near.device).split(max(1, _TILE // max(1, vectors.shape[1]))):
        differences = vectors[rows][near[part]] - vectors[others[part]]
        squares[near[part], others[part]] = differences.square().sum(dim=1)
    return squares


def simplex_distance(gram: Gram, scale: float = 0.0) -> float:
    """‖G/‖G‖_F − (I − 11ᵀ/C)/√(C−1)‖_F: how far a Gram matrix is from a simplex ETF's, whatever its scale.

    nan if ‖G‖_F ≤ C · 2.2e-16 · `scale`, where `scale` is the size of the numbers that G was computed from.
    """
    num_classes = len(gram.A)
    size = (gram.A.abs().max() * gram.B.abs().max()).item()  # without it the squares of G might not fit
    if not size:
        return float("nan")
    norm = size * sum((products / size).square().sum().item() for _, products in gram.tiles()) ** 0.5
    if norm <= num_classes * EPSILON * scale:
        return float("nan")
    square = 0.0
    for rows, products in gram.tiles():
        difference = products / norm + 1 / (num_classes * (num_classes - 1) ** 0.5)
        difference.diagonal(rows.start).sub_(1 / (num_classes - 1) ** 0.5)
        square += difference.square().sum().item()
    return square**0.5


def shifted_cosines(gram: Gram) -> Float[Tensor, " pairs"]:
    """|cos(a_c, a_c') + 1/(C−1)| for every pair c < c'; nan if one of the two is zero."""
    return (pairs(gram.cosines()) + 1 / (len(gram.A) - 1)).abs()


def pairs(tiles: Iterator[tuple[slice, Float[Tensor, "rows classes"]]]) -> Float[Tensor, " pairs"]:
    """The entries c < c' of a matrix over pairs of classes, row by row."""
    return torch.cat(
        [tile.flatten().index_select(0, _above(*tile.shape, rows.start).to(tile.device)) for rows, tile in tiles]
    )


@lru_cache(maxsize=1)  # several metrics go over the same pairs
def _above(height: int, width: int, start: int) -> Int[Tensor, " pairs"]:
    """The indices of entries above the diagonal in a flattened tile whose first row is row `start`."""
    rows, columns = torch.triu_indices(height, width, offset=start + 1)
    return rows * width + columns


def half_distance_to_nearest(gram: Gram) -> Float[Tensor, " classes"]:
    """Half the distance from each row to the nearest other row. Points within are nearer to this row than to others."""
    nearest = []
    for rows, squares in gram.squared_distances():
        squares.diagonal(rows.start).fill_(torch.inf)
        nearest.append(squares.amin(dim=1).sqrt() / 2)
    return torch.cat(nearest)


@dataclass(frozen=True)
class Span:
    """The subspace that the centred class means span: Ṁ = U diag(σ) V with the rows of V orthonormal."""

    directions: Float[Tensor, "rank features"]
    singular_values: Float[Tensor, " rank"]
    #: singular values up to this one count as rounding
    tolerance: float
    #: rounding alone could have moved each class mean by up to this length
    noise: Float[Tensor, " classes"]

    @property
    def rank(self) -> int:
        """The dimension of the span."""
        return len(self.singular_values)

    def noise_of_pairs(self, rows: slice) -> Float[Tensor, "rows classes"]:
        """The length up to which rounding alone could have moved one of two class means."""
        return torch.maximum(self.noise[rows, None], self.noise)

    def above(
        self, noise: Float[Tensor, " classes"], centered_class_means: Float[Tensor, "classes features"]
    ) -> "Span":
        """The span without the directions that noise of these lengths in the class means could have made.

        Where the lengths differ, as for a class with a sample far out, the means are divided by them first, and the
        direction of an error that all centred means share is taken out; then directions count whose singular values
        exceed one.
        """
        noise = noise.clamp(min=self.tolerance)
        largest = noise.max().item()
        if largest <= _UNEQUAL * noise.min().item():
            rank, tolerance = int((self.singular_values > largest).sum()), largest
        else:
            shared = noise.reciprocal() / torch.linalg.norm(noise.reciprocal())
            rows = centered_class_means / noise[:, None]
            rows = rows - shared[:, None] * (shared @ rows)
            rank = min(self.rank, int((torch.linalg.svdvals(rows) > 1).sum()))
            tolerance = max([self.tolerance, *self.singular_values[rank : rank + 1].tolist()])
        return Span(self.directions[:rank], self.singular_values[:rank], tolerance, noise)


#: Lengths of noise that differ by less than this factor count as one.
_UNEQUAL = 8.0


def storage_noise(
    class_means: Float[Tensor, "classes features"],
    averaged: Float[Tensor, " classes"],
    precision: float,
) -> Float[Tensor, " classes"]:
    """The lengths up to which the rounding of stored features can move class means.

    Storing a feature x in a type of precision ε changes it by up to u|x|, u = ε/2. Errors of a class that has collapsed
    are all alike, so that its mean has errors of u|μ|; errors of samples that differ average out. A random C × p matrix
    with entries of the sizes S has an operator norm of about max_c ‖S_c·‖ + max_j ‖S_·j‖ (Bandeira and van Handel,
    2016). So the length of each row is multiplied by what the columns add, relative to the rows: for entries of one
    size s, the result is s (√p + √C), the largest singular value that rounding can make.

    Args:
        class_means: as they are, not centred.
        averaged: the length of the mean of the samples' errors u|h|, by class, were these independent.
        precision: ε, the spacing of numbers at 1, `torch.finfo(dtype).eps`.
    """
    alike = precision / 2 * class_means
    lengths = torch.linalg.norm(alike, dim=1) + averaged
    largest = lengths.max()
    relative = lengths.clamp(min=(largest * EPSILON).item() or 1.0)
    columns = torch.linalg.norm(alike / relative[:, None], dim=0).max()
    columns = columns + torch.linalg.norm(averaged / relative) / class_means.shape[1] ** 0.5
    return lengths * (1 + columns)


def centered_span(centered_class_means: Float[Tensor, "classes features"], scale: float) -> Span:
    """The singular directions of the centred class means, without those that rounding alone could have made.

    A singular value counts if it exceeds max(C, p) · 2.2e-16 · max(σ₁, `scale`), where `scale` is the largest length of
    the samples that the means were averaged from, which limits how precisely they are known; for features stored
    in fewer digits than float64, `Span.above` takes out more. Σ_B has the same rank, with the square of this tolerance.
    It is at most min(p, C−1), since the rows sum to zero.
    """
    num_classes, num_features = centered_class_means.shape
    singular_values, directions = _well_conditioned_svd(centered_class_means) or _svd(centered_class_means)
    largest = max(singular_values[0].item(), scale)
    tolerance = max(num_classes, num_features) * EPSILON * largest
    rank = min(int((singular_values > tolerance).sum()), num_classes - 1)
    noise = torch.full_like(centered_class_means[:, 0], tolerance)
    return Span(directions[:rank], singular_values[:rank], tolerance, noise)


def _svd(A: Float[Tensor, "classes features"]) -> tuple[Tensor, Tensor]:
    _, singular_values, directions = torch.linalg.svd(A, full_matrices=False)
    return singular_values, directions


def _well_conditioned_svd(A: Float[Tensor, "classes features"]) -> tuple[Tensor, Tensor] | None:
    """Singular values and directions of many rows that sum to zero, by A Aᵀ in a third of the time.

    The eigenvalues of A Aᵀ are the squares of the singular values, so a ratio κ of these costs κ² of the precision. Up
    to κ = 100 twelve digits are left; beyond, and for few rows, the result is None. The singular value of zero, which
    rows that sum to zero have, is left out.
    """
    num_classes, num_features = A.shape
    if not _MANY_ROWS <= num_classes <= num_features:
        return None
    eigenvalues, vectors = torch.linalg.eigh(A @ A.T)
    if eigenvalues[1] < 1e-4 * eigenvalues[-1]:
        return None
    rows = vectors[:, 1:].flip(1).T @ A
    singular_values = torch.linalg.norm(rows, dim=1)
    return singular_values, rows / singular_values[:, None]


#: For fewer rows a singular value decomposition takes no time.
_MANY_ROWS = 256


def pseudo_inverse_root(
    covariance: Float[Tensor, "features features"], scale: float = 0.0
) -> Float[Tensor, "features rank"]:
    """A root A of the pseudo-inverse of a positive semi-definite matrix: A Aᵀ = Σ⁺.

    Eigenvalues up to p · 2.2e-16 · max(the largest, `scale`) count as zero, where `scale` is the size of the numbers
    that the matrix was computed from. Σ⁺ itself is not formed: one spurious eigenvalue, harmless in A, would fill it
    with numbers of 1e15 that no longer cancel.
    """
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    kept = eigenvalues > len(covariance) * EPSILON * max(eigenvalues[-1].item(), scale)
    return vectors[:, kept] / eigenvalues[kept].sqrt()


def tied_for_largest(
    scores: Float[Tensor, "samples classes"], sizes: Float[Tensor, "samples classes"]
) -> Bool[Tensor, "samples classes"]:
    """Which scores equal the largest of their sample, up to `TIE_TOLERANCE` times the sizes of the two.

    `sizes` bound the terms that each score sums, such as ‖h‖‖W^c‖. If they cancel, the scores are much smaller. A class
    with large terms does not blur the order of the others.
    """
    largest, place = scores.max(dim=1, keepdim=True)
    return scores >= largest - TIE_TOLERANCE * (sizes + sizes.gather(1, place))


def first_largest(
    scores: Float[Tensor, "samples classes"], sizes: Float[Tensor, "samples classes"]
) -> Int[Tensor, " samples"]:
    """argmax over classes; ties, to rounding, go to the lowest class."""
    return tied_for_largest(scores, sizes).to(torch.uint8).argmax(dim=1)
