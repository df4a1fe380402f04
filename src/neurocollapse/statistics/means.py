"""First sweep: class means."""

from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..geometry import Span, centered_span
from .batches import blocks, check_batch, class_sums


class ClassMeans:
    """First sweep: the size and the mean of every class.

    `update` folds in a batch (features (samples, features) of any float type, integer labels (samples,)) and raises
    `ValueError` that names the sample for a label out of range, a NaN or an infinity, or the shapes that disagree.

    >>> means = ClassMeans(num_classes=2)
    >>> means.update(torch.tensor([[0.0, 0.0], [0.0, 2.0], [4.0, 0.0]]), torch.tensor([0, 0, 1]))
    >>> means.class_means
    tensor([[0., 1.],
            [4., 0.]], dtype=torch.float64)
    """

    def __init__(self, num_classes: int):
        if num_classes < 2:
            raise ValueError(f"neural collapse needs at least two classes, got {num_classes}")
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, dtype=torch.int64)
        self.reference: Tensor | None = None  # (features,), the first sample seen
        self.sums = torch.empty(0)  # of h − reference, (classes, features)
        self.scale = 0.0  # largest |h − reference|

    def update(self, features: Tensor, labels: Tensor) -> None:
        seen = int(self.counts.sum())
        num_features = None if self.reference is None else len(self.reference)
        check_batch(features, labels, self.num_classes, num_features, seen)
        if not len(features):
            return
        if self.reference is None:
            # a copy, since the caller may use the batch's memory again
            self._start(features[0].detach().to(torch.float64, copy=True))
        assert self.reference is not None
        for block, block_labels in blocks(features, labels, seen):
            offsets = block - self.reference
            self.sums += class_sums(offsets, block_labels, self.num_classes)
            self.counts += torch.bincount(block_labels, minlength=self.num_classes)
            self.scale = max(self.scale, offsets.abs().max().item())

    def merge(self, other: "ClassMeans") -> Self:
        """Fold in the means of other samples; the result is that of all samples together, to rounding."""
        if other.num_classes != self.num_classes:
            raise ValueError(f"cannot merge means of {self.num_classes} and of {other.num_classes} classes")
        if other.reference is None:
            return self
        if self.reference is None:
            self._start(other.reference)
        assert self.reference is not None
        if len(other.reference) != len(self.reference):
            raise ValueError(f"cannot merge means of {len(self.reference)} and of {len(other.reference)} features")
        shift = other.reference - self.reference
        self.sums = self.sums + other.sums + other.counts[:, None] * shift
        self.counts = self.counts + other.counts
        self.scale = max(self.scale, other.scale + shift.abs().max().item())
        return self

    def _start(self, reference: Tensor) -> None:
        self.reference = reference
        self.counts = self.counts.to(reference.device)
        self.sums = reference.new_zeros(self.num_classes, len(reference))

    @property
    def offsets(self) -> Float[Tensor, "classes features"]:
        """Class means less the reference. Raises `ValueError` that names the class where one has no samples."""
        empty = (self.counts == 0).nonzero().flatten().tolist()
        if empty:
            shown = ", ".join(map(str, empty[:5])) + (", …" if len(empty) > 5 else "")
            counts = self.counts.tolist() if self.num_classes <= 20 else f"{len(empty)} of {self.num_classes} are zero"
            raise ValueError(
                f"class {shown} has no samples, so its mean is undefined (counts: {counts}); "
                f"pass more data, or number the classes without gaps"
            )
        return self.sums / self.counts[:, None]

    @property
    def class_means(self) -> Float[Tensor, "classes features"]:
        offsets = self.offsets  # refuses means without samples
        assert self.reference is not None
        return offsets + self.reference


def center(means: ClassMeans) -> tuple[Tensor, Tensor, Span]:
    """Global mean less the reference, centred class means, and their span; what rounding alone could make is zero."""
    offsets = means.offsets
    global_offset = offsets.mean(dim=0)
    centered = offsets - global_offset
    # Twice, because the first subtraction leaves a mean of the size of the offsets' rounding.
    centered = centered - centered.mean(dim=0)
    span = centered_span(centered, means.scale)
    is_zero = torch.linalg.norm(centered, dim=1, keepdim=True) <= span.tolerance
    return global_offset, centered.masked_fill(is_zero, 0.0), span


class Residuals:
    """h − μ_c(i), rounded relative to itself and not to μ_c: near collapse that is many digits more.

    The difference from μ_c as stored, which is a rounded number, is that good; what the rounding took off follows.
    """

    def __init__(self, reference: Tensor, offsets: Float[Tensor, "classes features"]):
        self.stored_means = reference + offsets
        self.remainders = offsets - (self.stored_means - reference)

    def __call__(
        self, features: Float[Tensor, "samples features"], labels: Int[Tensor, " samples"]
    ) -> Float[Tensor, "samples features"]:
        return features - self.stored_means[labels] - self.remainders[labels]
