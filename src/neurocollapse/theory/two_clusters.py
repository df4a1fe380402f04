"""A strict local minimum where the equations of Theorem 2.3 hold and NC1 does not, and what a linear layer changes.

SQI fixes h only on the row space of W. With a linear layer before the classifier h lies there.
"""

import math
import sys

import torch
from scipy.optimize import brentq
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
    model = MLP((clusters,), C, depth=2, width=clusters, bias=True).double()
    return _at(model, [x / g * _simplex(clusters), g * torch.cat([centering(C), centering(C)], dim=1)], weight_decay)


def joined_clusters(num_classes: int = 4, weight_decay: float = 0.001) -> FullBatch:
    """The same inputs and hidden units as in `two_clusters`, with a linear layer V before the classifier.

    z = a e_j, V = v (P P), W = √2 v P and b = 1/C, so that WᵀW = VVᵀ, and all units have equal incoming and outgoing
    norms where a² = v² (1 − 1/C). Then f = x P e_c + 1/C with x = √2 √(1 − 1/C) v³, and along this family L is least
    where 1 − x = √2 λC / (v √(1 − 1/C)), at the larger root v. SQI holds with ε = (1 − x)(1 − 1/C), and the two
    clusters of a class have one feature, a v P e_c: Tr Σ_W = 0.

    Raises `ValueError` if the decay is so large that there is no such v.
    """
    C, clusters = num_classes, 2 * num_classes
    root = math.sqrt(1 - 1 / C)

    def slope(v: float) -> float:
        """−dL/dv along the family, times a positive factor."""
        return v - math.sqrt(2) * (root * v**4 + weight_decay * C / root)

    top = (1 / (4 * math.sqrt(2) * root)) ** (1 / 3)  # where it is largest
    if slope(top) <= 0:
        raise InputError(f"at λ = {weight_decay:g} the clusters of {C} classes collapse to zero; take a smaller one")
    v = brentq(slope, top, 1 / (math.sqrt(2) * root) ** (1 / 3), xtol=1e-300, rtol=4 * sys.float_info.epsilon)
    model = MLP((clusters,), C, depth=3, width=clusters, bias=True, linear_tail=1).double()
    halves = torch.cat([centering(C), centering(C)], dim=1)
    padding = torch.zeros(C, clusters, dtype=torch.float64)  # the layer has as many units as the one below
    V = torch.cat([v * halves, padding])
    W = torch.cat([math.sqrt(2) * v * centering(C), padding[:, :C]], dim=1)
    return _at(model, [v * root * _simplex(clusters), V, W], weight_decay)


def _simplex(clusters: int) -> torch.Tensor:
    """Unit vectors with ⟨u_j, u_k⟩ = −1/(2C − 1)."""
    return centering(clusters) * math.sqrt(clusters / (clusters - 1))


def _at(model: MLP, weights: list[torch.Tensor], weight_decay: float) -> FullBatch:
    """The objective of a network with these weights and b = 1/C, which does not decay, on the clusters."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    with torch.no_grad():
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight.copy_(weight)
        model.classifier.bias.fill_(1 / model.classifier.out_features)
    decays = {name: weight_decay for name, p in model.named_parameters() if p.ndim == 2}
    C, clusters = model.classifier.out_features, len(weights[0])
    return FullBatch(model, _simplex(clusters), torch.arange(C).repeat(2), decays)
