"""The central path: the least-squares classifier of given features, and how far the trained one is from it.

Han, Papyan and Donoho (2022), "Neural Collapse Under MSE Loss: Proximity to and Dynamics on the Central Path", in the
units of Eq. 1.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .._errors import InputError
from ..geometry import EPSILON
from .evidence import Evidence


@dataclass(frozen=True)
class CentralPath:
    """The two parts of L = `loss` + `excess`.

    `loss` is L at the same features with the least-squares classifier; `excess` = ½ tr((W − W_LS) A (W − W_LS)ᵀ).
    """

    weight: Float[Tensor, "classes features"]
    bias: Float[Tensor, " classes"] | None
    loss: float
    excess: float
    #: ‖W − W_LS‖_F / ‖W‖_F, the bias included
    distance: float


def central_path(evidence: Evidence) -> CentralPath:
    """Minimises L over the classifier at fixed features: W_LS = (1/N) Y Hᵀ A⁻¹ with A = (1/N) H Hᵀ + λI.

    λ is the one of Eq. 1. A bias counts as a row of ones in H, with its own decay.

    Raises `ValueError` for λ = 0, where A need not have an inverse.
    """
    if evidence.weight_decay == 0:
        raise InputError("the central path needs λ > 0: without decay the least-squares classifier need not be unique")
    features, weight = evidence.features, evidence.classifier.weight
    decays = torch.full_like(features[0], evidence.weight_decay)
    if evidence.classifier.bias is not None:
        features = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
        weight = torch.cat([weight, evidence.classifier.bias[:, None]], dim=1)
        decays = torch.cat([decays, decays.new_tensor([evidence.bias_decay])])
    number = len(features)
    best = _least_squares(evidence)
    difference = weight - best
    of_outputs = (features @ difference.T).square().sum().item() / number  # A itself is p × p, and not needed
    excess = (of_outputs + (decays * difference.square()).sum().item()) / 2
    data = (features @ best.T - evidence.targets).square().sum().item() / (2 * number)
    classifier_penalty = (decays * weight.square()).sum().item() / 2
    penalty = evidence.loss - evidence.data_loss - classifier_penalty + (decays * best.square()).sum().item() / 2
    has_bias = evidence.classifier.bias is not None
    return CentralPath(
        best[:, :-1] if has_bias else best,
        best[:, -1] if has_bias else None,
        data + penalty,
        excess,
        (torch.linalg.norm(difference) / torch.linalg.norm(weight)).item(),
    )


def _least_squares(evidence: Evidence) -> Float[Tensor, "classes features_and_bias"]:
    """The classifier, and the bias as its last column, by the singular values of H.

    H Hᵀ has no digits left of λ where features are large. Singular values that rounding could have made count as zero:
    divided by λ they would fill the result.
    """
    rows, targets, decay, bias_decay = evidence.features, evidence.targets, evidence.weight_decay, evidence.bias_decay
    has_bias, is_free = evidence.classifier.bias is not None, bias_decay == 0
    means = rows.mean(dim=0), targets.mean(dim=0)
    if has_bias and is_free:
        rows, targets = rows - means[0], targets - means[1]
    elif has_bias:  # in units in which it decays as the weight does
        rows = torch.cat([rows, rows.new_full((len(rows), 1), (decay / bias_decay) ** 0.5)], dim=1)
    left, sizes, right = torch.linalg.svd(rows, full_matrices=False)
    sizes = sizes.where(sizes > max(rows.shape) * EPSILON * sizes[0], 0.0)
    best = (left.T @ targets).T * (sizes / (sizes.square() + len(rows) * decay)) @ right
    if has_bias and is_free:
        return torch.cat([best, (means[1] - best @ means[0])[:, None]], dim=1)
    if has_bias:
        best[:, -1] *= (decay / bias_decay) ** 0.5
    return best
