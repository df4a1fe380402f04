"""Newton's method in a trust region, by conjugate gradients, for variables that are free or nonnegative."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

#: A predicted decrease below this, relative to the objective, cannot be distinguished from rounding.
_ROUNDING = 10 * torch.finfo(torch.float64).eps
#: How many steps may promise no more than rounding without halving the gradient.
_PATIENCE = 10
#: A step takes at most so many rounds of conjugate gradients, each on fewer variables than the last.
_ROUNDS = 20


@runtime_checkable
class Differentiable(Protocol):
    """A function at one point: its value, gradient and Hessian."""

    vector: Tensor
    value: float

    @property
    def gradient(self) -> Tensor:
        """The gradient at the point."""

    def hessian(self, direction: Tensor, /) -> Tensor:
        """The product of the Hessian with a vector."""


@dataclass(frozen=True)
class Minimum:
    """The end of a minimisation: the point, its value, the norm of its projected gradient, and the iterations."""

    vector: Float[Tensor, " size"]
    value: float
    gradient_norm: float
    iterations: int


def minimize(
    function: Callable[[Tensor], Differentiable],
    start: Float[Tensor, " size"],
    *,
    tolerance: float,
    nonnegative: Bool[Tensor, " size"] | None = None,
    iterations: int = 1000,
) -> Minimum:
    """Minimises until the projected gradient is at most `tolerance`, or as small as rounding or the iterations allow.

    Each step minimises the quadratic model within a ball. Along negative curvature it goes to the ball's boundary, so
    the method leaves saddles. A bounded variable at zero stays there if the gradient pushes it outwards. Variables that
    a step would carry below zero are set to it, and the model is minimised further in the others (Lin and Moré,
    "Newton's method for large bound-constrained optimization problems", 1999). The Hessian may be singular, as
    rotations make it.
    """
    point = function(start)
    radius = torch.linalg.norm(start).item()
    first = torch.linalg.norm(point.gradient).item()
    least, idle = math.inf, 0
    for iteration in range(iterations + 1):
        norm = torch.linalg.norm(_projected(point, nonnegative)).item()
        if norm < least / 2:
            least, idle = norm, 0
        if norm <= tolerance or iteration == iterations or idle == _PATIENCE:
            break
        forcing = min(0.1, (norm / first) ** 0.5) * norm
        step, predicted = _step(point, nonnegative, radius, forcing)
        trial = function(point.vector + step)
        rounding = _ROUNDING * max(1.0, abs(point.value))
        idle += predicted < rounding
        ratio = (point.value - trial.value + rounding) / (predicted + rounding)
        length = torch.linalg.norm(step).item()
        if ratio < 0.25 or not length:
            radius = 0.25 * length
        elif ratio > 0.75 and length > 0.8 * radius:
            radius *= 2
        if ratio > 0.05:
            point = trial
    return Minimum(point.vector, point.value, norm, iteration)


def _projected(point: Differentiable, nonnegative: Tensor | None) -> Tensor:
    """The gradient, without what only pushes variables below their bound."""
    return point.gradient if nonnegative is None else point.gradient * _free(point, nonnegative)


def _free(point: Differentiable, nonnegative: Tensor) -> Tensor:
    return ~(nonnegative & (point.vector <= 0) & (point.gradient > 0))


def _step(
    point: Differentiable, nonnegative: Tensor | None, radius: float, forcing: float
) -> tuple[Float[Tensor, " size"], float]:
    """A step within the radius, and the decrease of the function that the quadratic model predicts for it."""
    zero, free = torch.zeros_like(point.vector), torch.ones_like(point.vector, dtype=torch.bool)
    if nonnegative is None:
        step = _conjugate_gradients(point, -point.gradient, zero, free, radius, forcing)
        return step, _decrease(point, step, point.hessian(step))
    slope = -_projected(point, nonnegative)
    step, curved, lowered = _cut(point, nonnegative, zero, _along(point, slope, radius), 0.0, halvings=60)
    free = _free(point, nonnegative)
    for _ in range(_ROUNDS):
        free = free & ~(nonnegative & (point.vector + step <= 0))
        residual = -(point.gradient + curved) * free
        direction = _conjugate_gradients(point, residual, step, free, radius, forcing)
        further, curvature, decrease = _cut(point, nonnegative, step, direction, lowered, halvings=40)
        if decrease <= lowered:
            break
        step, curved, lowered = further, curvature, decrease
        if torch.linalg.norm(step) >= 0.99 * radius or not (free & nonnegative & (point.vector + step <= 0)).any():
            break
    return step, lowered


def _along(point: Differentiable, slope: Tensor, radius: float) -> Tensor:
    """The step along `slope` that minimises the model within the radius."""
    curvature = (slope @ point.hessian(slope)).item()
    square = (slope @ slope).item()
    longest = radius / square**0.5
    return slope * (min(longest, square / curvature) if curvature > 0 else longest)


def _cut(
    point: Differentiable, nonnegative: Tensor, step: Tensor, direction: Tensor, lowered: float, halvings: int
) -> tuple[Tensor, Tensor, float]:
    """Adds to `step` as much of `direction` as lowers the model within the bounds.

    Returns the longer step, its product with the Hessian, and the decrease that the model predicts.
    """
    for _ in range(halvings):
        wanted = point.vector + step + direction
        bounded = torch.where(nonnegative, wanted.clamp(min=0), wanted) - point.vector
        curvature = point.hessian(bounded)
        decrease = _decrease(point, bounded, curvature)
        if decrease > lowered:
            return bounded, curvature, decrease
        direction = direction / 2
    return step, torch.zeros_like(step), lowered


def _decrease(point: Differentiable, step: Tensor, curvature: Tensor) -> float:
    return -(point.gradient @ step + step @ curvature / 2).item()


def _conjugate_gradients(
    point: Differentiable, residual: Tensor, offset: Tensor, free: Tensor, radius: float, forcing: float
) -> Float[Tensor, " size"]:
    """Minimises the model in the free variables, from `offset` up to the ball's boundary.

    Steihaug, "The conjugate gradient method and trust regions in large scale optimization" (1983).
    """
    step, direction = torch.zeros_like(residual), residual
    square = (residual @ residual).item()
    for _ in range(len(residual)):
        if square <= forcing**2:
            break
        curved = point.hessian(direction) * free
        curvature = (direction @ curved).item()
        length = square / curvature if curvature > 0 else torch.inf
        if curvature <= 0 or torch.linalg.norm(offset + step + length * direction) >= radius:
            return step + _to_boundary(offset + step, direction, radius) * direction
        step = step + length * direction
        residual = residual - length * curved
        previous, square = square, (residual @ residual).item()
        direction = residual + square / previous * direction
    return step


def _to_boundary(inside: Tensor, direction: Tensor, radius: float) -> float:
    """Solves ‖inside + t · direction‖ = radius for t ≥ 0."""
    a, b = (direction @ direction).item(), (inside @ direction).item()
    c = min(0.0, (inside @ inside).item() - radius**2)
    root = (b * b - a * c) ** 0.5
    return -c / (b + root) if b > 0 else (root - b) / a
