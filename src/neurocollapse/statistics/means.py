"""The first sweep over the features: class means."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._errors import InputError, checks_arguments
from ..geometry import EPSILON, Span, centered_span, storage_noise
from .batches import SQUARABLE, blocks, check_batch, check_finite, check_present, check_scale, rows_at_once
from .stored import Stored
from .threads import fold_in_threads

#: The number of samples that the reference is chosen from.
_LOOKED_AT = 64

#: How the classes enter μ_G and Σ_B: all alike, or each by its share of the samples. Only the second makes
#: Σ_W + Σ_B = Σ_T for unequal classes.
WEIGHTINGS = ("classes", "samples")


@checks_arguments
class ClassMeans:
    """Counts the samples and accumulates the mean of every class: the first sweep.

    With `classes`, sorted labels, only these are measured, and samples of others are passed over; `num_classes` says
    then how many labels there are.

    >>> means = ClassMeans(num_classes=2)
    >>> means.update(torch.tensor([[0.0, 0.0], [0.0, 2.0], [4.0, 0.0]]), torch.tensor([0, 0, 1]))
    >>> means.class_means
    tensor([[0., 1.],
            [4., 0.]], dtype=torch.float64)
    """

    def __init__(self, num_classes: int, classes: Int[Tensor, " classes"] | None = None):
        self.num_labels, self.classes = num_classes, classes
        num_classes = num_classes if classes is None else len(classes)
        if num_classes < 2:
            raise InputError(f"neural collapse needs at least two classes, got {num_classes}")
        self.num_classes = num_classes
        self.seen = 0  # samples, also those passed over
        self.counts = torch.zeros(num_classes, dtype=torch.int64)
        self.reference: Tensor | None = None  # (features,), a sample of the first batch
        self.sums = torch.empty(0)  # of h − reference, (classes, features)
        self.squares = torch.empty(0)  # of ‖h − reference‖, summed by class
        self.feature_squares = torch.empty(0)  # of h − reference, summed by feature
        self.scale = 0.0  # largest ‖h − reference‖
        self.stored = Stored()  # in which type, as far as type and values say

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Folds in a batch: features (samples, features) of any float type, integer labels (samples,).

        Raises `ValueError` for shapes that disagree, and for a label out of range, a NaN or an infinity, where the
        message names the sample.
        """
        seen = self.seen
        num_features = None if self.reference is None else len(self.reference)
        check_batch(features, labels, self.num_labels, num_features, seen)
        if not len(features):
            return
        if self.reference is None:
            self._start(_typical(features.detach()))
        # each thread has its own sums, which are small beside so many samples
        fold_in_threads(self, features, labels, lambda: check_finite(features, seen), 2 * self.num_classes)
        self.seen += len(features)

    def without_samples(self) -> "ClassMeans":
        """Returns means of no samples yet, with the same classes and the same reference, if there is one."""
        empty = ClassMeans(self.num_labels, self.classes)
        if self.reference is not None:
            empty._start(self.reference)
        return empty

    @torch.no_grad()
    def fold(self, features: Tensor, labels: Tensor, check: Callable[[], None]) -> None:
        """Adds samples that were checked; calls `check`, which raises for a NaN or infinity, where there may be one."""
        assert self.reference is not None
        scratch: Tensor | None = None  # new memory for every block would cost as much as reading it
        for block, block_labels in self.measured(features, labels, rows_at_once(features, self.num_classes)):
            self.stored.update(block)
            scratch = torch.empty_like(block, dtype=torch.float64) if scratch is None else scratch
            offsets = scratch[: len(block)].copy_(block).sub_(self.reference)
            lengths = torch.linalg.vector_norm(offsets, dim=1)
            largest = lengths.max().item()
            if not SQUARABLE[0] < largest < SQUARABLE[1]:
                check()
                largest = offsets.abs().max().item()
            self.scale = max(self.scale, largest)
            self.squares.index_add_(0, block_labels, lengths.square_())
            self.sums.index_add_(0, block_labels, offsets)
            self.feature_squares.addmv_(offsets.square_().T, torch.ones_like(lengths))
            self.counts += torch.bincount(block_labels, minlength=self.num_classes)

    def measured(self, features: Tensor, labels: Tensor, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the samples of the classes in blocks, with each label as the place of its class among the classes."""
        for block, block_labels in blocks(features, labels, rows):
            if self.classes is None:
                yield block, block_labels
                continue
            places = torch.searchsorted(self.classes, block_labels).clamp(max=self.num_classes - 1)
            kept = self.classes[places] == block_labels
            if kept.any():
                yield (block, places) if kept.all() else (block[kept], places[kept])

    def without(self, fewer_than: int = 1, counts: Int[Tensor, " classes"] | None = None) -> "ClassMeans":
        """These means without the classes that have fewer samples: of their own, or of held-out ones in `counts`.

        Raises `ValueError` if fewer than two classes are left.
        """
        kept = (self.counts > 0) & ((self.counts if counts is None else counts) >= fewer_than)
        if kept.all():
            return self
        if int(kept.sum()) < 2:
            raise InputError(f"{int(kept.sum())} classes have {fewer_than} samples or more; two are needed, at least")
        places = kept.nonzero().flatten()
        rest = ClassMeans(self.num_labels, places if self.classes is None else self.classes[places])
        rest.reference, rest.scale, rest.stored, rest.seen = self.reference, self.scale, self.stored, self.seen
        rest.counts, rest.sums, rest.squares = self.counts[places], self.sums[places], self.squares[places]
        rest.feature_squares = self.feature_squares
        return rest

    def merge(self, other: "ClassMeans") -> Self:
        """Folds in the means of other samples; the result equals one pass over all samples, to rounding."""
        if other.num_classes != self.num_classes or not _equal(self.classes, other.classes):
            raise InputError(f"cannot merge means of {self.num_classes} and of {other.num_classes} classes")
        if other.reference is None:
            return self
        if self.reference is None:
            self._start(other.reference)
        assert self.reference is not None
        if len(other.reference) != len(self.reference):
            raise InputError(f"cannot merge means of {len(self.reference)} and of {len(other.reference)} features")
        shift = other.reference - self.reference
        self.squares = self.squares + other.squares + 2 * other.sums @ shift + other.counts * (shift @ shift)
        self.feature_squares = (
            self.feature_squares
            + other.feature_squares
            + shift * (2 * other.sums.sum(dim=0) + other.counts.sum() * shift)
        )
        self.sums = self.sums + other.sums + other.counts[:, None] * shift
        self.counts, self.seen = self.counts + other.counts, self.seen + other.seen
        self.scale = max(self.scale, other.scale + torch.linalg.norm(shift).item())
        self.stored.merge(other.stored)
        return self

    def _start(self, reference: Tensor) -> None:
        self.reference = reference
        self.counts = self.counts.to(reference.device)
        self.classes = None if self.classes is None else self.classes.to(reference.device)
        self.sums = reference.new_zeros(self.num_classes, len(reference))
        self.squares = reference.new_zeros(self.num_classes)
        self.feature_squares = torch.zeros_like(reference)

    @property
    def precision(self) -> float:
        """ε, the spacing of numbers at 1, of the coarsest type that features were stored or computed in."""
        return self.stored.precision

    @property
    def offsets(self) -> Float[Tensor, "classes features"]:
        """Class means less the reference. Raises `ValueError` if a class has no samples, and names it."""
        check_present(self.counts, self.classes)
        return self.sums / self.counts[:, None]

    def offsets_of(self, classes: Int[Tensor, " chosen"]) -> Float[Tensor, "chosen features"]:
        """Means of some classes less the reference."""
        return self.sums.index_select(0, classes) / self.counts.index_select(0, classes)[:, None]

    @property
    def class_means(self) -> Float[Tensor, "classes features"]:
        """μ_c. Raises `ValueError` if a class has no samples."""
        offsets = self.offsets  # raises if a class has no samples
        assert self.reference is not None
        return offsets + self.reference

    @property
    def overall_mean(self) -> Float[Tensor, " features"]:
        """The mean of all samples, whatever their class. Raises `ValueError` if there are none."""
        if self.reference is None:
            raise InputError("there is nothing to average: no samples were given")
        return self.sums.sum(dim=0) / self.counts.sum() + self.reference


def _typical(features: Tensor) -> Float[Tensor, " features"]:
    """A sample in the middle of some, so that one far out, if it comes first, costs the others no digits."""
    some = features[:: -(-len(features) // _LOOKED_AT)].double()
    distances = torch.linalg.vector_norm(some - some.median(dim=0).values, dim=1)
    return some[distances.argmin()].clone()  # since the caller may use the batch's memory again


def _equal(first: Tensor | None, second: Tensor | None) -> bool:
    return first is second or (first is not None and second is not None and torch.equal(first, second))


def mean_of(features: Float[Tensor, "samples features"]) -> Float[Tensor, " features"]:
    """Averages features without labels, as exactly as class means."""
    means = ClassMeans(2)  # all in the first of two classes, the least that ClassMeans takes
    means.update(features, torch.zeros(len(features), dtype=torch.int64, device=features.device))
    return means.overall_mean


@dataclass(frozen=True)
class Centered:
    """Class means around the global mean μ_G = Σ_c w_c μ_c."""

    class_weights: Float[Tensor, " classes"]
    #: μ_G less the reference
    global_offset: Float[Tensor, " features"]
    class_means: Float[Tensor, "classes features"]
    #: the span of the rows √(C w_c) (μ_c − μ_G), so that σ²/C are the eigenvalues of Σ_B
    span: Span


def check_weighting(weighting: str) -> None:
    """Raises `ValueError` unless it is one of `WEIGHTINGS`."""
    if weighting not in WEIGHTINGS:
        raise InputError(f"weighting must be one of {', '.join(WEIGHTINGS)}, got {weighting!r}")


def center(means: ClassMeans, weighting: str) -> Centered:
    """Subtracts the global mean from the class means, and sets to zero what rounding alone could have made."""
    check_weighting(weighting)
    check_scale("differences of features", means.scale)
    offsets = means.offsets
    weights = torch.full_like(offsets[:, 0], 1 / means.num_classes)
    if weighting == "samples":
        weights = means.counts / means.counts.sum().double()
    global_offset = weights @ offsets
    centered = offsets - global_offset
    # Twice, because the first subtraction leaves a mean of the size of the offsets' rounding.
    centered = centered - weights @ centered
    root = (means.num_classes * weights).sqrt()[:, None]  # the weight of each row in Σ_B; 1 for equal weights
    span = centered_span(centered * root, means.scale)
    if (precision := means.precision) > EPSILON:
        squares = means.squares - means.counts * offsets.square().sum(dim=1)
        squares = squares.clamp(min=0).add(EPSILON * means.squares)
        averaged = precision / 2 * squares.sqrt() / means.counts
        # a feature that is constant, however large, moves no mean away from the others
        differing = means.class_means * (centered != 0).any(dim=0)
        shares = means.feature_squares.clamp(min=0) / means.feature_squares.sum().clamp(min=SQUARABLE[0] ** 2)
        by_feature = precision / 2 * torch.linalg.norm(differing, dim=0) + torch.linalg.norm(averaged) * shares.sqrt()
        span = span.above(storage_noise(differing, averaged, precision), centered, by_feature)
    noise = span.noise.clamp(min=(weights @ span.noise).item())  # of a mean, and of the global mean
    is_zero = torch.linalg.norm(centered, dim=1) <= noise
    return Centered(weights, global_offset, centered.masked_fill(is_zero[:, None], 0.0), span)


class Residuals:
    """Computes h − μ_c(i) and its length in `dtype`, rounded relative to itself and not to μ_c.

    It subtracts the rounded μ_c first, which costs no digits near collapse, and then what the rounding took off, unless
    that is less than the rounding of every difference.
    """

    def __init__(self, reference: Tensor, offsets: Float[Tensor, "classes features"], dtype: torch.dtype):
        self.stored_means = (reference + offsets).to(dtype)
        self.remainders = (offsets - (self.stored_means - reference)).to(dtype)
        self.largest_remainder = torch.linalg.vector_norm(self.remainders, dim=1).max()

    def __call__(
        self, features: Float[Tensor, "samples features"], labels: Int[Tensor, " samples"]
    ) -> tuple[Float[Tensor, "samples features"], Float[Tensor, " samples"]]:
        residuals = self.stored_means.index_select(0, labels)
        torch.sub(features, residuals, out=residuals)
        lengths = torch.linalg.vector_norm(residuals, dim=1)
        if self.largest_remainder > torch.finfo(residuals.dtype).eps * lengths.min():
            residuals.sub_(self.remainders.index_select(0, labels))
            lengths = torch.linalg.vector_norm(residuals, dim=1)
        return residuals, lengths
