"""The second sweep over the features: scatter around the class means, and the classifier's decisions."""

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import replace
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._errors import InputError, checks_arguments
from ..geometry import TIE_TOLERANCE
from .bases import Basis, basis_for
from .batches import (
    FLOAT32_SCALES,
    blocks,
    check_batch,
    check_classifier,
    check_finite,
    check_present,
    check_same_classifier,
    class_sums,
    full_precision,
    rows_at_once,
)
from .means import ClassMeans, Residuals, center
from .nearest import NearestMeans, has_rival, rounding, where
from .outputs import OutputSums
from .threads import fold_in_threads
from .values import Classifier, Objective, Outputs, Statistics

#: Products in float32 are made again in float64 where their rounding exceeds this share of the block's.
_BLURRED = 1e-3

#: Numbers up to which the outputs at all class means are kept; and the most outputs that a block has beyond.
_KEPT_OUTPUTS = 2**24

#: Products of samples with directions and rows that are looked at together, if they are so few.
_PRODUCTS = 2**20

#: What `sums` has.
_GATHERED = (
    *("seen", "counts", "class_scatter", "span_squares", "span_scatter", "rows", "scatter", "basis"),
    *("outputs", "disagreements", "misplaced"),
)


@checks_arguments
class Projections:
    """Accumulates the within-class scatter on the span of the centred means: the second sweep.

    Args:
        means: the class means, of the same samples or of others.
        classifier: adds the moments of the outputs, accuracy, margins and NC4.
        covariance: keeps Σ_W as a whole too, p × p, which `nc1_vci` needs; N p² operations in float64.
        weighting: "classes", where μ_G and Σ_B weigh every class alike, or "samples".
        nearest_means: counts the samples whose nearest class mean is not their own, also without a classifier.
        held_out: whether the samples are others than those of the means. If not, the mean outputs follow from the
            means.

    Where the means leave classes out, samples of these are passed over, and the classifier still has a row for each:
    it decides among all of them.

    Without `covariance`, features of at most 32 bits are multiplied in float32, after μ_c is subtracted. Sums of
    squares then have a relative error of 1e-7, projections an error of 1e-7 ‖h − μ_c‖ and outputs one of
    1e-7 ‖W‖‖h − μ_c‖. A block of samples is computed in float64 where the error of one of them exceeds a thousandth of
    the block's root mean square, as with a sample far out. Decisions that rounding could turn are made again in
    float64.
    """

    def __init__(
        self,
        means: ClassMeans,
        classifier: Classifier | None = None,
        *,
        covariance: bool = True,
        weighting: str = "classes",
        nearest_means: bool = False,
        held_out: bool = True,
    ):
        self.means, self.nearest_means = means, nearest_means
        self.held_out = held_out
        self.classifier = classifier
        self.centered = center(means, weighting)
        assert means.reference is not None  # center raises for means without samples
        self.reference = means.reference
        self.num_features = self.centered.class_means.shape[1]
        check_classifier(classifier, means.num_labels, self.num_features)
        #: the label of each class, which is its row of the classifier
        self.labels = torch.arange(means.num_labels, device=self.reference.device)
        if means.classes is not None:
            self.labels = means.classes.to(self.reference.device)
        self._start(covariance=covariance)
        small = classifier is not None and means.num_classes * means.num_labels <= _KEPT_OUTPUTS
        self.mean_outputs = classifier(means.class_means) if classifier is not None and small else None
        self.mean_lengths = torch.linalg.norm(means.class_means, dim=1)
        self.nearest = NearestMeans(means, self.centered) if classifier is not None or nearest_means else None
        self.factors: dict[torch.dtype, tuple[Residuals, Tensor]] = {}

    def _start(self, *, covariance: bool) -> None:
        """Sets what is gathered, which `sums` has too, to that of no samples."""
        zeros, rank = self.centered.class_means.new_zeros, self.centered.span.rank
        self.seen = 0  # samples, also those passed over
        self.counts = zeros(self.means.num_classes, dtype=torch.int64)
        self.class_scatter = zeros(self.means.num_classes)  # Σ‖h − μ_c‖² per class
        self.span_squares = zeros(rank)
        self.span_scatter = zeros(rank, rank) if covariance else None
        #: h − μ_c while there are fewer than p, and then Σ (h − μ_c)(h − μ_c)ᵀ, in a basis if that needs one
        self.rows = zeros(0, self.num_features) if covariance else None
        self.scatter: Tensor | None = None
        self.basis: Basis | None = None
        self.outputs = OutputSums()
        self.disagreements = self.misplaced = 0  # samples whose nearest mean is not the one decided for, or their own

    @property
    def sums(self) -> dict[str, Any]:
        """What was gathered, without the means, the classifier and what follows from them, which are far larger."""
        return {name: getattr(self, name) for name in _GATHERED}

    def with_sums(self, sums: Mapping[str, Any]) -> "Projections":
        """Returns projections on the same means that have gathered this."""
        other = copy(self)
        vars(other).update(sums)
        return other

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Folds in a batch, as `ClassMeans.update` does."""
        seen = self.seen
        check_batch(features, labels, self.means.num_labels, self.num_features, seen)

        def check() -> None:
            check_finite(features, seen)

        with full_precision(features.device):
            if self.span_scatter is not None or self._in_order:
                self.fold(features, labels, check)  # in large products, or in an order that spares others
            else:
                fold_in_threads(self, features, labels, check)
        self.seen += len(features)

    def without_samples(self) -> "Projections":
        """Returns projections of no samples yet on the same means."""
        empty = copy(self)
        empty._start(covariance=self.span_scatter is not None)
        return empty

    @torch.no_grad()
    def fold(self, features: Tensor, labels: Tensor, check: Callable[[], None]) -> None:
        """Adds samples that were checked; calls `check`, which raises for a NaN or infinity, where there may be one."""
        for block, block_labels in self._blocks(features, labels):
            on_rows, lengths = self._project(block, block_labels, self._precision(features.dtype))
            if not lengths.isfinite().all():
                check()
            if self._is_blurred(on_rows, lengths):
                on_rows, lengths = self._project(block, block_labels, torch.float64)
            on_span = on_rows[: len(self.span_squares)]
            self._add_scatter(on_span, lengths, block_labels)
            if self.nearest is not None:
                nearest = self.nearest(on_span, block_labels, block, lengths)
                self.misplaced += int((nearest != block_labels).sum())
            if self.classifier is not None:
                self._add_decisions(block, block_labels, on_rows[len(on_span) :], lengths, nearest)
            self.counts += torch.bincount(block_labels, minlength=self.means.num_classes)

    @property
    def _in_order(self) -> bool:
        """Whether samples are taken class by class, since the outputs at the means are not kept."""
        return self.classifier is not None and self.mean_outputs is None

    def _blocks(self, features: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields samples in blocks, those of a class together if the mean outputs of the classes are not kept."""
        rows = rows_at_once(features, self.means.num_classes)
        if self.classifier is None or not self._in_order:
            numbers = len(self.span_squares) + self.means.num_labels
            yield from self.means.measured(features, labels, max(rows, _PRODUCTS // numbers))
            return
        rows = min(rows, max(16, _KEPT_OUTPUTS // len(self.classifier.weight)))
        order = labels.argsort(stable=True)
        for part in order.split(rows):
            yield from self.means.measured(features[part.to(features.device)], labels[part], rows)

    def _precision(self, dtype: torch.dtype) -> torch.dtype:
        low, high = FLOAT32_SCALES
        exact = dtype == torch.float64 or self.span_scatter is not None or not low <= self.means.scale <= high
        return torch.float64 if exact else torch.float32

    def _is_blurred(self, on_rows: Tensor, lengths: Tensor) -> bool:
        """Whether the rounding of a sample's products is not small beside those of its block, because it lies far out.

        They are compared with the root mean square of the block on each direction, and on all rows of the classifier.
        """
        if on_rows.dtype == torch.float64:
            return False
        rank = len(self.span_squares)
        sizes = torch.linalg.vector_norm(on_rows, dim=1).double() / len(lengths) ** 0.5
        rounding = torch.finfo(on_rows.dtype).eps * lengths.max()
        blurred = (rounding > _BLURRED * sizes[:rank]).any()
        if self.classifier is not None:
            length = torch.linalg.norm(self.classifier.weight)
            blurred |= rounding * length > _BLURRED * torch.linalg.norm(sizes[rank:])
        return bool(blurred)

    def _project(self, features: Tensor, labels: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The products of the span's directions and the classifier's rows with h − μ_c, and the lengths of these."""
        if dtype not in self.factors:
            weight = [] if self.classifier is None else [self.classifier.weight]
            self.factors[dtype] = (
                Residuals(self.reference, self.means.offsets, dtype),
                torch.cat([self.centered.span.directions, *weight]).to(dtype),
            )
        residuals_of, rows = self.factors[dtype]
        products, lengths = [], []
        for block, block_labels in blocks(features, labels, rows_at_once(features, self.means.num_classes)):
            residuals, length = residuals_of(block.to(dtype), block_labels)
            products.append(rows @ residuals.T)  # a quarter faster than residuals @ rows.T, twice if the rows are few
            lengths.append(length)
            if self.span_scatter is not None:  # and so dtype is float64, of which nothing is made again
                self._add_rows(residuals)
        return torch.cat(products, dim=1) if len(products) > 1 else products[0], torch.cat(lengths).double()

    def _add_scatter(self, on_span: Tensor, lengths: Tensor, labels: Tensor) -> None:
        self.class_scatter += class_sums(lengths.square(), labels, self.means.num_classes)
        self.span_squares += torch.linalg.vector_norm(on_span.double(), dim=1).square()
        if self.span_scatter is not None:
            self.span_scatter += on_span @ on_span.T

    def _add_rows(self, residuals: Float[Tensor, "samples features"]) -> None:
        if self.rows is not None and len(self.rows) + len(residuals) < self.num_features:
            self.rows = torch.cat([self.rows, residuals])
            return
        if self.rows is not None:
            residuals = torch.cat([self.rows, residuals])
            reach = self.means.class_means.abs().amax(dim=0)
            self.rows, self.basis = None, basis_for(residuals, reach, self.means.precision)
        if self.basis is not None:
            residuals = residuals @ self.basis.forward
        squares = residuals.T @ residuals
        self.scatter = squares if self.scatter is None else self.scatter.add_(squares)

    def _add_decisions(
        self, features: Tensor, labels: Tensor, on_weight: Tensor, lengths: Tensor, nearest: Tensor
    ) -> None:
        outputs = self._mean_outputs(labels).add_(on_weight.T.contiguous())
        own, error = self.labels[labels], rounding(self.num_features, on_weight.dtype)
        decisions = self._decide(outputs, own, features, lengths, self.mean_lengths[labels], error)
        self.disagreements += int((decisions != self.labels[nearest]).sum())
        self.outputs.update(outputs, decisions, own)

    def _mean_outputs(self, labels: Tensor) -> Float[Tensor, "samples outputs"]:
        """The outputs at the means of the samples' classes."""
        assert self.classifier is not None
        if self.mean_outputs is not None:
            return self.mean_outputs.index_select(0, labels)
        classes, places = labels.unique(return_inverse=True)
        return self.classifier(self.means.offsets_of(classes) + self.reference)[places]

    def _decide(
        self, outputs: Tensor, labels: Tensor, features: Tensor, lengths: Tensor, mean_lengths: Tensor, error: float
    ) -> Int[Tensor, " samples"]:
        """argmax of the outputs. Where their error could turn it, outputs and argmax are computed again in float64."""
        assert self.classifier is not None
        sums = error * lengths * self.classifier.longest
        doubt = 2 * (sums + TIE_TOLERANCE * self.classifier.size(mean_lengths))
        own = outputs.gather(1, labels[:, None])
        best_other = outputs.scatter_(1, labels[:, None], -torch.inf).amax(dim=1)
        outputs.scatter_(1, labels[:, None], own)
        decisions = labels.clone()
        wrong = where(best_other + doubt >= own.squeeze(1))
        decisions[wrong] = outputs[wrong].argmax(dim=1)
        unsure = wrong[has_rival(outputs[wrong], doubt[wrong])]
        if len(unsure):
            exact = features[unsure].double()
            outputs[unsure] = self.classifier(exact)
            decisions[unsure] = self.classifier.decide(exact, outputs[unsure])
        return decisions

    def merge(self, other: "Projections") -> Self:
        """Folds in the projections of other samples on the same means."""
        if self.means is not other.means and not torch.equal(self.means.class_means, other.means.class_means):
            raise InputError("cannot merge projections on different class means; give both the same ClassMeans")
        check_same_classifier(self.classifier, other.classifier)
        self.counts, self.seen = self.counts + other.counts, self.seen + other.seen
        self.class_scatter = self.class_scatter + other.class_scatter
        self.span_squares = self.span_squares + other.span_squares
        self.span_scatter = _sum(self.span_scatter, other.span_scatter)
        if self.span_scatter is None:
            self.rows = self.scatter = None
        elif other.rows is not None:
            self._add_rows(other.rows)
        else:
            rows, self.rows = self.rows, None
            assert other.scatter is not None
            if self.scatter is None:
                self.scatter, self.basis = other.scatter, other.basis
            else:
                self.scatter = self.scatter + _mapped(other.scatter, other.basis, self.basis)
            if rows is not None and len(rows):
                self._add_rows(rows)
        self.outputs.merge(other.outputs)
        self.disagreements, self.misplaced = self.disagreements + other.disagreements, self.misplaced + other.misplaced
        return self

    def _outputs(self) -> Outputs:
        assert self.classifier is not None
        outputs = self.outputs.compute()
        if self.held_out:
            return outputs
        W, b = self.classifier.weight, self.classifier.bias
        class_means, shares = self.means.class_means, self.counts / self.counts.sum().double()
        own, off = (class_means * W[self.labels]).sum(dim=1), class_means @ W.sum(dim=0)
        if b is not None:
            own, off = own + b[self.labels], off + b.sum()
        gap, off_mean = (shares @ (1 - own)).item(), (shares @ (off - own)).item() / (len(W) - 1)
        return replace(outputs, gap_mean=gap, off_mean=off_mean)

    def statistics(self, objective: Objective | None = None, ood_mean: Tensor | None = None) -> Statistics:
        """The statistics of the samples seen. Raises `ValueError` if a class has none."""
        check_present(self.counts, self.means.classes, held_out=True)
        if ood_mean is not None and len(ood_mean) != self.num_features:
            raise InputError(
                f"ood must have {self.num_features} features like the classes' samples, got {len(ood_mean)}"
            )
        total = int(self.counts.sum())
        scatter = None if self.scatter is None else self.scatter / total
        has_outputs = self.classifier is not None
        return Statistics(
            class_counts=self.counts.clone(),
            class_weights=self.centered.class_weights,
            global_mean=self.reference + self.centered.global_offset,
            centered_class_means=self.centered.class_means,
            span=self.centered.span,
            within_class_variances=self.class_scatter / self.counts,
            within_class_variances_on_span=self.span_squares / total,
            within_class_covariance_on_span=None if self.span_scatter is None else self.span_scatter / total,
            within_class_covariance=None if scatter is None else _mapped(scatter, self.basis, None),
            within_class_covariance_in_basis=None if self.basis is None else scatter,
            basis=self.basis,
            within_class_rows=None if self.rows is None else self.rows / total**0.5,
            classifier=self.classifier,
            outputs=self._outputs() if has_outputs else None,
            nearest_mean_disagreement=self.disagreements / total if has_outputs else None,
            nearest_mean_error=self.misplaced / total if self.nearest_means else None,
            objective=objective,
            ood_mean=ood_mean,
            precision=self.means.precision,
            classes=self.means.classes,
            num_labels=self.means.num_labels,
        )


def _mapped(scatter: Tensor, basis: Basis | None, other: Basis | None) -> Tensor:
    """The scatter in another basis than the one that it is in."""
    if basis is other:
        return scatter
    mapping = basis.to(other) if basis is not None else other.forward  # type: ignore[union-attr]
    return mapping.T @ scatter @ mapping


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return None if first is None or second is None else first + second
