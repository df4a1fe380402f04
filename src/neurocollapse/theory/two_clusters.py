"""A strict local minimum where the equations of Theorem 2.3 hold and NC1 does not.

SQI fixes h only on the row space of W.
"""

import math

import torch
from torch import nn

from .._errors import InputError
from ..geometry import centering
from ..networks import MLP
from ..training import FullBatch


def two_clusters(num_classes: int = 4, weight_decay: float = 0.01) -> FullBatch:
    """A network of two layers at a critical point, on classes of two clusters of inputs each; its bias does not decay.

    The 2C clusters are single inputs u_j with ⟨u_j, u_k⟩ = −1/(2C − 1), and u_j belongs to class j mod C. Each hidden
    unit lies along one of them, so that h = a e_j, and W = g (P P) with P = I − 11ᵀ/C, b = 1/C. Then f = x P e_c + 1/C
    with x = ga. Let k = 1/2C be a cluster's share of the samples. Along this family L is least where
    x = 1 − λ/(k √(1 − 1/C)) and both layers have equal norms, g² = x/√(1 − 1/C). SQI holds with ε = (1 − x)(1 − 1/C),
    and so do Eq. 2 to 4, but Tr Σ_W/Tr Σ_B = C/(C − 1): the two clusters of a class stay apart in directions that W
    does not see.

    Raises `ValueError` if the decay is so large that x would not be positive.
    """
    C, clusters = num_classes, 2 * num_classes
    root = math.sqrt(1 - 1 / C)
    x = 1 - clusters * weight_decay / root
    if x <= 0:
        raise InputError(
            f"at λ = {weight_decay:g} the two clusters of {C} classes collapse to zero; take λ below "
            f"{root / clusters:.4g}"
        )
    g = math.sqrt(x / root)
    inputs = centering(clusters) * math.sqrt(clusters / (clusters - 1))
    model = MLP((clusters,), C, depth=2, width=clusters, bias=True).double()
    hidden, classifier = model.features[1], model.classifier
    assert isinstance(hidden, nn.Linear)
    with torch.no_grad():
        hidden.weight.copy_(x / g * inputs)
        classifier.weight.copy_(g * torch.cat([centering(C), centering(C)], dim=1))
        classifier.bias.fill_(1 / C)
    decays = {"features.1.weight": weight_decay, "classifier.weight": weight_decay}
    return FullBatch(model, inputs, torch.arange(C).repeat(2), decays)
