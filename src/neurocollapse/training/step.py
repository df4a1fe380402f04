"""One step of training, by the same function for one run and for several stacked along a first dimension.

Everything that a step depends on is a tensor, also the learning rate and λ, so that the CPU never waits for the device.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

#: Tensors by the names of the network's parameters; for R stacked runs each is (R, *shape).
Weights = dict[str, Tensor]

#: The optimiser's state for each weight, by kind.
Moments = dict[str, Weights]

Loss = Callable[[Weights, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Pace:
    """The numbers of a step: scalars, or (R,) for R stacked runs; for a whole epoch (steps,) or (R, steps)."""

    rate: Tensor
    """Learning rate η."""
    decay: Tensor
    """The factor that multiplies every λ."""
    count: Tensor
    """Steps taken, this one included, in float64."""

    def at(self, index: int | Int[Tensor, " 1"]) -> "Pace":
        """The pace of one step of an epoch. With the index on the device the CPU does not wait for it."""
        if isinstance(index, int):
            return Pace(*(values[..., index] for values in self.tensors))
        return Pace(*(values.index_select(-1, index).squeeze(-1) for values in self.tensors))

    @property
    def tensors(self) -> list[Tensor]:
        """All three."""
        return [self.rate, self.decay, self.count]


def along(values: Tensor, weight: Tensor) -> Tensor:
    """Reshapes one value per run, (R,), to (R, 1, ..., 1), for a weight (R, *shape); leaves a scalar as it is."""
    return values.view(-1, *[1] * (weight.ndim - 1)) if values.ndim else values


Update = Callable[[Tensor, Tensor, list[Tensor], Tensor, Tensor, Tensor, float], None]


def step(
    loss: Loss,
    weights: Weights,
    moments: Moments,
    images: Tensor,
    labels: Tensor,
    *,
    pace: Pace,
    decays: Mapping[str, Tensor],
    optimizer: str,
    momentum: float,
) -> Tensor:
    """Takes one step down L = loss(weights, images, labels) + Σ_k (λ_k/2) ‖W_k‖²: changes weights and moments in place.

    Args:
        loss: the data term of these samples: a scalar, or (R,) with one number for each run.
        weights: leaves that require gradients.
        moments: the optimiser's state, from `fresh_moments`.
        images, labels: (samples, ...) and (samples,), or (R, samples, ...) and (R, samples).
        decays: λ_k of each weight, a scalar or (R,).
        optimizer: a key of `OPTIMIZERS`.
        momentum: the momentum of sgd, sgdw and muon, and of the first moment of the others.

    Returns:
        The data term before the step, detached.
    """
    values = loss(weights, images, labels)
    # The runs are independent, so the gradient of the sum is the gradient of each.
    gradients = torch.autograd.grad(values.sum(), list(weights.values()))
    _, update = OPTIMIZERS[optimizer]
    with torch.no_grad():
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            each = (pace.rate, pace.count, pace.decay * decays[name])
            rate, count, decay = (along(values, weight) for values in each)
            kept = [of_kind[name] for of_kind in moments.values()]
            update(weight, gradient, kept, rate, decay, count, momentum)
    return values.detach()


def fresh_moments(optimizer: str, weights: Mapping[str, Tensor]) -> Moments:
    """The optimiser's state before the first step."""
    kinds, _ = OPTIMIZERS[optimizer]
    return {kind: {name: torch.zeros_like(weight) for name, weight in weights.items()} for kind in kinds}


def _sgd(
    weight: Tensor, gradient: Tensor, moments: list[Tensor], rate: Tensor, decay: Tensor, _: Tensor, momentum: float
) -> None:
    """v ← μ v + g + λ W,  W ← W − η v."""
    (velocity,) = moments
    velocity.mul_(momentum).add_(torch.addcmul(gradient, weight, decay))
    weight.addcmul_(velocity, rate, value=-1)


def _sgdw(
    weight: Tensor, gradient: Tensor, moments: list[Tensor], rate: Tensor, decay: Tensor, _: Tensor, momentum: float
) -> None:
    """v ← μ v + g,  W ← (1 − ηλ) W − η v: SGD with decoupled decay."""
    (velocity,) = moments
    velocity.mul_(momentum).add_(gradient)
    # Not W ← (1 − ηλ) W, whose factor in float32 would be off by the same rounding at every step.
    weight.addcmul_(weight, rate * decay, value=-1).addcmul_(velocity, rate, value=-1)


def _muon(
    weight: Tensor, gradient: Tensor, moments: list[Tensor], rate: Tensor, decay: Tensor, _: Tensor, momentum: float
) -> None:
    """v ← μ v + g + λ W,  W ← W − η O/‖O‖_F with O the orthogonal factor of g + λ W + μ v.

    Nesterov's momentum, orthogonalised as in Muon (Jordan et al., 2024), with two differences. The decay is a part of
    what is orthogonalised: the orthogonal factor of ∇L is a direction of descent of L wherever ∇L ≠ 0, so with an
    annealed rate training ends where ∇L = 0. And the step has length η in every layer, since at a critical point all
    layers have one norm.
    """
    (velocity,) = moments
    descent = torch.addcmul(gradient, weight, decay)
    velocity.mul_(momentum).add_(descent)
    descent.add_(velocity, alpha=momentum)
    runs = weight.shape[: rate.ndim and 1]
    matrix = orthogonalized(descent.reshape(*runs, weight.shape[len(runs)], -1))
    length = torch.linalg.matrix_norm(matrix, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    weight.addcmul_((matrix / length).view_as(weight), rate, value=-1)


#: Coefficients of an odd polynomial that takes singular values from (0, 1] towards 1: Jordan et al. (2024).
_QUINTIC = (3.4445, -4.7750, 2.0315)
_QUINTIC_STEPS = 3


def orthogonalized(matrix: Tensor) -> Tensor:
    """Approximates U Vᵀ of the singular value decomposition U S Vᵀ, for one or many matrices (..., rows, columns).

    It is a Newton–Schulz iteration, after which singular values that were not tiny lie around 1. It consists of matrix
    products alone, for which bfloat16 is precise enough. With P = a + b A + c A² a step is X ← P X and
    A = X Xᵀ ← P A P, so the wide X enters only two products, and all others are rows × rows.
    """
    wide = matrix.shape[-2] <= matrix.shape[-1]
    X = matrix if wide else matrix.mT
    shape = X.shape
    X = X / torch.linalg.matrix_norm(X, keepdim=True).clamp_min(torch.finfo(X.dtype).tiny)
    X = X.reshape(-1, *shape[-2:])
    a, b, c = _QUINTIC
    # One launch for each product together with its sum: on a GPU launches take most of the time.
    A = X @ X.mT
    P = torch.baddbmm(A, A, A, beta=b, alpha=c)  # without its a, which enters as a sum
    Q = P + a * torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    for _ in range(_QUINTIC_STEPS - 1):
        PA = torch.baddbmm(A, P, A, beta=a)
        A = torch.baddbmm(PA, PA, P, beta=a)
        P = torch.baddbmm(A, A, A, beta=b, alpha=c)
        Q = torch.baddbmm(Q, P, Q, beta=a)
    X = (Q @ X).view(shape)
    return (X if wide else X.mT).to(matrix.dtype)


def _adam(
    weight: Tensor, gradient: Tensor, moments: list[Tensor], rate: Tensor, decay: Tensor, count: Tensor, momentum: float
) -> None:
    """Adam of Kingma and Ba (2015) on g + λ W."""
    _adapted(weight, torch.addcmul(gradient, weight, decay), moments, rate, count, momentum)


def _adamw(
    weight: Tensor, gradient: Tensor, moments: list[Tensor], rate: Tensor, decay: Tensor, count: Tensor, momentum: float
) -> None:
    """AdamW of Loshchilov and Hutter (2019): W ← (1 − η λ) W beside Adam's step on g alone."""
    weight.mul_(1 - rate * decay)
    _adapted(weight, gradient, moments, rate, count, momentum)


_SECOND_MOMENTUM, _EPSILON = 0.999, 1e-8


def _adapted(
    weight: Tensor, gradient: Tensor, moments: list[Tensor], rate: Tensor, count: Tensor, momentum: float
) -> None:
    """m ← β₁ m + (1 − β₁) g,  v ← β₂ v + (1 − β₂) g²,  W ← W − η m̂ / (√v̂ + ε), each ^ divided by 1 − βᵗ."""
    first, second = moments
    first.lerp_(gradient, 1 - momentum)
    second.mul_(_SECOND_MOMENTUM).addcmul_(gradient, gradient, value=1 - _SECOND_MOMENTUM)
    # Computed in the float64 of the count: in float32 the first 1 − β₂ᵗ would have four digits.
    first_share, second_share = ((1 - beta**count).to(weight.dtype) for beta in (momentum, _SECOND_MOMENTUM))
    weight.sub_(rate / first_share * first / (second / second_share).sqrt_().add_(_EPSILON))


#: For each optimiser, the kinds of moments that it keeps for every weight, and its step.
OPTIMIZERS: dict[str, tuple[tuple[str, ...], Update]] = {
    "sgd": (("velocity",), _sgd),
    "sgdw": (("velocity",), _sgdw),
    "muon": (("velocity",), _muon),
    "adam": (("first", "second"), _adam),
    "adamw": (("first", "second"), _adamw),
}
