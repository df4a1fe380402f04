"""Sufficient statistics of collapse: everything a metric may read, folded from batches of features.

Two sweeps, each an object with `update` and `merge`: `ClassMeans`, then `Projections`, which yields `Statistics`.
Where the data can be seen only once, `ClassMoments` yields a `Statistics` in which some fields are absent.

Sums run in float64 on features from which one stored sample, the reference, has been subtracted: the difference of
two float32 numbers is exact there, so neither a common offset nor collapse itself costs digits.
Features are cast in blocks, never as a whole.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from .geometry import Span, centered_span, first_largest

BLOCK_ROWS = 4096

#: Above this many features Σ_W as a whole (p × p, float64) is not kept, and `nc1_vci` is absent.
FULL_COVARIANCE_LIMIT = 4096


@dataclass(frozen=True)
class Classifier:
    """The last linear layer, f = W h + b, in float64."""

    weight: Float[Tensor, "classes features"]
    bias: Float[Tensor, " classes"] | None = None

    def __call__(self, features: Float[Tensor, "samples features"]) -> Float[Tensor, "samples classes"]:
        outputs = features @ self.weight.T
        return outputs if self.bias is None else outputs + self.bias

    def decide(
        self, features: Float[Tensor, "samples features"], outputs: Float[Tensor, "samples classes"]
    ) -> Int[Tensor, " samples"]:
        """The class of the largest of the `outputs` of these features; ties, to rounding, go to the lowest class."""
        size = torch.linalg.norm(features, dim=1) * torch.linalg.norm(self.weight, dim=1).max()
        return first_largest(outputs, size if self.bias is None else size + self.bias.abs().max())


@dataclass(frozen=True)
class Objective:
    """What Eq. 1 needs beside the data term: λ, and ‖W_l‖_F² of every decayed layer, in the network's order."""

    weight_decay: float
    weight_norms: tuple[float, ...]


@dataclass(frozen=True)
class Outputs:
    """Moments of the outputs over all samples: the gap ε = 1 − f^(c) on the own class, and the off-class outputs."""

    gap_mean: float
    gap_deviation: float
    off_mean: float
    off_deviation: float
    margin_min: float
    margin_mean: float
    accuracy: float


@dataclass(frozen=True)
class Statistics:
    """All that the metrics read. Everything is float64; a field that was not gathered is None."""

    class_counts: Int[Tensor, " classes"]
    global_mean: Float[Tensor, " features"]
    centered_class_means: Float[Tensor, "classes features"]
    span: Span
    #: mean squared distance of a class's samples from its mean
    within_class_variances: Float[Tensor, " classes"]
    #: V Σ_W Vᵀ on the directions V of `span`
    within_class_covariance_on_span: Float[Tensor, "rank rank"]
    within_class_covariance: Float[Tensor, "features features"] | None = None
    classifier: Classifier | None = None
    outputs: Outputs | None = None
    nearest_mean_disagreement: float | None = None
    objective: Objective | None = None

    @property
    def num_classes(self) -> int:
        return len(self.class_counts)

    @property
    def class_means(self) -> Float[Tensor, "classes features"]:
        return self.centered_class_means + self.global_mean

    @property
    def within_class_trace(self) -> float:
        """Tr Σ_W, every sample weighing the same."""
        return ((self.class_counts * self.within_class_variances).sum() / self.class_counts.sum()).item()

    @property
    def between_class_trace(self) -> float:
        """Tr Σ_B, every class weighing the same."""
        return self.centered_class_means.square().sum().item() / self.num_classes


def _blocks(
    features: Float[Tensor, "samples features"], labels: Integer[Tensor, " samples"]
) -> Iterator[tuple[Float[Tensor, "block features"], Int[Tensor, " block"]]]:
    for start in range(0, len(features), BLOCK_ROWS):
        yield features[start : start + BLOCK_ROWS].detach().double(), labels[start : start + BLOCK_ROWS].long()


def _check_batch(features: Tensor, labels: Tensor, num_classes: int, num_features: int | None, seen: int) -> None:
    if features.ndim != 2 or labels.ndim != 1 or len(features) != len(labels):
        raise ValueError(
            f"features must be (samples, features) and labels (samples,) of the same length, "
            f"got {tuple(features.shape)} and {tuple(labels.shape)}"
        )
    if not features.is_floating_point():
        raise ValueError(f"features must be floating point, got {features.dtype}; cast them first")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, got {labels.dtype}; cast them first")
    if num_features is not None and features.shape[1] != num_features:
        raise ValueError(f"earlier batches had {num_features} features, this one has {features.shape[1]}")
    labels = labels.long()  # before comparing: in eight bits 1000 classes would be 232
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero()
    if len(wrong):
        index = int(wrong[0])
        raise ValueError(
            f"label {int(labels[index])} of sample {seen + index} is out of range: "
            f"with {num_classes} classes labels go from 0 to {num_classes - 1}"
        )


def _check_finite(features: Tensor, seen: int) -> None:
    finite = features.isfinite()
    if not finite.all():
        sample, feature = (int(i) for i in (~finite).nonzero()[0])
        value = features[sample, feature].item()
        raise ValueError(f"feature {feature} of sample {seen + sample} is {value}; every feature must be finite")


def _check_classifier(classifier: Classifier | None, num_classes: int, num_features: int) -> None:
    if classifier is not None and classifier.weight.shape != (num_classes, num_features):
        raise ValueError(
            f"weight must be ({num_classes}, {num_features}) for {num_classes} classes and {num_features} features, "
            f"got {tuple(classifier.weight.shape)}"
        )


def _check_same_classifier(first: Classifier | None, second: Classifier | None) -> None:
    def same(a: Tensor | None, b: Tensor | None) -> bool:
        return a is b if a is None or b is None else torch.equal(a, b)

    if first is not second and (
        first is None or second is None or not (same(first.weight, second.weight) and same(first.bias, second.bias))
    ):
        raise ValueError("cannot merge what was gathered with different classifiers; give both the same Classifier")


def _class_sums(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    sums = values.new_zeros(num_classes, *values.shape[1:])
    return sums.index_add_(0, labels, values)


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
        _check_batch(features, labels, self.num_classes, num_features, seen)
        if not len(features):
            return
        if self.reference is None:
            # a copy, since the caller may use the batch's memory again
            self._start(features[0].detach().to(torch.float64, copy=True))
        assert self.reference is not None
        for block, block_labels in _blocks(features, labels):
            _check_finite(block, seen)
            seen += len(block)
            offsets = block - self.reference
            self.sums += _class_sums(offsets, block_labels, self.num_classes)
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


@dataclass
class _Moments:
    """Count, mean and sum of squared deviations of a scalar, merged after Chan, Golub and LeVeque (1983)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: Tensor) -> "_Moments":
        mean = values.mean()
        return cls(values.numel(), mean.item(), (values - mean).square().sum().item())

    def merge(self, other: "_Moments") -> None:
        count = self.count + other.count
        if count:
            difference = other.mean - self.mean
            self.squares += other.squares + difference * difference * self.count * other.count / count
            self.mean += difference * other.count / count
            self.count = count

    @property
    def deviation(self) -> float:
        return (self.squares / self.count) ** 0.5


@dataclass
class _OutputSums:
    """Moments of the outputs, gathered batch by batch."""

    gap: _Moments = field(default_factory=_Moments)
    off: _Moments = field(default_factory=_Moments)
    margin: _Moments = field(default_factory=_Moments)
    margin_min: float = float("inf")
    correct: int = 0

    def update(
        self,
        outputs: Float[Tensor, "samples classes"],
        decisions: Int[Tensor, " samples"],
        labels: Int[Tensor, " samples"],
    ) -> None:
        own = outputs.gather(1, labels[:, None]).squeeze(1)
        is_own = torch.zeros_like(outputs, dtype=torch.bool).scatter_(1, labels[:, None], True)
        margins = own - outputs.masked_fill(is_own, -torch.inf).amax(dim=1)
        self.gap.merge(_Moments.of(1 - own))
        self.off.merge(_Moments.of(outputs[~is_own]))
        self.margin.merge(_Moments.of(margins))
        self.margin_min = min(self.margin_min, margins.min().item())
        self.correct += int((decisions == labels).sum())

    def merge(self, other: "_OutputSums") -> None:
        self.gap.merge(other.gap)
        self.off.merge(other.off)
        self.margin.merge(other.margin)
        self.margin_min = min(self.margin_min, other.margin_min)
        self.correct += other.correct

    def compute(self) -> Outputs:
        return Outputs(
            gap_mean=self.gap.mean,
            gap_deviation=self.gap.deviation,
            off_mean=self.off.mean,
            off_deviation=self.off.deviation,
            margin_min=self.margin_min,
            margin_mean=self.margin.mean,
            accuracy=self.correct / self.gap.count,
        )


def _center(means: ClassMeans) -> tuple[Tensor, Tensor, Span]:
    """Global mean less the reference, centred class means, and their span; what rounding alone could make is zero."""
    offsets = means.offsets
    global_offset = offsets.mean(dim=0)
    centered = offsets - global_offset
    # Twice, because the first subtraction leaves a mean of the size of the offsets' rounding.
    centered = centered - centered.mean(dim=0)
    span = centered_span(centered, means.scale)
    is_zero = torch.linalg.norm(centered, dim=1, keepdim=True) <= span.tolerance
    return global_offset, centered.masked_fill(is_zero, 0.0), span


class _Residuals:
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


class Projections:
    """Second sweep, given the means and the classifier: within-class scatter on the span of the centred means.

    The samples may be those of the means or others; `classifier` adds the moments of the outputs, accuracy, margins
    and NC4. `statistics()` gives the result.
    """

    def __init__(self, means: ClassMeans, classifier: Classifier | None = None):
        self.means = means
        self.classifier = classifier
        self.global_offset, self.centered, self.span = _center(means)
        assert means.reference is not None  # _center has refused means without samples
        self.reference = means.reference
        _check_classifier(classifier, means.num_classes, len(self.reference))
        self.residuals = _Residuals(self.reference, means.offsets)
        num_features = self.centered.shape[1]
        zeros = self.centered.new_zeros
        self.counts = zeros(means.num_classes, dtype=torch.int64)
        self.class_scatter = zeros(means.num_classes)  # Σ‖h − μ_c‖² per class
        self.span_scatter = zeros(self.span.rank, self.span.rank)
        self.scatter = zeros(num_features, num_features) if num_features <= FULL_COVARIANCE_LIMIT else None
        self.outputs = _OutputSums()
        self.disagreements = 0

    def update(self, features: Tensor, labels: Tensor) -> None:
        seen = int(self.counts.sum())
        _check_batch(features, labels, self.means.num_classes, self.centered.shape[1], seen)
        for block, block_labels in _blocks(features, labels):
            _check_finite(block, seen)
            seen += len(block)
            residuals = self.residuals(block, block_labels)
            on_span = residuals @ self.span.directions.T
            self.counts += torch.bincount(block_labels, minlength=self.means.num_classes)
            self.class_scatter += _class_sums(residuals.square().sum(dim=1), block_labels, self.means.num_classes)
            self.span_scatter += on_span.T @ on_span
            if self.scatter is not None:
                self.scatter += residuals.T @ residuals
            if self.classifier is not None:
                outputs = self.classifier(block)
                decisions = self.classifier.decide(block, outputs)
                self.outputs.update(outputs, decisions, block_labels)
                self.disagreements += int((decisions != self._nearest_means(block)).sum())

    def _nearest_means(self, features: Float[Tensor, "samples features"]) -> Int[Tensor, " samples"]:
        # argmin ‖h − μ_c‖² = argmax ⟨h − μ_G, μ_c − μ_G⟩ − ½‖μ_c − μ_G‖², which a common offset leaves exact
        from_global = features - self.reference - self.global_offset
        lengths = torch.linalg.norm(self.centered, dim=1)
        closeness = from_global @ self.centered.T - lengths.square() / 2
        return first_largest(closeness, (torch.linalg.norm(from_global, dim=1) + lengths.max()) * lengths.max())

    def merge(self, other: "Projections") -> Self:
        """Fold in the projections of other samples on the same means."""
        if not torch.equal(self.residuals.stored_means, other.residuals.stored_means):
            raise ValueError("cannot merge projections on different class means; give both the same ClassMeans")
        _check_same_classifier(self.classifier, other.classifier)
        self.counts = self.counts + other.counts
        self.class_scatter = self.class_scatter + other.class_scatter
        self.span_scatter = self.span_scatter + other.span_scatter
        if self.scatter is not None and other.scatter is not None:
            self.scatter = self.scatter + other.scatter
        self.outputs.merge(other.outputs)
        self.disagreements += other.disagreements
        return self

    def statistics(self, objective: Objective | None = None) -> Statistics:
        """The statistics of the samples seen; `ValueError` where a class had none."""
        if not self.counts.all():
            missing = int((self.counts == 0).nonzero()[0])
            raise ValueError(f"class {missing} has no samples in the second sweep (counts: {self.counts.tolist()})")
        total = int(self.counts.sum())
        has_outputs = self.classifier is not None
        return Statistics(
            class_counts=self.counts.clone(),
            global_mean=self.reference + self.global_offset,
            centered_class_means=self.centered,
            span=self.span,
            within_class_variances=self.class_scatter / self.counts,
            within_class_covariance_on_span=self.span_scatter / total,
            within_class_covariance=None if self.scatter is None else self.scatter / total,
            classifier=self.classifier,
            outputs=self.outputs.compute() if has_outputs else None,
            nearest_mean_disagreement=self.disagreements / total if has_outputs else None,
            objective=objective,
        )


class ClassMoments:
    """One pass over data that cannot be seen twice: class means and the whole within-class scatter together.

    Every batch is centred on its own class means before squaring, and batches combine by the update of Chan, Golub
    and LeVeque (1983). NC4 needs the final means while the samples are there, so it is absent from the result.
    Memory is p × p, so p may be at most `FULL_COVARIANCE_LIMIT`.
    """

    def __init__(self, num_classes: int, classifier: Classifier | None = None):
        self.means = ClassMeans(num_classes)
        self.classifier = classifier
        self.class_scatter = torch.zeros(num_classes, dtype=torch.float64)
        self.scatter = torch.empty(0)
        self.outputs = _OutputSums()

    def update(self, features: Tensor, labels: Tensor) -> None:
        num_features = None if self.means.reference is None else len(self.means.reference)
        seen = int(self.means.counts.sum())
        _check_batch(features, labels, self.means.num_classes, num_features, seen)
        if features.shape[1] > FULL_COVARIANCE_LIMIT:
            raise ValueError(
                f"one pass keeps a {features.shape[1]} × {features.shape[1]} matrix, more than the limit of "
                f"{FULL_COVARIANCE_LIMIT} features; take two passes with ClassMeans and Projections"
            )
        _check_classifier(self.classifier, self.means.num_classes, features.shape[1])
        for block, block_labels in _blocks(features, labels):
            _check_finite(block, seen)
            seen += len(block)
            self.merge(self._of_block(block, block_labels))

    def _of_block(self, features: Float[Tensor, "samples features"], labels: Int[Tensor, " samples"]) -> "ClassMoments":
        block = ClassMoments(self.means.num_classes, self.classifier)
        block.means.update(features, labels)
        assert block.means.reference is not None
        offsets = block.means.sums / block.means.counts.clamp(min=1)[:, None]
        residuals = _Residuals(block.means.reference, offsets)(features, labels)
        block.scatter = residuals.T @ residuals
        block.class_scatter = _class_sums(residuals.square().sum(dim=1), labels, self.means.num_classes)
        if self.classifier is not None:
            outputs = self.classifier(features)
            block.outputs.update(outputs, self.classifier.decide(features, outputs), labels)
        return block

    def merge(self, other: "ClassMoments") -> Self:
        """Fold in the moments of other samples; the result is that of all samples together, to rounding."""
        _check_same_classifier(self.classifier, other.classifier)
        if other.means.reference is None:
            return self
        if self.means.reference is None:
            self.means.merge(other.means)  # refuses what does not fit, before anything here has changed
            self.scatter, self.class_scatter = other.scatter, other.class_scatter
        else:
            means, reference = self.means, self.means.reference
            self.means = ClassMeans(means.num_classes).merge(means).merge(other.means)
            mine, others = means.counts, other.means.counts
            differences = (
                other.means.sums / others.clamp(min=1)[:, None]
                + (other.means.reference - reference)
                - means.sums / mine.clamp(min=1)[:, None]
            )
            weights = mine * others / (mine + others).clamp(min=1).double()  # integers alone would divide in float32
            self.scatter = self.scatter + other.scatter + differences.T @ (weights[:, None] * differences)
            self.class_scatter = self.class_scatter + other.class_scatter + weights * differences.square().sum(dim=1)
        self.outputs.merge(other.outputs)
        return self

    def statistics(self, objective: Objective | None = None) -> Statistics:
        """The statistics of the samples seen, without NC4."""
        global_offset, centered, span = _center(self.means)
        assert self.means.reference is not None
        covariance = self.scatter / self.means.counts.sum()
        return Statistics(
            class_counts=self.means.counts,
            global_mean=self.means.reference + global_offset,
            centered_class_means=centered,
            span=span,
            within_class_variances=self.class_scatter / self.means.counts,
            within_class_covariance_on_span=span.directions @ covariance @ span.directions.T,
            within_class_covariance=covariance,
            classifier=self.classifier,
            outputs=None if self.classifier is None else self.outputs.compute(),
            objective=objective,
        )
