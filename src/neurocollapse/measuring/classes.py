"""Measures each class on its own, for classes that differ in size or collapse differently."""

from typing import Literal

import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from .._errors import checks_arguments
from .features import as_tensor, gather


@checks_arguments
def class_table(
    features: "Tensor | ArrayLike",
    labels: "Tensor | ArrayLike",
    weight: "Tensor | ArrayLike | None" = None,
    *,
    num_classes: int | None = None,
    weighting: str = "classes",
    absent: Literal["error", "leave_out"] = "error",
    min_per_class: int = 1,
) -> pd.DataFrame:
    """Returns a table with one row per class, which shows minority collapse, or a class that does not collapse.

    Columns: `count`; `mean_norm` ‖μ_c − μ_G‖; `variance`, the mean squared distance of its samples from μ_c;
    `effective_rank` of those deviations, exp(−Σ_k p_k log p_k) with p_k = σ_k / Σ σ (Roy and Vetterli, 2007), nan for
    a class without spread; `weight_norm` ‖W^c‖, if the weight is given. Arguments and errors are those of `measure`.
    The effective rank needs the eigenvalues of a matrix of min(n_c, p) rows for every class.

    >>> import neurocollapse as nc
    >>> features = torch.tensor([[3.0, 1.0], [3.0, -1.0], [0.0, 0.0], [0.0, 0.0]])
    >>> nc.class_table(features, [0, 0, 1, 1]).loc[0].tolist()
    [2.0, 1.5, 1.0, 1.0]
    """
    choice = {"absent": absent, "min_per_class": min_per_class}
    statistics, _ = gather(features, labels, weight, num_classes=num_classes, weighting=weighting, vci=False, **choice)  # type: ignore[arg-type]
    rows, of_rows = as_tensor("features", features), as_tensor("labels", labels).long()
    order, all_counts = of_rows.argsort(stable=True), torch.bincount(of_rows, minlength=statistics.num_outputs)
    classes = range(statistics.num_outputs) if statistics.classes is None else statistics.classes.tolist()
    of_class = order.split(all_counts.tolist())
    table = {
        "count": statistics.class_counts.tolist(),
        "mean_norm": torch.linalg.norm(statistics.centered_class_means, dim=1).tolist(),
        "variance": statistics.within_class_variances.tolist(),
        "effective_rank": [effective_rank(_deviations(rows[of_class[c]].double())) for c in classes],
    }
    if weight is not None:
        table["weight_norm"] = torch.linalg.norm(statistics.classifier_weight, dim=1).tolist()
    return pd.DataFrame(table, index=pd.Index(classes, name="class"))


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
