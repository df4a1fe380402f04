"""The epochs at which a run is measured, and the learning rate and decay of each step."""

import math
from functools import lru_cache
from typing import Any

from .config import RunConfig

#: What is measured at an epoch, by key.
Record = dict[str, Any]


def recorded_epochs(epochs: int) -> tuple[int, ...]:
    """The epochs at which a run is measured: 0, then two to an octave, and the last.

    >>> recorded_epochs(20)
    (0, 1, 2, 3, 4, 6, 8, 11, 16, 20)
    """
    octaves = range(2 * max(epochs, 1).bit_length())
    return tuple(sorted({0, epochs} | {round(2 ** (k / 2)) for k in octaves if 2 ** (k / 2) <= epochs}))


def learning_rate(config: RunConfig, progress: float) -> float:
    """The learning rate after the share `progress` of all steps."""
    match config.schedule:
        case "steps":
            factor = 0.1 ** min(int(3 * progress), 2)
        case "cosine":
            factor = (1 + math.cos(math.pi * progress)) / 2
        case "linear":
            factor = 1 - progress
        case _:
            factor = 1.0
    return config.learning_rate * factor


#: Share of the steps after which λ has the configuration's value.
_RELAXED = 0.6


def decay_factor(config: RunConfig, progress: float) -> float:
    """The factor that multiplies λ after the share `progress` of all steps."""
    return config.decay_start ** max(0.0, 1 - progress / _RELAXED)


@lru_cache(maxsize=4)  # runs that are trained together mostly share their pace
def paces(config: RunConfig, steps: int, epoch: int) -> tuple[list[float], list[float], list[int]]:
    """The learning rate and the factor of λ of each step of an epoch, and the number of steps taken, it included."""
    done = range((epoch - 1) * steps, epoch * steps)
    progress = [before / (steps * config.epochs) for before in done]
    rates, factors = ([of(config, share) for share in progress] for of in (learning_rate, decay_factor))
    return rates, factors, [before + 1 for before in done]


def flow_time(config: RunConfig, epoch: int, samples: int) -> float:
    """The time of gradient flow that corresponds to SGD until `epoch`: Σ η/(1 − momentum) over the steps."""
    steps = -(-samples // config.batch_size)
    rates = (learning_rate(config, step / (steps * config.epochs)) for step in range(steps * epoch))
    return math.fsum(rates) / (1 - config.momentum)
