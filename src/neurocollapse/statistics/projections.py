"""Second sweep: scatter around the class means, and what the classifier decides."""

from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..geometry import first_largest
from .batches import FULL_COVARIANCE_LIMIT, blocks, check_batch, check_classifier, check_same_classifier, class_sums
from .means import ClassMeans, Residuals, center
from .outputs import OutputSums
from .values import Classifier, Objective, Statistics


class Projections:
    """Second sweep, given the means and the classifier: within-class scatter on the span of the centred means.

    The samples may be those of the means or others; `classifier` adds the moments of the outputs, accuracy, margins
    and NC4. `statistics()` gives the result.
    """

    def __init__(self, means: ClassMeans, classifier: Classifier | None = None):
        self.means = means
        self.classifier = classifier
        self.global_offset, self.centered, self.span = center(means)
        assert means.reference is not None  # center has refused means without samples
        self.reference = means.reference
        check_classifier(classifier, means.num_classes, len(self.reference))
        self.residuals = Residuals(self.reference, means.offsets)
        num_features = self.centered.shape[1]
        zeros = self.centered.new_zeros
        self.counts = zeros(means.num_classes, dtype=torch.int64)
        self.class_scatter = zeros(means.num_classes)  # Σ‖h − μ_c‖² per class
        self.span_scatter = zeros(self.span.rank, self.span.rank)
        self.scatter = zeros(num_features, num_features) if num_features <= FULL_COVARIANCE_LIMIT else None
        self.outputs = OutputSums()
        self.disagreements = 0

    def update(self, features: Tensor, labels: Tensor) -> None:
        seen = int(self.counts.sum())
        check_batch(features, labels, self.means.num_classes, self.centered.shape[1], seen)
        for block, block_labels in blocks(features, labels, seen):
            residuals = self.residuals(block, block_labels)
            on_span = residuals @ self.span.directions.T
            self.counts += torch.bincount(block_labels, minlength=self.means.num_classes)
            self.class_scatter += class_sums(residuals.square().sum(dim=1), block_labels, self.means.num_classes)
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
        check_same_classifier(self.classifier, other.classifier)
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
