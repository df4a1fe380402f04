"""The unconstrained features model: a classifier on features that are free variables, decayed like the weights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..._errors import InputError, checks_arguments

LOSSES = ("square", "cross_entropy")
BIASES = ("none", "free", "decayed")
FEATURES = ("free", "relu")


@checks_arguments
@dataclass(frozen=True, kw_only=True)
class UnconstrainedModel:
    """The problem of minimising, over the layers W_1, …, W_M, the features H, one column per sample, and the bias b,

        (1/2N) ‖W_M ⋯ W_1 H + b1ᵀ − Y‖² + (λ_W/2) Σ_l ‖W_l‖² + (λ_H/2) ‖H‖² [+ (λ_b/2) ‖b‖²]

    or, in place of the first term, the mean cross-entropy over the N samples. Norms are Frobenius norms, W_M is C × p,
    the other layers are p × p, H is p × N and Y has the one-hot targets. λ_W is the λ of Eq. 1.

    Raises `ValueError` for a problem without meaning or without the room for its optimum: p ≥ C, or p ≥ C − 1 where the
    optimal W is known to have Σ_c W^c = 0 (a free bias or cross-entropy, and H free).

    Mixon, Parshall and Pi, "Neural collapse with unconstrained features" (2020); Zhu et al., "A geometric analysis of
    neural collapse with unconstrained features" (2021); Tirer and Bruna, "Extended unconstrained features model for
    exploring deep neural collapse" (2022).

    >>> model = UnconstrainedModel(num_classes=4, per_class=5, num_features=6, weight_decay=1e-2, feature_decay=1e-3)
    >>> model.num_samples, round(model.s, 6)
    (20, 0.028284)
    """

    num_classes: int
    #: the number of samples of every class, or a tuple with the number of each class
    per_class: int | tuple[int, ...]
    num_features: int
    weight_decay: float
    feature_decay: float
    loss: str = "square"
    bias: str = "none"
    bias_decay: float | None = None
    #: "free", or "relu" for H ≥ 0
    features: str = "free"
    #: M, the number of linear layers above H
    layers: int = 1

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise InputError(f"a classifier needs at least two classes, got {self.num_classes}; pass num_classes ≥ 2")
        self._check_counts()
        for name, allowed in (("loss", LOSSES), ("bias", BIASES), ("features", FEATURES)):
            if getattr(self, name) not in allowed:
                raise InputError(f"unknown {name} {getattr(self, name)!r}; pass one of {', '.join(allowed)}")
        self._check_decays()
        if self.layers < 1:
            raise InputError(f"there is no classifier with layers = {self.layers}; pass layers ≥ 1")
        least = self.num_classes - (self.features == "free" and (self.bias == "free" or self.loss == "cross_entropy"))
        if self.num_features < least:
            raise InputError(
                f"the optimum of {self.num_classes} classes does not fit into {self.num_features} features; "
                f"pass num_features ≥ {least}"
                + ("" if least < self.num_classes else " (C; C − 1 suffices for a free bias with features free)")
            )

    def _check_counts(self) -> None:
        sizes = self.per_class if isinstance(self.per_class, tuple) else (self.per_class,)
        if not all(isinstance(size, int) for size in sizes):
            raise InputError(f"per_class must be an integer, or a tuple of one for each class, got {self.per_class!r}")
        if len(self.counts) != self.num_classes:
            raise InputError(
                f"per_class has {len(self.counts)} sizes for {self.num_classes} classes; "
                f"pass one for each class, or a single number for all"
            )
        for c, count in enumerate(self.counts):
            if count < 1:
                raise InputError(f"class {c} has {count} samples; pass per_class ≥ 1")

    def _check_decays(self) -> None:
        if (self.bias == "decayed") != (self.bias_decay is not None):
            raise InputError(
                f"bias_decay is {self.bias_decay} with bias {self.bias!r}; pass a bias_decay with bias 'decayed' only"
            )
        for name in ("weight_decay", "feature_decay", "bias_decay"):
            decay = getattr(self, name)
            if decay is not None and not (math.isfinite(decay) and decay > 0):
                raise InputError(
                    f"{name} is {decay}; pass a positive finite number: without decay there need be no minimum"
                )

    @property
    def counts(self) -> tuple[int, ...]:
        """n_k, the samples of each class."""
        return (self.per_class,) * self.num_classes if isinstance(self.per_class, int) else tuple(self.per_class)

    @property
    def num_samples(self) -> int:
        """N."""
        return sum(self.counts)

    @property
    def is_balanced(self) -> bool:
        """Whether all classes have the same number of samples."""
        return len(set(self.counts)) == 1

    @property
    def s(self) -> float:
        """The strength of the decay, N √(λ_W λ_H / n) = C √(n λ_W λ_H) with n = N/C."""
        return math.sqrt(self.num_classes * self.num_samples * self.weight_decay * self.feature_decay)

    @property
    def labels(self) -> Int[Tensor, " samples"]:
        """The labels of the samples, in the order of their classes."""
        return torch.arange(self.num_classes).repeat_interleave(torch.tensor(self.counts))

    def objective(
        self,
        layers: Sequence[Tensor],
        features: Float[Tensor, "samples features"],
        bias: Float[Tensor, " classes"] | None = None,
    ) -> Float[Tensor, ""]:
        """Evaluates the objective above at the layers W_1, …, W_M, the features, one row per sample, and the bias b.

        >>> model = UnconstrainedModel(num_classes=2, per_class=1, num_features=2, weight_decay=0.1, feature_decay=0.1)
        >>> model.objective([torch.eye(2)], torch.eye(2)).item()
        0.2...
        """
        outputs = features
        for layer in layers:
            outputs = outputs @ layer.T
        if bias is not None:
            outputs = outputs + bias
        if self.loss == "square":
            targets = torch.nn.functional.one_hot(self.labels, self.num_classes)
            data = (outputs - targets).square().sum() / (2 * self.num_samples)
        else:
            data = torch.nn.functional.cross_entropy(outputs, self.labels)
        norms = torch.stack([layer.square().sum() for layer in layers]).sum()
        value = data + self.weight_decay / 2 * norms + self.feature_decay / 2 * features.square().sum()
        if bias is not None and self.bias_decay is not None:
            value = value + self.bias_decay / 2 * bias.square().sum()
        return value
