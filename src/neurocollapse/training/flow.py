"""Integrates gradient flow, dW/dt = −∇L(W), the limit of gradient descent for small steps, with adaptive steps."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torchdiffeq import odeint

from .._errors import FlowError, InputError
from ..networks import layer_weights
from .full_batch import FullBatch


@dataclass(frozen=True)
class FlowState:
    """The state of the flow at one time."""

    time: float
    loss: float
    """L, the decay included."""
    gradient_norm: float
    """‖∇L‖; the loss falls at the rate ‖∇L‖²."""
    weight_norms: tuple[float, ...]
    """‖W_l‖² of each parameter of two or more dimensions, first layer first."""
    point: Float[Tensor, " parameters"]
    evaluations: int
    """The number of gradients computed since the start."""


def gradient_flow(
    objective: FullBatch,
    times: Sequence[float],
    *,
    start: float = 0.0,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    max_steps: int = 100_000,
) -> Iterator[FlowState]:
    """Follows dW/dt = −∇L(W) from the current weights of the objective's network, and yields the state at each time.

    The method is the pair of orders 5 and 4 of Dormand and Prince, in float64. It keeps the local error of every weight
    w below atol + rtol·|w| in the mean square. At each state the network has the state's weights, so that more can be
    measured there. To resume from a state, move the network to its point and pass its time as `start`.

    Args:
        objective: L, and the network at its start.
        times: finite, increasing, none before `start`; a step of gradient descent with learning rate η takes time η.
        start: the time of the current weights.
        rtol, atol: the local error that a step may make. −∇L jumps where a ReLU switches on a sample, and the solver
            finds the place by rejecting steps: some ten gradients each time, many times that at 1e-8.
        max_steps: the most steps between two of the times.

    Raises `ValueError` for times that are not finite and increasing from `start`, and `FlowError` if the steps become
    too small or too many: a flow that is pushed onto the switch of a ReLU from both sides cannot be followed.

    >>> from torch import nn
    >>> line = FullBatch(nn.Linear(1, 2, bias=False), torch.zeros(3, 1), torch.tensor([0, 1, 1]), {"weight": 0.5})
    >>> line.move_to(torch.tensor([3.0, 4.0], dtype=torch.float64))
    >>> [f"{state.weight_norms[0]:.4f}" for state in gradient_flow(line, [0.0, 1.0])]  # 25, and 25/e
    ['25.0000', '9.1970']
    """
    times = [float(time) for time in times]
    if not all(math.isfinite(time) for time in (start, *times)):
        raise InputError(
            f"the times of a flow must be finite, got {times} from {start:g}; leave out those that are not"
        )
    for index, (before, after) in enumerate(itertools.pairwise((start, *times))):
        if before > after or (before == after and index > 0):
            raise InputError(
                f"the times of a flow must increase, none before the start, got {after:g} after {before:g}; sort them"
            )
    return _follow(objective, times, start, (rtol, atol), max_steps)


def _follow(
    objective: FullBatch, times: Sequence[float], start: float, tolerances: tuple[float, float], max_steps: int
) -> Iterator[FlowState]:
    point = objective.point
    descent = _Descent(objective, max_steps)
    for before, after in itertools.pairwise((start, *times)):
        if before < after:
            point = descent.integrate(point, before, after, *tolerances)
        loss, gradient = objective(point)
        norms = tuple(weight.detach().square().sum().item() for weight in layer_weights(objective.model).values())
        yield FlowState(after, loss, gradient.norm().item(), norms, point.clone(), descent.evaluations)


class _Descent:
    """−∇L as torchdiffeq calls it. Counts the steps, and keeps the last step size for the next interval."""

    def __init__(self, objective: FullBatch, max_steps: int):
        self.objective, self.max_steps = objective, max_steps
        self.evaluations = self.steps = 0
        self.step: float | None = None

    def integrate(
        self, point: Float[Tensor, " parameters"], before: float, after: float, rtol: float, atol: float
    ) -> Float[Tensor, " parameters"]:
        self.steps = 0
        interval = torch.tensor([before, after], dtype=torch.float64)
        # step_t: end a step at `after`, where the solver would step across it and interpolate to a lower order
        options = {"first_step": self.step, "step_t": interval[1:]}
        solution: Tensor = odeint(self, point, interval, rtol=rtol, atol=atol, method="dopri5", options=options)
        return solution[-1]

    def __call__(self, time: Tensor, point: Float[Tensor, " parameters"]) -> Float[Tensor, " parameters"]:
        self.evaluations += 1
        return -self.objective(point)[1]

    def callback_step(self, time: Tensor, point: Float[Tensor, " parameters"], step: Tensor) -> None:
        """Checks the weights and the step; torchdiffeq calls this before each step."""
        self.steps += 1
        self.step = step.item()
        if not point.isfinite().all():
            raise FlowError(f"the weights at time {time:g} are not finite; start from smaller ones")
        if self.steps > self.max_steps or not time + step > time:
            raise FlowError(
                f"the flow stalls at time {time:.17g}: {self.steps - 1} steps since the last time asked for, the "
                f"next of length {step:.1e}, as where −∇L jumps; take larger tolerances, more steps, or an earlier end"
            )
