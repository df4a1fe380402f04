"""Turns numbers of runs, by λ and seed, into findings: an interval over seeds at every λ."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial

import numpy as np
import pandas as pd
from scipy import stats

from .results import Result
from .verdicts import (
    ERROR,
    Finding,
    Interval,
    Rule,
    Verdict,
    chance_below,
    mean_interval,
    quotient_interval,
    ratio_interval,
)

#: Results by experiment; a run that has not finished has no values.
Results = Mapping[str, Sequence[Result]]

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


def _excess_of_logs(numerator: float, denominator: float, bound: float) -> float:
    return math.log(numerator / denominator / bound) if numerator > 0 and denominator > 0 else math.nan


#: What lies below zero where a contrast of two numbers lies below a bound.
_EXCESS: dict[Contrast, Callable[[float, float, float], float]] = {
    ratio_interval: _excess_of_logs,
    difference_interval: lambda first, second, bound: first - second - bound,
    quotient_interval: lambda numerator, denominator, bound: numerator - bound * denominator,
}


def _chance(contrast: Contrast, first: Sequence[float], second: Sequence[float], bound: float) -> float:
    return chance_below([_EXCESS[contrast](a, b, bound) for a, b in zip(first, second, strict=True)])


def compared(top: Numbers, bottom: Numbers, contrast: Contrast = ratio_interval) -> tuple[Finding, ...]:
    """Contrasts `top` with `bottom` at every λ of `top`, over the seeds that both have; by default their ratio."""
    found = []
    for decay, values in top.items():
        seeds = sorted(values.keys() & bottom.get(decay, {}).keys())
        pairs = [values[seed] for seed in seeds], [bottom[decay][seed] for seed in seeds]
        interval = contrast(*pairs, len(top))
        found.append(Finding(f"λ = {decay:g}", interval, partial(_chance, contrast, *pairs)))
    return tuple(found)


def alone(values: Numbers) -> tuple[Finding, ...]:
    """The mean at every λ."""
    found = []
    for decay, of_seeds in values.items():
        numbers = list(of_seeds.values())
        chance = partial(_chance, difference_interval, numbers, [0.0] * len(numbers))
        found.append(Finding(f"λ = {decay:g}", mean_interval(numbers, len(values)), chance))
    return tuple(found)


def rank_correlation(first: Numbers, second: Numbers) -> Finding:
    """The mean over seeds of Spearman's ρ over the values of λ within each seed."""
    a, b = pd.DataFrame(first), pd.DataFrame(second)  # a row for each seed, a column for each λ
    return Finding("over seeds", mean_interval([_spearman(a.loc[seed], b.loc[seed]) for seed in a.index]))


def _spearman(first: pd.Series, second: pd.Series) -> float:
    """Spearman's ρ; nan if a value is missing or all are the same."""
    if any(each.isna().any() or each.nunique() < 2 for each in (first, second)):
        return math.nan
    return float(first.corr(second, method="spearman"))


@lru_cache
def chance_of_ranks(num_values: int, seeds: int, rule: Rule) -> dict[Verdict, float]:
    """How often a rule on `rank_correlation` holds, or holds at least in part, for orders that have nothing in common.

    By counting: every order of the values of λ is as likely in each seed. With two values and three seeds all three
    correlations are −1 one time in eight.
    """
    if seeds < 2 or num_values < 2:
        return {}
    ranks = range(num_values)
    halves = [sum((i - k) ** 2 for i, k in enumerate(order)) // 2 for order in itertools.permutations(ranks)]
    of_one, largest = Counter(halves), max(halves)  # S/2 with S = Σ (difference of ranks)², which is even
    shares = np.zeros((seeds * largest + 1, seeds * largest**2 + 1))  # by the sums over seeds of S/2 and of its square
    shares[0, 0] = 1.0
    for _ in range(seeds):
        further = np.zeros_like(shares)
        for half, times in of_one.items():
            rows, columns = (size - by for size, by in zip(shares.shape, (half, half**2), strict=True))
            further[half:, half**2 :] += times / len(halves) * shares[:rows, :columns]
        shares = further
    totals, squares = np.indices(shares.shape, sparse=True)
    unit, quantile = 12 / (num_values * (num_values**2 - 1)), float(stats.t.ppf(1 - ERROR / 2, seeds - 1))
    deviations = np.sqrt(np.maximum(0, seeds * squares - totals**2) / (seeds * (seeds - 1)))
    highs = 1 - unit * totals / seeds + quantile * unit * deviations / math.sqrt(seeds)
    bounds = {Verdict.HOLDS: rule.strong, Verdict.IN_PART: rule.weak}
    return {verdict: float(shares[highs < bound - 1e-12].sum()) for verdict, bound in bounds.items()}
