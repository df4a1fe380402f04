"""Turns numbers of runs, by λ and seed, into findings: an interval over seeds at every λ."""

import math
from collections.abc import Callable, Sequence

import pandas as pd

from .results import Result
from .verdicts import Finding, Interval, mean_interval, ratio_interval

#: λ -> seed -> a number.
Numbers = dict[float, dict[int, float]]

Contrast = Callable[[Sequence[float], Sequence[float], int], Interval]


def numbers(results: Sequence[Result], key: str, **fields: object) -> Numbers:
    """Selects a number of the runs whose configurations have these fields; nan if a finished run lacks the key.

    A λ without finished runs is included, without seeds, so that a missing result is not overlooked.
    """
    found: Numbers = {}
    for result in results:
        if not all(getattr(result.config, name) == value for name, value in fields.items()):
            continue
        of_seeds = found.setdefault(result.config.weight_decay, {})
        if result.values:
            of_seeds[result.config.seed] = result.values.get(key, math.nan)
    return found


def decayed(values: Numbers) -> Numbers:
    """The numbers at λ > 0."""
    return {decay: values[decay] for decay in sorted(values) if decay > 0}


def undecayed(values: Numbers) -> Numbers:
    """The numbers at λ = 0, repeated for every λ > 0."""
    return dict.fromkeys(decayed(values), values.get(0.0, {}))


def negated(values: Numbers) -> Numbers:
    """The numbers with their signs changed."""
    return {decay: {seed: -value for seed, value in of_seeds.items()} for decay, of_seeds in values.items()}


def difference_interval(first: Sequence[float], second: Sequence[float], comparisons: int) -> Interval:
    """The confidence interval of the mean of first − second, seed by seed."""
    return mean_interval([a - b for a, b in zip(first, second, strict=True)], comparisons)


def compared(top: Numbers, bottom: Numbers, contrast: Contrast = ratio_interval) -> tuple[Finding, ...]:
    """Contrasts `top` with `bottom` at every λ of `top`, over the seeds that both have; by default their ratio."""
    found = []
    for decay, values in top.items():
        seeds = sorted(values.keys() & bottom.get(decay, {}).keys())
        pairs = [values[seed] for seed in seeds], [bottom[decay][seed] for seed in seeds]
        found.append(Finding(f"λ = {decay:g}", contrast(*pairs, len(top))))
    return tuple(found)


def alone(values: Numbers) -> tuple[Finding, ...]:
    """The mean at every λ."""
    return tuple(
        Finding(f"λ = {decay:g}", mean_interval(list(of_seeds.values()), len(values)))
        for decay, of_seeds in values.items()
    )


def rank_correlation(first: Numbers, second: Numbers) -> Finding:
    """The mean over seeds of Spearman's ρ over the values of λ within each seed."""
    a, b = pd.DataFrame(first), pd.DataFrame(second)  # a row for each seed, a column for each λ
    return Finding("over seeds", mean_interval([_spearman(a.loc[seed], b.loc[seed]) for seed in a.index]))


def _spearman(first: pd.Series, second: pd.Series) -> float:
    """Spearman's ρ; nan if a value is missing or all are the same."""
    if any(each.isna().any() or each.nunique() < 2 for each in (first, second)):
        return math.nan
    return float(first.corr(second, method="spearman"))
