"""Turns numbers over seeds into intervals, and intervals into a verdict, by one rule for all claims."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy import stats

#: The chance that any interval of a part is wrong, divided among its intervals (Bonferroni).
ERROR = 0.05


class Verdict(StrEnum):
    """The verdict of the seeds on a claim."""

    HOLDS = "holds"
    IN_PART = "holds in part"
    NOT = "does not hold here"
    UNDECIDED = "undecided"
    NO_RUNS = "no runs"


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its confidence interval; nan for fewer than two seeds."""

    estimate: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class Finding:
    """An interval and what it is for, such as a value of λ."""

    label: str
    interval: Interval


def mean_interval(values: Sequence[float], comparisons: int = 1) -> Interval:
    """Student's t interval of the mean, at level 1 − 0.05/comparisons.

    If a value is not finite, everything is nan, so that a run without a value is not overlooked.
    """
    seeds = len(values)
    mean = float(np.mean(values)) if seeds and np.isfinite(values).all() else math.nan
    if seeds < 2 or math.isnan(mean):
        return Interval(mean, math.nan, math.nan, seeds)
    quantile = float(stats.t.ppf(1 - ERROR / comparisons / 2, seeds - 1))
    half = quantile * float(np.std(values, ddof=1)) / math.sqrt(seeds)
    return Interval(mean, mean - half, mean + half, seeds)


def ratio_interval(numerators: Sequence[float], denominators: Sequence[float], comparisons: int = 1) -> Interval:
    """The confidence interval of the geometric mean of ratios, seed by seed; nan if one is not positive."""
    pairs = list(zip(numerators, denominators, strict=True))
    logs = [math.log(n) - math.log(d) if n > 0 and d > 0 else math.nan for n, d in pairs]
    found = mean_interval(logs, comparisons)
    with np.errstate(over="ignore"):  # if two seeds disagree, the interval may reach infinity
        estimate, low, high = (float(np.exp(log)) for log in (found.estimate, found.low, found.high))
    return Interval(estimate, low, high, found.seeds)


@dataclass(frozen=True)
class Rule:
    """Gives a verdict on a quantity that the claim says is small.

    `strong` is the bound for an effect, `weak` the bound for a small one. `contradicted` says whether an interval
    wholly above `weak` speaks against the claim, which it does not if the claim is that something is possible.
    """

    strong: float
    weak: float
    contradicted: bool = True

    def __str__(self) -> str:
        unless = f", and none is wholly above {self.weak:g}" if self.contradicted else ""
        return (
            f"holds where an interval is wholly below {self.strong:g}{unless}; holds in part where one is wholly below "
            f"{self.weak:g}; does not hold where all are wholly above {self.strong:g} and none wholly below "
            f"{self.weak:g}; else undecided"
        )

    def __call__(self, intervals: Iterable[Interval]) -> Verdict:
        known = list(intervals)
        if not any(each.seeds for each in known):
            return Verdict.NO_RUNS
        if any(math.isnan(each.low) for each in known):
            return Verdict.UNDECIDED
        against = self.contradicted and any(each.low > self.weak for each in known)
        if any(each.high < self.strong for each in known) and not against:
            return Verdict.HOLDS
        if any(each.high < self.weak for each in known):
            return Verdict.IN_PART
        return Verdict.NOT if all(each.low > self.strong for each in known) else Verdict.UNDECIDED


@dataclass(frozen=True)
class Part:
    """One quantity of a claim, its rule, and the findings."""

    quantity: str
    rule: Rule
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """The rule's verdict on the findings."""
        return self.rule(finding.interval for finding in self.findings)


def combined(verdicts: Iterable[Verdict]) -> Verdict:
    """Combines the verdicts of parts: the one they agree on; else `in part` if any part holds; else `undecided`."""
    known = set(verdicts)
    if len(known) < 2:
        return known.pop() if known else Verdict.NO_RUNS
    return Verdict.IN_PART if known & {Verdict.HOLDS, Verdict.IN_PART} else Verdict.UNDECIDED
