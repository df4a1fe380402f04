"""Exact problems: features and a classifier built so that the metrics are known on paper, in float64.

`expected` holds what follows from the construction, written as the formula that the comment beside it derives or
cites; it holds nothing that was measured. Spreads are sets of equal and opposite deviations, so Σ_W is exact.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import cos, log, pi, sqrt

import torch
from hypothesis import strategies as st
from torch import Tensor

from neurocollapse.geometry import simplex_etf
from neurocollapse.statistics import Objective

#: 0 when all samples of a class coincide.
NC1 = ("nc1", "nc1_per_class", "nc1_trace_ratio", "nc1_cdnv", "nc1_vci")
#: 0 when the centred class means form a simplex ETF.
NC2 = ("nc2_norm_variance", "nc2_equinorm", "nc2_cosine", "nc2_cosine_max", "nc2_etf")
#: 0 when the rows of W form a simplex ETF.
NC2_WEIGHT = ("nc2_equinorm_weight", "nc2_cosine_weight", "nc2_etf_weight")
#: 1 when the leading singular directions of W span the centred class means, and hold all of W.
LEADING = ("weight_share_simplex", "weight_share_frame", "weight_alignment_simplex", "weight_alignment_frame")
SPREADS = ("sqi_gap_spread", "sqi_off_spread")


@dataclass(frozen=True)
class Problem:
    """Input of `measure`, and what it must say."""

    name: str
    features: Tensor
    labels: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None
    expected: dict[str, float | tuple[float, ...]] = field(default_factory=dict)
    objective: Objective | None = None
    #: samples of no class
    ood: Tensor | None = None
    #: the weight of a layer whose input the features are
    layer: Tensor | None = None

    @property
    def num_classes(self) -> int:
        return int(self.labels.max()) + 1

    def __str__(self) -> str:
        return self.name


def zeros(*keys: str) -> dict[str, float]:
    return dict.fromkeys(keys, 0.0)


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def rotation(size: int, seed: int = 0) -> Tensor:
    """An orthogonal matrix, so that nothing lies along the coordinate axes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator)).Q


def simplex_rows(num_classes: int, num_features: int) -> Tensor:
    """The simplex ETF in its own C−1 dimensions, then zeros: rows of unit norm, ⟨v_c, v_c'⟩ = −1/(C−1)."""
    eigenvectors = torch.linalg.eigh(simplex_etf(num_classes)).eigenvectors[:, 1:]  # the first belongs to 11ᵀ
    rows = torch.zeros(num_classes, num_features, dtype=torch.float64)
    rows[:, : num_classes - 1] = sqrt(num_classes / (num_classes - 1)) * eigenvectors
    return rows


def with_deviations(means: Tensor, deviations: Tensor | Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """μ_c + d and μ_c − d for every row d: exactly Σ_W of class c = mean of d dᵀ. One set of rows, or one per class."""
    sets = [deviations] * len(means) if isinstance(deviations, Tensor) else deviations
    features = torch.cat([torch.cat([mean + d, mean - d]) for mean, d in zip(means, sets, strict=True)])
    counts = tensor([2 * len(d) for d in sets]).long()
    return features, torch.arange(len(means)).repeat_interleave(counts)


def collapsed(means: Tensor, counts: int | Sequence[int]) -> tuple[Tensor, Tensor]:
    repeats = torch.tensor([counts] * len(means) if isinstance(counts, int) else counts)
    return means.repeat_interleave(repeats, dim=0), torch.arange(len(means)).repeat_interleave(repeats)


def square_loss(num_classes: int, gap: float, off: float) -> float:
    """½ (ε² + (C−1) f²) with all gaps ε and all off-class outputs f."""
    return (gap**2 + (num_classes - 1) * off**2) / 2


def decided(num_classes: int, gap: float, off: float) -> dict[str, float]:
    """What the outputs give when every sample of every class has the gap `gap` and off-class outputs `off`."""
    return zeros("nc4", *SPREADS) | {
        "sqi_gap": gap,
        "sqi_off": (num_classes - 1) * off,
        "sqi_sum": 1 - gap + (num_classes - 1) * off,
        "accuracy": 1.0,
        "margin_min": 1 - gap - off,
        "margin_mean": 1 - gap - off,
        "loss_data": square_loss(num_classes, gap, off),
    }


def orthogonality_gap(num_classes: int) -> float:
    """√(2 − 2√(1 − 1/C)): the distance between a normalised frame and the same less its mean."""
    return sqrt(2 - 2 * sqrt(1 - 1 / num_classes))


def dual_simplex(num_classes: int, num_features: int, alpha: float = 0.7, counts: int | Sequence[int] = 3) -> Problem:
    """Means and W one simplex ETF around zero, no bias. W μ_c = α K*, so f = α on the own class, −α/(C−1) off it."""
    C = num_classes
    means = 3.0 * simplex_rows(C, num_features) @ rotation(num_features)
    features, labels = collapsed(means, counts)
    expected = zeros(*NC1, *NC2, *NC2_WEIGHT, "nc0", "nc3", "nc3_centered", "nc3_uncentered", "nc3_duality")
    expected |= decided(C, 1 - alpha, -alpha / (C - 1))
    expected["loss_data"] = ((1 - alpha) ** 2 + alpha**2 / (C - 1)) / 2  # L(α) of Lemma 2.1
    expected |= {"nearest_mean_error": 0.0, "weight_stable_rank": C - 1.0} | dict.fromkeys(LEADING, 1.0)
    expected |= {
        "nc2_uniformity": -log(2 * C / (C - 1)) / 2,
        "nc2_uniformity_spread": 0.0,
    }  # ‖u_c − u_c'‖² = 2 + 2/(C−1)
    return Problem(f"dual simplex, C = {C}, p = {num_features}", features, labels, alpha / 9 * means, expected=expected)


def shifted_simplex(num_classes: int, num_features: int) -> Problem:
    """The same with a common offset μ_G, which a bias takes back: all but `nc3_uncentered` stays.

    ‖M‖² = ‖Ṁ‖² + C‖μ_G‖² and ⟨W, M⟩ = ⟨W, Ṁ⟩, so the cosine of W and M is √(‖Ṁ‖²/‖M‖²) = √(9/(9 + ‖μ_G‖²)).
    """
    base = dual_simplex(num_classes, num_features)
    offset = torch.linspace(-2, 5, num_features, dtype=torch.float64)
    overlap = sqrt(9 / (9 + offset.square().sum().item()))
    expected = base.expected | {"nc3_uncentered": sqrt(2 - 2 * overlap)}
    name = f"shifted simplex, C = {num_classes}, p = {num_features}"
    return Problem(name, base.features + offset, base.labels, base.weight, -base.weight @ offset, expected)


def quasi_interpolating(num_classes: int, num_features: int, gap: float = 0.05, zero_mean: bool = False) -> Problem:
    """Assumption 1 exactly, with a free bias: f = 1 − ε on the own class and ε/(C−1) elsewhere, whatever μ_G is.

    W = w Ṁ/m with ⟨W^c, μ_G⟩ + b_c = 1/C gives f = w m K*K*ᵀ + 1/C: own output w m + 1/C, so w m = 1 − ε − 1/C.
    The spread v lies orthogonal to W's rows, so neither SQI nor `nc1` sees it: v = ½·0.4² per sample against
    Tr Σ_B = m² and ‖μ_c − μ_c'‖² = 2m²C/(C−1). With `zero_mean`, μ_G = 0, nothing spreads and all collapses.
    """
    C, m = num_classes, 2.0
    basis = rotation(num_features, seed=1)
    frame = simplex_rows(C, num_features) @ basis
    offset = torch.zeros(num_features, dtype=torch.float64) if zero_mean else 3.0 * basis.sum(dim=0)
    weight = (1 - gap - 1 / C) / m * frame
    bias = 1 / C - weight @ offset
    expected = decided(C, gap, gap / (C - 1)) | zeros(*NC2, *NC2_WEIGHT, "nc0", "nc3", "nc3_centered", "nc3_duality")
    if zero_mean:
        features, labels = collapsed(m * frame, 3)
        expected |= zeros(*NC1, "nc3_uncentered")
    else:
        features, labels = with_deviations(m * frame + offset, 0.4 * basis[[-1, -2]] * tensor([[1.0], [0.0]]))
        variance = 0.4**2 / 2
        expected |= zeros("nc1", "nc1_per_class", "nc1_vci") | {
            "nc1_trace_ratio": variance / m**2,
            "nc1_cdnv": variance / (2 * m**2 * C / (C - 1)),
            "nc3_uncentered": sqrt(2 - 2 * sqrt(m**2 / (m**2 + 9 * num_features))),
        }
    name = f"quasi-interpolation, C = {C}, {'μ_G = 0' if zero_mean else 'any μ_G'}"
    return Problem(name, features, labels, weight, bias, expected)


@dataclass(frozen=True)
class Decay:
    """The decays of an unconstrained features model, with the products that its optima are made of."""

    num_classes: int
    per_class: int
    weight: float = 5e-3
    features: float = 2e-3

    @property
    def s(self) -> float:
        return self.num_classes * sqrt(self.per_class * self.weight * self.features)

    @property
    def balance(self) -> float:
        """√(nλ_H/λ_W): ‖W‖ over ‖M‖ at every optimum."""
        return sqrt(self.per_class * self.features / self.weight)

    def objective(self, weight: Tensor, features: Tensor) -> Objective:
        """(λ_W/2)‖W‖² + (λ_H/2)‖H‖² as Eq. 1 with λ = λ_W has it, for two layers W and √(λ_H/λ_W) H."""
        norms = weight.square().sum().item(), self.features / self.weight * features.square().sum().item()
        return Objective(self.weight, norms)


def optimum(loss: float, row_norm: float, num_classes: int) -> dict[str, float | tuple[float, ...]]:
    """The loss, and what both layers' ‖·‖² are, C‖W^c‖²: at a minimum they are equal."""
    return {"loss": loss, "weight_norms": (num_classes * row_norm, num_classes * row_norm)}


def orthogonal_frame(decay: Decay) -> Problem:
    """Optimum without a bias: W M = x I with x = 1 − s, ‖W^c‖² = x√(nλ_H/λ_W).

    The own output is 1 − s and the others are 0. W has a mean row, Ṁ = M − μ_G has none.
    """
    C, x = decay.num_classes, 1 - decay.s
    Q = rotation(C + 2, seed=2)[:C]
    means, weight = sqrt(x / decay.balance) * Q, sqrt(x * decay.balance) * Q
    features, labels = collapsed(means, decay.per_class)
    orthogonal = orthogonality_gap(C)
    expected = zeros(*NC1, *NC2, "nc2_equinorm_weight", "nc3_centered", "nc3_uncentered", "nc3_duality")
    expected |= decided(C, decay.s, 0.0) | {"nc3": orthogonal, "nc2_etf_weight": orthogonal}
    expected |= {"nc0": 1 / sqrt(C), "nc2_cosine_weight": 1 / (C - 1)}
    expected |= {"weight_stable_rank": float(C)} | dict.fromkeys(LEADING, 1.0)  # C equal singular values
    expected |= optimum(decay.s * (1 - decay.s / 2), x * decay.balance, C)
    objective = decay.objective(weight, features)
    return Problem(f"orthogonal frame, C = {C}", features, labels, weight, None, expected, objective)


def free_bias(decay: Decay) -> Problem:
    """Optimum with a bias that is not decayed: b = 1/C, μ_G = 0, W M = (1 − s)(I − 11ᵀ/C).

    f = (1 − s) + s/C on the own class and s/C off it: Assumption 1 with ε = s(C−1)/C.
    """
    C, x = decay.num_classes, 1 - decay.s
    frame = simplex_etf(C) * sqrt((C - 1) / C)  # I − 11ᵀ/C
    means, weight = sqrt(x / decay.balance) * frame, sqrt(x * decay.balance) * frame
    features, labels = collapsed(means, decay.per_class)
    gap = decay.s * (C - 1) / C
    expected = zeros(*NC1, *NC2, *NC2_WEIGHT, "nc0", "nc3", "nc3_centered", "nc3_uncentered", "nc3_duality")
    expected |= decided(C, gap, gap / (C - 1))
    expected |= optimum(decay.s * (1 - decay.s / 2) * (C - 1) / C, (1 - 1 / C) * x * decay.balance, C)
    bias, objective = torch.full((C,), 1 / C, dtype=torch.float64), decay.objective(weight, features)
    return Problem(f"free bias, C = {C}", features, labels, weight, bias, expected, objective)


def relu_features(decay: Decay) -> Problem:
    """Optimum with H ≥ 0 and a bias that is not decayed: M orthogonal, W ∝ I − 11ᵀ/C in that frame, b = 1/C.

    With s' = s√(C/(C−1)) and x = 1 − s', W M = x(I − 11ᵀ/C), so f = x + (1 − x)/C on the own class: ε = s'(C−1)/C
    = √(C(C−1)nλ_Wλ_H). ‖W^c‖² = x√((C−1)/C)√(nλ_H/λ_W). The features have a mean, W has none.
    """
    C = decay.num_classes
    stretched = decay.s * sqrt(C / (C - 1))
    x = 1 - stretched
    weight_scale = sqrt(x * decay.balance * sqrt(C / (C - 1)))
    means = x / weight_scale * torch.eye(C, dtype=torch.float64)
    weight = weight_scale * (torch.eye(C, dtype=torch.float64) - 1 / C)
    features, labels = collapsed(means, decay.per_class)
    gap = sqrt(C * (C - 1) * decay.per_class * decay.weight * decay.features)
    expected = zeros(*NC1, *NC2, *NC2_WEIGHT, "nc0", "nc3", "nc3_centered", "nc3_duality")
    expected |= decided(C, gap, gap / (C - 1)) | {"nc3_uncentered": orthogonality_gap(C)}
    loss = (C - 1) / C * stretched * (1 - stretched / 2)
    expected |= optimum(loss, x * sqrt((C - 1) / C) * decay.balance, C)
    bias, objective = torch.full((C,), 1 / C, dtype=torch.float64), decay.objective(weight, features)
    return Problem(f"ReLU features, C = {C}", features, labels, weight, bias, expected, objective)


def slanted_layer(num_classes: int) -> Problem:
    """A layer whose C − 1 leading directions are at known angles from those of the means, and two more directions.

    With e_1, … a basis whose first C − 1 vectors span the means, σ_j = C + 1 − j belongs to cos θ_j e_j + sin θ_j
    e_{C−1+j}, σ = ½ to −sin θ_1 e_1 + cos θ_1 e_C, so that the C leading ones hold all of e_1, and σ = ¼ to a last one.
    """
    C, p = num_classes, 2 * num_classes
    basis, angles = rotation(p, seed=4), tensor([0.3 + 0.9 * j / C for j in range(C - 1)])
    directions = torch.zeros(C + 1, p, dtype=torch.float64)
    for j, angle in enumerate(angles):
        directions[j, j], directions[j, C - 1 + j] = angle.cos(), angle.sin()
    directions[C - 1, 0], directions[C - 1, C - 1], directions[C, p - 1] = -angles[0].sin(), angles[0].cos(), 1.0
    sizes = tensor([float(C - j) for j in range(C - 1)] + [0.5, 0.25])
    features, labels = collapsed(2.0 * simplex_rows(C, p) @ basis + 1.0, 3)
    squares, cosines = sizes.square(), angles.cos().square()
    expected = {
        "weight_stable_rank": squares.sum().item() / C**2,
        "weight_share_simplex": 1 - squares[-2:].sum().item() / squares.sum().item(),
        "weight_share_frame": 1 - squares[-1].item() / squares.sum().item(),
        "weight_alignment_simplex": cosines.mean().item(),
        "weight_alignment_frame": (1 + cosines[1:].sum().item()) / (C - 1),
        "nearest_mean_error": 0.0,
    }
    layer = rotation(p, seed=5)[:, : C + 1] @ (sizes[:, None] * directions) @ basis
    return Problem(f"slanted layer, C = {C}", features, labels, expected=expected, layer=layer)


def others_aslant(num_classes: int, height: float) -> Problem:
    """Means on the axes; samples of no class around (1, …, 1, height): cos = 1/√(C + height²) with every mean."""
    C = num_classes
    features, labels = collapsed(5.0 * torch.eye(C, C + 1, dtype=torch.float64), 2)
    others = torch.cat([torch.ones(C), torch.tensor([height])]).double()
    deviations = 0.7 * rotation(C + 1)[:3]
    ood = torch.cat([others + deviations, others - deviations])
    expected = {"nc5": 1 / sqrt(C + height**2)}
    return Problem(f"others aslant, C = {C}, height {height}", features, labels, expected=expected, ood=ood)


def known_spread(num_classes: int, variances: Sequence[float]) -> Problem:
    """A simplex ETF of norm m = 2 with Σ_W diagonal in a basis whose first C−1 vectors span the means.

    There Σ_B = m²/(C−1) on the span, so every direction adds t_j = v_j (C−1)/m² to `nc1` and t_j/(1 + t_j), averaged,
    to `nc1_vci`; ‖μ_c − μ_c'‖² = 2m²C/(C−1).
    """
    C, p, m = num_classes, len(variances), 2.0
    basis = rotation(p, seed=3)
    means = m * simplex_rows(C, p) @ basis
    # p pairs ±d_j per class: Σ_W = (1/p) Σ_j d_j d_jᵀ
    features, labels = with_deviations(means + 5.0, (p * tensor(variances)).sqrt()[:, None] * basis)
    t = [v * (C - 1) / m**2 for v in variances[: C - 1]]
    total = sum(variances)
    expected = zeros(*NC2) | {
        "nc1": sum(t),
        "nc1_per_class": sum(t) / C,
        "nc1_trace_ratio": total / m**2,
        "nc1_cdnv": total * (C - 1) / (2 * m**2 * C),
        "nc1_vci": sum(x / (1 + x) for x in t) / (C - 1),
    }
    return Problem(f"known spread, C = {C}, p = {p}", features, labels, expected=expected)


def oblique_spread(num_classes: int) -> Problem:
    """Spread a along one direction at 30° from the span: `nc1` sees a² cos² 30°, and `nc1_vci` nothing.

    Within a class the part on the span is a multiple of the part off it, so R = 0 in `nc1_vci`: the samples of a
    class lie on a line that leaves the span, and Σ_T⁺ tells it from Σ_B.
    """
    C, p, m, a = num_classes, num_classes + 1, 2.0, 0.8
    basis = rotation(p, seed=4)
    direction = sqrt(3) / 2 * basis[0] + 1 / 2 * basis[-1]
    features, labels = with_deviations(m * simplex_rows(C, p) @ basis, a * direction[None])
    expected = zeros("nc1_vci") | {"nc1": a**2 * 3 / 4 * (C - 1) / m**2, "nc1_trace_ratio": a**2 / m**2}
    return Problem(f"oblique spread, C = {C}", features, labels, expected=expected)


def unequal_classes() -> Problem:
    """Class c has 2(c+1) samples at distance a_c from its mean, along an axis of the span. Every class mean weighs 1/C.

    N = 2 + 4 + 6 and Tr Σ_W = Σ n_c a_c²/N; all deviations lie in the span, where Σ_B = m²/(C−1).
    """
    C, m, a = 3, 2.0, [0.1, 0.5, 1.0]
    basis = rotation(4, seed=5)
    deviations = [size * basis[:1].repeat(c + 1, 1) for c, size in enumerate(a)]
    features, labels = with_deviations(m * simplex_rows(C, 4) @ basis, deviations)
    trace = sum(2 * (c + 1) * size**2 for c, size in enumerate(a)) / 12
    pairs = [(v**2 + w**2) / 2 for v, w in combinations(a, 2)]
    expected = zeros(*NC2) | {
        "nc1": trace * (C - 1) / m**2,
        "nc1_per_class": trace * (C - 1) / m**2 / C,
        "nc1_trace_ratio": trace / m**2,
        "nc1_cdnv": sum(pairs) / 3 * (C - 1) / (2 * m**2 * C),
    }
    return Problem("unequal classes", features, labels, expected=expected)


def polygon(num_classes: int) -> Problem:
    """Means on a regular C-gon, and W too: p = 2 < C − 1, where no simplex ETF exists.

    G has the eigenvalue C r²/2 twice, so its cosine with I − 11ᵀ/C is √(p/(C−1)), the largest that rank p allows.
    """
    C = num_classes
    angles = [2 * pi * c / C for c in range(C)]
    means = tensor([[cos(a), cos(a - pi / 2)] for a in angles])
    features, labels = collapsed(2.0 * means + 1.0, 2)
    bound = sqrt(2 - 2 * sqrt(2 / (C - 1)))
    shifted = [abs(cos(2 * pi * k / C) + 1 / (C - 1)) for k in range(1, C)]
    expected = zeros(*NC1, "nc2_norm_variance", "nc2_equinorm", "nc2_equinorm_weight", "nc3", "nc3_centered", "nc4") | {
        "nc2_cosine": sum(shifted) / (C - 1),
        "nc2_cosine_max": max(shifted),
        "nc2_cosine_weight": sum(shifted) / (C - 1),
        "nc2_etf": bound,
        "nc2_etf_weight": bound,
        "nc3_duality": bound,
    }
    weight = 3.0 * means
    return Problem(f"{C}-gon in the plane", features, labels, weight, -weight.sum(dim=1), expected=expected)


def two_classes() -> Problem:
    """C = 2: centred means are opposite whatever the features, so all `nc2_*` of the means are zero."""
    means = tensor([[0.3, -7.0, 2.0], [1.1, 0.4, -0.9]])
    deviations = [tensor([[0.2, 0.1, -0.3]]), tensor([[5.0, 0.0, 1.0], [0.0, 2.0, 0.0]])]
    features, labels = with_deviations(means, deviations)
    variances = [0.04 + 0.01 + 0.09, (25 + 1 + 4) / 2]
    squared_distance = 0.8**2 + 7.4**2 + 2.9**2
    expected = zeros(*NC2) | {
        "nc1_cdnv": sum(variances) / (2 * squared_distance),
        "nc1_trace_ratio": (2 * variances[0] + 4 * variances[1]) / 6 / (squared_distance / 4),
    }
    return Problem("two classes, anything", features, labels, expected=expected)


def unequal_means() -> Problem:
    """Means (1, 0), (−1, 0), (0, 0) and rows (2, 0), (0, 1), (0, 0): as far from a simplex as three classes can be.

    μ_G = 0; a zero mean and a zero row have no cosines.
    """
    means = tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    features, labels = collapsed(means, 4)
    nan = float("nan")
    expected = zeros(*NC1) | {
        "nc2_norm_variance": 2 / 9,
        "nc2_equinorm": sqrt(2 / 9) / (2 / 3),
        "nc2_equinorm_weight": sqrt(2 / 3),  # norms 2, 1, 0
        "nc2_cosine": nan,
        "nc2_cosine_max": nan,
        "nc2_cosine_weight": nan,
        # G = (e₁ − e₂)(e₁ − e₂)ᵀ, of norm 2: its cosine with I − 11ᵀ/C is 2/(2√2)
        "nc2_etf": sqrt(2 - 2 / sqrt(2)),
        # G = diag(4, 1, 0): tr G − (sum of G)/C = 5·2/3
        "nc2_etf_weight": sqrt(2 - 2 * (5 * 2 / 3) / sqrt(17) / sqrt(2)),
        "nc0": 1 / sqrt(3),  # ‖(2, 1)‖ of √3·√5
        # ⟨W, Ṁ⟩ = 2 of √5·√2
        "nc3": sqrt(2 - 2 * 2 / sqrt(10)),
        "nc3_uncentered": sqrt(2 - 2 * 2 / sqrt(10)),
        # ‖W − W̄‖² = 5 − 3(4/9 + 1/9), and ⟨W − W̄, Ṁ⟩ = ⟨W, Ṁ⟩
        "nc3_centered": sqrt(2 - 2 * 2 / sqrt(10 / 3 * 2)),
        # WṀ = (2, −2, 0) in its first row: ⟨WṀ, I − 11ᵀ/C⟩ = 2
        "nc3_duality": sqrt(2 - 2 * 2 / sqrt(8) / sqrt(2)),
        # outputs (2, 0, 0), (−2, 0, 0), (0, 0, 0) with ties to the lowest: classes 0, 1, 0; nearest means 0, 1, 2
        "nc4": 1 / 3,
        "accuracy": 2 / 3,
        "sqi_gap": (-1 + 1 + 1) / 3,
        "sqi_gap_spread": sqrt(1 - 1 / 9),
        "sqi_off": 2 * -2 / 6,
        "sqi_off_spread": sqrt(4 / 6 - (2 / 6) ** 2),
        "sqi_sum": 0.0,
        "nearest_mean_error": 0.0,
        "margin_min": 0.0,
        "margin_mean": 2 / 3,
        "loss_data": (1 + (4 + 1) + 1) / 6,
    }
    weight = tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    return Problem("unequal means, a zero mean, a zero row", features, labels, weight, expected=expected)


PROBLEMS = [
    dual_simplex(4, 3),
    dual_simplex(4, 9),
    dual_simplex(10, 16, alpha=1.3),
    dual_simplex(3, 5, counts=[1, 4, 9]),
    dual_simplex(2, 1),
    dual_simplex(100, 120, counts=1),
    shifted_simplex(4, 7),
    shifted_simplex(10, 9),
    quasi_interpolating(4, 6),
    quasi_interpolating(10, 12, gap=0.3),
    quasi_interpolating(5, 5, zero_mean=True),
    orthogonal_frame(Decay(10, 3)),
    orthogonal_frame(Decay(4, 2, 1e-3, 3e-2)),
    orthogonal_frame(Decay(2, 5)),
    orthogonal_frame(Decay(100, 1, 1e-3, 1e-3)),
    free_bias(Decay(10, 3)),
    free_bias(Decay(3, 4)),
    free_bias(Decay(100, 1, 1e-3, 1e-3)),
    relu_features(Decay(10, 3)),
    relu_features(Decay(3, 4)),
    relu_features(Decay(100, 1, 1e-3, 1e-3)),
    known_spread(4, [0.3] * 6),
    known_spread(4, [0.1, 1.0, 20.0, 0.7, 1e-3]),
    known_spread(3, [0.5, 0.2]),
    known_spread(10, [0.05 * (j + 1) for j in range(12)]),
    oblique_spread(3),
    oblique_spread(6),
    unequal_classes(),
    polygon(5),
    polygon(8),
    two_classes(),
    unequal_means(),
    slanted_layer(3),
    slanted_layer(6),
    others_aslant(4, 2.0),
    others_aslant(9, -4.0),
]

#: The geometries that collapse can end in, by the name that the table of `test_metrics.py` uses.
GEOMETRIES: dict[str, Callable[[], Problem]] = {
    "simplex ETF, μ_G = 0": lambda: free_bias(Decay(10, 3)),
    "orthogonal frame, no bias": lambda: orthogonal_frame(Decay(10, 3)),
    "ReLU features, free bias": lambda: relu_features(Decay(10, 3)),
    "quasi-interpolation, any μ_G": lambda: quasi_interpolating(10, 12),
}


def random_problem(
    seed: int,
    counts: Sequence[int],
    num_features: int,
    *,
    spread: float = 1.0,
    offset: float = 0.0,
    scale: float = 1.0,
    has_bias: bool = True,
    lattice: bool = False,
) -> Problem:
    """Gaussian means, spread and W, samples in random order; on a `lattice` all are −1, 0 or 1, so much coincides."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        if lattice:
            return torch.randint(-1, 2, shape, generator=generator).double()
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    C, N = len(counts), sum(counts)
    labels = torch.arange(C).repeat_interleave(torch.tensor(counts))[torch.randperm(N, generator=generator)]
    features = scale * (draw(C, num_features)[labels] + spread * draw(N, num_features)) + offset
    weight, bias = draw(C, num_features), draw(C) if has_bias else None
    layer = draw(C + 2, num_features)
    return Problem(f"seed {seed}, counts {list(counts)}", features, labels, weight, bias, layer=layer)


@st.composite
def random_problems(draw: st.DrawFn, max_classes: int = 6, max_features: int = 6, **fixed: object) -> Problem:
    """Any number of classes and features (fewer than C − 1, more than N), any class sizes, with and without a bias."""
    counts = draw(st.lists(st.integers(1, 5), min_size=2, max_size=max_classes))
    choices = {
        "spread": draw(st.sampled_from([1.0, 0.1, 1e-4])),
        "offset": draw(st.sampled_from([0.0, 3.0, 1e4])),
        "scale": draw(st.sampled_from([1.0, 1e-5, 1e3])),
        "has_bias": draw(st.booleans()),
    }
    return random_problem(draw(st.integers(0, 2**32)), counts, draw(st.integers(1, max_features)), **choices | fixed)
