"""Closed forms for the square loss with a free or a decayed bias, for H free and H ≥ 0.

The classes are of equal size. P = I − 11ᵀ/C, J = 11ᵀ/C, and s = C √(n λ_W λ_H).
"""

import math

from .optimum import NOT_UNIQUE, ClosedForm, everything_collapses, symmetric_outputs
from .problem import UnconstrainedModel


def with_bias(model: UnconstrainedModel) -> ClosedForm:
    """Square loss, a free or decayed bias, H free: W M = aP + cJ, b = β1, a = 1 − s and

        c = 0,              Cβ = 1/(1 + λ_b)    for λ_b ≤ s/(1 − s), a free bias being λ_b = 0
        c = 1 − s − s/λ_b,  Cβ = s/λ_b          for λ_b beyond.

    Why: in (Z, b) the problem is convex with penalty √(λ_W λ_H) ‖Z‖_*, so it has an optimum that is invariant under
    permutations of the classes, and a, c and β decouple. W and M have the singular values √a and √c up to scale. In the
    first range NC1 to NC3 hold exactly; in the second W and M have a mean row.
    """
    C, s = model.num_classes, model.s
    decay = model.bias_decay or 0.0
    a, c, sums = max(0.0, 1 - s), 0.0, 1 / (1 + decay)
    if decay * (1 - s) > s:
        c, sums = 1 - s - s / decay, s / decay
    loss = ((C - 1) * (1 - a) ** 2 + (1 - c - sums) ** 2 + 2 * s * ((C - 1) * a + c) + decay * sums**2) / (2 * C)
    own, off = symmetric_outputs(C, a, c, sums / C)
    row = (a * (C - 1) + c) / C
    return ClosedForm(
        case=f"square loss, {model.bias} bias",
        loss=loss,
        own_outputs=own,
        off_outputs=off,
        row_norms=(row * _balance(model),) * C,
        mean_norms=(row / _balance(model),) * C,
        row_cosine=(c - a) / (a * (C - 1) + c) if a else math.nan,
        nc3=_chord(math.sqrt((C - 1) * a), math.sqrt(c)) if a else math.nan,
        bias=sums / C,
        reference="Zhou et al. (2022)" if model.bias == "free" else "the convex form in (Z, b), by symmetry",
        notes=() if a else (everything_collapses(f"s = {s:.4g} ≥ 1"),),
    )


def with_bias_and_relu(model: UnconstrainedModel) -> ClosedForm:
    """Square loss, a free or decayed bias, H ≥ 0: W M = aP + cJ with M orthogonal, b = β1, and

        min over a ≥ c ≥ 0 of (1/2C) ((C−1) (1 − a)² + κ (1 − c)²) + (s/√C) R,  R = √((C−1) a² + c²),

    κ = λ_b/(1 + λ_b), Cβ = (1 − c)/(1 + λ_b). So a = 1/(1 + t), c = κ/(κ + t) with t R = s√C, which is one equation for
    t. A free bias has κ = 0, hence c = 0 and a = 1 − s√(C/(C−1)). Any other leaves W a mean row: NC3 is not exact.

    Why: the least of (‖W‖² + ‖M‖²)/2 with M ≥ 0 is a gauge of Z = WM, dual to max ‖Gv‖ over unit v ≥ 0, so the problem
    is convex in (Z, b) and has a symmetric optimum. For G = gP + hJ with 0 ≤ h ≤ g that maximum is
    √(((C−1) g² + h²)/C), since 1ᵀv ≥ 1; so the gauge of aP + cJ with 0 ≤ c ≤ a is √C R, and orthogonal M attain it.

    At C = 2 a free bias is not unique: W's rows are ±w, and moving b along (1, −1) trades ‖μ_1‖ against ‖μ_2‖.
    """
    C, s = model.num_classes, model.s
    decay = model.bias_decay or 0.0
    kappa = decay / (1 + decay)
    a, c = _stretched(s * math.sqrt(C), kappa, C)
    R = math.hypot(math.sqrt(C - 1) * a, c)
    loss = ((C - 1) * (1 - a) ** 2 + kappa * (1 - c) ** 2) / (2 * C) + s / math.sqrt(C) * R
    beta = (1 - c) / (1 + decay) / C
    own, off = symmetric_outputs(C, a, c, beta)
    unique = C > 2 or decay > 0 or a == 0
    notes = [] if a else [everything_collapses(f"s = {s:.4g} ≥ √(1 − (1 − κ²)/C) with κ = λ_b/(1 + λ_b) = {kappa:.4g}")]
    notes += [] if unique else [NOT_UNIQUE]
    return ClosedForm(
        case=f"square loss, {model.bias} bias, H ≥ 0",
        loss=loss,
        own_outputs=own,
        off_outputs=off,
        row_norms=(R * _balance(model) / math.sqrt(C),) * C,
        mean_norms=(R / _balance(model) / math.sqrt(C),) * C,
        row_cosine=(c * c - a * a) / R**2 if a else math.nan,
        nc3=_chord(math.sqrt(C - 1) * a, c) if a else math.nan,
        bias=beta if unique else None,
        reference="the convex form in (Z, b) with the gauge that M ≥ 0 gives, by symmetry",
        notes=tuple(notes),
    )


def _stretched(strength: float, kappa: float, num_classes: int) -> tuple[float, float]:
    """Solves t √((C−1) a² + c²) = `strength` for (a, c); the left side grows with t from 0 to √(C−1+κ²), then zeros."""

    def solution(t: float) -> tuple[float, float]:
        return 1 / (1 + t), kappa / (kappa + t) if kappa else 0.0

    if strength >= math.sqrt(num_classes - 1 + kappa**2):
        return 0.0, 0.0
    low, high = 0.0, 1.0  # of t/(1 + t)
    while low < (middle := (low + high) / 2) < high:
        t = middle / (1 - middle)
        a, c = solution(t)
        low, high = (low, middle) if t * math.hypot(math.sqrt(num_classes - 1) * a, c) > strength else (middle, high)
    return solution(low / (1 - low))


def _chord(along: float, across: float) -> float:
    """The distance of the unit vectors along (along, across) and (1, 0), to all digits where they nearly coincide."""
    return 2 * math.sin(math.atan2(across, along) / 2)


def _balance(model: UnconstrainedModel) -> float:
    """√(n λ_H/λ_W): ‖W‖ over ‖M‖ at every optimum with one layer."""
    return math.sqrt(model.counts[0] * model.feature_decay / model.weight_decay)
