"""Statistics in one pass, for data that cannot be seen twice."""

from collections.abc import Mapping
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._errors import InputError
from .batches import (
    FULL_COVARIANCE_LIMIT,
    blocks,
    check_batch,
    check_classifier,
    check_finite,
    check_same_classifier,
    class_sums,
    rows_at_once,
)
from .means import ClassMeans, Residuals, center
from .outputs import OutputSums
from .values import Classifier, Objective, Statistics


class ClassMoments:
    """Accumulates class means and the whole within-class scatter in one pass over data that cannot be seen twice.

    Every batch is centred on its own class means before squaring, and batches are combined as in Chan, Golub and
    LeVeque (1983). NC4 compares each sample with the final means, so it is absent from the result.
    The scatter is p × p in memory, so p may be at most `FULL_COVARIANCE_LIMIT`.
    """

    def __init__(self, num_classes: int, classifier: Classifier | None = None, *, weighting: str = "classes"):
        self.means = ClassMeans(num_classes)
        self.classifier = classifier
        self.weighting = weighting
        self.class_scatter = torch.zeros(num_classes, dtype=torch.float64)
        self.scatter = torch.empty(0)
        self.outputs = OutputSums()

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Folds in a batch, as `ClassMeans.update` does. Raises `ValueError` also for too many features."""
        num_features = None if self.means.reference is None else len(self.means.reference)
        seen = int(self.means.counts.sum())
        check_batch(features, labels, self.means.num_classes, num_features, seen)
        if features.shape[1] > FULL_COVARIANCE_LIMIT:
            raise InputError(
                f"one pass keeps a {features.shape[1]} × {features.shape[1]} matrix, more than the limit of "
                f"{FULL_COVARIANCE_LIMIT} features; take two passes with ClassMeans and Projections"
            )
        check_classifier(self.classifier, self.means.num_classes, features.shape[1])
        check_finite(features, seen)
        for block, block_labels in blocks(features, labels, rows_at_once(features, self.means.num_classes)):
            self.merge(self._of_block(block, block_labels))

    def _of_block(self, features: Float[Tensor, "samples features"], labels: Int[Tensor, " samples"]) -> "ClassMoments":
        block = ClassMoments(self.means.num_classes, self.classifier, weighting=self.weighting)
        block.means.update(features, labels)
        assert block.means.reference is not None
        features = features.double()
        offsets = block.means.sums / block.means.counts.clamp(min=1)[:, None]
        residuals, lengths = Residuals(block.means.reference, offsets, torch.float64)(features, labels)
        block.scatter = residuals.T @ residuals
        block.class_scatter = class_sums(lengths.square(), labels, self.means.num_classes)
        if self.classifier is not None:
            outputs = self.classifier(features)
            decisions = self.classifier.decide(features, outputs)
            block.outputs.update(outputs, decisions, labels)
        return block

    def merge(self, other: "ClassMoments") -> Self:
        """Folds in the moments of other samples; the result equals one pass over all samples, to rounding."""
        check_same_classifier(self.classifier, other.classifier)
        if other.means.reference is None:
            return self
        if self.means.reference is None:
            self.means.merge(other.means)  # raises for what does not fit, before anything here has changed
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

    def state(self) -> dict[str, Tensor]:
        """Everything gathered, as tensors that can be sent or stored; `of_state` reads them back."""
        means = self.means
        empty = self.class_scatter.new_empty
        return {
            "counts": means.counts,
            "reference": empty(0) if means.reference is None else means.reference,
            "sums": empty(means.num_classes, 0) if means.reference is None else means.sums,
            "scale": self.class_scatter.new_tensor(means.scale),
            "precision": self.class_scatter.new_tensor(means.stored.coarsest),
            "digits": means.stored.digits.to(self.class_scatter.device),
            "squares": empty(means.num_classes) if means.reference is None else means.squares,
            "feature_squares": empty(0) if means.reference is None else means.feature_squares,
            "class_scatter": self.class_scatter,
            "scatter": empty(0, 0) if means.reference is None else self.scatter,
            "outputs": self.outputs.state().to(self.class_scatter.device),
        }

    @classmethod
    def of_state(
        cls, state: Mapping[str, Tensor], classifier: Classifier | None = None, *, weighting: str = "classes"
    ) -> "ClassMoments":
        """Restores the moments from their `state`, which holds neither the classifier nor the weighting.

        >>> moments = ClassMoments(num_classes=2)
        >>> moments.update(torch.tensor([[0.0], [2.0], [4.0]]), torch.tensor([0, 0, 1]))
        >>> ClassMoments.of_state(moments.state()).means.class_means
        tensor([[1.],
                [4.]], dtype=torch.float64)
        """
        moments = cls(len(state["counts"]), classifier, weighting=weighting)
        if len(state["reference"]):
            means = moments.means
            means.counts, means.reference, means.sums = state["counts"], state["reference"], state["sums"]
            means.scale, means.squares = state["scale"].item(), state["squares"]
            means.feature_squares = state["feature_squares"]
            means.stored.coarsest, means.stored.digits = state["precision"].item(), state["digits"].cpu()
            moments.class_scatter, moments.scatter = state["class_scatter"], state["scatter"]
            moments.outputs = OutputSums.of_state(state["outputs"])
        return moments

    def statistics(
        self, objective: Objective | None = None, ood_mean: Tensor | None = None, *, means: ClassMeans | None = None
    ) -> Statistics:
        """The statistics of the samples seen, without NC4; `means` are the own ones without classes that have none."""
        means = self.means if means is None else means
        centered = center(means, self.weighting)
        span = centered.span
        assert means.reference is not None
        covariance = self.scatter / means.counts.sum()
        class_scatter = self.class_scatter if means.classes is None else self.class_scatter[means.classes]
        on_span = span.directions @ covariance @ span.directions.T
        return Statistics(
            class_counts=means.counts,
            class_weights=centered.class_weights,
            global_mean=means.reference + centered.global_offset,
            centered_class_means=centered.class_means,
            span=span,
            within_class_variances=class_scatter / means.counts,
            within_class_variances_on_span=on_span.diagonal(),
            within_class_covariance_on_span=on_span,
            within_class_covariance=covariance,
            classifier=self.classifier,
            outputs=None if self.classifier is None else self.outputs.compute(),
            objective=objective,
            ood_mean=ood_mean,
            precision=means.precision,
            classes=means.classes,
            num_labels=means.num_labels,
        )
