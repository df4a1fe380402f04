"""Networks that end in linear layers with nothing between: h = V z, f = W h + b, V without a bias.

At every point Wᵀ ∇_W L_data = ∇_V L_data Vᵀ, so D = WᵀW − VVᵀ obeys dD/dt = −2λD along gradient flow, entry by entry,
and D = 0 at a critical point with λ > 0. Then every feature lies in the row space of W, and the features of a class are
equal where its outputs are: with a free bias SQI implies Tr Σ_W = 0, which it does not in general (`two_clusters`).
Where V and W decay differently, λ_W WᵀW = λ_V VVᵀ there, so that the features lie in the same space. Compare Jacot,
Súkeník, Wang and Mondelli (2025). All this holds of each two consecutive linear layers.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .comparison import Comparison, compare
from .evidence import Evidence, LinearPair
from .identities import ROUNDING, STATIONARITY

REFERENCE = "two linear layers"


def _within(values: Float[Tensor, "samples dimensions"], evidence: Evidence) -> Float[Tensor, "dimensions dimensions"]:
    """(1/N) Σ_i (x_i − x̄_{c(i)})(x_i − x̄_{c(i)})ᵀ of any values of the samples."""
    counts = torch.bincount(evidence.labels, minlength=evidence.num_classes).double()
    sums = values.new_zeros(evidence.num_classes, values.shape[1]).index_add_(0, evidence.labels, values)
    deviations = values - (sums / counts[:, None])[evidence.labels]
    return deviations.T @ deviations / len(values)


def gradients_of_neighbours(evidence: Evidence) -> Iterator[Comparison]:
    """Wᵀ ∇_W L_data = ∇_V L_data Vᵀ for two consecutive linear layers."""
    for pair in evidence.linear_pairs:
        W, V = pair.above, pair.below
        # both are (1/N) Σ_i Wᵀ(f_i − y_i) h_iᵀ, and its terms may cancel
        sizes = torch.linalg.norm(pair.errors @ W.value, dim=1) * torch.linalg.norm(pair.features, dim=1)
        yield compare(
            f"Wᵀ∇_W of {W.name}",
            V.data_gradient @ V.value.T,
            W.value.T @ W.data_gradient,
            tells=ROUNDING,
            reference=REFERENCE,
            scale=sizes.mean().item(),
        )


def balance_of_neighbours(evidence: Evidence) -> Iterator[Comparison]:
    """WᵀW = (λ_V/λ_W) VVᵀ, as matrices, for two consecutive linear layers."""
    for pair in _decaying_pairs(evidence):
        W, V = pair.above, pair.below
        gram, outer = W.value.T @ W.value, V.value @ V.value.T
        predicted = V.decay / W.decay * outer
        yield compare(f"WᵀW of {W.name}", predicted, gram, tells=STATIONARITY, reference=REFERENCE)


def balance_of_neighbours_along_flow(
    times: Sequence[float], differences: Sequence[Float[Tensor, "features features"]], weight_decay: float
) -> Comparison:
    """D = WᵀW − VVᵀ at time t is e^{−2λt} times its value at the first time, entry by entry.

    Args:
        times: times of gradient flow, increasing.
        differences: D at each of these times.
        weight_decay: λ.
    """
    measured = torch.stack([D.flatten() for D in differences])
    factors = torch.exp(-2 * weight_decay * (torch.tensor(times, dtype=torch.float64) - times[0]))
    return compare(
        "WᵀW − VVᵀ over time",
        factors[:, None] * measured[0],
        measured,
        tells="the error of the steps in time",
        reference=REFERENCE,
        scale=torch.linalg.norm(measured[0]).item() * math.sqrt(len(times)) or math.nan,
    )


def within_class_covariance(evidence: Evidence) -> Iterator[Comparison]:
    """Σ_W = W⁺ Cov_w(f) W⁺ᵀ, with Cov_w(f) the covariance of the outputs within classes."""
    for pair in _decaying_pairs(evidence):
        measured = _within(pair.features, evidence)
        for reading in _readings(pair, evidence):
            predicted = reading.inverse @ _within(pair.outputs, evidence) @ reading.inverse.T
            yield compare(
                f"Σ_W from {pair.above.name}, rank {reading.rank}",
                predicted,
                measured,
                tells=STATIONARITY,
                reference=REFERENCE,
                scale=max(*(torch.linalg.norm(Sigma).item() for Sigma in (predicted, measured)), _rounding(pair)),
            )


def certificate(evidence: Evidence) -> Iterator[Comparison]:
    """Tr Σ_W ≤ Tr(W_r⁺ Cov_w(f) W_r⁺ᵀ) + ‖(I − P)V‖²_op Tr Σ_W(z), with P the projection on W's r leading directions.

    It holds at any weights, since Ph = W_r⁺(f − b) exactly; the first term is computed as that of Ph, without dividing
    by small singular values. The residual says how far the bound lies above the value.
    """
    for pair in evidence.linear_pairs:
        Sigma_W = _within(pair.features, evidence)
        value, spread_below = Sigma_W.trace().item(), _within(pair.inputs, evidence).trace().item()
        for reading in _readings(pair, evidence):
            missed = torch.linalg.matrix_norm(pair.below.value - reading.projected(pair.below.value), ord=2).item() ** 2
            bound = reading.projected(Sigma_W).trace().item() + missed * spread_below
            yield compare(
                f"Tr Σ_W ≤, from {pair.above.name}, rank {reading.rank}",
                bound,
                value,
                tells="how far the bound lies above the value",
                reference=REFERENCE,
                scale=max(bound, value, _rounding(pair)),
            )


def collapse(evidence: Evidence) -> Iterator[Comparison]:
    """If SQI holds at a critical point with λ > 0 and a free bias, Tr Σ_W = 0, and so in every linear layer below."""
    for pair in evidence.linear_pairs:
        spread = _within(pair.features, evidence).trace().item()
        size = pair.features.var(dim=0, correction=0).sum().item()
        yield compare(
            f"Tr Σ_W before {pair.above.name}",
            0.0,
            spread,
            tells="distance from SQI and from a critical point",
            reference="Theorem 2.3 with linear layers",
            scale=size or math.nan,
        )


def _decaying_pairs(evidence: Evidence) -> Iterator[LinearPair]:
    """The pairs of which both layers decay: at a critical point one that does not makes the other zero."""
    return (pair for pair in evidence.linear_pairs if pair.above.decay and pair.below.decay)


def _rounding(pair: LinearPair) -> float:
    """A variance below which the features of a class count as equal."""
    return torch.finfo(torch.float64).eps * pair.features.square().sum(dim=1).mean().item()


@dataclass(frozen=True)
class _Reading:
    """W truncated to its r leading directions."""

    rank: int
    inverse: Float[Tensor, "features outputs"]
    """W_r⁺."""
    leading: Float[Tensor, "rank features"]

    def projected(self, matrix: Float[Tensor, "features columns"]) -> Float[Tensor, "features columns"]:
        """P times the matrix."""
        return self.leading.T @ (self.leading @ matrix)


def _readings(pair: LinearPair, evidence: Evidence) -> Iterator[_Reading]:
    """Reads W at its rank, and at every lower one after which a singular value is below a tenth of the one before.

    With a free bias Σ_c W^c = 0 at a critical point, so that there the rank to come is C − 1.
    """
    left, sizes, right = torch.linalg.svd(pair.above.value, full_matrices=False)
    tolerance = max(pair.above.value.shape) * torch.finfo(torch.float64).eps * sizes[0]
    rank = int((sizes > tolerance).sum())
    ranks = {rank} if rank else set()
    ranks |= {r for r in range(1, rank) if sizes[r] < sizes[r - 1] / 10}
    if evidence.bias_kind == "free" and evidence.num_classes - 1 <= rank:
        ranks.add(evidence.num_classes - 1)
    for r in sorted(ranks):
        yield _Reading(r, right[:r].T @ (left[:, :r] / sizes[:r]).T, right[:r])
