"""Snapshots for the report: a few samples as the classifier sees them, and two Gram matrices."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..statistics import Statistics

#: A snapshot keeps so many classes, the first ones, and so many samples of each.
CLASSES, SAMPLES = 10, 60


def shown_samples(labels: Int[Tensor, " samples"]) -> Int[Tensor, " shown"]:
    """The indices of the samples that a snapshot keeps, class by class."""
    return torch.cat([(labels == c).nonzero().flatten()[:SAMPLES] for c in range(CLASSES)])


def snapshot(
    statistics: Statistics, features: Float[Tensor, "shown features"], labels: Int[Tensor, " shown"]
) -> dict[str, Tensor]:
    """Products of features and means with the classifier's rows, which determine their projection on the rows' span.

    In float32 on the CPU, with K the number of classes kept: `samples` (shown, K), ⟨h − μ_G, w_k⟩ of the samples with
    these `labels`; `means` (K, K), ⟨μ_c − μ_G, w_k⟩; `weight_gram` (K, K), ⟨w_c, w_k⟩; `means_gram` (K, K),
    ⟨μ_c − μ_G, μ_d − μ_G⟩.
    """
    weight, means = statistics.classifier_weight[:CLASSES], statistics.centered_class_means[:CLASSES]
    products = {
        "samples": (features.double() - statistics.global_mean) @ weight.T,
        "means": means @ weight.T,
        "weight_gram": weight @ weight.T,
        "means_gram": means @ means.T,
    }
    return {"labels": labels.cpu()} | {name: values.float().cpu() for name, values in products.items()}
