"""Finds the class of the mean nearest to each sample, by projections that were made already."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..geometry import TIE_TOLERANCE, Gram, first_largest, half_distance_to_nearest
from .means import Centered, ClassMeans

#: The largest number of differences h − μ_c that are held at once.
_DIFFERENCES = 2**22


class NearestMeans:
    """Decides for the nearest class mean, and looks at a sample only if it is not plainly nearest to its own."""

    def __init__(self, means: ClassMeans, centered: Centered):
        assert means.reference is not None
        self.means, self.reference = means, means.reference
        self.num_features = centered.class_means.shape[1]
        self.coordinates = centered.class_means @ centered.span.directions.T
        #: samples of a class that lie this near to its mean are nearer to it than to others
        self.reach = half_distance_to_nearest(Gram(self.coordinates)) - centered.span.noise

    def __call__(
        self, on_span: Float[Tensor, "rank samples"], labels: Tensor, features: Tensor, lengths: Tensor
    ) -> Int[Tensor, " samples"]:
        """The class of the nearest mean: the sample's own, unless h lies half-way or further to another mean."""
        nearest, error = labels.clone(), rounding(self.num_features, on_span.dtype)
        reach = self.reach[labels]
        far = where((1 + error) * lengths >= reach)
        away = torch.linalg.vector_norm(on_span[:, far], dim=0) + error * lengths[far]
        far = far[away >= reach[far]]
        if not len(far):
            return nearest
        coordinates = on_span[:, far].T + self.coordinates[labels[far]].to(on_span.dtype)
        means = self.coordinates.to(on_span.dtype)
        norms = torch.linalg.vector_norm(means, dim=1)
        closeness = coordinates @ means.T - norms.square() / 2
        nearest[far] = closeness.argmax(dim=1)
        size = lengths[far] + torch.linalg.vector_norm(coordinates, dim=1) + norms.max()
        rivals = rivals_of(closeness, 2 * error * size * norms.max())
        unsure = where(rivals.sum(dim=1) > 1)
        if len(unsure):
            nearest[far[unsure]] = self._exactly(features[far[unsure]].double(), rivals[unsure])
        return nearest

    def _exactly(
        self, features: Float[Tensor, "samples features"], rivals: Bool[Tensor, "samples classes"]
    ) -> Int[Tensor, " samples"]:
        """argmin of ‖h − μ_c‖² among rivals, by differences, so that means far away cost no digits of those nearby."""
        offsets = features - self.reference
        lengths = torch.linalg.norm(offsets, dim=1)
        samples, classes = rivals.nonzero(as_tuple=True)
        halves, sizes = (offsets.new_full(rivals.shape, fill) for fill in (torch.inf, 0.0))
        for part in torch.arange(len(samples), device=samples.device).split(max(1, _DIFFERENCES // self.num_features)):
            one, other = samples[part], classes[part]
            means = self.means.offsets_of(other)
            distances = torch.linalg.vector_norm(offsets[one] - means, dim=1)
            halves[one, other] = distances.square() / 2
            # ½‖h − μ_c‖² has the error of h − μ_c times its length
            sizes[one, other] = distances * (lengths[one] + torch.linalg.norm(means, dim=1))
        return first_largest(-halves, sizes)


def rounding(num_features: int, dtype: torch.dtype) -> float:
    """Bounds the relative error of a sum of p products: ten times the likely √p units (Higham and Mary, 2019)."""
    return max(TIE_TOLERANCE, 5 * num_features**0.5 * torch.finfo(dtype).eps)


def where(condition: Tensor) -> Int[Tensor, " chosen"]:
    """The places where a condition holds."""
    return condition.nonzero().squeeze(1)


def has_rival(scores: Float[Tensor, "samples classes"], doubt: Float[Tensor, " samples"]) -> Bool[Tensor, " samples"]:
    """Whether a sample's second score comes within `doubt` of its largest."""
    return rivals_of(scores, doubt).sum(dim=1) > 1


def rivals_of(
    scores: Float[Tensor, "samples classes"], doubt: Float[Tensor, " samples"]
) -> Bool[Tensor, "samples classes"]:
    """The scores of a sample that come within `doubt` of its largest."""
    return scores >= scores.amax(dim=1, keepdim=True) - doubt[:, None]
