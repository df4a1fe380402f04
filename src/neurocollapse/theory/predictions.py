"""Predictions of Theorem 2.3 and its relatives from a network's measured ε, W and means, under three readings.

Symmetric quasi-interpolation (SQI) means f^(c) = 1 − ε on the own class c and f^(c') = ε/(C−1) elsewhere. At a critical
point with a classifier bias that does not decay it can hold exactly. Without a bias and with λ > 0 it cannot:
λ Σ_c W^c = (1/N) Σ_i (1 − 1ᵀf_i) h_i, so that 1ᵀf_i = 1 would give Σ_c W^c = 0 and with it 1ᵀf_i = 0. The unconstrained
features model without a bias ends in an orthogonal frame instead: f^(c') = 0. The residuals of outputs, cosines and
sums are scaled so that 0 means the reading itself and 1 the other one.
"""

import math
from collections.abc import Iterator
from functools import partial

import torch

from ..geometry import Gram, pairs
from .comparison import Comparison, compare
from .evidence import Evidence

FROM_SQI = "distance from SQI"
FROM_SQI_AND_STATIONARITY = "distance from SQI and from a critical point"
FROM_FRAME = "distance from the UFM's optimum without a bias"
FROM_DECAYED = "distance from the UFM's optimum with a decayed bias"
FROM_COLLAPSE = "distance from exact collapse (NC1 to NC3)"
FROM_CENTERED_COLLAPSE = "distance from NC1, NC2 and centred NC3"

ASSUMPTION = "Assumption 1"
UFM = "unconstrained features model"


def _gap(evidence: Evidence) -> float:
    """ε, the mean of 1 − f_i^(c(i))."""
    return evidence.measurement["sqi_gap"]


def _mean_cosine(evidence: Evidence) -> float:
    """Mean over pairs of cos(W^c, W^c')."""
    return pairs(Gram(evidence.classifier.weight).cosines()).mean().item()


def _overlaps_with_global_mean(evidence: Evidence) -> torch.Tensor:
    """⟨W^c, μ_G⟩ + b_c."""
    return evidence.classifier(evidence.global_mean[None])[0]


def quasi_interpolation(evidence: Evidence) -> Iterator[Comparison]:
    """Assumption 1 itself: one ε for all samples, and all off-class outputs ε/(C−1), so that 1ᵀf_i = 1.

    All residuals are relative to ε.
    """
    measured, gap, off = evidence.measurement, abs(_gap(evidence)), evidence.num_classes - 1
    against = partial(compare, tells=FROM_SQI, reference=ASSUMPTION, scale=gap or math.nan)
    yield against("spread of ε over samples", 0.0, measured["sqi_gap_spread"])
    yield against("(C−1) × off-class output", _gap(evidence), measured["sqi_off"])
    yield against("(C−1) × spread of off-class outputs", 0.0, off * measured["sqi_off_spread"])
    yield against("sum of outputs 1ᵀf", 1.0, measured["sqi_sum"])


def equation_2(evidence: Evidence) -> Iterator[Comparison]:
    """W^c = ε/(λ(C−1)) (μ_c − μ_G). Divides by λ."""
    factor = _gap(evidence) / (evidence.weight_decay * (evidence.num_classes - 1))
    predicted = factor * evidence.centered_class_means
    weight = evidence.classifier.weight
    yield compare("W, Eq. 2", predicted, weight, tells=FROM_SQI_AND_STATIONARITY, reference="Theorem 2.3, Eq. 2")


def equation_3(evidence: Evidence) -> Iterator[Comparison]:
    """‖W^c‖² = (ε − C/(C−1) ε²)/(Cλ) for every class. Divides by λ."""
    C, gap = evidence.num_classes, _gap(evidence)
    predicted = (gap - C / (C - 1) * gap**2) / (C * evidence.weight_decay)
    rows = evidence.classifier.weight.square().sum(dim=1)
    yield compare("‖W^c‖², Eq. 3", predicted, rows, tells=FROM_SQI_AND_STATIONARITY, reference="Theorem 2.3, Eq. 3")


def overlap_with_global_mean(evidence: Evidence) -> Iterator[Comparison]:
    """⟨W^c, μ_G⟩ = 1/C, and with a bias ⟨W^c, μ_G⟩ + b_c = 1/C."""
    name = "⟨W^c, μ_G⟩" if evidence.classifier.bias is None else "⟨W^c, μ_G⟩ + b_c"
    yield compare(
        name,
        1 / evidence.num_classes,
        _overlaps_with_global_mean(evidence),
        tells=FROM_SQI_AND_STATIONARITY,
        reference="Theorem 2.3, after Eq. 3",
    )


def equation_4(evidence: Evidence) -> Iterator[Comparison]:
    """cos(W^c, W^c') = −1/(C−1), Σ_c W^c = 0, and W dual to the centred means: NC3 = 0."""
    C, against = evidence.num_classes, partial(compare, tells=FROM_SQI_AND_STATIONARITY)
    cosine, weight = _mean_cosine(evidence), evidence.classifier.weight
    yield against("mean cos(W^c, W^c')", -1 / (C - 1), cosine, reference="Eq. 4", scale=1 / (C - 1))
    size, total = torch.linalg.norm(weight).item(), torch.linalg.norm(weight.sum(dim=0)).item()
    yield against("‖Σ_c W^c‖", 0.0, total, reference="Theorem 2.3, NC2", scale=size or math.nan)
    yield against("NC3", 0.0, evidence.measurement["nc3"], reference="Theorem 2.3, NC3", scale=1.0)


def orthogonal_frame(evidence: Evidence) -> Iterator[Comparison]:
    """Off-class outputs 0, orthogonal rows W^c, the sum of outputs 1 − ε, and NC3 = √(2 − 2√(1 − 1/C))."""
    C, gap, measured = evidence.num_classes, _gap(evidence), evidence.measurement
    against = partial(compare, tells=FROM_FRAME, reference=UFM)
    yield against("(C−1) × off-class output", 0.0, measured["sqi_off"], scale=abs(gap) or math.nan)
    yield against("sum of outputs 1ᵀf", 1 - gap, measured["sqi_sum"], scale=abs(gap) or math.nan)
    yield against("mean cos(W^c, W^c')", 0.0, _mean_cosine(evidence), scale=1 / (C - 1))
    yield against("NC3", math.sqrt(2 - 2 * math.sqrt(1 - 1 / C)), measured["nc3"])


def weights_of_orthogonal_frame(evidence: Evidence) -> Iterator[Comparison]:
    """W^c = ε/(λC) μ_c and ‖W^c‖² = ε(1 − ε)/(Cλ): the last layer's stationarity at h = μ_c, f^(c') = 0."""
    C, gap, decay = evidence.num_classes, _gap(evidence), evidence.weight_decay
    weight = evidence.classifier.weight
    against = partial(compare, tells=FROM_FRAME, reference="last layer, at f^(c') = 0")
    yield against("W, orthogonal frame", gap / (decay * C) * evidence.class_means, weight)
    yield against("‖W^c‖², orthogonal frame", gap * (1 - gap) / (C * decay), weight.square().sum(dim=1))


def decayed_bias(evidence: Evidence) -> Iterator[Comparison]:
    """b = 1/(C(1 + λ_b)) and 1ᵀf = 1/(1 + λ_b): SQI fails only because this sum is not 1."""
    against = partial(compare, tells=FROM_DECAYED, reference=UFM)
    shrunk = 1 / (1 + evidence.bias_decay)
    yield against("b_c", shrunk / evidence.num_classes, evidence.bias)
    yield against("sum of outputs 1ᵀf", shrunk, evidence.measurement["sqi_sum"])


def lemma_2_1(evidence: Evidence) -> Iterator[Comparison]:
    """L_data = L(α) + ½‖v‖² − 1ᵀv/C with L(α) = ½((1 − α)² + α²/(C−1)), α = Tr(WṀ)/C, v = W μ_G + b.

    Exact NC3 makes 1ᵀW = 0, so without a bias only ½‖Wμ_G‖² is added to the paper's L(α). That is at least 1/(2C), so
    the data are not interpolated. A bias, or a mean row of W, which centred NC3 allows and NC3 does not, makes 1ᵀv ≠ 0.
    Then L can reach 0, so a network can be near interpolation and near collapse at once.
    """
    C = evidence.num_classes
    alpha = (evidence.classifier.weight * evidence.centered_class_means).sum().item() / C
    curve = ((1 - alpha) ** 2 + alpha**2 / (C - 1)) / 2
    v = _overlaps_with_global_mean(evidence)
    half_square, total = v.square().sum().item() / 2, v.sum().item()
    if not evidence.bias.any():
        yield compare(
            "L_data, L(α) + ½‖Wμ_G‖²",
            curve + half_square,
            evidence.data_loss,
            tells=FROM_COLLAPSE,
            reference="Lemma 2.1",
        )
    yield compare(
        "L_data, L(α) + ½‖v‖² − 1ᵀv/C",
        curve + half_square - total / C,
        evidence.data_loss,
        tells=FROM_CENTERED_COLLAPSE,
        reference="Lemma 2.1, with a mean row or a bias",
    )
