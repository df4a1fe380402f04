"""Numbers over seeds into intervals, and intervals into a verdict, by one rule for all claims."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy import stats

#: Chance of a wrong interval among those of one part, shared out among them (Bonferroni).
ERROR = 0.05


class Verdict(StrEnum):
    """What the seeds say of a claim."""

    HOLDS = "holds"
    IN_PART = "holds in part"
    NOT = "does not hold here"
    UNDECIDED = "undecided"
    NO_RUNS = "no runs"


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its confidence interval; nan where fewer than two seeds tell."""

    estimate: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class Finding:
    """One interval, and of what it is: a value of λ, for one."""

    label: str
    interval: Interval


def mean_interval(values: Sequence[float], comparisons: int = 1) -> Interval:
    """Student's t interval of the mean, at level 1 − 0.05/comparisons.

    A value that is not finite leaves everything nan: a run that gave none tells nothing, and must not be passed over.
    """
    seeds = len(values)
    mean = float(np.mean(values)) if seeds and np.isfinite(values).all() else math.nan
    if seeds < 2 or math.isnan(mean):
        return Interval(mean, math.nan, math.nan, seeds)
    quantile = float(stats.t.ppf(1 - ERROR / comparisons / 2, seeds - 1))
    half = quantile * float(np.std(values, ddof=1)) / math.sqrt(seeds)
    return Interval(mean, mean - half, mean + half, seeds)


def ratio_interval(numerators: Sequence[float], denominators: Sequence[float], comparisons: int = 1) -> Interval:
    """Of the geometric mean of ratios, seed by seed; nan where one is not positive."""
    pairs = list(zip(numerators, denominators, strict=True))
    logs = [math.log(n) - math.log(d) if n > 0 and d > 0 else math.nan for n, d in pairs]
    found = mean_interval(logs, comparisons)
    with np.errstate(over="ignore"):  # two seeds that disagree say nothing: up to infinity
        estimate, low, high = (float(np.exp(log)) for log in (found.estimate, found.low, found.high))
    return Interval(estimate, low, high, found.seeds)


@dataclass(frozen=True)
class Rule:
    """Verdicts on a quantity that the claim says is small: `strong` is the effect size, `weak` what counts at all.

    `contradicted`: whether an interval wholly above `weak` speaks against the claim. It does not where the claim is
    that something is possible.
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
    """One quantity of a claim: what it is, the rule, what was found."""

    quantity: str
    rule: Rule
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        return self.rule(finding.interval for finding in self.findings)


def combined(verdicts: Iterable[Verdict]) -> Verdict:
    """Of a claim from those of its parts: what they agree in, and otherwise in part if any of it holds."""
    known = set(verdicts)
    if len(known) < 2:
        return known.pop() if known else Verdict.NO_RUNS
    return Verdict.IN_PART if known & {Verdict.HOLDS, Verdict.IN_PART} else Verdict.UNDECIDED
