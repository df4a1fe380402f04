"""Measures each class on its own, and pairs of classes, where these differ in size or collapse differently."""

import math
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from .._errors import InputError, checks_arguments
from ..statistics import Statistics, int64_labels
from .capture.subset import Quota
from .features import as_tensor, gather
from .streamed import StreamedFeatures


@checks_arguments
def class_table(
    features: "Tensor | ArrayLike | StreamedFeatures",
    labels: "Tensor | ArrayLike",
    weight: "Tensor | ArrayLike | None" = None,
    *,
    num_classes: int | None = None,
    weighting: str = "classes",
    absent: Literal["error", "leave_out"] = "error",
    min_per_class: int = 1,
    max_per_class: int | None = None,
) -> pd.DataFrame:
    """Returns a table with one row per class, which shows minority collapse, or a class that does not collapse.

    Columns: `count`; `mean_norm` ‖μ_c − μ_G‖; `variance`, the mean squared distance of its samples from μ_c;
    `effective_rank` of those deviations, exp(−Σ_k p_k log p_k) with p_k = σ_k / Σ σ (Roy and Vetterli, 2007), nan for
    a class without spread; if the weight is given, `weight_norm` ‖W^c‖ and `alignment`, the cosine of W^c and
    μ_c − μ_G, whose spread over classes is uniform duality (Wu and Papyan, 2024). Arguments and errors are those of
    `measure`. The effective rank needs the eigenvalues of a matrix of min(n_c, p) rows for every class, and all
    features in memory.

    >>> import neurocollapse as nc
    >>> features = torch.tensor([[3.0, 1.0], [3.0, -1.0], [0.0, 0.0], [0.0, 0.0]])
    >>> nc.class_table(features, [0, 0, 1, 1]).loc[0].tolist()
    [2.0, 1.5, 1.0, 1.0]
    """
    choice = {"absent": absent, "min_per_class": min_per_class, "max_per_class": max_per_class}
    options = {"num_classes": num_classes, "weighting": weighting, "vci": False, "outputs": False}
    statistics, _ = gather(features, labels, weight, **choice, **options)  # type: ignore[arg-type]
    means = statistics.centered_class_means
    if isinstance(features, StreamedFeatures):
        features = torch.cat(list(features.blocks()))
    rows, of_rows = as_tensor("features", features), int64_labels(as_tensor("labels", labels))
    if max_per_class is not None:
        chosen = Quota(max_per_class)(of_rows)
        rows, of_rows = rows[chosen], of_rows[chosen]
    order, all_counts = of_rows.argsort(stable=True), torch.bincount(of_rows, minlength=statistics.num_outputs)
    classes = _classes(statistics)
    of_class = order.split(all_counts.tolist())
    table = {
        "count": statistics.class_counts.tolist(),
        "mean_norm": torch.linalg.norm(means, dim=1).tolist(),
        "variance": statistics.within_class_variances.tolist(),
        "effective_rank": [effective_rank(_deviations(rows[of_class[c]].double())) for c in classes],
    }
    if weight is not None:
        table["weight_norm"] = torch.linalg.norm(statistics.classifier_weight, dim=1).tolist()
        table["alignment"] = _cosines(statistics.classifier_weight, means).tolist()
    return pd.DataFrame(table, index=pd.Index(classes, name="class"))


@checks_arguments
def pair_table(
    features: Tensor | ArrayLike | StreamedFeatures,
    labels: Tensor | ArrayLike,
    weight: Tensor | ArrayLike | None = None,
    *,
    pairs: int = 100_000,
    seed: int = 0,
    num_classes: int | None = None,
    weighting: str = "classes",
    absent: Literal["error", "leave_out"] = "error",
    min_per_class: int = 1,
    max_per_class: int | None = None,
) -> pd.DataFrame:
    """Returns a table with one row per pair of classes, or of that many pairs drawn at random, each once, from all.

    It is what histograms over pairs are drawn from; over a random sample `table.mean()` estimates the mean over all
    pairs and `table.sem()` its standard error. Columns: `distance` ‖μ_c − μ_c'‖; `cosine` of μ_c − μ_G and μ_c' − μ_G,
    −1/(C−1) at a simplex; `cdnv` (v_c + v_c') / (2‖μ_c − μ_c'‖²), inf where the means coincide and nan where neither
    class has spread either; `weight_cosine` of W^c and W^c', if the weight is given. Arguments and errors are those of
    `measure`; `seed` decides the draw.

    >>> import neurocollapse as nc
    >>> features = torch.tensor([[3.0, 1.0], [3.0, -1.0], [0.0, 0.0], [0.0, 0.0]])
    >>> nc.pair_table(features, [0, 0, 1, 1]).round(3).to_dict("records")
    [{'distance': 3.0, 'cosine': -1.0, 'cdnv': 0.056}]
    """
    for name, value, least in (("pairs", pairs, 1), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")
    choice = {"absent": absent, "min_per_class": min_per_class, "max_per_class": max_per_class}
    options = {"num_classes": num_classes, "weighting": weighting, "vci": False, "outputs": False}
    statistics, _ = gather(features, labels, weight, **choice, **options)  # type: ignore[arg-type]
    means, classes = statistics.centered_class_means, np.asarray(_classes(statistics))
    one, other = _drawn_pairs(len(classes), pairs, seed)
    rounding = torch.maximum(statistics.span.noise[one], statistics.span.noise[other]).square()
    spread = statistics.within_class_variances[one] + statistics.within_class_variances[other]
    squares = torch.cat([(means[a] - means[b]).square().sum(dim=1) for a, b in _parts(one, other)])
    squares = squares.where(squares > rounding, 0.0)
    spread = spread.where((squares > 0) | (spread > rounding), 0.0)
    table = {
        "distance": squares.sqrt().tolist(),
        "cosine": torch.cat([_cosines(means[a], means[b]) for a, b in _parts(one, other)]).tolist(),
        "cdnv": (spread / (2 * squares)).tolist(),
    }
    if weight is not None:
        W = statistics.classifier_weight
        table["weight_cosine"] = torch.cat([_cosines(W[a], W[b]) for a, b in _parts(one, other)]).tolist()
    names = [classes[one.numpy()], classes[other.numpy()]]
    return pd.DataFrame(table, index=pd.MultiIndex.from_arrays(names, names=["class", "other"]))


def _classes(statistics: Statistics) -> list[int]:
    return list(range(statistics.num_outputs)) if statistics.classes is None else statistics.classes.tolist()


def _drawn_pairs(num_classes: int, pairs: int, seed: int) -> tuple[Tensor, Tensor]:
    """The classes c < c' of all pairs or, where these are more, of as many drawn without replacement, in their order.

    Pair k of the pairs (0, 1), (0, 2), (1, 2), (0, 3), … has the c' with c'(c'−1)/2 ≤ k < c'(c'+1)/2.
    """
    number = math.comb(num_classes, 2)
    draw = np.random.default_rng(seed)
    drawn = np.sort(draw.choice(number, pairs, replace=False)) if number > pairs else np.arange(number)
    ends = np.arange(1, num_classes + 1) * np.arange(num_classes) // 2  # of the pairs whose c' is at most this
    other = np.searchsorted(ends, drawn, side="right")
    return torch.from_numpy(drawn - ends[other - 1]), torch.from_numpy(other)


def _parts(one: Tensor, other: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The pairs in parts, so that no more than so many rows are copied at a time."""
    return list(zip(one.split(4096), other.split(4096), strict=True))


def _cosines(one: Float[Tensor, "rows features"], other: Float[Tensor, "rows features"]) -> Float[Tensor, " rows"]:
    """The cosine of each row with the other's; nan for a row of zeros."""
    norms = torch.linalg.norm(one, dim=1), torch.linalg.norm(other, dim=1)
    return ((one / norms[0][:, None]) * (other / norms[1][:, None])).sum(dim=1).clamp(-1, 1)


def _deviations(features: Float[Tensor, "samples features"]) -> Float[Tensor, "samples features"]:
    """h − μ. One sample is subtracted first, so that equal samples leave zeros, and no rounding of their mean."""
    offsets = features - features[0]
    return offsets - offsets.mean(dim=0)


def effective_rank(deviations: Float[Tensor, "samples features"]) -> float:
    """Returns the exponential of the entropy of the singular values, as shares of their sum; nan if all are zero."""
    gram = deviations @ deviations.T if len(deviations) < deviations.shape[1] else deviations.T @ deviations
    eigenvalues = torch.linalg.eigvalsh(gram)
    # an eigenvalue below this is rounding; its root would count as a direction
    noise = len(gram) * torch.finfo(torch.float64).eps * eigenvalues[-1].item()
    singular_values = eigenvalues[eigenvalues > noise].sqrt()
    if not len(singular_values):
        return float("nan")
    return torch.special.entr(singular_values / singular_values.sum()).sum().exp().item()
