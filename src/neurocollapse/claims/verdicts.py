"""Turns numbers over seeds into intervals, and intervals into a verdict, by one rule for all claims."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

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
    TOO_FEW = "too few runs to judge"
    NOTHING = "nothing to order"
    NO_RUNS = "no runs"

    @property
    def favours(self) -> bool:
        """Whether the claim holds, at least in part."""
        return self in FAVOURABLE

    @property
    def judges(self) -> bool:
        """Whether the runs could have decided either way."""
        return self not in (Verdict.TOO_FEW, Verdict.NOTHING, Verdict.NO_RUNS)


FAVOURABLE = (Verdict.HOLDS, Verdict.IN_PART)


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
    #: the chance of an interval this far below a bound where the quantity is at the bound
    chance: Callable[[float], float] = field(default=lambda bound: 1.0, compare=False, repr=False)


def mean_interval(values: Sequence[float], comparisons: int = 1) -> Interval:
    """Student's t interval of the mean, at level 1 − 0.05/comparisons.

    If a value is not finite, everything is nan, so that a run without a value is not overlooked.
    """
    seeds = len(values)
    mean = float(np.mean(values)) if seeds and np.isfinite(values).all() else math.nan
    if seeds < 2 or math.isnan(mean):
        return Interval(mean, math.nan, math.nan, seeds)
    half = _quantile(seeds, comparisons) * float(np.std(values, ddof=1)) / math.sqrt(seeds)
    return Interval(mean, mean - half, mean + half, seeds)


@lru_cache
def _quantile(seeds: int, comparisons: int) -> float:
    """Student's t at level 1 − 0.05/comparisons."""
    return float(stats.t.ppf(1 - ERROR / comparisons / 2, seeds - 1))


def ratio_interval(numerators: Sequence[float], denominators: Sequence[float], comparisons: int = 1) -> Interval:
    """The confidence interval of the geometric mean of ratios, seed by seed; nan if one is not positive."""
    pairs = list(zip(numerators, denominators, strict=True))
    logs = [math.log(n) - math.log(d) if n > 0 and d > 0 else math.nan for n, d in pairs]
    found = mean_interval(logs, comparisons)
    with np.errstate(over="ignore"):  # if two seeds disagree, the interval may reach infinity
        estimate, low, high = (float(np.exp(log)) for log in (found.estimate, found.low, found.high))
    return Interval(estimate, low, high, found.seeds)


def quotient_interval(numerators: Sequence[float], denominators: Sequence[float], comparisons: int = 1) -> Interval:
    """The confidence interval of the mean numerator over the mean denominator, which may be of either sign by seed.

    The quotients r in it are those for which the mean of n − r d, seed by seed, may be zero (Fieller, 1954).
    It is everything if the mean denominator may be zero.
    """
    seeds, pairs = len(numerators), np.array([numerators, denominators])
    if seeds < 2 or not np.isfinite(pairs).all():
        return mean_interval([math.nan] * seeds)
    (top, bottom), covariance = pairs.mean(axis=1), np.cov(pairs) / seeds
    square = _quantile(seeds, comparisons) ** 2
    a, b = bottom**2 - square * covariance[1, 1], top * bottom - square * covariance[0, 1]
    c = top**2 - square * covariance[0, 0]
    if a <= 0 or bottom <= 0:
        return Interval(float(top / bottom) if bottom > 0 else math.nan, -math.inf, math.inf, seeds)
    root = math.sqrt(max(0.0, b * b - a * c))
    return Interval(float(top / bottom), float((b - root) / a), float((b + root) / a), seeds)


def chance_below(values: Sequence[float]) -> float:
    """The chance that Student's t of values around zero is as far from zero as theirs, if that is below it; else 1."""
    if len(values) < 2 or not np.isfinite(values).all() or np.mean(values) >= 0:
        return 1.0
    deviation = float(np.std(values, ddof=1))
    if not deviation:
        return 0.0
    return 2 * float(stats.t.cdf(np.mean(values) / deviation * math.sqrt(len(values)), len(values) - 1))


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


#: For a ratio: at least halved, or smaller at all.
HALVED = Rule(0.5, 1.0)


@dataclass(frozen=True)
class Part:
    """One quantity of a claim, its rule, and the findings.

    The rule does not judge if the quantity cannot get below the first bound ("nothing to order"), nor if it would hold
    by chance in more than 5% of cases ("too few runs to judge").
    """

    quantity: str
    rule: Rule
    findings: tuple[Finding, ...]
    #: the least that the quantity could be
    floor: float = -math.inf
    #: how often the rule gives a verdict that favours the claim, or a better one, without an effect; where it is
    #: Student's t that decides, half the error
    by_chance: Mapping[Verdict, float] = field(default_factory=dict)
    #: `chance` of either verdict with Holm's correction across the rows of a page, where there is one
    corrected: Mapping[Verdict, float] = field(default_factory=dict)

    @property
    def alone(self) -> Verdict:
        """The verdict on this quantity by itself."""
        found = self.rule(finding.interval for finding in self.findings)
        if found is Verdict.NO_RUNS:
            return found
        if self.floor >= self.rule.strong:
            return Verdict.NOTHING
        least = self.by_chance.get(found if found.favours else Verdict.HOLDS, 0.0)
        return Verdict.TOO_FEW if least > ERROR else found

    @property
    def verdict(self) -> Verdict:
        """The verdict, which is less or undecided where chance is as likely, given the other rows of the page."""
        alone = self.alone
        levels = {Verdict.HOLDS: FAVOURABLE, Verdict.IN_PART: FAVOURABLE[1:]}.get(alone)
        if levels is None:
            return alone
        return next((level for level in levels if self.corrected.get(level, 0.0) <= ERROR), Verdict.UNDECIDED)

    def chance(self, level: Verdict) -> float:
        """The chance, by this row alone, of findings that speak for a verdict as much as these, without an effect."""
        alone = self.alone
        if not alone.favours or (level is Verdict.HOLDS and alone is Verdict.IN_PART):
            return 1.0
        if self.by_chance:
            return self.by_chance[level]
        bound = self.rule.strong if level is Verdict.HOLDS else self.rule.weak
        return min(1.0, len(self.findings) * min(finding.chance(bound) for finding in self.findings))


def holm(chances: Sequence[float]) -> list[float]:
    """Corrects chances for their number: those below 5% are together wrong in at most 5% of cases (Holm, 1979).

    >>> holm([0.01, 0.5, 0.02])
    [0.03, 0.5, 0.04]
    """
    corrected, least = [0.0] * len(chances), 0.0
    for rank, place in enumerate(sorted(range(len(chances)), key=lambda place: chances[place])):
        least = max(least, min(1.0, (len(chances) - rank) * chances[place]))
        corrected[place] = least
    return corrected


def combined(verdicts: Iterable[Verdict]) -> Verdict:
    """Combines the verdicts of parts: the one they agree on; else `in part` if any part holds; else `undecided`.

    Parts that could not be judged are left out if there are others.
    """
    known = set(verdicts)
    known = {verdict for verdict in known if verdict not in (Verdict.TOO_FEW, Verdict.NOTHING)} or known
    if len(known) < 2:
        return known.pop() if known else Verdict.NO_RUNS
    return Verdict.IN_PART if known & {Verdict.HOLDS, Verdict.IN_PART} else Verdict.UNDECIDED
