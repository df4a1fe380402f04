"""Numerical minimisation of the unconstrained features model, from random starts and without its closed form."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from ..._errors import InputError, checks_arguments
from .closed_forms import closed_form
from .newton import Minimum, minimize
from .problem import UnconstrainedModel
from .reduced import ReducedObjective
from .solution import Solution

#: Random starts for problems that may have stationary points other than the global minimum.
_STARTS = 8
#: Several layers have more such points the nearer the decay is to the jump to zero.
_DEEP_STARTS = 16


@checks_arguments
def solve_unconstrained(
    model: UnconstrainedModel, *, seed: int = 0, starts: int | None = None, tolerance: float = 1e-11
) -> Solution:
    """Minimises the unconstrained features model by Newton's method from Gaussian starts, in float64.

    The objective is reduced to the class means, which loses no minimum (see `ReducedObjective`), and minimised over all
    layers, means and the bias together. The solver does not use the closed form, except for its `notes` at the end.

    With one layer, H free and p ≥ C every local minimum is global (Zhu et al. 2021 and Zhou et al. 2022), so one start
    is enough. With H ≥ 0 or several layers there are other minima: by default there are eight and sixteen starts, the
    solution lists their losses, and a note says if the closed form is lower than all of them.

    Args:
        seed: the seed of the starts. The same seed gives the same solution.
        starts: how many random starts.
        tolerance: the gradient's norm at which to stop, relative to √(2 λ_W F(0)), which bounds λ_W times the norm of
            all weights at every point better than zero.

    Raises:
        ValueError: for starts < 1, or a tolerance that is not positive and finite.

    >>> model = UnconstrainedModel(num_classes=4, per_class=5, num_features=6, weight_decay=1e-2, feature_decay=1e-3)
    >>> solution = solve_unconstrained(model)
    >>> print(f"{solution.loss:.10f} {solution.closed_form.loss:.10f} {solution.measurement['nc3']:.7f}")
    0.0278842712 0.0278842712 0.5176381
    """
    if starts is not None and starts < 1:
        raise InputError(f"nothing can be solved from {starts} starts; pass starts ≥ 1")
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise InputError(f"tolerance is {tolerance}; pass a positive finite number, such as 1e-11")
    if starts is None:
        has_room = model.num_features >= model.num_classes
        starts = 1 if model.features == "free" and has_room else _STARTS
        starts = _DEEP_STARTS if model.layers > 1 else starts
    objective = ReducedObjective(model)
    generator = torch.Generator().manual_seed(seed)
    at_zero = objective.at(torch.zeros_like(objective.decays)).value
    enough = tolerance * math.sqrt(2 * model.weight_decay * at_zero)
    ends = [
        minimize(objective.at, start, tolerance=enough, nonnegative=objective.nonnegative)
        for start in random_starts(objective, starts, generator)
    ]
    return _solution(objective, ends, enough)


def random_starts(
    objective: ReducedObjective, starts: int, generator: torch.Generator
) -> Iterator[Float[Tensor, " size"]]:
    """Yields Gaussian layers and means, the means' absolute values if H ≥ 0, and a bias of zero.

    After stretching all factors have one size. Singular values near g make outputs near g^{M+1} over the stretch, and g
    makes these near one. The sizes are g times powers of two from 2⁻¹ to 2, or from 2⁻² to 2³ with several layers: zero
    is then a local minimum, which small starts find, and minima where some directions vanish lie between.
    """
    model = objective.model
    g = objective.stretch.mean().item() ** (1 / (model.layers + 1))
    span = (-1.0, 1.0) if model.layers == 1 else (-2.0, 3.0)
    exponents = torch.linspace(*span, starts) if starts > 1 else torch.zeros(1)
    for exponent in exponents.tolist():
        size = 2**exponent * g / math.sqrt(model.num_features)
        start = size * torch.randn(len(objective.decays), generator=generator, dtype=torch.float64)
        _, means, bias = objective.split(start)
        if objective.nonnegative is not None:
            means.abs_()
        if bias is not None:
            bias.zero_()
        yield start


def _solution(objective: ReducedObjective, ends: list[Minimum], enough: float) -> Solution:
    best = min(ends, key=lambda end: end.value)
    model = objective.model
    layers, stretched, bias = objective.split(best.vector)
    means = stretched / objective.stretch
    if bias is not None and model.loss == "cross_entropy" and model.bias == "free":
        bias = bias - bias.mean()  # a constant changes no probability, so rounding alone has determined it
    loss, gradient_norm = _unreduced(model, layers, means, bias)
    optimum = closed_form(model)
    notes = () if optimum is None else optimum.notes
    certain = model.layers == 1 and model.features == "free" and model.num_features >= model.num_classes
    if optimum is None and not certain:
        notes = (*notes, "no closed form is known; that no lower minimum exists rests on the random starts alone")
    if optimum is not None and loss > optimum.loss * (1 + 1e-9) + 1e-15:
        notes = (*notes, f"no start found the minimum, {optimum.loss:.12g} by the closed form; try more starts")
    if best.gradient_norm > enough:
        notes = (*notes, f"the tolerance was not reached in {best.iterations} steps: see gradient_norm")
    return Solution(
        model=model,
        layers=tuple(layers),
        means=means,
        bias=bias,
        loss=loss,
        gradient_norm=gradient_norm,
        iterations=best.iterations,
        starts=tuple(end.value for end in ends),
        notes=notes,
    )


def _unreduced(
    model: UnconstrainedModel, layers: list[Tensor], means: Tensor, bias: Tensor | None
) -> tuple[float, float]:
    """The objective over all samples, and the norm of its gradient, by automatic differentiation."""
    leaves = [*layers, means[model.labels], *([] if bias is None else [bias])]
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    features = leaves[len(layers)]
    loss = model.objective(leaves[: len(layers)], features, None if bias is None else leaves[-1])
    gradients = list(torch.autograd.grad(loss, leaves))
    if model.features == "relu":
        inside = (features > 0) | (gradients[len(layers)] < 0)
        gradients[len(layers)] = gradients[len(layers)] * inside
    return loss.item(), math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
