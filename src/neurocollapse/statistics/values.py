"""The values that metrics read: frozen, in float64."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._errors import InputError, checks_arguments
from ..geometry import (
    EPSILON,
    TIE_TOLERANCE,
    Gram,
    LeadingDirections,
    Span,
    centered_span,
    first_largest,
    storage_noise,
)
from .bases import Basis
from .pairs import MeanPairs, mean_pairs


@checks_arguments
@dataclass(frozen=True)
class Classifier:
    """The last linear layer, f = W h + b, in float64. Raises `ValueError` if an entry is not finite."""

    weight: Float[Tensor, "classes features"]
    bias: Float[Tensor, " classes"] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", self.weight.detach().double())
        if self.bias is not None:
            object.__setattr__(self, "bias", self.bias.detach().double())
        for name, values in (("weight", self.weight), ("bias", self.bias)):
            if values is not None and not values.isfinite().all():
                index = (~values.isfinite()).nonzero()[0].tolist()
                raise InputError(f"{name}{index} is {values[tuple(index)].item()}; every entry must be finite")

    def __call__(self, features: Float[Tensor, "samples features"]) -> Float[Tensor, "samples classes"]:
        outputs = features @ self.weight.T
        return outputs if self.bias is None else outputs + self.bias

    def decide(
        self, features: Float[Tensor, "samples features"], outputs: Float[Tensor, "samples classes"]
    ) -> Int[Tensor, " samples"]:
        """The class with the largest output; ties, to rounding, go to the lowest class.

        Where outputs are close, they are compared without what all classes have in common, which decides nothing and
        may be large, and a tie is judged by the size of what is left of the terms.
        """
        decisions = outputs.argmax(dim=1)
        doubt = 2 * TIE_TOLERANCE * self.size(torch.linalg.norm(features, dim=1))
        close = outputs >= outputs.amax(dim=1, keepdim=True) - doubt[:, None]
        unsure = (close.sum(dim=1) > 1).nonzero().squeeze(1)
        if len(unsure):
            weight, h = self.weight - self.weight.mean(dim=0), features[unsure]
            scores, sizes = h @ weight.T, h.abs() @ weight.T.abs()
            if self.bias is not None:
                bias = self.bias - self.bias.mean()
                scores, sizes = scores + bias, sizes + bias.abs()
            decisions[unsure] = first_largest(scores, sizes)
        return decisions

    @cached_property
    def longest(self) -> float:
        """The largest ‖W^c‖."""
        return torch.linalg.norm(self.weight, dim=1).max().item()

    def size(self, lengths: Float[Tensor, " samples"]) -> Float[Tensor, " samples"]:
        """Bounds the terms that an output sums, for features of these lengths: ‖h‖ max_c ‖W^c‖ + max_c |b_c|."""
        return lengths * self.longest + (0.0 if self.bias is None else self.bias.abs().max())


@dataclass(frozen=True)
class Objective:
    """The penalty of Eq. 1: λ, and ‖W_l‖_F² of every layer in the network's order."""

    weight_decay: float
    weight_norms: tuple[float, ...]
    #: the squared norm of everything else that decays, such as biases
    other_norms: float = 0.0

    @property
    def penalty(self) -> float:
        """(λ/2) (Σ_l ‖W_l‖_F² + `other_norms`)."""
        return self.weight_decay / 2 * (sum(self.weight_norms) + self.other_norms)


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
    """Everything that the metrics read, in float64. A field that was not gathered is None."""

    class_counts: Int[Tensor, " classes"]
    #: how much each class counts in μ_G and Σ_B; they sum to one
    class_weights: Float[Tensor, " classes"]
    global_mean: Float[Tensor, " features"]
    centered_class_means: Float[Tensor, "classes features"]
    span: Span
    #: mean squared distance of a class's samples from its mean
    within_class_variances: Float[Tensor, " classes"]
    #: the diagonal of V Σ_W Vᵀ, V the directions of `span`
    within_class_variances_on_span: Float[Tensor, " rank"]
    #: the whole of V Σ_W Vᵀ, and of Σ_W or, in its place, fewer than p rows whose Gram matrix it is
    within_class_covariance_on_span: Float[Tensor, "rank rank"] | None = None
    within_class_covariance: Float[Tensor, "features features"] | None = None
    within_class_rows: Float[Tensor, "rows features"] | None = None
    #: Σ_W in a basis in which it keeps all digits, and that basis, where the features' own loses some
    within_class_covariance_in_basis: Float[Tensor, "features features"] | None = None
    basis: Basis | None = None
    classifier: Classifier | None = None
    outputs: Outputs | None = None
    #: shares of samples whose nearest class mean is not of the class decided for, and not of their own class
    nearest_mean_disagreement: float | None = None
    nearest_mean_error: float | None = None
    objective: Objective | None = None
    #: the mean feature of samples of no class
    ood_mean: Float[Tensor, " features"] | None = None
    #: of the weight of the layer that gives the features, or of their classifier, and the span of its input's means
    layer_weight: LeadingDirections | None = None
    input_span: Span | None = None
    #: the spacing of numbers at 1 in the coarsest type that features were stored in
    precision: float = EPSILON
    #: the labels of the classes, which are rows of the classifier, where others are left out; None if none is
    classes: Int[Tensor, " classes"] | None = None
    #: the number of labels, also of those left out; None if none is
    num_labels: int | None = None

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_counts)

    @property
    def num_features(self) -> int:
        """p."""
        return self.centered_class_means.shape[1]

    @property
    def classifier_weight(self) -> Float[Tensor, "classes features"]:
        """W, its rows for the classes that are measured."""
        assert self.classifier is not None  # a metric that reads it says so in METRICS
        weight = self.classifier.weight
        return weight if self.classes is None else weight[self.classes]

    @property
    def num_outputs(self) -> int:
        """The number of outputs of the classifier, also for classes that are left out."""
        return self.num_labels or self.num_classes

    @property
    def label_counts(self) -> tuple[int, ...]:
        """The number of samples of every label, zero for those that are left out."""
        counts = self.class_counts
        if self.classes is not None:
            counts = counts.new_zeros(self.num_outputs).index_copy_(0, self.classes, counts)
        return tuple(counts.tolist())

    @property
    def class_means(self) -> Float[Tensor, "classes features"]:
        """μ_c, not centred."""
        return self.centered_class_means + self.global_mean

    @property
    def feature_variances(self) -> Float[Tensor, " features"]:
        """The diagonal of Σ_W."""
        if self.within_class_rows is not None:
            return self.within_class_rows.square().sum(dim=0)
        assert self.within_class_covariance is not None
        return self.within_class_covariance.diagonal()

    @property
    def feature_sizes(self) -> Float[Tensor, " features"]:
        """The standard deviation of each feature, as a power of two, which scales exactly; inf if it is constant.

        It is constant also if what varies is no more than the rounding of its values.
        """
        variances = self.feature_variances + self.class_weights @ self.centered_class_means.square()
        deviations = variances.sqrt()
        constant = deviations <= self.precision * self.class_means.abs().amax(dim=0)
        return torch.exp2(deviations.log2().round()).masked_fill(constant, torch.inf)

    def span_of_scaled(self, factors: Float[Tensor, " features"]) -> Span:
        """The span of the centred class means of features times these factors, which give them deviations of one."""
        means = self.class_means * factors
        return self._span_of(self.centered_class_means * factors, means, means.square().sum(dim=1) + len(factors))

    @property
    def span_in_basis(self) -> Span:
        """The span of the centred class means in `basis`, which gives features deviations of one."""
        assert self.basis is not None
        forward = self.basis.forward
        means = (self.class_means.square() @ forward.square()).sqrt()  # as their rounding is spread there
        lengths = means.square().sum(dim=1) + (self.feature_variances @ forward.square()).sum()
        return self._span_of(self.centered_class_means @ forward, means, lengths)

    def _span_of(
        self,
        centered: Float[Tensor, "classes features"],
        means: Float[Tensor, "classes features"],
        lengths: Float[Tensor, " classes"],
    ) -> Span:
        """The span of mapped means, with the sizes by which these are rounded, and samples' mean squared lengths."""
        root = (self.num_classes * self.class_weights).sqrt()[:, None]
        # no sample is further from the mean than √N deviations
        span = centered_span(centered * root, self.class_counts.sum().item() ** 0.5)
        if self.precision == EPSILON:
            return span
        averaged = self.precision / 2 * (lengths / self.class_counts).sqrt()
        return span.above(storage_noise(means, averaged, self.precision), centered)

    @cached_property
    def means_gram(self) -> Gram:
        """The Gram matrix of the centred class means."""
        return Gram(self.centered_class_means)

    @cached_property
    def mean_pairs(self) -> MeanPairs:
        """What the metrics say of pairs of class means."""
        return mean_pairs(self.means_gram, self.within_class_variances, self.span.noise, self.span.summing)

    @cached_property
    def weight_gram(self) -> Gram:
        """The Gram matrix of the classifier's rows."""
        return Gram(self.classifier_weight)

    @property
    def within_class_trace(self) -> float:
        """Tr Σ_W, every sample weighing the same."""
        return ((self.class_counts * self.within_class_variances).sum() / self.class_counts.sum()).item()

    @property
    def between_class_trace(self) -> float:
        """Tr Σ_B."""
        return (self.class_weights @ self.centered_class_means.square().sum(dim=1)).item()
