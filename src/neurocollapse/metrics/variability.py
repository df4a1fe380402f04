"""NC1, variability collapse: how small the spread within classes is beside the spread between them.

If all class means coincide (Σ_B = 0), the ratios are inf, or nan if the within-class spread vanishes too.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..geometry import EPSILON, Span, pseudo_inverse_root
from ..statistics import Statistics


def _ratio(numerator: float, denominator: float) -> float:
    if denominator:
        return numerator / denominator
    return float("inf") if numerator else float("nan")


def nc1(statistics: Statistics) -> float:
    """Tr(Σ_W Σ_B⁺), the paper's: not divided by C. Blind to variance orthogonal to the centred means."""
    span = statistics.span
    if not span.rank:
        return _ratio(statistics.within_class_trace, 0.0)
    between = span.singular_values.square() / statistics.num_classes  # eigenvalues of Σ_B
    return (statistics.within_class_variances_on_span / between).sum().item()


def structureless_nc1(class_counts: Sequence[int], num_features: int, *, held_out: bool = False) -> float:
    """The expectation of `nc1` for features that are independent of the labels; nan if there is none.

    Σ_W ≈ (1 − C/N) σ²I, and the class means are normal with variances σ²/n_c, so that C Σ_B is a Wishart matrix. For
    p > C the expectation is (1 − C/N) C (N − Σ_c n_c²/N)/(p − C), which is (1 − C/N) n C (C−1)/(p − C) with n samples
    in every class. For p < C − 2 it is (1 − C/N) n C p/(C − 2 − p), where n is the harmonic mean of the class sizes if
    these differ, and then only about right. Held-out samples have 1 + C/N in place of 1 − C/N.
    """
    C, p, N = len(class_counts), num_features, sum(class_counts)
    if p > C:
        inverse = (N - sum(count**2 for count in class_counts) / N) / (p - C)
    elif p < C - 2:
        inverse = C / sum(1 / count for count in class_counts) * p / (C - 2 - p)
    else:
        return float("nan")
    return (1 + C / N if held_out else 1 - C / N) * C * inverse


def nc1_per_class(statistics: Statistics) -> float:
    """Tr(Σ_W Σ_B⁺) / C, what most published code prints."""
    return nc1(statistics) / statistics.num_classes


def nc1_trace_ratio(statistics: Statistics) -> float:
    """Tr Σ_W / Tr Σ_B. Sees the variance in every direction."""
    return _ratio(statistics.within_class_trace, statistics.between_class_trace)


def nc1_cdnv(statistics: Statistics) -> float:
    """Class-distance normalised variance: mean over pairs of (v_c + v_c') / (2‖μ_c − μ_c'‖²).

    Galanti, György and Hutter (2022). v_c is the mean squared distance of class c's samples from their mean.
    It is inf if two means coincide, but two classes that are one point, with equal means and no spread, are left out.
    """
    return statistics.mean_pairs.cdnv


#: The metric of `nc1_vci` is changed if rounding could change the index by more than this share of itself.
_DIGITS_KEPT = 1e-10


def nc1_vci(statistics: Statistics) -> float:
    """Variability collapse index 1 − Tr(Σ_T⁺ Σ_B) / rank Σ_B, Σ_T = Σ_W + Σ_B; 0 for any features once p ≥ N − 1.

    Xu and Liu (2023). No invertible linear map of the features changes it, so where variances are 1e9 times apart, Σ_W
    is summed in a basis that makes them alike, and in one pass features are scaled to one size. Directions in which Σ_W
    is then below p · 2.2e-16 of its largest count as having no variance. The index is nan where rounding could change
    it by more than a hundredth of itself and a millionth of Tr(Σ_T⁺ Σ_W)/rank, as where the features all but depend on
    one another, and where directions have no variance beside one so large that the spread of a whole class is lost in
    its rounding, as with a sample very far out. It is that of the features as they are stored: in float64 a direction
    1e15 times the others leaves nothing of these, in float32 one 1e7 times.
    """
    if not statistics.span.rank:
        return float("nan")
    share, error, within = _share_in_basis(statistics) or _share_of_scaled(statistics)
    return min(max(share, 0.0), 1.0) if error <= 1e-2 * share + 1e-6 * within else float("nan")


def _share_in_basis(statistics: Statistics) -> tuple[float, float, float] | None:
    """The result of `_unexplained_share` in the basis of the statistics; None if there is none that shows all means."""
    S, basis = statistics.within_class_covariance_in_basis, statistics.basis
    if S is None or basis is None or (span := statistics.span_in_basis).rank < statistics.span.rank:
        return None
    share, error, within = _unexplained_share(span, S, math.inf)  # which shows the variance of all directions
    return share, error + basis.error * within, within


def _share_of_scaled(statistics: Statistics) -> tuple[float, float, float]:
    """The result of `_unexplained_share` for the features as they are, or scaled to one size if its error is less."""
    S_UU = statistics.within_class_covariance_on_span
    assert S_UU is not None
    spread = _least_spread(statistics)
    found = _unexplained_share(*_covariance(statistics, statistics.span), spread, S_UU)
    variances = statistics.feature_variances
    variances = variances[variances > 0]
    vanishing = len(variances) and variances.min() <= statistics.num_features * EPSILON * variances.max()
    if vanishing or found[1] > _DIGITS_KEPT * found[0]:
        factors = 1 / statistics.feature_sizes
        spread *= factors.square().max().item()
        span = statistics.span_of_scaled(factors)
        scaled = _unexplained_share(*_covariance(statistics, span, factors), spread)
        if span.rank >= statistics.span.rank and (vanishing or scaled[1] < found[1]):
            return scaled
    return found


def _least_spread(statistics: Statistics) -> float:
    """The least variance of a class that is more than the rounding of its samples; inf if there is none."""
    rounding = statistics.precision * torch.linalg.norm(statistics.class_means, dim=1)
    variances = statistics.within_class_variances
    return min(variances[variances > rounding.square()].tolist(), default=math.inf)


def _covariance(
    statistics: Statistics, span: Span, factors: Float[Tensor, " features"] | None = None
) -> tuple[Span, Float[Tensor, "directions directions"]]:
    """The span and Σ_W of features times these factors; of fewer rows than features, on the space of the two alone."""
    rows, S = statistics.within_class_rows, statistics.within_class_covariance
    if rows is not None:
        rows = rows if factors is None else rows * factors
        if span.rank + len(rows) < statistics.num_features:
            basis = torch.linalg.qr(torch.cat([span.directions, rows]).T).Q
            span, rows = replace(span, directions=span.directions @ basis), rows @ basis
        return span, rows.T @ rows
    assert S is not None
    return span, S if factors is None else S * factors * factors[:, None]


def _unexplained_share(
    span: Span, S: Float[Tensor, "features features"], spread: float, S_UU: Float[Tensor, "rank rank"] | None = None
) -> tuple[float, float, float]:
    """The index of `nc1_vci`, an estimate of its error, and Tr(Σ_T⁺ Σ_W)/rank on the span, to which that is compared.

    It is computed so that nothing cancels at collapse. With Σ_B = Uᵀ D U on the span U of the centred means, and V its
    complement, the block of Σ_T⁺ on U is (D + R)⁻¹, where R = S_UU − S_UV S_VV⁺ S_VU is the part of the within-class
    covariance S on the span that the complement does not explain. So 1 − Tr((D + R)⁻¹ D)/rank is
    Tr((D + R)⁻¹ R)/rank. Once p ≥ N − 1, R = 0. The error is that of rounding S: in S_UU, and in S_UV S_VV⁺ S_VU by as
    much more as S_VV has small eigenvalues; inf if some of these are lost and with them the `spread` of a class. `S_UU`
    is given if it was summed by itself; then its own size decides.
    """
    U = span.directions
    S_U = U @ S
    summed, S_UU = S_UU is not None, S_U @ U.T if S_UU is None else S_UU
    S_UV = S_U - (S_U @ U.T) @ U
    S_VV = S - U.T @ S_U - S_UV.T @ U
    largest = torch.linalg.eigvalsh(S_UU)[-1].item()
    root = pseudo_inverse_root(S_VV, scale=largest)
    explained = S_UV @ root
    R = S_UU - explained @ explained.T
    D = span.singular_values.square() / len(span.noise)
    # Scale the diagonal to ones: the variances of means in different directions may be many orders apart.
    scale = (D + R.diagonal().clamp(min=0)).sqrt()
    inverse = torch.linalg.inv((D.diag() + R) / scale / scale[:, None]) / scale / scale[:, None]
    share, within = ((inverse * part.T).sum().item() / span.rank for part in (R, S_UU))
    inverses = root.square().sum(dim=0)  # of the eigenvalues of S_VV
    rounding = EPSILON * max([largest, *(1 / inverses).tolist()])
    error = (EPSILON * largest if summed else rounding) * inverse.trace()
    error += rounding * ((inverse @ explained) * explained).sum(dim=0) @ inverses
    lost = span.rank + root.shape[1] < len(S) and spread <= len(S) * rounding
    if lost or (inverse.diagonal() < 0).any():  # or rounding makes a covariance negative
        return share, math.inf, within
    return share, error.item() / span.rank, within
