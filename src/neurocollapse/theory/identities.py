"""Identities that hold at every point in weight space, to rounding, and those that hold at every critical point.

They are about networks that are positively homogeneous of degree one in every layer, apart from the classifier's bias
b, which is zero if there is none. Along gradient flow d‖W_l‖²/dt = −2⟨W_l, ∇_l L⟩, so the right side replaces the left
at any point. With a bias that does not decay, Σ_i (y_i − f_i) = 0 at a critical point, and ⟨y − f, b⟩ drops out there.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import torch

from .comparison import Comparison, compare
from .evidence import Evidence
from .fixed_features import central_path

ROUNDING = "rounding"
STATIONARITY = "distance from a critical point"


def _mean_inner_product(A: torch.Tensor, B: torch.Tensor) -> float:
    """(1/N) Σ_i ⟨a_i, b_i⟩."""
    return (A * B).sum().item() / len(A)


def _size_of_terms(evidence: Evidence) -> float:
    """(1/N) Σ_i ‖f_i − y_i‖ ‖f_i − b‖: the size of the terms that Euler's right side sums."""
    lengths = torch.linalg.norm(evidence.errors, dim=1) * torch.linalg.norm(evidence.products, dim=1)
    return lengths.mean().item()


def euler(evidence: Evidence) -> Iterator[Comparison]:
    """⟨W_l, ∇_l L_data⟩ = (1/N) Σ_i ⟨f_i − y_i, f_i − b⟩, the same number for every layer."""
    predicted = _mean_inner_product(-evidence.errors, evidence.products)
    scale = _size_of_terms(evidence)
    for layer in evidence.layers:
        measured = (layer.value * layer.data_gradient).sum().item()
        name = f"⟨W, ∇L_data⟩ of {layer.name}"
        yield compare(name, predicted, measured, tells=ROUNDING, reference="Euler's theorem", scale=scale)


def lemma_2_2(evidence: Evidence) -> Iterator[Comparison]:
    """L = −¼ d‖W_l‖²/dt + (λ/2) Σ_{k≠l} ‖W_k‖² + (1/2N) Σ_i ⟨y_i − f_i, y_i − b⟩ for every layer.

    Without a bias the last sum is Σ_i (‖y_i‖² − ⟨f_i, y_i⟩), as in the paper.
    """
    fit = _mean_inner_product(evidence.errors, evidence.targets - evidence.bias) / 2
    for layer in evidence.layers:
        rest = sum(p.decay * p.squared_norm for p in evidence.layers + evidence.others if p is not layer) / 2
        predicted = layer.inner_product / 2 + rest + fit
        yield compare(
            f"L by the growth of {layer.name}", predicted, evidence.loss, tells=ROUNDING, reference="Lemma 2.2"
        )


def balance(evidence: Evidence) -> Iterator[Comparison]:
    """d(‖W_l‖² − ‖W_k‖²)/dt = −2 (λ_l‖W_l‖² − λ_k‖W_k‖²) for neighbouring layers."""
    for before, after in itertools.pairwise(evidence.layers):
        penalties = after.decay * after.squared_norm, before.decay * before.squared_norm
        predicted = -2 * (penalties[0] - penalties[1])
        measured = -2 * (after.inner_product - before.inner_product)
        scale = 2 * (sum(penalties) + _size_of_terms(evidence))
        name = f"growth of ‖{after.name}‖² − ‖{before.name}‖²"
        yield compare(name, predicted, measured, tells=ROUNDING, reference="balance, from Lemma 2.2", scale=scale)


def balance_along_flow(
    times: Sequence[float], weight_norms: Sequence[Sequence[float]], weight_decay: float
) -> Iterator[Comparison]:
    """‖W_l‖² − ‖W_k‖² of neighbouring layers at time t is e^{−2λt} times its value at the first time.

    Args:
        times: times of gradient flow, increasing.
        weight_norms: ‖W_l‖² of every layer at each of these times.
        weight_decay: λ.

    The residual is relative to the norms themselves at the first time, as is the solver's error.
    """
    norms = torch.tensor(weight_norms, dtype=torch.float64)
    differences = norms.diff(dim=1)
    elapsed = torch.tensor(times, dtype=torch.float64) - times[0]
    factors = torch.exp(-2 * weight_decay * elapsed)
    for layer, measured in enumerate(differences.T):
        yield compare(
            f"‖W_{layer + 2}‖² − ‖W_{layer + 1}‖² over time",
            factors * measured[0],
            measured,
            tells="the error of the steps in time",
            reference="balance, from Lemma 2.2",
            scale=norms[0].max().item() * math.sqrt(len(times)),
        )


def path_decomposition(evidence: Evidence) -> Iterator[Comparison]:
    """L = L(W_LS) + ½ tr((W − W_LS) A (W − W_LS)ᵀ) with the least-squares classifier W_LS; see `central_path`."""
    path = central_path(evidence)
    yield compare(
        "L by the least-squares classifier",
        path.loss + path.excess,
        evidence.loss,
        tells=ROUNDING,
        reference="central path: Han, Papyan and Donoho (2022)",
    )


def gradient(evidence: Evidence) -> Iterator[Comparison]:
    """∇L = 0; the residual is ‖∇L‖ / (‖∇L_data‖ + λ‖W‖), between 0 and 1, and at λ = 0 ‖∇L‖ / (1 + ‖W‖)."""
    parameters = evidence.layers + evidence.others
    data = math.sqrt(sum(p.data_gradient.square().sum().item() for p in parameters))
    scale = data + math.sqrt(sum(p.decay**2 * p.squared_norm for p in parameters))
    if not any(p.decay for p in parameters):
        scale = 1 + evidence.weight_norm
    yield compare(
        "‖∇L‖", 0.0, evidence.gradient_norm, tells=STATIONARITY, reference="definition", scale=scale or math.nan
    )


def critical_norms(evidence: Evidence) -> Iterator[Comparison]:
    """λ_l‖W_l‖² = (1/N) Σ_i ⟨y_i − f_i, f_i − b⟩ for every layer, so with λ > 0 the data are not interpolated."""
    predicted = _mean_inner_product(evidence.errors, evidence.products)
    for layer in evidence.layers:
        measured = layer.decay * layer.squared_norm
        yield compare(f"λ‖W‖² of {layer.name}", predicted, measured, tells=STATIONARITY, reference="Lemma 2.2")


def equal_norms(evidence: Evidence) -> Iterator[Comparison]:
    """All λ_l‖W_l‖² are equal; the measured number is their standard deviation over their mean."""
    of_classifier = evidence.weight_decay
    penalties = [layer.decay / of_classifier * layer.squared_norm for layer in evidence.layers]
    norms = torch.tensor(penalties, dtype=torch.float64)
    spread = (norms.std(correction=0) / norms.mean()).item()
    name = "spread of the ‖W_l‖²" if evidence.layers_decay_alike else "spread of the λ_l‖W_l‖²"
    yield compare(name, 0.0, spread, tells=STATIONARITY, reference="Lemma 2.2", scale=1.0)


def last_layer(evidence: Evidence) -> Iterator[Comparison]:
    """λW = (1/N) Σ_i (y_i − f_i) h_iᵀ, and row by row λ‖W^c‖² = (1/N) Σ_i (y_i^c − f_i^c)(f_i^c − b_c)."""
    weight, decay = evidence.classifier.weight, evidence.weight_decay
    predicted = evidence.errors.T @ evidence.features / len(evidence.labels)
    reference = "stationarity of the last layer"
    yield compare("λW", predicted, decay * weight, tells=STATIONARITY, reference=reference)
    rows = (evidence.errors * evidence.products).mean(dim=0)
    yield compare("λ‖W^c‖²", rows, decay * weight.square().sum(dim=1), tells=STATIONARITY, reference=reference)


def sum_of_outputs(evidence: Evidence) -> Iterator[Comparison]:
    """Without a bias the mean of 1ᵀf_i is q/(1 + q), q = μᵀ(Σ_T + λI)⁻¹μ with μ the mean and Σ_T the covariance of h.

    Σ_c W^c is then the ridge regression of 1 on h. The number says where between 0 and 1 the sum of outputs lies.
    """
    mean = evidence.features.mean(dim=0)
    deviations = evidence.features - mean
    matrix = deviations.T @ deviations / len(deviations)
    matrix.diagonal().add_(evidence.weight_decay)
    q = (mean @ torch.linalg.solve(matrix, mean)).item()
    measured = evidence.outputs.sum(dim=1).mean().item()
    yield compare(
        "mean sum of outputs, q/(1 + q)", q / (1 + q), measured, tells=STATIONARITY, reference="last layer, no bias"
    )


def free_bias(evidence: Evidence) -> Iterator[Comparison]:
    """With a bias that does not decay, Σ_c W^c = 0, Σ_c b_c = 1, 1ᵀf_i = 1, and f^(c) has class c's share as its mean.

    For equal classes the last is ⟨W^c, μ_G⟩ + b_c = 1/C. The only assumption is λ > 0.
    """
    weight = evidence.classifier.weight
    size = torch.linalg.norm(weight).item()
    reference = "last layer, bias not decayed"
    total = torch.linalg.norm(weight.sum(dim=0)).item()
    yield compare("‖Σ_c W^c‖", 0.0, total, tells=STATIONARITY, reference=reference, scale=size)
    yield compare("Σ_c b_c", 1.0, evidence.bias.sum().item(), tells=STATIONARITY, reference=reference)
    sums = evidence.outputs.sum(dim=1)
    yield compare("1ᵀf_i, every sample", 1.0, sums, tells=STATIONARITY, reference=reference)
    means, shares = evidence.outputs.mean(dim=0), evidence.targets.mean(dim=0)
    yield compare("mean of f^(c), by class", shares, means, tells=STATIONARITY, reference=reference)


def decayed_bias(evidence: Evidence) -> Iterator[Comparison]:
    """With a bias of decay λ_b, λ_b b = (1/N) Σ_i (y_i − f_i)."""
    predicted = evidence.errors.mean(dim=0)
    measured = evidence.bias_decay * evidence.bias
    yield compare("λ_b b", predicted, measured, tells=STATIONARITY, reference="stationarity of the bias")
