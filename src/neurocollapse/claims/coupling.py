"""The claims about optimisers: whether collapse needs coupled weight decay, and what momentum adds.

Rules that were written before the runs. Under the cross-entropy the sum of the rows of SGD is predicted exactly, with
coupled and with decoupled decay (`verify`), so that nc0 is no part of the claim there.
"""

from collections.abc import Iterator

from .contrasts import Numbers, Results, alone, compared, numbers
from .experiments import NC3_LEVEL
from .results import AT_LEVEL
from .verdicts import HALVED, Part, Rule

_LOSSES = ("square", "cross-entropy")
_PAIRS = (("sgd", "sgdw"), ("adam", "adamw"))

#: The experiments that either claim is judged by.
OPTIMIZERS = tuple(f"{loss}, {optimizer}" for loss in _LOSSES for pair in _PAIRS for optimizer in pair)
MOMENTA = tuple(f"{loss}, momentum {momentum}" for loss in _LOSSES for momentum in ("0", "0.5", "0.9"))

#: For the share of runs that never reach the training loss at which the others are compared.
MISSED = Rule(0.1, 0.5, contradicted=False)


def coupled_over_decoupled(results: Results) -> Iterator[Part]:
    """The ratio of each metric with coupled decay to that with decoupled decay as strong, at one training loss."""
    for loss in _LOSSES:
        for pair in _PAIRS:
            coupled, decoupled = (results[f"{loss}, {optimizer}"] for optimizer in pair)
            for optimizer, of in zip(pair, (coupled, decoupled), strict=True):
                missed = alone(numbers(of, "matched.missed"))
                yield Part(f"{loss}, {optimizer}: share of runs that miss the training loss", MISSED, missed)
            for key in AT_LEVEL:
                if (loss, pair, key) == ("cross-entropy", ("sgd", "sgdw"), "nc0"):
                    continue
                top, bottom = (numbers(of, f"matched.{key}") for of in (coupled, decoupled))
                quantity = f"{loss}, `{key}` at one training loss: {pair[0]} over {pair[1]}"
                yield Part(quantity, HALVED, compared(top, _in_order_of(top, bottom)))


def _in_order_of(first: Numbers, second: Numbers) -> Numbers:
    """The numbers of the second at the λ of the first that are as strong: the smallest at the smallest."""
    return {decay: second[other] for decay, other in zip(sorted(first), sorted(second), strict=True)}


def momentum_over_none(results: Results) -> Iterator[Part]:
    """The ratio of the epoch at which NC3 gets down to a level with momentum to that without."""
    for loss in _LOSSES:
        without, *others = (numbers(results[name], "nc3.epoch") for name in MOMENTA if name.startswith(loss))
        for momentum, values in zip(("0.5", "0.9"), others, strict=True):
            quantity = f"{loss}, epoch at which `nc3` is at most {NC3_LEVEL:g}: momentum {momentum} over none"
            yield Part(quantity, HALVED, compared(values, without))
