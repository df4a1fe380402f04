"""Descends from a trained network to a critical point of Eq. 1, with kinks of the ReLUs taken into account.

Weight decay pulls a unit that is off on a sample towards z = 0, and there it stays: a trained network ends with many
pre-activations at the kink of their ReLU, where ∇L jumps and does not vanish. A point is critical if there is a slope
s ∈ [0, 1] for each of those ReLUs, and 0 or 1 for every other, such that the gradient computed with the slopes
vanishes. It is an element of Clarke's subdifferential in the sense of the chain rule. f is homogeneous for every choice
of slopes, and the last layer never has a kink, so the identities of a critical point hold there too.

The slopes are the multipliers of an augmented Lagrangian (Rockafellar, 1976; Bertsekas, 1982). ReLU(z) is the largest
s·z over s ∈ [0, 1]; near the slopes c found so far it becomes

    max_s  s·z − (μ/2)(s − c)²  =  s·z − (μ/2)(s − c)²  at  s = clip(c + z/μ, 0, 1),

whose derivative is this s. L-BFGS minimises L with these smooth units for some iterations, and the slopes become the
centres of the next round. When they settle, s = c, and the units are exactly ReLUs again although μ is still positive.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .._errors import InputError
from .full_batch import FullBatch

#: torch.optim.LBFGS minimises L times this. It keeps only pairs with yᵀs > 1e-10, and near a critical point L has none.
_SCALE = 1e12

#: μ over the root mean square of a unit's pre-activations: its first and its least value.
_WIDTH, _SMALLEST_WIDTH = 0.1, 1e-6

#: The memory for the pairs of L-BFGS.
_HISTORY_BYTES = 400_000_000

#: After so many rounds without a new low μ is halved, or doubled if the gradient lags behind the slopes.
_SLOW_ROUNDS = 10

_RELUS = {torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, nn.functional.relu, nn.functional.relu_}

Status = Literal["going", "converged", "stalled", "limit"]


@dataclass(frozen=True)
class RefinementState:
    """The network after some iterations of L-BFGS; the last state is the first whose status is not `going`."""

    iteration: int
    status: Status
    loss: float
    """L at the point, with ReLUs."""
    gradient_norm: float
    """‖∇L‖ at the point, with ReLU'(0) = 0: where kinks are active it stays away from zero."""
    subgradient_norm: float
    """‖∇L‖ with the slopes found for the kinks, which converges to zero."""
    kink_gap: float
    """Largest |s·z − ReLU(z)|: how far the slopes are from those of ReLU at the point."""
    kinks: int
    """The number of pre-activations with a slope strictly between 0 and 1."""
    weight_norm: float
    """‖W‖ of all trainable parameters."""
    seconds: float
    """The time since the descent started."""
    point: Float[Tensor, " parameters"]


def refine(
    objective: FullBatch,
    *,
    tolerance: float = 1e-8,
    max_iterations: int = 20_000,
    round_iterations: int = 20,
    history: int | None = None,
    patience: int = 100,
) -> Iterator[RefinementState]:
    """Descends to a critical point of L in full batch and float64, and yields the state after every round of L-BFGS.

    The last state is
    `converged` if both the subgradient's norm and the kink gap are at most tolerance·(1 + ‖W‖),
    `stalled` if for `patience` rounds neither the larger of the two nor L fell below its lowest value, and
    `limit` after `max_iterations`.

    At each state the network has the state's weights. To resume from a point, move the network there and refine again:
    that starts with the slopes of ReLU and an empty memory, so the subgradient is large at first.

    The ReLUs may be `nn.ReLU` or the functions of torch. Another unit with a kink is not smoothed, and if its kinks are
    active the descent ends as `stalled`.

    Args:
        objective: L, and the network at its start.
        tolerance: the tolerance of the critical point.
        max_iterations: the most iterations of L-BFGS, each about 1.4 gradients.
        round_iterations: the iterations between two updates of the slopes.
        history: the pairs of points that L-BFGS keeps in memory, by default as many as fit into 400 MB, from 10 to 300.
            More pairs make fewer iterations, each costlier where a gradient is cheap.
        patience: the rounds without progress after which to stop.

    Raises `ValueError` if an argument is not positive, and `FloatingPointError` if L is not finite.

    >>> from torch import nn
    >>> line = FullBatch(nn.Linear(1, 2, bias=False), torch.ones(2, 1), torch.tensor([0, 1]), {"weight": 1.0})
    >>> *_, last = refine(line)
    >>> last.status, last.point  # half of the mean target, (1/2, 1/2)
    ('converged', tensor([0.2500, 0.2500], dtype=torch.float64))
    """
    if history is None:
        history = min(300, max(10, _HISTORY_BYTES // (16 * len(objective.decay_vector))))
    numbers = {"tolerance": tolerance, "max_iterations": max_iterations, "round_iterations": round_iterations}
    for name, value in {**numbers, "history": history, "patience": patience}.items():
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} must be positive and finite, got {value}")
    return _rounds(objective, _Limits(tolerance, max_iterations, patience), round_iterations, history)


@dataclass
class _Limits:
    """Decides when to stop."""

    tolerance: float
    max_iterations: int
    patience: int
    lowest_loss: float = math.inf
    lowest_residual: float = math.inf
    rounds: int = 0
    """Rounds since either was lowest."""

    def status(self, iteration: int, loss: float, residual: float, weight_norm: float) -> Status:
        self.rounds = 0 if loss < self.lowest_loss or residual < self.lowest_residual else self.rounds + 1
        self.lowest_loss, self.lowest_residual = min(loss, self.lowest_loss), min(residual, self.lowest_residual)
        if residual <= self.enough(weight_norm):
            return "converged"
        if self.rounds >= self.patience:
            return "stalled"
        return "limit" if iteration >= self.max_iterations else "going"

    def enough(self, weight_norm: float) -> float:
        return self.tolerance * (1 + weight_norm)


def _rounds(objective: FullBatch, limits: _Limits, round_iterations: int, history: int) -> Iterator[RefinementState]:
    started = time.perf_counter()
    units = _RelaxedReLUs()
    descent = _Descent(objective, units, round_iterations, history)
    for iteration in itertools.count(0, round_iterations):
        point = descent.point.detach().clone()
        subgradient_norm = units.with_slopes(objective, point)[1].norm().item()
        loss, gradient = objective(point)
        if not math.isfinite(loss):
            raise FloatingPointError(f"L is {loss} after {iteration} iterations; begin at a trained network")
        weight_norm = point.norm().item()
        state = RefinementState(
            iteration=iteration,
            status=limits.status(iteration, loss, max(subgradient_norm, units.gap), weight_norm),
            loss=loss,
            gradient_norm=gradient.norm().item(),
            subgradient_norm=subgradient_norm,
            kink_gap=units.gap,
            kinks=units.kinks,
            weight_norm=weight_norm,
            seconds=time.perf_counter() - started,
            point=point,
        )
        yield state
        if state.status != "going":
            return
        ahead = subgradient_norm > 2 * descent.gradient_norm  # the slopes run ahead of the weights
        slow = limits.rounds % _SLOW_ROUNDS == _SLOW_ROUNDS - 1
        if ahead or subgradient_norm <= limits.enough(weight_norm) or (slow and units.gap >= subgradient_norm):
            units.tighten()
        elif slow:
            units.loosen()
        descent.descend()


class _Descent:
    """Minimises L with relaxed units by L-BFGS, some iterations at a time; the slopes change in between."""

    def __init__(self, objective: FullBatch, units: "_RelaxedReLUs", iterations: int, history: int):
        self.objective, self.units = objective, units
        self.point = nn.Parameter(objective.point)
        #: the gradient of L with relaxed units at the end of the last round
        self.gradient = torch.full_like(self.point, math.inf)
        self.optimizer = torch.optim.LBFGS(
            [self.point],
            max_iter=iterations,
            max_eval=25 * iterations,
            history_size=history,
            line_search_fn="strong_wolfe",
            tolerance_grad=0.0,
            tolerance_change=0.0,
        )

    @property
    def gradient_norm(self) -> float:
        return self.gradient.norm().item()

    def descend(self) -> None:
        """Runs a round; then the units take the slopes at its end."""
        memory = self.optimizer.state[self.point]
        if "prev_flat_grad" in memory:
            # the slopes changed since it was stored, and the change of the gradient that they cause is no curvature
            memory["prev_flat_grad"] += _SCALE * (self._evaluate()[1] - self.gradient)
        self.optimizer.step(self._closure)
        self.gradient = self._evaluate()[1]
        self.units.adopt()

    def _evaluate(self) -> tuple[float, Float[Tensor, " parameters"]]:
        return self.units.relaxed(self.objective, self.point.detach())

    def _closure(self) -> float:
        value, gradient = self._evaluate()
        self.point.grad = _SCALE * gradient
        return _SCALE * value


class _RelaxedReLUs(TorchFunctionMode):
    """Within the context, replaces ReLUs by units with slopes of their own, one tensor of them per call, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.width = _WIDTH
        self.slopes: list[Tensor] = []
        self.gap, self.kinks = 0.0, 0
        self._found: list[Tensor] = []
        self._sizes: list[Tensor] = []
        self._answer: Callable[[Tensor, int], Tensor] = self._relaxed
        self._calls = itertools.count()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _RELUS:
            return func(*args, **(kwargs or {}))
        z: Tensor = args[0] if args else kwargs["input"]
        return self._answer(z, next(self._calls))

    def relaxed(
        self, objective: FullBatch, point: Float[Tensor, " parameters"]
    ) -> tuple[float, Float[Tensor, " parameters"]]:
        """L and ∇L with max_s s·z − (μ/2)(s − c)² in place of ReLU(z)."""
        self._found, self._answer, self._calls = [], self._relaxed, itertools.count()
        with self:
            return objective(point)

    def _relaxed(self, z: Tensor, call: int) -> Tensor:
        mu, c = self.width * self._sizes[call], self.slopes[call]
        s = (c + z.detach() / mu).clamp_(0, 1)
        self._found.append(s)
        return s * z - mu / 2 * (s - c).square_()

    def adopt(self) -> None:
        """Makes the slopes of the last evaluation the centres."""
        self.slopes = self._found

    def tighten(self) -> None:
        """Halves μ: the slopes settle sooner, and L becomes stiffer."""
        self.width = max(self.width / 2, _SMALLEST_WIDTH)

    def loosen(self) -> None:
        """Doubles μ."""
        self.width = min(2 * self.width, _WIDTH)

    def with_slopes(
        self, objective: FullBatch, point: Float[Tensor, " parameters"]
    ) -> tuple[float, Float[Tensor, " parameters"]]:
        """L and ∇L with s·z in place of ReLU(z), at first with the slopes of ReLU. Measures the gap and the kinks."""
        self.gap, self.kinks, self._sizes = 0.0, 0, []
        self._answer, self._calls = self._fixed, itertools.count()
        with self:
            return objective(point)

    def _fixed(self, z: Tensor, call: int) -> Tensor:
        held = z.detach()
        if call == len(self.slopes):
            self.slopes.append((held > 0).to(z.dtype))
        s = self.slopes[call]
        # the size is the unit's own, so that a unit that shrinks to zero does not become linear
        others = [dimension for dimension in range(z.ndim) if dimension != 1]
        self._sizes.append(held.square().mean(others, keepdim=True).sqrt_().clamp_min_(torch.finfo(z.dtype).tiny))
        self.gap = max(self.gap, (s * held - held.relu()).abs().max().item())
        self.kinks += int(((s > 0) & (s < 1)).sum())
        return s * z
