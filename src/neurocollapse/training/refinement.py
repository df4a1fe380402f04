"""From a trained network to a critical point of Eq. 1, of which the theory speaks, kinks of the ReLUs included.

Weight decay pulls a unit that is off on a sample towards z = 0, and there it stays: a trained network ends with many
pre-activations at the kink of their ReLU, where ∇L jumps and does not vanish. A critical point is one with a slope
s ∈ [0, 1] for each of those ReLUs, 0 or 1 for every other, such that the gradient computed with the slopes vanishes: an
element of Clarke's subdifferential in the sense of the chain rule. f is homogeneous for every choice of slopes, and the
last layer never has a kink, so the identities of a critical point hold there too.

The slopes are the multipliers of an augmented Lagrangian (Rockafellar, 1976; Bertsekas, 1982). ReLU(z) is the largest
s·z over s ∈ [0, 1]; near the slopes c found so far it becomes

    max_s  s·z − (μ/2)(s − c)²  =  s·z − (μ/2)(s − c)²  at  s = clip(c + z/μ, 0, 1),

whose derivative is that s. L-BFGS minimises L with these smooth units for some iterations, the slopes become the
centres of the next round, and where it settles, s = c, the units are ReLUs again, exactly, with μ still positive.
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

#: What torch.optim.LBFGS sees of L: it keeps only pairs with yᵀs > 1e-10, as none is this near a critical point.
_SCALE = 1e12

#: μ over the root mean square of a unit's pre-activations: at first, and at least.
_WIDTH, _SMALLEST_WIDTH = 0.1, 1e-6

#: What the pairs of L-BFGS may take.
_HISTORY_BYTES = 400_000_000

#: Rounds without a new low after which μ is halved, or doubled where the gradient lags behind the slopes.
_SLOW_ROUNDS = 10

_RELUS = {torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, nn.functional.relu, nn.functional.relu_}

Status = Literal["going", "converged", "stalled", "limit"]


@dataclass(frozen=True)
class RefinementState:
    """The network after so many iterations of L-BFGS; the last state is the first whose status is not `going`."""

    iteration: int
    status: Status
    loss: float
    """L at the point, with ReLUs."""
    gradient_norm: float
    """‖∇L‖ at the point, with ReLU'(0) = 0: where kinks are active it stays away from zero."""
    subgradient_norm: float
    """‖∇L‖ with the slopes found for the kinks: what converges."""
    kink_gap: float
    """Largest |s·z − ReLU(z)|: how far the slopes are from being ReLU's own at the point."""
    kinks: int
    """Pre-activations with a slope strictly between 0 and 1."""
    weight_norm: float
    """‖W‖, of all that trains."""
    seconds: float
    """Since the first state was asked for."""
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
    """Descend to a critical point of L in full batch and float64, and yield the state after every round of L-BFGS.

    `converged`: both the subgradient's norm and the kink gap are at most tolerance·(1 + ‖W‖). `stalled`: for
    `patience` rounds neither the larger of the two nor L has come below its lowest. `limit`: `max_iterations` are over.
    At each state the network is at its point. To go on from a point that was kept, move the network there and refine
    again: it begins with ReLU's own slopes and an empty memory, so the subgradient is large at first.

    ReLUs are found as they are called, as `nn.ReLU` or the functions of torch; another unit with a kink is taken as it
    is, and where its kinks are active the descent ends as `stalled`.

    Args:
        objective: L, and where to start; `history` pairs of its points are kept in memory.
        tolerance: of the critical point.
        max_iterations: of L-BFGS, each about 1.4 gradients.
        round_iterations: between two updates of the slopes.
        history: of L-BFGS, by default as many pairs as take 400 MB, from 10 to 300; more of it makes fewer
            iterations, each costlier where a gradient is cheap.
        patience: rounds.

    Raises `ValueError` where an argument is not positive, and `FloatingPointError` where L is not finite.

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
    """When to stop."""

    tolerance: float
    max_iterations: int
    patience: int
    lowest_loss: float = math.inf
    lowest_residual: float = math.inf
    rounds: int = 0
    """Since either was lowest."""

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
    begun = time.perf_counter()
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
            seconds=time.perf_counter() - begun,
            point=point,
        )
        yield state
        if state.status != "going":
            return
        ahead = subgradient_norm > 2 * descent.gradient_norm  # the slopes, of where the weights are
        slow = limits.rounds % _SLOW_ROUNDS == _SLOW_ROUNDS - 1
        if ahead or subgradient_norm <= limits.enough(weight_norm) or (slow and units.gap >= subgradient_norm):
            units.tighten()
        elif slow:
            units.loosen()
        descent.descend()


class _Descent:
    """L-BFGS on L with relaxed units, some iterations at a time; the slopes move in between."""

    def __init__(self, objective: FullBatch, units: "_RelaxedReLUs", iterations: int, history: int):
        self.objective, self.units = objective, units
        self.point = nn.Parameter(objective.point)
        #: of L with relaxed units, where the last round ended
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
        """A round; afterwards the units have the slopes of where it ended."""
        memory = self.optimizer.state[self.point]
        if "prev_flat_grad" in memory:
            # the slopes moved since it was stored, and their share in the change of the gradient is no curvature
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
    """Within the context, ReLUs have slopes of their own; one list entry per call, in the order of the calls."""

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
        """The slopes of the last evaluation become the centres."""
        self.slopes = self._found

    def tighten(self) -> None:
        """Halve μ: the slopes settle sooner, and L becomes stiffer."""
        self.width = max(self.width / 2, _SMALLEST_WIDTH)

    def loosen(self) -> None:
        """Double μ."""
        self.width = min(2 * self.width, _WIDTH)

    def with_slopes(
        self, objective: FullBatch, point: Float[Tensor, " parameters"]
    ) -> tuple[float, Float[Tensor, " parameters"]]:
        """L and ∇L with s·z in place of ReLU(z); at first, ReLU's own s. Measures the gap and the kinks."""
        self.gap, self.kinks, self._sizes = 0.0, 0, []
        self._answer, self._calls = self._fixed, itertools.count()
        with self:
            return objective(point)

    def _fixed(self, z: Tensor, call: int) -> Tensor:
        held = z.detach()
        if call == len(self.slopes):
            self.slopes.append((held > 0).to(z.dtype))
        s = self.slopes[call]
        # a unit's own size, so that a unit on its way to zero does not become linear
        others = [dimension for dimension in range(z.ndim) if dimension != 1]
        self._sizes.append(held.square().mean(others, keepdim=True).sqrt_().clamp_min_(torch.finfo(z.dtype).tiny))
        self.gap = max(self.gap, (s * held - held.relu()).abs().max().item())
        self.kinks += int(((s > 0) & (s < 1)).sum())
        return s * z
