"""Draws Gaussian mixtures whose Σ_W and Σ_B are known."""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from .._errors import DatasetError
from ..geometry import simplex_etf
from .dataset import Samples, Source


def gaussian_mixture(
    class_means: Float64[Tensor, "classes features"],
    within_covariance: Float64[Tensor, "features features"],
    samples_per_class: int,
    *,
    exact: bool,
    seed: int,
) -> tuple[Float64[Tensor, "samples features"], Int64[Tensor, " samples"]]:
    """Draws normal samples around each class mean, h = μ_c + Σ_W^{1/2} z, class after class.

    Args:
        class_means: μ_c, (classes, features), float64.
        within_covariance: Σ_W, (features, features), float64, symmetric positive semidefinite; may be zero.
        samples_per_class: n, the number of samples of each class.
        exact: centre and whiten z within each class, so that the samples' own class means and Σ_W (the paper's, over
            N) are those given, to rounding. This needs n > p.
        seed: the seed of the draw; the same seed gives the same samples.

    Returns:
        Features (classes · n, p), float64, and labels (classes · n,), int64.

    Raises:
        DatasetError: n < 1, n ≤ p with `exact`, or a covariance that is not symmetric positive semidefinite.

    >>> means, covariance = simplex_etf(3), torch.eye(3, dtype=torch.float64) / 4
    >>> features, labels = gaussian_mixture(means, covariance, 10, exact=True, seed=0)
    >>> torch.allclose(features[labels == 2].mean(dim=0), means[2])
    True
    """
    num_classes, num_features = class_means.shape
    if samples_per_class < 1 or (exact and samples_per_class <= num_features):
        least = num_features + 1 if exact else 1
        raise DatasetError(f"samples_per_class={samples_per_class} is too few; give at least {least}")
    eigenvalues, directions = torch.linalg.eigh(within_covariance)
    root = directions * eigenvalues.clamp(min=0).sqrt() @ directions.T
    # One comparison finds both faults: eigh reads one triangle only, and clamping changes negative eigenvalues.
    if not torch.allclose(root @ root, within_covariance):
        raise DatasetError(
            "within_covariance is not symmetric positive semidefinite (least eigenvalue of its lower triangle: "
            f"{eigenvalues[0]:.3g}); pass a covariance matrix"
        )
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(num_classes, samples_per_class, num_features, dtype=torch.float64, generator=generator)
    if exact:
        # Orthonormal columns in the span of centred ones have mean 0 and, times √n, second moment I.
        noise = torch.linalg.qr(noise - noise.mean(dim=1, keepdim=True)).Q * samples_per_class**0.5
    features = class_means[:, None] + noise @ root
    return features.flatten(end_dim=1), torch.arange(num_classes).repeat_interleave(samples_per_class)


def sample_mixture() -> Source:
    """Draws the data set `gaussian`: C = 4, p = 16, 100 training and 25 test samples a class.

    Its scale makes all entries together have mean 0 and deviation 1, since ‖μ_c‖² + tr Σ_W = p. So standardisation
    changes nothing, and Σ_W and Σ_B of the loaded samples are known.
    """
    num_classes, num_features = 4, 16
    within_covariance = torch.eye(num_features, dtype=torch.float64) / 4
    class_means = torch.zeros(num_classes, num_features, dtype=torch.float64)
    class_means[:, :num_classes] = simplex_etf(num_classes) * 12**0.5

    def draw(samples_per_class: int, seed: int) -> Samples:
        features, labels = gaussian_mixture(class_means, within_covariance, samples_per_class, exact=True, seed=seed)
        return Samples(features.numpy(), labels.numpy())

    return Source("gaussian", draw(100, seed=0), draw(25, seed=1), num_classes)
