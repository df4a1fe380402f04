"""NC3, self-duality: the classifier points where the class means do. Before it NC0: its rows sum to zero."""

import torch

from ..geometry import Gram, normalized_distance, simplex_distance
from ..statistics import Statistics


def nc0(statistics: Statistics) -> float:
    """‖Σ_c W^c‖ / (√C ‖W‖_F), from 0 to 1: 0 for a simplex, 1/√C for orthogonal rows, 1 for equal rows.

    That it is 0 is necessary for W to be a simplex, and not sufficient. Zhao et al. (2026) call ‖Σ_c W^c‖ NC0.
    """
    weight = statistics.classifier_weight
    return (torch.linalg.norm(weight.sum(dim=0)) / (len(weight) ** 0.5 * torch.linalg.norm(weight))).item()


def nc3(statistics: Statistics) -> float:
    """‖W/‖W‖_F − Ṁᵀ/‖Ṁ‖_F‖_F, the paper's: not squared, W as it is.

    Without a bias, W tends to an orthogonal frame in the unconstrained features model, and this to √(2 − 2√(1 − 1/C)).
    """
    return normalized_distance(statistics.classifier_weight, statistics.centered_class_means)


def nc3_centered(statistics: Statistics) -> float:
    """‖Ẇ/‖Ẇ‖_F − Ṁᵀ/‖Ṁ‖_F‖_F with Ẇ = W less its mean over classes, which no decision depends on."""
    weight = statistics.classifier_weight
    centered = weight - weight.mean(dim=0)
    return normalized_distance(centered, statistics.centered_class_means, scale=weight.norm().item())


def nc3_uncentered(statistics: Statistics) -> float:
    """‖W/‖W‖_F − Mᵀ/‖M‖_F‖_F with the class means M as they are, not centred."""
    return normalized_distance(statistics.classifier_weight, statistics.class_means)


def nc3_duality(statistics: Statistics) -> float:
    """‖WṀ/‖WṀ‖_F − (I − 11ᵀ/C)/√(C−1)‖_F. Where p < C − 1 it is at least √(2 − 2√(p/(C−1)))."""
    weight, means = statistics.classifier_weight, statistics.centered_class_means
    return simplex_distance(Gram(weight, means), scale=(weight.norm() * means.norm()).item())


def nc5(statistics: Statistics) -> float:
    """Mean over classes of |cos(μ_c, μ_OOD)|, neither centred; 0 where the others lie orthogonal to all classes.

    μ_OOD is the mean feature of samples of no class. Ammar et al. (2024).
    """
    assert statistics.ood_mean is not None
    means = statistics.class_means
    cosines = (means @ statistics.ood_mean) / (torch.linalg.norm(means, dim=1) * torch.linalg.norm(statistics.ood_mean))
    return cosines.abs().mean().item()
