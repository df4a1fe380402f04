"""Decides when a run has diverged: its objective or features are not finite, or it ends far above its start."""

import math

from torch import Tensor

from .._errors import DivergedError
from .config import RunConfig

#: At its end, a run's objective is at most so many times the larger of two: what it was at the start, and the data term
#: of outputs of zero. On the way it may go higher, since it may come back.
HIGHEST = 1000


def highest_objective(config: RunConfig, start: float, num_classes: int) -> float:
    """Returns the objective above which a run that started at `start` must not end."""
    of_zero = 0.5 if config.loss == "square" else math.log(num_classes)
    return HIGHEST * max(start, of_zero)


def check_objective(config: RunConfig, epoch: int, objective: float, highest: float = math.inf) -> None:
    """Raises `DivergedError` if the objective is not finite, or above the highest that it may be."""
    if math.isfinite(objective) and objective <= highest:
        return
    above = f", which is more than {HIGHEST} times that of the start" if math.isfinite(objective) else ""
    raise DivergedError(
        f"the objective became {objective:.6g} in epoch {epoch}{above} (λ = {config.weight_decay:g}, learning rate "
        f"{config.learning_rate:g}); try a smaller learning rate"
    )


def check_features(features: Tensor) -> None:
    """Raises `DivergedError` for features that are not finite, of which nothing can be measured."""
    if not features.isfinite().all():
        raise DivergedError("the network's features are no longer finite; try a smaller learning rate")
