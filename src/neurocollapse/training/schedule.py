"""The epochs at which a run is measured, and the learning rate and decay of each step."""

import bisect
import math
from functools import lru_cache
from typing import Any

from .config import RunConfig

#: What is measured at an epoch, by key.
Record = dict[str, Any]


#: A run until rest has at most so many rounds. In each the batches are so many times as large as in the one before: it
#: is the noise of small batches that keeps the gradient of all samples from vanishing.
_ROUNDS, _GROWTH = 3, 8


def rounds(config: RunConfig) -> tuple[int, ...]:
    """The last epoch of each round; with `until` rest every round is twice as long as the one before.

    >>> rounds(RunConfig(epochs=40)), rounds(RunConfig(epochs=40, until="rest"))
    ((40,), (40, 120, 280))
    """
    return tuple((2**k - 1) * config.epochs for k in range(1, 1 + (_ROUNDS if config.until == "rest" else 1)))


def batch_size_at(config: RunConfig, epoch: int) -> int:
    """The number of samples in each step of an epoch."""
    return config.batch_size * int(_GROWTH ** bisect.bisect_left(rounds(config), epoch))


def last_epoch(config: RunConfig) -> int:
    """The epoch at which the run ends, unless it is at rest before."""
    return rounds(config)[-1]


def recorded_epochs(config: RunConfig) -> tuple[int, ...]:
    """The epochs at which a run is measured: 0, then two to an octave, and the last of each round.

    >>> recorded_epochs(RunConfig(epochs=20))
    (0, 1, 2, 3, 4, 6, 8, 11, 16, 20)
    """
    last = last_epoch(config)
    octaves = range(2 * max(last, 1).bit_length())
    return tuple(sorted({0, *rounds(config)} | {round(2 ** (k / 2)) for k in octaves if 2 ** (k / 2) <= last}))


def learning_rate(config: RunConfig, progress: float) -> float:
    """The learning rate after the share `progress` of all steps of a round."""
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


def learning_rate_at(config: RunConfig, step: int, steps: int = 1) -> float:
    """The learning rate after `step` steps, where an epoch has `steps`; each round has the whole schedule."""
    ends = rounds(config)
    index = min(bisect.bisect_right(ends, step // steps), len(ends) - 1)
    first = (0, *ends)[index]
    return learning_rate(config, (step - first * steps) / max(steps * (ends[index] - first), 1))


#: Share of the first round's steps after which λ has the configuration's value.
_RELAXED = 0.6


def decay_factor(config: RunConfig, progress: float) -> float:
    """The factor that multiplies λ after the share `progress` of all steps of the first round."""
    return config.decay_start ** max(0.0, 1 - progress / _RELAXED)


@lru_cache(maxsize=4)  # runs that are trained together mostly share their pace
def paces(config: RunConfig, steps: int, epoch: int, before: int) -> tuple[list[float], list[float], list[int]]:
    """The learning rate and the factor of λ of each step of an epoch, and the number of steps taken, it included.

    The epoch has `steps`, and all epochs before it had `before`.
    """
    done = range((epoch - 1) * steps, epoch * steps)
    rates = [learning_rate_at(config, step, steps) for step in done]
    factors = [decay_factor(config, step / (steps * config.epochs)) for step in done]
    return rates, factors, [before + taken for taken in range(1, steps + 1)]


def batches(config: RunConfig, samples: int, epoch: int) -> list[slice]:
    """Returns the places of each step's samples in the order of an epoch."""
    size = batch_size_at(config, epoch)
    starts = list(range(0, samples, size))
    if config.normalization == "batch" and samples % size == 1 < samples:
        starts.pop()  # a single sample has no variance to divide by, so it joins the step before
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], samples], strict=True)]


def decay_alone(config: RunConfig, last: int, samples: int) -> list[float]:
    """Returns the factors by which SGD has multiplied, after each epoch up to the `last`, what no data move.

    With coupled decay v ← βv + λs, s ← s − ηv, and with decoupled decay s ← (1 − ηλ)s, from s = 1 and v = 0.
    """
    share, velocity, found = 1.0, 0.0, [1.0]
    for epoch in range(1, last + 1):
        rates, factors, _ = paces(config, len(batches(config, samples, epoch)), epoch, 0)
        for rate, factor in zip(rates, factors, strict=True):
            decay = config.weight_decay * factor
            velocity = config.momentum * velocity + decay * share
            share -= rate * (velocity if config.optimizer == "sgd" else decay * share)
        found.append(share)
    return found


def flow_time(config: RunConfig, epoch: int, samples: int) -> float:
    """The time of gradient flow that corresponds to SGD until `epoch`: Σ η/(1 − momentum) over the steps."""
    steps = [len(batches(config, samples, each)) for each in range(1, epoch + 1)]
    rates = (
        learning_rate_at(config, done * number + step, number)
        for done, number in enumerate(steps)
        for step in range(number)
    )
    return math.fsum(rates) / (1 - config.momentum)
