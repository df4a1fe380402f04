"""docs/conventions.md: each row's published number, written from its source, against our expression for it.

A row stands once in `ROWS` and once on the page. `ours` is the very expression that the page shows, evaluated on the
keys. `unlike` is what one would take the number for, and must come out different.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
import torch

from neurocollapse.metrics import Measurement
from neurocollapse.statistics import Classifier, ClassMeans, Objective, Projections

PAGE = (Path(__file__).parents[2] / "docs" / "conventions.md").read_text(encoding="utf-8")

#: What the page adds to an expression: how the data must be, or what `measure` must be given.
EQUAL_SIZES = "equal class sizes"
CENTERED_WEIGHT = "given W less its mean over classes"
UNIT_FEATURES = "given features of length 1"
NO_BIAS = "given no bias"


@dataclass(frozen=True)
class Data:
    """Features, labels and a classifier of float64; `decay` is the number that the source calls so."""

    H: np.ndarray
    y: np.ndarray
    W: np.ndarray
    b: np.ndarray
    ood: np.ndarray
    decay: float = 0.3

    @property
    def C(self) -> int:
        return len(self.W)

    @property
    def means(self) -> np.ndarray:
        return np.stack([self.H[self.y == c].mean(axis=0) for c in range(self.C)])

    @property
    def outputs(self) -> np.ndarray:
        return self.H @ self.W.T + self.b


def fixed_data(counts: tuple[int, ...], num_features: int = 12) -> Data:
    """Loose clusters off the origin and a classifier that is not theirs, so that no two conventions agree."""
    rng = np.random.default_rng(0)
    C = len(counts)
    y = np.repeat(np.arange(C), counts)
    centers = rng.normal(size=(C, num_features)) * np.linspace(0.7, 1.5, C)[:, None] + 0.4
    H = centers[y] + 0.6 * rng.normal(size=(len(y), num_features))
    return Data(
        H,
        y,
        0.2 * centers + 0.1 * rng.normal(size=centers.shape),
        rng.normal(size=C),
        rng.normal(size=(9, num_features)) + 0.3,
    )


UNEQUAL = fixed_data((5, 7, 6, 14, 10))
EQUAL = fixed_data((7, 7, 7, 7, 7))


# The ingredients, in NumPy and not from the package.


def mean_of_classes(d: Data) -> np.ndarray:
    return d.means.mean(axis=0)


def mean_of_samples(d: Data) -> np.ndarray:
    return d.H.mean(axis=0)


def around_classes(d: Data) -> np.ndarray:
    return d.means - mean_of_classes(d)


def around_samples(d: Data) -> np.ndarray:
    return d.means - mean_of_samples(d)


def within(d: Data) -> np.ndarray:
    Z = d.H - d.means[d.y]
    return Z.T @ Z / len(Z)


def between(d: Data, center: np.ndarray) -> np.ndarray:
    M = d.means - center
    return M.T @ M / d.C


def squared_distances(d: Data) -> np.ndarray:
    return ((d.means[:, None] - d.means) ** 2).sum(axis=2)


def variances(d: Data) -> np.ndarray:
    return np.array([((d.H[d.y == c] - d.means[c]) ** 2).sum(axis=1).mean() for c in range(d.C)])


def unit(A: np.ndarray) -> np.ndarray:
    """A over its Frobenius norm."""
    return A / np.linalg.norm(A)


def off_simplex(G: np.ndarray) -> float:
    C = len(G)
    return float(np.linalg.norm(unit(G) - (np.eye(C) - np.ones((C, C)) / C) / math.sqrt(C - 1)))


def nearest_mean(d: Data) -> np.ndarray:
    return np.linalg.norm(d.H[:, None] - d.means, axis=2).argmin(axis=1)


def squared_errors(d: Data) -> np.ndarray:
    return (d.outputs - np.eye(d.C)[d.y]) ** 2


# NC1


def trace_with_pinv(d: Data) -> float:
    return np.trace(within(d) @ np.linalg.pinv(between(d, mean_of_classes(d))))


def trace_with_leading_singular_values(d: Data) -> float:
    U, s, _ = np.linalg.svd(between(d, mean_of_classes(d)))
    U, s = U[:, : d.C - 1], s[: d.C - 1]
    return np.trace(within(d) @ U @ np.diag(1 / s) @ U.T)


def trace_per_class_around_samples(d: Data) -> float:
    return np.trace(within(d) @ np.linalg.pinv(between(d, mean_of_samples(d)))) / d.C


def trace_per_class(d: Data) -> float:
    return trace_with_pinv(d) / d.C


def scatter_over_features(d: Data) -> np.ndarray:
    M = around_classes(d)
    return M.T @ M / M.shape[1]


def trace_with_scatter_over_features(d: Data) -> float:
    return np.trace(within(d) @ np.linalg.pinv(scatter_over_features(d)))


def trace_ratio(d: Data) -> float:
    return np.trace(within(d)) / np.trace(between(d, mean_of_classes(d)))


def cdnv_from_second_moments(d: Data) -> float:
    second = np.array([(d.H[d.y == c] ** 2).sum(axis=1).mean() for c in range(d.C)])
    v = np.abs(second - (d.means**2).sum(axis=1))
    pairs = list(combinations(range(d.C), 2))
    return sum((v[i] + v[j]) / 2 / squared_distances(d)[i, j] for i, j in pairs) / len(pairs)


def cdnv_over_ordered_pairs(d: Data) -> float:
    v, distances = variances(d), squared_distances(d)
    return np.mean([v[i] / distances[i, j] for i, j in permutations(range(d.C), 2)])


def cdnv_grid(d: Data) -> float:
    v = variances(d)
    above = np.triu_indices(d.C, k=1)
    return (((v[:, None] + v) / 2)[above] / squared_distances(d)[above]).mean()


def vci(d: Data) -> float:
    Sigma_B = between(d, mean_of_samples(d))
    rank = min(len(Sigma_B), d.C - 1)
    return 1 - np.trace(np.linalg.pinv(Sigma_B + within(d)) @ Sigma_B) / rank


# NC2


def variance_of_norms(d: Data) -> float:
    return np.var(np.linalg.norm(around_classes(d), axis=1))


def sample_variation(vectors: np.ndarray) -> float:
    norms = np.linalg.norm(vectors, axis=1)
    return norms.std(ddof=1) / norms.mean()


def variation_of_means(d: Data) -> float:
    return sample_variation(around_classes(d))


def coherence(vectors: np.ndarray) -> float:
    C = len(vectors)
    V = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    G = V @ V.T + 1 / (C - 1)
    return np.abs(G - np.diag(np.diag(G))).sum() / (C * (C - 1))


def coherence_of_means(d: Data) -> float:
    return coherence(around_classes(d))


def gram_off_simplex(vectors: np.ndarray) -> float:
    return off_simplex(vectors @ vectors.T)


def gram_of_centered_weight(d: Data) -> float:
    return gram_off_simplex(d.W - d.W.mean(axis=0))


# NC3


def distance_to_means(d: Data) -> float:
    return np.linalg.norm(unit(d.W) - unit(around_classes(d)))


def distance_to_uncentered_means(d: Data) -> float:
    return np.linalg.norm(unit(d.W) - unit(d.means))


# NC4


def mismatch(d: Data) -> float:
    return 1 - np.mean(d.outputs.argmax(axis=1) == nearest_mean(d))


def agreement(d: Data) -> float:
    return np.mean(d.outputs.argmax(axis=1) == nearest_mean(d))


# Uniformity on the sphere, and NC5


def log_inverse_distances(d: Data, center: np.ndarray) -> np.ndarray:
    M = d.means - center
    U = M / np.linalg.norm(M, axis=1, keepdims=True)
    return np.array([-math.log(np.linalg.norm(U[i] - U[j])) for i, j in combinations(range(d.C), 2)])


def uniformity_variation(d: Data) -> float:
    values = log_inverse_distances(d, mean_of_samples(d))
    return values.std() / values.mean()


def cosines_with_the_others(d: Data) -> float:
    m = d.ood.mean(axis=0)
    return np.mean(np.abs(d.means @ m) / (np.linalg.norm(d.means, axis=1) * np.linalg.norm(m)))


# Layers


def leading_trace_of_mean_covariance(d: Data) -> float:
    counts = np.bincount(d.y)
    covariances = [np.cov(d.H[d.y == c].T, bias=True) * counts[c] / counts.sum() for c in range(d.C)]
    U, s, _ = np.linalg.svd(between(d, mean_of_samples(d)))
    inverse = s**-1
    inverse[d.C - 1 :] = 0
    return np.trace(np.mean(covariances, axis=0) @ U @ np.diag(inverse) @ U.T)


def ratio_of_traces(d: Data) -> float:
    return np.mean(variances(d)) / np.mean((around_samples(d) ** 2).sum(axis=1))


def cdnv_of_all_pairs(d: Data) -> float:
    v, distances = variances(d), squared_distances(d)
    cdnv = (v[:, None] + v) / np.maximum(2 * distances, 1e-15)
    np.fill_diagonal(cdnv, 0)
    return cdnv.sum() / (d.C**2 - d.C)


# Losses and weight decay, of a network that is this classifier alone


def squared_loss_per_sample(d: Data) -> float:
    return squared_errors(d).sum() / len(d.H)


def squared_loss_per_output(d: Data) -> float:
    return squared_errors(d).mean()


def penalty(d: Data) -> float:
    return (d.W**2).sum() + (d.b**2).sum()


def loss_per_sample_and_half_decay(d: Data) -> float:
    return squared_loss_per_sample(d) + d.decay / 2 * penalty(d)


def half_loss_and_whole_decay(d: Data) -> float:
    return squared_loss_per_sample(d) / 2 + d.decay * penalty(d)


def half_loss_and_decay_over_classes(d: Data) -> float:
    residual = d.H @ d.W.T - np.eye(d.C)[d.y]
    return (residual**2).sum() / (2 * len(d.H)) + d.decay / (2 * d.C) * (d.W**2).sum()


@dataclass(frozen=True)
class Row:
    """One row of the page."""

    source: str
    theirs: Callable[[Data], float]
    ours: str
    unlike: str
    when: tuple[str, ...] = ()

    @property
    def cell(self) -> str:
        """The page's last column."""
        return ", ".join([f"`{self.ours}`", *self.when])


RANGAMANI = "Rangamani and Banburski-Fahey (2022), Section 3"
INTERMEDIATE = "Rangamani et al. (2023)"
NOTEBOOK = "Papyan, Han and Donoho, notebook"
PACKAGE = "Wu, `neural-collapse`"
LINGUISTIC = "Wu and Papyan, `linguistic-collapse`"

ROWS = [
    Row(f"{RANGAMANI}, NC1", trace_with_pinv, "nc1", "nc1_per_class"),
    Row(f"{NOTEBOOK}: `Sw_invSb`", trace_with_leading_singular_values, "nc1", "nc1_per_class"),
    Row("Zhu et al. (2021), Zhou et al. (2022), Dang et al. (2023), Markou et al. (2024): `collapse_metric`",
        trace_per_class_around_samples, "nc1_per_class", "nc1", (EQUAL_SIZES,)),
    Row("Jiang et al. (2024): `NC1`",
        lambda d: trace_per_class_around_samples(replace(d, H=d.H / np.linalg.norm(d.H, axis=1, keepdims=True))),
        "nc1_per_class", "nc1", (UNIT_FEATURES, EQUAL_SIZES)),
    Row("Kothapalli, Tirer and Bruna (2023): `compute_nc1`", trace_per_class, "nc1 / C", "nc1"),
    Row(f"{PACKAGE} at c05a0b80: `covariance_ratio`, pinv or svd", trace_per_class, "nc1_per_class", "nc1"),
    Row(f"{PACKAGE} at c3864c26: `covariance_pinv`", lambda d: trace_with_scatter_over_features(d) / d.C,
        "p / C**2 * nc1", "nc1_per_class"),
    Row(f"{PACKAGE} at c3864c26: `covariance_pinv`, svd", trace_with_scatter_over_features, "p / C * nc1", "nc1"),
    Row("Tirer, Huang and Niles-Weed (2023), Eq. 3; Kothapalli and Tirer: `trace_S_W_div_S_B`",
        lambda d: np.trace(within(d)) / np.trace(between(d, mean_of_samples(d))), "nc1_trace_ratio", "nc1_per_class",
        (EQUAL_SIZES,)),
    Row(f"{PACKAGE} at c05a0b80: `covariance_ratio`, quotient", trace_ratio, "nc1_trace_ratio", "nc1_per_class"),
    Row(f"{PACKAGE} at c3864c26: `covariance_ratio`",
        lambda d: np.trace(within(d)) / np.trace(scatter_over_features(d)), "p / C * nc1_trace_ratio",
        "nc1_trace_ratio"),
    Row("Galanti, code: `cdnv`", cdnv_from_second_moments, "nc1_cdnv", "2 * nc1_cdnv"),
    Row("Galanti, György and Hutter, one-sided form (explained by Galanti, 2026)", cdnv_over_ordered_pairs, "nc1_cdnv",
        "2 * nc1_cdnv"),
    Row(f"{PACKAGE}: `variability_cdnv`", cdnv_grid, "nc1_cdnv", "2 * nc1_cdnv"),
    Row("Xu and Liu (2023), as coded by Markou et al. (2024): `VCI`", vci, "nc1_vci", "1 - nc1_vci", (EQUAL_SIZES,)),
    Row(f"{RANGAMANI}, NC2, norms", variance_of_norms, "nc2_norm_variance", "nc2_equinorm**2"),
    Row(f"{NOTEBOOK}: `norm_M_CoV`", variation_of_means, "sqrt(C / (C - 1)) * nc2_equinorm", "nc2_equinorm"),
    Row(f"{NOTEBOOK}: `norm_W_CoV`; Markou et al. (2024): `W_equinorm`", lambda d: sample_variation(d.W),
        "sqrt(C / (C - 1)) * nc2_equinorm_weight", "nc2_equinorm_weight"),
    Row("Markou et al. (2024): `H_equinorm`", lambda d: sample_variation(around_samples(d)),
        "sqrt(C / (C - 1)) * nc2_equinorm", "nc2_equinorm", (EQUAL_SIZES,)),
    Row(f"{RANGAMANI}, NC2, cosines", coherence_of_means, "nc2_cosine", "nc2_cosine_max"),
    Row(f"{NOTEBOOK}: `cos_M`", coherence_of_means, "nc2_cosine", "(C - 1) / C * nc2_cosine"),
    Row(f"{NOTEBOOK}: `cos_W`", lambda d: coherence(d.W), "nc2_cosine_weight", "(C - 1) / C * nc2_cosine_weight"),
    Row("Zhu et al. (2021), Dang et al. (2023), Markou et al. (2024): `compute_ETF`", lambda d: gram_off_simplex(d.W),
        "nc2_etf_weight", "nc2_etf"),
    Row("Zhou et al. (2022): `compute_ETF`", gram_of_centered_weight, "nc2_etf_weight", "nc2_etf", (CENTERED_WEIGHT,)),
    Row("Dang et al. (2023): `compute_NC2_ETF_H`", lambda d: gram_off_simplex(around_samples(d)), "nc2_etf",
        "nc2_etf_weight", (EQUAL_SIZES,)),
    Row(f"{PACKAGE}: `simplex_etf_error`", lambda d: gram_off_simplex(around_classes(d)), "nc2_etf", "nc2_etf_weight"),
    Row("Zhao et al. (2026): NC0", lambda d: np.linalg.norm(d.W.sum(axis=0)),
        "sqrt(C * weight_norms[-1]) * nc0", "nc0"),
    Row(f"{RANGAMANI}, NC3", distance_to_means, "nc3", "nc3**2"),
    Row(f"{NOTEBOOK}: `W_M_dist`", lambda d: ((unit(d.W) - unit(around_classes(d))) ** 2).sum(), "nc3**2", "nc3"),
    Row(f"{LINGUISTIC} at fdf606fc: `diff_duality`", distance_to_means, "nc3", "nc3**2"),
    Row("Dang et al. (2023): `compute_NC3_W_sub_H_centered`; `nc-toolbox`: `nc3_self_duality`",
        lambda d: np.linalg.norm(unit(d.W) - unit(around_samples(d))), "nc3", "nc3_centered", (EQUAL_SIZES,)),
    Row("Dang et al. (2023): `compute_NC3_W_sub_H`", distance_to_uncentered_means, "nc3_uncentered", "nc3"),
    Row("Zhu et al. (2021), Dang et al. (2023), Markou et al. (2024): `WH_relation_metric`",
        lambda d: off_simplex(d.W @ (around_samples(d)).T), "nc3_duality", "nc3", (EQUAL_SIZES,)),
    Row("Zhou et al. (2022): `WH_relation_metric`",
        lambda d: off_simplex((d.W - d.W.mean(axis=0)) @ (around_samples(d)).T), "nc3_duality", "nc3_centered",
        (CENTERED_WEIGHT, EQUAL_SIZES)),
    Row(f"{PACKAGE}: `self_duality_error`", lambda d: off_simplex(d.W @ (around_classes(d)).T), "nc3_duality", "nc3"),
    Row(f"{PACKAGE}: `kernel_stats` of `log_kernel`, average",
        lambda d: log_inverse_distances(d, mean_of_classes(d)).mean(), "nc2_uniformity", "2 * nc2_uniformity"),
    Row(f"{PACKAGE}: `kernel_stats` of `log_kernel`, variance",
        lambda d: log_inverse_distances(d, mean_of_classes(d)).var(), "nc2_uniformity_spread**2",
        "nc2_uniformity_spread"),
    Row("`nc-toolbox`: `gnc2_hypershperical_uniformity`", uniformity_variation,
        "nc2_uniformity_spread / nc2_uniformity", "nc2_uniformity_spread", (EQUAL_SIZES,)),
    Row(f"{PACKAGE}: `orthogonality_deviation`", cosines_with_the_others, "nc5", "1 - nc5"),
    Row(f"{NOTEBOOK}: `NCC_mismatch`", mismatch, "nc4", "1 - nc4"),
    Row("`nc-toolbox`: `nc4_classifier_agreement`", agreement, "1 - nc4", "nc4"),
    Row(f"{PACKAGE}: `clf_ncc_agreement`; {LINGUISTIC} at 83f59b4a: `matches` / N",
        lambda d: np.mean((d.H @ d.W.T).argmax(axis=1) == nearest_mean(d)), "1 - nc4", "nc4", (NO_BIAS,)),
    Row(f"{INTERMEDIATE}: `NC1`", leading_trace_of_mean_covariance, "nc1_per_class", "nc1", (EQUAL_SIZES,)),
    Row(f"{INTERMEDIATE}: `CDNV`", cdnv_of_all_pairs, "nc1_cdnv", "2 * nc1_cdnv"),
    Row(f"{INTERMEDIATE}: `Traces`, within over between", ratio_of_traces, "nc1_trace_ratio", "nc1_per_class",
        (EQUAL_SIZES,)),
    Row(f"{INTERMEDIATE}: `NCC`", lambda d: np.mean(nearest_mean(d) == d.y), "1 - nearest_mean_error", "1 - nc4"),
    Row(f"{NOTEBOOK}: `loss` of MSELoss", squared_loss_per_sample, "2 * loss_data", "loss_data"),
    Row("PyTorch: `nn.MSELoss()`", squared_loss_per_output, "2 / C * loss_data", "2 * loss_data"),
    Row(f"{NOTEBOOK}: `reg_loss`", loss_per_sample_and_half_decay, "2 * loss", "loss", ("λ = w / 2",)),
    Row("PyTorch: `nn.MSELoss()` with `SGD(weight_decay=w)`",
        lambda d: squared_loss_per_output(d) + d.decay / 2 * penalty(d), "2 / C * loss", "loss", ("λ = C * w / 2",)),
    Row("Decay without the half", half_loss_and_whole_decay, "loss", "loss_data", ("λ = 2 * w",)),
    Row("Tirer and Bruna (2022), as quoted by Tirer et al. (2023), Eq. 1", half_loss_and_decay_over_classes, "loss",
        "loss_data", ("λ = w / C", NO_BIAS)),
]  # fmt: skip


def what_measure_is_given(data: Data, when: tuple[str, ...]) -> tuple[Data, float]:
    """The data as the conditions say, and Eq. 1's λ."""
    if CENTERED_WEIGHT in when:
        data = replace(data, W=data.W - data.W.mean(axis=0))
    if UNIT_FEATURES in when:
        data = replace(data, H=data.H / np.linalg.norm(data.H, axis=1, keepdims=True))
    if NO_BIAS in when:
        data = replace(data, b=np.zeros(data.C))
    units = [text.removeprefix("λ = ") for text in when if text.startswith("λ = ")]
    return data, eval(units[0], {"C": data.C, "w": data.decay}) if units else data.decay


def evaluate(expression: str, data: Data, when: tuple[str, ...]) -> float:
    given, weight_decay = what_measure_is_given(data, when)
    H, y, W, b, ood = map(torch.from_numpy, (given.H, given.y, given.W, given.b, given.ood))
    means = ClassMeans(given.C)
    means.update(H, y)
    projections = Projections(means, Classifier(W, b), nearest_means=True)
    projections.update(H, y)
    objective = Objective(weight_decay, (W.square().sum().item(),), b.square().sum().item())
    measured = Measurement(projections.statistics(objective, ood.mean(dim=0)))
    return eval(expression, {**measured, "C": given.C, "p": H.shape[1], "sqrt": math.sqrt})


def data_for(when: tuple[str, ...]) -> Data:
    return EQUAL if EQUAL_SIZES in when else UNEQUAL


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.source)
def test_ours_gives_theirs_and_the_look_alike_does_not(row):
    data = data_for(row.when)
    theirs = row.theirs(data)
    assert evaluate(row.ours, data, row.when) == pytest.approx(theirs, rel=1e-10, abs=0)
    assert evaluate(row.unlike, data, row.when) != pytest.approx(theirs, rel=1e-3, abs=0)


@pytest.mark.parametrize(
    ("row", "dropped"),
    [(row, condition) for row in ROWS for condition in row.when],
    ids=lambda value: value.source if isinstance(value, Row) else value,
)
def test_no_condition_is_idle(row, dropped):
    when = tuple(condition for condition in row.when if condition != dropped)
    data = data_for(when)
    assert evaluate(row.ours, data, when) != pytest.approx(row.theirs(data), rel=1e-3, abs=0)


def test_the_page_has_these_rows_and_no_others():
    lines = [line for line in PAGE.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rows = [cell for cell in cells if cell[0] != "source" and set(cell[0]) != {"-"}]
    assert all(len(row) == 3 and all(row) for row in rows)
    assert [(source, ours) for source, _, ours in rows] == [(row.source, row.cell) for row in ROWS]
    assert len({row.source for row in ROWS}) == len(ROWS)
