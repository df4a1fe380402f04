"""Optima of the unconstrained features model in closed form.

Notation: s = C √(n λ_W λ_H) with n samples of each of C classes, P = I − 11ᵀ/C, J = 11ᵀ/C. A column of an output
matrix is the output of one class. Every optimum is unique up to a rotation of the features (with H ≥ 0, up to the
assignment of features to classes), except where `notes` says otherwise.

Sources. Tirer and Bruna, "Extended unconstrained features model for exploring deep neural collapse" (2022): square loss
without a bias. Zhou et al., "On the optimization landscape of neural collapse under MSE loss: global optimality with
unconstrained features" (2022): a free bias. Zhu et al., "A geometric analysis of neural collapse with unconstrained
features" (2021): cross-entropy. Dang et al., "Neural collapse in deep linear networks: from balanced to imbalanced
data" (2023): several layers and unequal classes. Where no source is named, the docstring gives the reason.
"""

import math
from collections.abc import Sequence

from .biased import with_bias, with_bias_and_relu
from .optimum import NOT_UNIQUE, ClosedForm, everything_collapses, symmetric_outputs
from .problem import UnconstrainedModel


def closed_form(model: UnconstrainedModel) -> ClosedForm | None:
    """The optimum in closed form; None if no closed form is known.

    Closed forms are known, for H free and for H ≥ 0, in two cases: the square loss without a bias, for any class sizes
    and any number of layers; and the square loss with a free or decayed bias, or cross-entropy with or without a bias,
    for classes of equal size and one layer.

    >>> model = UnconstrainedModel(num_classes=10, per_class=3, num_features=12, weight_decay=5e-3, feature_decay=2e-3,
    ...                            bias="free", features="relu")
    >>> optimum = closed_form(model)
    >>> print(f"{optimum.gaps[0]:.8f} {optimum.loss:.10f} {optimum.nc3:.1f}")
    0.05196152 0.0504615242 0.0
    """
    if model.loss == "square" and model.bias == "none":
        return _without_bias(model)
    if not model.is_balanced or model.layers > 1:
        return None
    if model.loss == "cross_entropy":
        return _cross_entropy(model)
    return with_bias(model) if model.features == "free" else with_bias_and_relu(model)


def _without_bias(model: UnconstrainedModel) -> ClosedForm:
    """The optimum for square loss, no bias, any class sizes n_k and M layers; H ≥ 0 is no restriction.

    With Λ = (λ_W^M λ_H)^{1/(M+1)} the least penalty of factors of Z is ((M+1)/2) Λ Σ_i σ_i(Z)^{2/(M+1)}, and Y Yᵀ =
    diag(n_k); so the optimal Z has Y's singular vectors, and each σ_k = √n_k x_k solves a problem of its own:

        min over x ≥ 0 of (n_k/2N) (1 − x)² + ((M+1)/2) Λ (n_k x²)^{1/(M+1)}.

    For M = 1 that is x = max(0, 1 − N √(λ_W λ_H/n_k)). The factors are W M = diag(x) with M orthogonal, which M ≥ 0
    allows.
    """
    M, N = model.layers, model.num_samples
    Lambda = (model.weight_decay**M * model.feature_decay) ** (1 / (M + 1))

    def part(n: int, x: float) -> float:
        return n / (2 * N) * (1 - x) ** 2 + (M + 1) / 2 * Lambda * (n * x * x) ** (1 / (M + 1))

    outputs, losses, rows, means = [], [], [], []
    for n in model.counts:
        x = _upper_root(Lambda * N * n ** (-M / (M + 1)), M)
        if M > 1 and part(n, x) >= part(n, 0.0):  # of two local minima; with one layer there is one minimum
            x = 0.0
        penalty = Lambda * (n * x * x) ** (1 / (M + 1))  # λ_W times the square of each layer's singular value
        outputs.append(x)
        losses.append(part(n, x))
        rows.append((penalty / model.weight_decay) ** M)
        means.append(penalty / (model.feature_decay * n))
    return ClosedForm(
        case=("square loss, no bias" if M == 1 else f"square loss, no bias, {M} linear layers")
        + ("" if model.is_balanced else ", unequal classes"),
        loss=math.fsum(losses),
        own_outputs=tuple(outputs),
        off_outputs=(0.0,) * model.num_classes,
        row_norms=tuple(rows),
        mean_norms=tuple(means),
        row_cosine=0.0 if all(outputs) else math.nan,
        nc3=_nc3_of_frames(rows, means),
        bias=None,
        reference="Tirer and Bruna (2022)" if M == 1 else "Dang et al. (2023)",
        notes=_collapsed_classes(model, outputs),
    )


def _upper_root(k: float, M: int) -> float:
    """The larger x in [0, 1] with (1 − x) x^{(M−1)/(M+1)} = k, a local minimum; 0 if there is none."""
    power, highest = (M - 1) / (M + 1), (M - 1) / (2 * M)
    if M == 1:
        return max(0.0, 1 - k)
    if (1 - highest) * highest**power <= k:
        return 0.0
    low, high = highest, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if (1 - middle) * middle**power > k else (low, middle)
    return low


def _nc3_of_frames(row_norms: Sequence[float], mean_norms: Sequence[float]) -> float:
    """`nc3` of W = diag(w) Q and M = diag(m) Q with orthonormal rows Q: cos = √(1 − 1/C) Σ w m / (‖w‖ ‖m‖)."""
    w, m = [math.sqrt(norm) for norm in row_norms], [math.sqrt(norm) for norm in mean_norms]
    if not any(w):
        return math.nan
    cosine = math.fsum(a * b for a, b in zip(w, m, strict=True)) / (math.hypot(*w) * math.hypot(*m))
    return math.sqrt(2 - 2 * cosine * math.sqrt(1 - 1 / len(w)))


def _collapsed_classes(model: UnconstrainedModel, outputs: Sequence[float]) -> tuple[str, ...]:
    zero = [c for c, x in enumerate(outputs) if x == 0]
    if not zero:
        return ()
    if len(zero) == model.num_classes:
        return (
            everything_collapses(f"s = {model.s:.4g}" + (" ≥ 1" if model.is_balanced and model.layers == 1 else "")),
        )
    bound = model.num_samples**2 * model.weight_decay * model.feature_decay
    shown = ", ".join(map(str, zero[:5])) + (", …" if len(zero) > 5 else "")
    because = f": n_k ≤ N²λ_Wλ_H = {bound:.4g}" if model.layers == 1 else ""
    return (f"minority collapse of class {shown}{because}",)


def _cross_entropy(model: UnconstrainedModel) -> ClosedForm:
    """The optimum for cross-entropy, one layer and equal classes.

    A bias is zero, or constant if it is free, and changes nothing.

    All margins f^(c) − f^(c') are one x, the least point of log(1 + (C−1) e^{−x}) + κx with κ = (C−1) √(n λ_W λ_H) for
    H free and κ = √(C (C−1) n λ_W λ_H) for H ≥ 0: x = log((C−1) (1 − κ)/κ), or 0 if κ ≥ (C−1)/C. Both layers decay
    alike: λ_W ‖W‖² = n λ_H ‖M‖² = κx. W and Ṁ are simplex ETFs; H free has μ_G = 0, H ≥ 0 has M orthogonal.

    Why: let x̄ be the mean margin over samples and pairs, in which a bias cancels. By convexity the loss is at least the
    loss at x̄, and C x̄ = (C/(C−1)) ⟨W, Ṁ⟩ ≤ (C/(C−1)) ‖W‖‖Ṁ‖ with ‖Ṁ‖ ≤ ‖M‖, for M ≥ 0 even ‖Ṁ‖² ≤ (1 − 1/C) ‖M‖².
    """
    C = model.num_classes
    kappa = model.s / C * (C - 1 if model.features == "free" else math.sqrt(C * (C - 1)))
    x = math.log((C - 1) * (1 - kappa) / kappa) if kappa < (C - 1) / C else 0.0
    notes = [] if x else [everything_collapses(f"κ = {kappa:.4g} ≥ (C − 1)/C")]
    own, off = symmetric_outputs(C, x, 0.0, 0.0)
    bias = None if model.bias == "none" else 0.0
    if C == 2 and x and model.features == "relu" and model.bias == "free":
        bias = None
        notes.append(NOT_UNIQUE)
    elif model.bias == "free":
        notes.append("a free bias is unique up to a constant; this one has Σ b = 0")
    return ClosedForm(
        case="cross-entropy" + ("" if model.features == "free" else ", H ≥ 0"),
        loss=math.log1p((C - 1) * math.exp(-x)) + kappa * x,
        own_outputs=own,
        off_outputs=off,
        row_norms=(kappa * x / (C * model.weight_decay),) * C,
        mean_norms=(kappa * x / (C * model.counts[0] * model.feature_decay),) * C,
        row_cosine=-1 / (C - 1) if x else math.nan,
        nc3=0.0 if x else math.nan,
        bias=bias,
        reference="Zhu et al. (2021)" if model.features == "free" else "the bound on the mean margin with M ≥ 0",
        notes=tuple(notes),
    )
