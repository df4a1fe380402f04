"""Simplex geometry: the simplex ETF that collapse tends to, distances from it, and all numerical tolerances.

Vectors are rows throughout: class means and classifier are both (classes, features).
"""

import math
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


#: Numbers in a tile of a matrix over pairs of classes. The whole matrix would take 20 GB for 50,000 classes.
_TILE = 2**22
#: A difference below this share of its terms has lost more than three digits.
_CANCELLED = 1e-3


class Gram:
    """The matrix ⟨a_c, b_c'⟩ of the rows of A and B, by default B = A; computed in tiles if it does not fit one."""

    def __init__(self, A: Float[Tensor, "classes features"], B: Float[Tensor, "classes features"] | None = None):
        self.A, self.B = A, A if B is None else B
        side = math.isqrt(_TILE)
        self.parts = [slice(start, min(start + side, len(A))) for start in range(0, len(A), side)]

    @cached_property
    def _only_tile(self) -> Tensor:
        return self.A @ self.B.T

    def tiles(self) -> Iterator["Tile"]:
        """Yields the matrix in tiles; if it is symmetric, those on its diagonal and above."""
        for rows in self.parts:
            for columns in self.parts:
                if self.A is not self.B or columns.start >= rows.start:
                    one = len(self.parts) == 1
                    yield Tile(self, rows, columns, self._only_tile if one else self.A[rows] @ self.B[columns].T)

    @cached_property
    def norms(self) -> Float[Tensor, " classes"]:
        """‖a_c‖."""
        return torch.linalg.norm(self.A, dim=1)

    @cached_property
    def directions(self) -> Float[Tensor, "classes features"]:
        """a_c/‖a_c‖; nan for a row of zeros."""
        return self.A / self.norms[:, None]

    def cosines(self) -> Iterator[Float[Tensor, " pairs"]]:
        """Yields, tile by tile, the cosine of every pair c < c'."""
        for tile in self.tiles():
            yield tile.pairs(tile.cosines())


@dataclass(frozen=True)
class Tile:
    """The products of some rows of A with some of B, and for B = A what follows from them for pairs c < c'."""

    gram: Gram
    rows: slice
    columns: slice
    products: Float[Tensor, "rows columns"]

    @property
    def on_diagonal(self) -> bool:
        """Whether a tile of a symmetric matrix holds some pairs twice, and each row with itself."""
        return self.rows == self.columns

    def pairs(self, values: Float[Tensor, "rows columns"]) -> Float[Tensor, " pairs"]:
        """The entries c < c' of what was computed for the tile, row by row."""
        if not self.on_diagonal:
            return values.flatten()
        return values.flatten().index_select(0, _above(len(values)).to(values.device))

    def of_pairs(self, values: Float[Tensor, " classes"]) -> tuple[Tensor, Tensor]:
        """The values of the two classes of each pair, to be broadcast."""
        return values[self.rows, None], values[None, self.columns]

    def cosines(self) -> Float[Tensor, "rows columns"]:
        """⟨a_c, a_c'⟩ / ‖a_c‖‖a_c'‖; nan for a row of zeros."""
        one, other = self.of_pairs(self.gram.norms)
        return self.products / one / other

    def squared_distances(self) -> Float[Tensor, "rows columns"]:
        """‖a_c − a_c'‖², by ‖a_c‖² + ‖a_c'‖² − 2⟨a_c, a_c'⟩ and, where that cancels for c < c', by the differences."""
        one, other = self.of_pairs(self.gram.norms.square())
        sizes = one + other
        return self._by_differences(sizes - 2 * self.products, sizes, self.gram.A)

    def squared_distances_of_directions(self) -> Float[Tensor, "rows columns"]:
        """‖a_c/‖a_c‖ − a_c'/‖a_c'‖‖² = 2 − 2 cos; nan for a row of zeros."""
        cosines = self.cosines()
        return self._by_differences(2 - 2 * cosines, 2.0, self.gram.directions)

    def _by_differences(self, squares: Tensor, sizes: Tensor | float, vectors: Tensor) -> Tensor:
        """Recomputes squared distances from the differences where they are small against `sizes`."""
        near = squares <= _CANCELLED * sizes
        rows, columns = (near.triu(1) if self.on_diagonal else near).nonzero(as_tuple=True)
        for part in torch.arange(len(rows), device=rows.device).split(max(1, _TILE // max(1, vectors.shape[1]))):
            one, other = vectors[self.rows][rows[part]], vectors[self.columns][columns[part]]
            squares[rows[part], columns[part]] = (one - other).square().sum(dim=1)
        return squares


def simplex_distance(gram: Gram, scale: float = 0.0) -> float:
    """‖G/‖G‖_F − (I − 11ᵀ/C)/√(C−1)‖_F: how far a Gram matrix is from a simplex ETF's, whatever its scale.

    nan if ‖G‖_F ≤ C · 2.2e-16 · `scale`, where `scale` is the size of the numbers that G was computed from.
    """
    num_classes = len(gram.A)
    size = (gram.A.abs().max() * gram.B.abs().max()).item()  # without it the squares of G might not fit
    if not size:
        return float("nan")
    if distance := _distance_in_few_dimensions(gram):
        return distance
    norm = (
        size * sum(_weight(gram, tile) * (tile.products / size).square().sum().item() for tile in gram.tiles()) ** 0.5
    )
    if norm <= num_classes * EPSILON * scale:
        return float("nan")
    square = 0.0
    for tile in gram.tiles():
        difference = tile.products / norm + 1 / (num_classes * (num_classes - 1) ** 0.5)
        if tile.on_diagonal:
            difference.diagonal().sub_(1 / (num_classes - 1) ** 0.5)
        square += _weight(gram, tile) * difference.square().sum().item()
    return square**0.5


def _weight(gram: Gram, tile: Tile) -> int:
    """How often the entries of a tile stand in the matrix."""
    return 2 if gram.A is gram.B and not tile.on_diagonal else 1


def _distance_in_few_dimensions(gram: Gram) -> float | None:
    """`simplex_distance` by p × p products, where C > 2p keeps a simplex so far that nothing cancels; otherwise None.

    The square is 2 − 2 ⟨G, I − 11ᵀ/C⟩/(√(C−1) ‖G‖_F), at least 2 − 2√(p/(C−1)); and ‖ABᵀ‖_F² = ⟨AᵀA, BᵀB⟩.
    """
    num_classes, num_features = gram.A.shape
    if num_classes - 1 <= 2 * num_features:
        return None
    A, B = (M / M.abs().max() for M in (gram.A, gram.B))
    of_A, of_B = A.T @ A, B.T @ B
    square = (of_A * of_B).sum()
    if square <= 1e-6 * (of_A.square().sum() * of_B.square().sum()).sqrt():  # the products nearly cancel
        return None
    aligned = (A * B).sum() - A.sum(dim=0) @ B.sum(dim=0) / num_classes
    return (2 - 2 * aligned / ((num_classes - 1) * square).sqrt()).clamp(min=0).sqrt().item()


def shifted(cosines: Tensor, num_classes: int) -> Tensor:
    """|cos + 1/(C−1)|: how far cosines are from those of a simplex ETF."""
    return (cosines + 1 / (num_classes - 1)).abs()


def pairs(tiles: Iterator[Float[Tensor, " pairs"]]) -> Float[Tensor, " pairs"]:
    """All pairs c < c' at once, for few classes."""
    return torch.cat(list(tiles))


@lru_cache(maxsize=2)  # several metrics go over the same pairs; the last tile is smaller
def _above(size: int) -> Int[Tensor, " pairs"]:
    """The indices of entries above the diagonal in a flattened square."""
    rows, columns = torch.triu_indices(size, size, offset=1)
    return rows * size + columns


def half_distance_to_nearest(gram: Gram) -> Float[Tensor, " classes"]:
    """Half the distance from each row to the nearest other row. Points within are nearer to this row than to others."""
    nearest = torch.full_like(gram.norms, torch.inf)
    for tile in gram.tiles():
        squares = tile.squared_distances()
        if tile.on_diagonal:
            squares.masked_fill_(torch.ones_like(squares, dtype=torch.bool).tril(), torch.inf)
        for part, dim in ((tile.rows, 1), (tile.columns, 0)):
            nearest[part] = torch.minimum(nearest[part], squares.amin(dim=dim))
    return nearest.sqrt() / 2


@dataclass(frozen=True)
class Span:
    """The subspace that the centred class means span: Ṁ = U diag(σ) V with the rows of V orthonormal."""

    directions: Float[Tensor, "rank features"]
    singular_values: Float[Tensor, " rank"]
    #: singular values up to this one count as rounding
    tolerance: float
    #: rounding alone could have moved each class mean by up to this length
    noise: Float[Tensor, " classes"]
    #: by how much sums in float64 may have moved a class mean, however few digits the samples were stored in
    summing: float

    @property
    def rank(self) -> int:
        """The dimension of the span."""
        return len(self.singular_values)

    def above(
        self,
        noise: Float[Tensor, " classes"],
        centered_class_means: Float[Tensor, "classes features"],
        by_feature: Float[Tensor, " features"] | None = None,
    ) -> "Span":
        """The span without the directions that noise of these lengths in the class means could have made.

        Where the lengths differ, as for a class with a sample far out, the means are divided by them first, and the
        direction of an error that all centred means share is taken out; then directions count whose singular values
        exceed one. The leading directions count too as long as the noise along each is below its singular value. In
        direction v that is √(Σ_j e_j² v_j²) (1 + √(p/C)) with the lengths e of the noise in each feature, `by_feature`:
        the noise of one large feature is not in the others.
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
        if by_feature is not None and rank < self.rank:
            num_classes, num_features = centered_class_means.shape
            along = torch.linalg.norm(self.directions * by_feature, dim=1) * (1 + (num_features / num_classes) ** 0.5)
            leading = int((self.singular_values > along).cumprod(dim=0).sum())
            if leading > rank:
                rank, tolerance = leading, max([self.tolerance, *self.singular_values[leading : leading + 1].tolist()])
        return Span(self.directions[:rank], self.singular_values[:rank], tolerance, noise, self.summing)


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
    return Span(directions[:rank], singular_values[:rank], tolerance, noise, tolerance)


def _svd(A: Float[Tensor, "classes features"]) -> tuple[Tensor, Tensor]:
    if len(A) < A.shape[1]:  # by QR, which takes a tenth of the time if A is long
        Q, R = torch.linalg.qr(A.T)
        _, singular_values, directions = torch.linalg.svd(R.T)
        return singular_values, directions @ Q.T
    _, singular_values, directions = torch.linalg.svd(torch.linalg.qr(A, mode="r").R)
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


@dataclass(frozen=True)
class LeadingDirections:
    """The `number` leading singular values of a matrix and the one after them, with their right singular directions.

    They are in units of the largest entry, so that their squares fit.
    """

    number: int
    singular_values: Float[Tensor, " leading"]
    directions: Float[Tensor, "leading columns"]
    #: singular values up to this one count as rounding, and those that differ by up to twice as much as equal
    tolerance: float
    #: the squared Frobenius norm of the matrix, in the same units
    square: float

    def first(self, number: int) -> int | None:
        """How many directions make up the first `number`: fewer if the rank is lower, more so as not to split a tie.

        None if more than `self.number` of them are tied.
        """
        rank = int((self.singular_values > self.tolerance).sum())
        chosen = min(number, rank)
        gaps = -self.singular_values.diff()
        while 0 < chosen < rank and gaps[chosen - 1] <= 2 * self.tolerance:
            chosen += 1
        return chosen if chosen <= self.number else None


def leading_directions(A: Float[Tensor, "rows columns"], number: int, precision: float = EPSILON) -> LeadingDirections:
    """The leading singular values and right directions of a matrix whose entries were rounded to `precision`.

    Rounding may move a singular value by the norm of the errors u|a|, u half the precision, which is about that of the
    longest row and column of them; and by max(rows, columns) · 2.2e-16 · σ₁ in computing it.
    """
    A = A.double()
    A = A / (A.abs().max().item() or 1.0)
    kept = min(number + 1, *A.shape)
    singular_values, directions = _leading_by_gram(A, kept) or _svd(A)
    errors = precision / 2 * (torch.linalg.norm(A, dim=1).max() + torch.linalg.norm(A, dim=0).max()).item()
    tolerance = max(errors, max(A.shape) * EPSILON * singular_values[0].item())
    return LeadingDirections(number, singular_values[:kept], directions[:kept], tolerance, A.square().sum().item())


def _leading_by_gram(A: Float[Tensor, "rows columns"], number: int) -> tuple[Tensor, Tensor] | None:
    """The leading singular values and right directions by A Aᵀ or AᵀA, or None where that costs too many digits."""
    if min(A.shape) < _MANY_ROWS:
        return None
    from scipy.linalg import eigh  # which, unlike PyTorch's, computes as many as are asked for

    size, is_wide = min(A.shape), len(A) <= A.shape[1]
    gram = (A @ A.T if is_wide else A.T @ A).numpy()
    eigenvalues, found = eigh(gram, subset_by_index=[size - number, size - 1], check_finite=False, overwrite_a=True)
    if eigenvalues[0] < 1e-4 * eigenvalues[-1]:
        return None
    vectors = torch.from_numpy(found).flip(1)
    if not is_wide:
        return torch.linalg.norm(A @ vectors, dim=0), vectors.T
    rows = vectors.T @ A
    singular_values = torch.linalg.norm(rows, dim=1)
    return singular_values, rows / singular_values[:, None]


def alignment(directions: Float[Tensor, "directions features"], span: Span) -> float:
    """The mean squared cosine of the principal angles between a space with this orthonormal basis and a span.

    There are as many angles as the smaller space has dimensions; nan if it has none.
    """
    angles = min(len(directions), span.rank)
    if not angles:
        return math.nan
    return min(1.0, (directions @ span.directions.T).square().sum().item() / angles)


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
