"""NC2, collapse to a simplex ETF: equal norms and equal angles of centred class means and of classifier rows.

With two classes the metrics of the means are zero whatever the features: two centred means are always opposite.
"""

import math

import torch
from torch import Tensor

from ..geometry import shifted, simplex_distance
from ..statistics import Statistics


def _relative_deviation(vectors: Tensor) -> float:
    norms = torch.linalg.norm(vectors, dim=1)
    return (norms.std(correction=0) / norms.mean()).item()


def nc2_norm_variance(statistics: Statistics) -> float:
    """Population variance over classes of ‖μ_c − μ_G‖, the paper's. It scales with the features squared; 0 at C = 2."""
    return torch.linalg.norm(statistics.centered_class_means, dim=1).var(correction=0).item()


def nc2_equinorm(statistics: Statistics) -> float:
    """Population standard deviation over mean of ‖μ_c − μ_G‖. Free of scale; 0 at C = 2 whatever the features."""
    return _relative_deviation(statistics.centered_class_means)


def nc2_equinorm_weight(statistics: Statistics) -> float:
    """Population standard deviation over mean of ‖W^c‖."""
    return _relative_deviation(statistics.classifier_weight)


def nc2_cosine(statistics: Statistics) -> float:
    """Mean over pairs of |cos(μ_c − μ_G, μ_c' − μ_G) + 1/(C−1)|; 0 at C = 2 whatever the features."""
    return statistics.mean_pairs.cosine


def nc2_cosine_max(statistics: Statistics) -> float:
    """Largest over pairs of |cos(μ_c − μ_G, μ_c' − μ_G) + 1/(C−1)|; 0 at C = 2 whatever the features."""
    return statistics.mean_pairs.cosine_max


def nc2_cosine_weight(statistics: Statistics) -> float:
    """Mean over pairs of |cos(W^c, W^c') + 1/(C−1)|; 1/(C−1) for orthogonal rows."""
    C = statistics.num_classes
    sums = [shifted(cosines, C).sum().item() for cosines in statistics.weight_gram.cosines()]
    return 2 * math.fsum(sums) / (C * (C - 1))


def nc2_etf(statistics: Statistics) -> float:
    """‖G/‖G‖_F − (I − 11ᵀ/C)/√(C−1)‖_F with G the Gram matrix of the centred means; 0 at C = 2.

    Where p < C − 1 no simplex ETF exists, and it is at least √(2 − 2√(p/(C−1))).
    """
    return simplex_distance(statistics.means_gram)


def nc2_etf_weight(statistics: Statistics) -> float:
    """‖G/‖G‖_F − (I − 11ᵀ/C)/√(C−1)‖_F with G = W Wᵀ; √(2 − 2√(1 − 1/C)) for orthogonal rows of equal norm."""
    return simplex_distance(statistics.weight_gram)


def nc2_uniformity(statistics: Statistics) -> float:
    """Mean over pairs of log(1/‖u_c − u_c'‖), u_c = (μ_c − μ_G)/‖μ_c − μ_G‖; −½ log(2C/(C−1)) for a simplex ETF.

    It is meant for p < C − 1, where no simplex ETF exists and the means can at best spread evenly over the sphere. Two
    classes that are one point, with equal means and no spread, are left out; it is inf if others have one direction.
    """
    return statistics.mean_pairs.log_inverse_distance[0]


def nc2_uniformity_spread(statistics: Statistics) -> float:
    """Population standard deviation over pairs of log(1/‖u_c − u_c'‖); 0 for a simplex ETF."""
    return statistics.mean_pairs.log_inverse_distance[1]
