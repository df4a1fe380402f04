"""NC2, collapse to a simplex ETF: equal norms and equal angles of centred class means and of classifier rows.

With two classes the metrics of the means are zero whatever the features: two centred means are always opposite.
"""

import torch
from torch import Tensor

from ..geometry import pairs, shifted_cosines, simplex_distance
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
    return shifted_cosines(statistics.means_gram).mean().item()


def nc2_cosine_max(statistics: Statistics) -> float:
    """Largest over pairs of |cos(μ_c − μ_G, μ_c' − μ_G) + 1/(C−1)|; 0 at C = 2 whatever the features."""
    return shifted_cosines(statistics.means_gram).max().item()


def nc2_cosine_weight(statistics: Statistics) -> float:
    """Mean over pairs of |cos(W^c, W^c') + 1/(C−1)|; 1/(C−1) for orthogonal rows."""
    return shifted_cosines(statistics.weight_gram).mean().item()


def nc2_etf(statistics: Statistics) -> float:
    """‖G/‖G‖_F − (I − 11ᵀ/C)/√(C−1)‖_F with G the Gram matrix of the centred means; 0 at C = 2.

    Where p < C − 1 no simplex ETF exists, and it is at least √(2 − 2√(p/(C−1))).
    """
    return simplex_distance(statistics.means_gram)


def nc2_etf_weight(statistics: Statistics) -> float:
    """‖G/‖G‖_F − (I − 11ᵀ/C)/√(C−1)‖_F with G = W Wᵀ; √(2 − 2√(1 − 1/C)) for orthogonal rows of equal norm."""
    return simplex_distance(statistics.weight_gram)


def _log_inverse_distances(statistics: Statistics) -> Tensor:
    gram = statistics.means_gram
    noise = statistics.span.noise / gram.norms
    squares = (
        (rows, tile.masked_fill(tile <= torch.maximum(noise[rows, None], noise).square(), 0.0))
        for rows, tile in gram.squared_distances_of_directions()
    )
    return -pairs(squares).log() / 2


def nc2_uniformity(statistics: Statistics) -> float:
    """Mean over pairs of log(1/‖u_c − u_c'‖), u_c = (μ_c − μ_G)/‖μ_c − μ_G‖; −½ log(2C/(C−1)) for a simplex ETF.

    It is meant for p < C − 1, where no simplex ETF exists and the means can at best spread evenly over the sphere.
    """
    return _log_inverse_distances(statistics).mean().item()


def nc2_uniformity_spread(statistics: Statistics) -> float:
    """Population standard deviation over pairs of log(1/‖u_c − u_c'‖); 0 for a simplex ETF."""
    return _log_inverse_distances(statistics).std(correction=0).item()
