"""Every metric once more: slow, obvious, in 60 digits, written from the definitions and not from the package.

Nothing here subtracts a reference, projects, merges or drops a digit: sums run sample by sample in multiple precision
on the numbers as stored, covariances are p × p, and Σ⁺ is the pseudo-inverse spelled out. So what a twin says is
right for features with a common offset and at any depth of collapse, and only the package's number can be wrong.

Equation numbers are those of Rangamani and Banburski-Fahey (2022), "the paper".
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import mpmath
import numpy as np
import pytest
import torch

exact = mpmath.mp.clone()  # a context of our own: nobody else's precision changes
exact.dps = 60
mpf, sqrt = exact.mpf, exact.sqrt

#: What 60 digits leave of a number that is zero on paper, relative to what it was computed from, is below this.
NOTHING = mpf(10) ** -45


def numbers(values: object) -> np.ndarray:
    """An array of 60-digit numbers, each equal to the stored one."""
    if hasattr(values, "detach"):
        values = values.detach().double().numpy()
    array = np.asarray(values, dtype=np.float64)
    return np.array([mpf(float(x)) for x in array.flat], dtype=object).reshape(array.shape)


def dot(u: np.ndarray, v: np.ndarray) -> mpf:
    return sum((a * b for a, b in zip(u, v, strict=True)), mpf(0))


def norm(v: np.ndarray) -> mpf:
    """Euclidean norm of a vector, Frobenius norm of a matrix."""
    return sqrt(dot(v.flat, v.flat))


def trace(A: np.ndarray) -> mpf:
    return sum(A.diagonal(), mpf(0))


def pinv(A: np.ndarray) -> tuple[np.ndarray, int]:
    """Moore-Penrose pseudo-inverse of a positive semi-definite matrix, and its rank."""
    eigenvalues, Q = exact.eigsy(exact.matrix(A.tolist()))
    inverse, rank = np.full(A.shape, mpf(0), dtype=object), 0
    for k, eigenvalue in enumerate(eigenvalues):
        if eigenvalue > NOTHING * max(map(abs, eigenvalues)):
            q = np.array(list(Q[:, k]), dtype=object)
            inverse, rank = inverse + np.outer(q, q) / eigenvalue, rank + 1
    return inverse, rank


def largest(scores: list[mpf]) -> int:
    """argmax; a tie goes to the lowest class."""
    top, size = max(scores), max(map(abs, scores))
    return next(c for c, score in enumerate(scores) if score >= top - NOTHING * size)


@dataclass(frozen=True)
class Data:
    """Features, labels, the last layer, and for Eq. 1 the decay and all the layers."""

    features: np.ndarray
    labels: list[int]
    num_classes: int
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    weight_decay: mpf | None = None
    layers: tuple[np.ndarray, ...] = ()
    ood: np.ndarray | None = None
    #: the weight of a layer whose input the features are
    layer: np.ndarray | None = None

    @property
    def classes(self) -> range:
        return range(self.num_classes)

    def samples(self) -> Iterator[tuple[np.ndarray, int]]:
        yield from zip(self.features, self.labels, strict=True)

    @cached_property
    def mu(self) -> np.ndarray:
        """μ_c, Section 2.2."""
        means = []
        for c in self.classes:
            own = [h for h, y in self.samples() if y == c]
            means.append(sum(own) / len(own))
        return np.array(means, dtype=object)

    @cached_property
    def mu_dot(self) -> np.ndarray:
        """μ_c − μ_G, where every class weighs the same. What rounding leaves of a zero is a zero."""
        mu_G = sum(self.mu) / self.num_classes
        size = max(map(abs, self.features.flat))
        return np.array([[x if abs(x) > NOTHING * size else mpf(0) for x in m - mu_G] for m in self.mu], dtype=object)

    @cached_property
    def Sigma_W(self) -> np.ndarray:
        """(1/N) Σ_i (h_i − μ_c(i)) (h_i − μ_c(i))ᵀ."""
        return sum(np.outer(h - self.mu[y], h - self.mu[y]) for h, y in self.samples()) / len(self.labels)

    @cached_property
    def Sigma_B(self) -> np.ndarray:
        """(1/C) Σ_c (μ_c − μ_G) (μ_c − μ_G)ᵀ."""
        return sum(np.outer(m, m) for m in self.mu_dot) / self.num_classes

    @cached_property
    def Sigma_B_inverse(self) -> tuple[np.ndarray, int]:
        """Σ_B⁺, and the rank of Σ_B."""
        return pinv(self.Sigma_B)

    @cached_property
    def outputs(self) -> list[list[mpf]]:
        """f_i = W h_i + b."""
        b = [mpf(0)] * self.num_classes if self.bias is None else self.bias
        return [[dot(self.weight[c], h) + b[c] for c in self.classes] for h in self.features]

    def gaps(self) -> list[mpf]:
        """ε_i = 1 − f_i^(c(i)), Assumption 1."""
        return [1 - f[y] for f, y in zip(self.outputs, self.labels, strict=True)]

    def off_class(self) -> list[mpf]:
        """f_i^(c') for every c' other than c(i)."""
        return [f[c] for f, y in zip(self.outputs, self.labels, strict=True) for c in self.classes if c != y]

    def margins(self) -> list[mpf]:
        """f_i^(c(i)) − max_{c' ≠ c(i)} f_i^(c')."""
        return [
            f[y] - max(f[c] for c in self.classes if c != y) for f, y in zip(self.outputs, self.labels, strict=True)
        ]


def mean(values: list[mpf]) -> mpf:
    return sum(values, mpf(0)) / len(values)


def variance(values: list[mpf]) -> mpf:
    center = mean(values)
    return mean([(value - center) ** 2 for value in values])


def cosine(u: np.ndarray, v: np.ndarray) -> mpf:
    """nan where one of the two is zero."""
    lengths = norm(u) * norm(v)
    return dot(u, v) / lengths if lengths else exact.nan


def shifted_cosines(vectors: np.ndarray) -> list[mpf]:
    C = len(vectors)
    return [abs(cosine(vectors[c], vectors[d]) + mpf(1) / (C - 1)) for c, d in combinations(range(C), 2)]


def distance(A: np.ndarray, B: np.ndarray) -> mpf:
    """‖A/‖A‖_F − B/‖B‖_F‖_F; nan where one of the two is zero."""
    return norm(A / norm(A) - B / norm(B)) if norm(A) and norm(B) else exact.nan


def distance_from_simplex(G: np.ndarray) -> mpf:
    """‖G/‖G‖_F − (I − 11ᵀ/C)/√(C−1)‖_F."""
    C = len(G)
    K = np.array([[((c == d) - mpf(1) / C) / sqrt(mpf(C - 1)) for d in range(C)] for c in range(C)], dtype=object)
    return norm(G / norm(G) - K) if norm(G) else exact.nan


def gram(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    return np.array([[dot(a, b) for b in B] for a in A], dtype=object)


def ratio(a: mpf, b: mpf) -> mpf:
    return a / b if b else exact.inf if a else exact.nan


TWINS: dict[str, Callable[[Data], object]] = {}


def twin(function: Callable[[Data], object]) -> Callable[[Data], object]:
    TWINS[function.__name__] = function
    return function


@twin
def nc1(data):
    """Tr(Σ_W Σ_B⁺), Section 3: NC1 of the paper."""
    inverse, rank = data.Sigma_B_inverse
    return trace(data.Sigma_W @ inverse) if rank else ratio(trace(data.Sigma_W), mpf(0))


@twin
def nc1_per_class(data):
    """Tr(Σ_W Σ_B⁺)/C, Papyan, Han and Donoho (2020), Fig. 6."""
    return nc1(data) / data.num_classes


@twin
def nc1_trace_ratio(data):
    """Tr Σ_W / Tr Σ_B, Tirer, Huang and Niles-Weed (2023), Eq. 3."""
    return ratio(trace(data.Sigma_W), trace(data.Sigma_B))


def variances(data: Data) -> list[mpf]:
    """v_c, the mean squared distance of the samples of a class from their mean."""
    return [mean([norm(h - data.mu[c]) ** 2 for h, y in data.samples() if y == c]) for c in data.classes]


def pairs_of_points(data: Data) -> list[tuple[int, int]]:
    """The pairs of classes but those that are one point: with one mean, and neither with spread."""
    v = variances(data)
    pairs = combinations(data.classes, 2)
    return [(c, d) for c, d in pairs if v[c] + v[d] > NOTHING or norm(data.mu_dot[c] - data.mu_dot[d]) > NOTHING]


@twin
def nc1_cdnv(data):
    """Mean over pairs of (v_c + v_c') / (2 ‖μ_c − μ_c'‖²), Galanti, György and Hutter (2022), Section 4."""
    v, pairs = variances(data), pairs_of_points(data)
    ratios = [ratio(v[c] + v[d], 2 * norm(data.mu_dot[c] - data.mu_dot[d]) ** 2) for c, d in pairs]
    return mean(ratios) if ratios else exact.nan


@twin
def nc1_vci(data):
    """1 − Tr(Σ_T⁺ Σ_B)/rank Σ_B with Σ_T = Σ_W + Σ_B, Xu and Liu (2023)."""
    rank = data.Sigma_B_inverse[1]
    return 1 - trace(pinv(data.Sigma_W + data.Sigma_B)[0] @ data.Sigma_B) / rank if rank else exact.nan


@twin
def nc2_norm_variance(data):
    """Var_c ‖μ_c − μ_G‖, Section 3: equinorm in NC2 of the paper."""
    return variance([norm(m) for m in data.mu_dot])


@twin
def nc2_equinorm(data):
    """Std_c ‖μ_c − μ_G‖ / Avg_c ‖μ_c − μ_G‖, Papyan, Han and Donoho (2020), Fig. 2."""
    norms = [norm(m) for m in data.mu_dot]
    return ratio(sqrt(variance(norms)), mean(norms))


@twin
def nc2_equinorm_weight(data):
    """Std_c ‖W^c‖ / Avg_c ‖W^c‖, Papyan, Han and Donoho (2020), Fig. 2."""
    norms = [norm(w) for w in data.weight]
    return ratio(sqrt(variance(norms)), mean(norms))


@twin
def nc2_cosine(data):
    """Avg |cos(μ_c − μ_G, μ_c' − μ_G) + 1/(C−1)| over c ≠ c', Section 3: equiangularity in NC2 of the paper."""
    return mean(shifted_cosines(data.mu_dot))


@twin
def nc2_cosine_max(data):
    """The largest of those."""
    values = shifted_cosines(data.mu_dot)
    return exact.nan if any(map(exact.isnan, values)) else max(values)


@twin
def nc2_cosine_weight(data):
    """Avg |cos(W^c, W^c') + 1/(C−1)|, Papyan, Han and Donoho (2020), Fig. 4."""
    return mean(shifted_cosines(data.weight))


@twin
def nc2_etf(data):
    """‖G/‖G‖_F − (I − 11ᵀ/C)/√(C−1)‖_F, G_cc' = ⟨μ_c − μ_G, μ_c' − μ_G⟩; after Zhu et al. (2021), Eq. 11."""
    return distance_from_simplex(gram(data.mu_dot, data.mu_dot))


@twin
def nc2_etf_weight(data):
    """The same with G_cc' = ⟨W^c, W^c'⟩, Zhu et al. (2021), Eq. 11."""
    return distance_from_simplex(gram(data.weight, data.weight))


def log_inverse_distances(data: Data) -> list[mpf]:
    """log(1/‖u_c − u_c'‖) with u_c = (μ_c − μ_G)/‖μ_c − μ_G‖; nan without a direction, inf where two are equal."""
    if not all(norm(m) for m in data.mu_dot):
        return [exact.nan]
    units = [m / norm(m) for m in data.mu_dot]
    lengths = [norm(units[c] - units[d]) for c, d in pairs_of_points(data)]
    return [-exact.log(length) if length > NOTHING else exact.inf for length in lengths]


@twin
def nc2_uniformity(data):
    """Avg log(1/‖u_c − u_c'‖) over c ≠ c', after Wu and Papyan (2024), who do not centre."""
    return mean(log_inverse_distances(data) or [exact.nan])


@twin
def nc2_uniformity_spread(data):
    """Its population standard deviation."""
    values = log_inverse_distances(data)
    return exact.nan if exact.inf in values else sqrt(variance(values))


@twin
def nc0(data):
    """‖Σ_c W^c‖ / (√C ‖W‖_F)."""
    size = exact.sqrt(data.num_classes) * norm(data.weight)
    return norm(sum(data.weight)) / size if size else exact.nan


@twin
def nc3(data):
    """‖W/‖W‖_F − Ṁᵀ/‖Ṁ‖_F‖_F, Section 3: NC3 of the paper."""
    return distance(data.weight, data.mu_dot)


@twin
def nc3_centered(data):
    """The same with W^c − (1/C) Σ_c' W^c'."""
    W = data.weight - sum(data.weight) / data.num_classes
    return distance(W, data.mu_dot) if norm(W) > NOTHING * norm(data.weight) else exact.nan


@twin
def nc3_uncentered(data):
    """The same with μ_c in place of μ_c − μ_G."""
    return distance(data.weight, data.mu)


@twin
def nc3_duality(data):
    """‖WṀ/‖WṀ‖_F − (I − 11ᵀ/C)/√(C−1)‖_F, Zhu et al. (2021), Eq. 12."""
    WM = gram(data.weight, data.mu_dot)
    return distance_from_simplex(WM) if norm(WM) > NOTHING * norm(data.weight) * norm(data.mu_dot) else exact.nan


@twin
def nc4(data):
    """Share of samples with argmax_c (⟨W^c, h⟩ + b_c) ≠ argmin_c ‖h − μ_c‖, Section 2.2: NC4 of the paper."""
    nearest = [largest([-(norm(h - m) ** 2) for m in data.mu]) for h in data.features]
    return mean([mpf(largest(f) != c) for f, c in zip(data.outputs, nearest, strict=True)])


@twin
def nc5(data):
    """Avg_c |cos(μ_c, μ_OOD)|, Ammar et al. (2024)."""
    mu_ood = sum(data.ood) / len(data.ood)
    return mean([abs(cosine(m, mu_ood)) for m in data.mu])


@twin
def sqi_gap(data):
    """Mean of ε_i, Assumption 1."""
    return mean(data.gaps())


@twin
def sqi_gap_spread(data):
    """Standard deviation of ε_i over samples, Assumption 1."""
    return sqrt(variance(data.gaps()))


@twin
def sqi_off(data):
    """Mean of (C−1) f_i^(c'), which Assumption 1 says is ε."""
    return mean([(data.num_classes - 1) * f for f in data.off_class()])


@twin
def sqi_off_spread(data):
    """Standard deviation of f_i^(c') over samples and over c' ≠ c(i)."""
    return sqrt(variance(data.off_class()))


@twin
def sqi_sum(data):
    """Mean of Σ_c f_i^(c), 1 under Assumption 1."""
    return mean([sum(f) for f in data.outputs])


@twin
def accuracy(data):
    """Share of samples with argmax_c f_i^(c) = c(i)."""
    return mean([mpf(largest(f) == y) for f, y in zip(data.outputs, data.labels, strict=True)])


@twin
def margin_min(data):
    """min_i of f_i^(c(i)) − max_{c' ≠ c(i)} f_i^(c')."""
    return min(data.margins())


@twin
def margin_mean(data):
    """Mean over i of the same."""
    return mean(data.margins())


@twin
def loss_data(data):
    """(1/2N) Σ_i ‖f_i − y_i‖², the first term of Eq. 1."""
    total = mpf(0)
    for f, y in zip(data.outputs, data.labels, strict=True):
        for c in data.classes:
            total += (f[c] - (c == y)) ** 2
    return total / (2 * len(data.labels))


@twin
def loss(data):
    """Eq. 1: (1/2N) Σ_i ‖f_i − y_i‖² + (λ/2) Σ_l ‖W_l‖_F²."""
    return loss_data(data) + data.weight_decay / 2 * sum(weight_norms(data))


@twin
def weight_norms(data):
    """‖W_l‖_F² for every layer, Lemma 2.2."""
    return tuple(sum(w**2 for w in layer.flat) for layer in data.layers)


@twin
def nearest_mean_error(data):
    """Share of samples with argmin_c ‖h − μ_c‖ ≠ c(i)."""
    nearest = [largest([-(norm(h - m) ** 2) for m in data.mu]) for h in data.features]
    return mean([mpf(c != y) for c, y in zip(nearest, data.labels, strict=True)])


def spectrum(A: np.ndarray, nothing: mpf = NOTHING) -> tuple[list[mpf], list[np.ndarray]]:
    """The positive eigenvalues of A, in decreasing order, and their eigenvectors."""
    eigenvalues, Q = exact.eigsy(exact.matrix(A.tolist()))
    order = [k for k in reversed(range(len(A))) if eigenvalues[k] > nothing * max(map(abs, eigenvalues))]
    return [eigenvalues[k] for k in order], [np.array(list(Q[:, k]), dtype=object) for k in order]


def leading(data: Data, number: int) -> tuple[list[mpf], list[np.ndarray]]:
    """The first σ² of the layer and their right singular vectors, and those equal to the last; none if more than C.

    Equal and zero up to the rounding of a weight that is stored.
    """
    squares, vectors = spectrum(gram(data.layer.T, data.layer.T), nothing=mpf(10) ** -28)
    least = squares[min(number, len(squares)) - 1] - squares[0] * mpf(10) ** -13 if squares else 0
    chosen = [square for square in squares if square >= least]
    return (squares[: len(chosen)], vectors[: len(chosen)]) if len(chosen) <= data.num_classes else ([], [])


@twin
def weight_stable_rank(data):
    """Σ σ² / σ₁²."""
    squares, _ = spectrum(gram(data.layer.T, data.layer.T))
    return sum(squares) / squares[0] if squares else exact.nan


def share(data: Data, number: int) -> mpf:
    squares, _ = leading(data, number)
    return sum(squares) / norm(data.layer) ** 2 if squares else exact.nan


def alignment(data: Data, number: int) -> mpf:
    """‖PQ‖_F² / min(rank P, rank Q) with P and Q the projections on the two spaces."""
    (_, directions), (_, means) = leading(data, number), spectrum(data.Sigma_B)
    squares = [dot(u, v) ** 2 for u in directions for v in means]
    return sum(squares) / min(len(directions), len(means)) if squares else exact.nan


for name, fewer in (("simplex", 1), ("frame", 0)):
    TWINS[f"weight_share_{name}"] = lambda data, fewer=fewer: share(data, data.num_classes - fewer)
    TWINS[f"weight_alignment_{name}"] = lambda data, fewer=fewer: alignment(data, data.num_classes - fewer)

OBJECTIVE_KEYS = {"loss", "weight_norms"}
LAYER_KEYS = {key for key in TWINS if key.startswith("weight_")} - OBJECTIVE_KEYS | {"nearest_mean_error"}
MEANS_KEYS = {key for key in TWINS if key.startswith("nc1")} | {
    "nc2_norm_variance",
    "nc2_equinorm",
    "nc2_cosine",
    "nc2_cosine_max",
    "nc2_etf",
    "nc2_uniformity",
    "nc2_uniformity_spread",
}


def measure(
    features, labels, weight=None, bias=None, *, weight_decay=None, layers=(), ood=None, layer=None
) -> dict[str, object]:
    """Every twin that the arguments allow, rounded to float at the very end."""
    labels = [int(label) for label in labels]
    data = Data(
        features=numbers(features),
        labels=labels,
        num_classes=max(labels) + 1 if weight is None else len(weight),
        weight=None if weight is None else numbers(weight),
        bias=None if bias is None else numbers(bias),
        weight_decay=None if weight_decay is None else mpf(weight_decay),
        layers=tuple(map(numbers, layers)),
        ood=None if ood is None else numbers(ood),
        layer=None if layer is None else numbers(layer),
    )
    keys = MEANS_KEYS if weight is None else set(TWINS) - (set() if layers else OBJECTIVE_KEYS) - {"nc5"} - LAYER_KEYS
    keys = keys | (set() if layer is None else LAYER_KEYS)
    keys = keys | (set() if ood is None else {"nc5"})
    values = {key: function(data) for key, function in TWINS.items() if key in keys}
    return {key: tuple(map(float, v)) if isinstance(v, tuple) else float(v) for key, v in values.items()}


def is_supported(features, labels) -> bool:
    """Whether all singular values of the centred means, but for exact zeros, exceed the rounding of stored features."""
    precision = np.finfo(features.dtype).eps if isinstance(features, np.ndarray) else torch.finfo(features.dtype).eps
    H = features.astype(float) if isinstance(features, np.ndarray) else features.double().numpy()
    y = np.asarray(labels)
    means = np.array([H[y == c].mean(axis=0) for c in range(y.max() + 1)])
    rows = max(np.sqrt(sum(entry**2 for entry in row)) for row in means)
    columns = max(np.sqrt(sum(entry**2 for entry in column)) for column in means.T)
    averaged = np.abs(H - H[0]).max() * (np.sqrt(means.shape[0]) + np.sqrt(means.shape[1]))
    noise = precision / 2 * (rows + columns + averaged / np.sqrt(np.bincount(y).min()))
    centered = means - means.mean(axis=0)
    lengths = [*np.linalg.svd(centered, compute_uv=False), *np.linalg.norm(centered, axis=1)]
    lengths += [np.linalg.norm(first - second) for first, second in combinations(means, 2)]
    return bool(precision < 1e-12 or all(length <= 1e-9 * rows or length > 2 * noise for length in lengths))


def assert_agree(measured, expected: dict[str, object], features, weight=None, bias=None, rel: float = 1e-9) -> None:
    """Every expected number is there: nan for nan, inf for inf, and to `rel` wherever rounding allows.

    A number that is zero on paper comes out as rounding; how large that may be depends on the key's units. The
    package subtracts a stored sample before it sums, so in units of the features that is the extent of the data and
    not a common offset. The outputs are those of W as given, offset and all.
    """
    H = np.asarray(features.detach().double() if hasattr(features, "detach") else features, dtype=np.float64)
    extent = np.abs(H - H[0]).max()
    floor = dict.fromkeys(expected, 1e-12) | {key: 1e-26 for key in expected if key.startswith("nc1")}
    floor["nc2_norm_variance"] = 1e-14 * extent**2
    if "nc1_vci" in expected:  # between 0 and nc1/rank; 0 where N − C is small, and then rounding beside nc1
        floor["nc1_vci"] = 1e-8 * min(expected["nc1"], 1.0) + 1e-26
    if weight is not None:
        W = np.abs(numbers(weight).astype(float))
        outputs = 1 + (np.abs(H) @ W.T).max() + (0.0 if bias is None else np.abs(numbers(bias).astype(float)).max())
        for key in ("sqi_gap", "sqi_gap_spread", "sqi_off", "sqi_off_spread", "sqi_sum", "margin_min", "margin_mean"):
            floor[key] = 1e-13 * outputs
        floor["loss_data"] = 1e-13 * outputs**2
    assert set(measured) == set(expected)
    wrong = {
        key: (measured[key], value)
        for key, value in expected.items()
        if measured[key] != pytest.approx(value, rel=rel, abs=floor.get(key, 0.0), nan_ok=True)
    }
    assert not wrong, f"(measured, exact): {wrong}"
