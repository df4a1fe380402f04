"""Claims: intervals and rules by hand and by law, every claim on runs built so that it holds, and does not."""

import dataclasses
import hashlib
import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from neurocollapse import RunError
from neurocollapse._files import to_json
from neurocollapse.claims import (
    CLAIMS,
    FULL,
    QUICK,
    RESULTS,
    Finding,
    Interval,
    Part,
    Result,
    Setting,
    Verdict,
    claims_page,
    claims_values,
    corrected,
    judge_claims,
    notes_on,
    read_results,
    results_of,
    write_results,
)
from neurocollapse.claims.contrasts import (
    alone,
    chance_of_ranks,
    compared,
    decayed,
    difference_interval,
    negated,
    numbers,
    rank_correlation,
    undecayed,
)
from neurocollapse.claims.page import shown
from neurocollapse.claims.statements import CORRELATED
from neurocollapse.claims.verdicts import Rule, combined, holm, mean_interval, quotient_interval, ratio_interval
from neurocollapse.datasets import load_dataset
from neurocollapse.sweeps import RunFolder, Sweep, verify_run
from neurocollapse.sweeps.resuming import execute
from neurocollapse.training import RunConfig


class Kept(Sweep):
    """A sweep whose configurations, which are checked as they are made, are made once."""

    def __iter__(self):
        if "made" not in vars(self):
            object.__setattr__(self, "made", tuple(super().__iter__()))
        return iter(self.made)


SETTINGS = [
    dataclasses.replace(of, experiments={name: Kept(sweep.base, sweep.axes) for name, sweep in of.experiments.items()})
    for of in FULL
]
MNIST5K, *_, DECAYS = SETTINGS
#: The claims of the paper, which are about the experiments of the first setting.
PAPER = [claim for claim in CLAIMS if set(claim.experiments) <= set(MNIST5K.experiments)]
NAN = math.nan
VALUES = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8)


def close(interval, *expected):
    return (interval.estimate, interval.low, interval.high) == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True)


# Intervals


def test_an_interval_by_hand():
    """Of 1, 2, 3: mean 2, deviation 1, and t = 4.302652730 of two degrees of freedom at 97.5%."""
    assert close(
        mean_interval([1.0, 2.0, 3.0]), 2, 2 - 4.302652729749 / math.sqrt(3), 2 + 4.302652729749 / math.sqrt(3)
    )
    assert close(mean_interval([5.0, 5.0]), 5, 5, 5)
    assert mean_interval([1.0, 2.0, 3.0]).seeds == 3


@given(VALUES, st.integers(1, 6))
def test_intervals_are_students_with_bonferronis_share_of_the_error(values, comparisons):
    assume(np.std(values) > 1e-3)
    low, high = stats.t.interval(1 - 0.05 / comparisons, len(values) - 1, np.mean(values), stats.sem(values))
    assert close(mean_interval(values, comparisons), np.mean(values), low, high)


def test_an_interval_misses_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(3.0, 2.0, size=(1000, 5))
    missed = [not (found.low <= 3 <= found.high) for found in map(mean_interval, draws.tolist())]
    assert abs(np.mean(missed) - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 1000)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, NAN], [math.inf, 1.0], [NAN] * 3])
def test_what_does_not_tell_is_nan(values):
    found = mean_interval(values)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert found.seeds == len(values)
    assert found.estimate == 1 if values == [1.0] else math.isnan(found.estimate)


@given(st.lists(st.tuples(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6)), min_size=2, max_size=6), st.integers(1, 5))
def test_ratios_are_compared_by_their_logarithms(pairs, comparisons):
    top, bottom = (list(each) for each in zip(*pairs, strict=True))
    found = ratio_interval(top, bottom, comparisons)
    logs = mean_interval([math.log(a / b) for a, b in pairs], comparisons)
    with np.errstate(over="ignore"):
        expected = np.exp([logs.estimate, logs.low, logs.high])
    np.testing.assert_allclose([found.estimate, found.low, found.high], expected, rtol=1e-6)
    assert close(ratio_interval(bottom, bottom, comparisons), 1, 1, 1)
    swapped = ratio_interval(bottom, top, comparisons)
    if found.low > 0 and found.high < math.inf:
        assert swapped.low == pytest.approx(1 / found.high, rel=1e-6)


@pytest.mark.parametrize("wrong", [0.0, -1.0, NAN, math.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_a_ratio_of_what_is_not_positive_and_finite_is_nan(wrong, place):
    pairs = [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]
    pairs[place][1] = wrong
    found = ratio_interval(*pairs)
    assert close(found, NAN, NAN, NAN)
    assert Rule(0.5, 1.0)([found]) is Verdict.UNDECIDED


def test_two_seeds_that_disagree_by_far_say_nothing():
    found = ratio_interval([1e-16, 1.0], [1.0, 1.0], comparisons=5)
    assert (found.low, found.high) == (0.0, math.inf)
    assert found.estimate == pytest.approx(1e-8)
    assert Rule(0.5, 1.0)([found]) is Verdict.UNDECIDED


# Rules

A = Interval(0.3, 0.2, 0.4, 5)  # wholly below strong = 1/2
B = Interval(0.7, 0.6, 0.8, 5)  # between strong and weak = 1
C = Interval(1.7, 1.2, 2.2, 5)  # wholly above weak
AB = Interval(0.5, 0.3, 0.8, 5)  # across strong
BC = Interval(0.9, 0.7, 1.2, 5)  # across weak, and wholly above strong
ALL = Interval(0.7, 0.2, 1.5, 5)  # across both
UNKNOWN = Interval(0.3, NAN, NAN, 1)
MISSING = Interval(NAN, NAN, NAN, 0)
HOLDS, PART, NOT, UNDECIDED, TOO_FEW, NOTHING, NO_RUNS = Verdict


@pytest.mark.parametrize(
    ("intervals", "verdict", "where_possible"),
    [
        ([A], HOLDS, HOLDS),
        ([A, B, AB, BC, ALL], HOLDS, HOLDS),
        ([A, C], PART, HOLDS),  # it halves at one λ, and rises at another
        ([B], PART, PART),
        ([AB], PART, PART),
        ([B, C], PART, PART),
        ([AB, ALL], PART, PART),
        ([C], NOT, NOT),
        ([BC], NOT, NOT),
        ([BC, C], NOT, NOT),
        ([ALL], UNDECIDED, UNDECIDED),
        ([ALL, C], UNDECIDED, UNDECIDED),
        ([], NO_RUNS, NO_RUNS),
        ([MISSING, MISSING], NO_RUNS, NO_RUNS),
        ([A, MISSING], UNDECIDED, UNDECIDED),
        ([UNKNOWN], UNDECIDED, UNDECIDED),
        ([A, UNKNOWN], UNDECIDED, UNDECIDED),  # a λ whose runs are not there must not be passed over
        ([C, UNKNOWN], UNDECIDED, UNDECIDED),
        ([Interval(0.4, 0.3, 0.5, 5)], PART, PART),  # up to the bound is not below it
        ([Interval(0.7, 0.5, 1.0, 5)], UNDECIDED, UNDECIDED),
    ],
)
def test_verdicts_on_intervals_made_by_hand(intervals, verdict, where_possible):
    assert Rule(0.5, 1.0)(intervals) is verdict
    assert Rule(0.5, 1.0, contradicted=False)(intervals) is where_possible
    findings = tuple(Finding("λ", interval) for interval in intervals)
    assert Part("a quantity", Rule(0.5, 1.0), findings).verdict is verdict


INTERVALS = st.lists(
    st.lists(st.integers(-4, 8).map(lambda k: k / 4), min_size=2, max_size=2).map(sorted), min_size=1, max_size=4
)


@given(INTERVALS, st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=4, max_size=4), st.booleans())
def test_to_know_less_never_decides_nor_does_the_order_of_intervals(ends, wider, contradicted):
    """Widened intervals make of what is undecided neither that it holds nor that it does not."""
    rule = Rule(0.5, 1.0, contradicted)
    before = rule(Interval(low, low, high, 5) for low, high in ends)
    assert rule(Interval(low, low, high, 5) for low, high in ends[::-1]) is before
    after = rule(
        Interval(low, low - down / 4, high + up / 4, 5) for (low, high), (down, up) in zip(ends, wider, strict=False)
    )
    if before is UNDECIDED:
        assert after is UNDECIDED
    if before is NOT:
        assert after in (NOT, UNDECIDED)


def test_a_rule_in_words_says_what_it_does():
    assert str(Rule(0.5, 1.0)) == (
        "holds where an interval is wholly below 0.5, and none is wholly above 1; holds in part where one is wholly "
        "below 1; does not hold where all are wholly above 0.5 and none wholly below 1; else undecided"
    )
    assert "none is wholly above" not in str(Rule(0.5, 1.0, contradicted=False))


def test_a_claim_is_what_its_parts_agree_in():
    for verdicts in itertools.chain(*(itertools.product(Verdict, repeat=number) for number in (1, 2, 3))):
        expected = PART if HOLDS in verdicts or PART in verdicts else UNDECIDED
        if len(known := set(verdicts) - {TOO_FEW, NOTHING} or set(verdicts)) == 1:
            (expected,) = known
        assert combined(verdicts) is expected, verdicts
        assert combined(iter(verdicts[::-1])) is expected, verdicts
    assert combined([]) is NO_RUNS


# Chance


@pytest.mark.parametrize(("num_values", "seeds"), [(2, 2), (2, 3), (3, 2), (3, 3), (4, 2)])
def test_the_chance_of_ranks_is_that_of_all_orders(num_values, seeds):
    correlations = [
        float(stats.spearmanr(range(num_values), order).statistic)
        for order in itertools.permutations(range(num_values))
    ]
    verdicts = [CORRELATED([mean_interval(each)]) for each in itertools.product(correlations, repeat=seeds)]
    found = chance_of_ranks(num_values, seeds, CORRELATED)
    assert found[HOLDS] == pytest.approx(verdicts.count(HOLDS) / len(verdicts))
    assert found[PART] == pytest.approx((verdicts.count(HOLDS) + verdicts.count(PART)) / len(verdicts))


def test_two_decays_and_three_seeds_are_too_few_for_a_rank_correlation():
    assert chance_of_ranks(2, 3, CORRELATED)[HOLDS] == 1 / 8
    verdicts = verdicts_of(results_with(holding, SETTINGS[1]), SETTINGS[1])
    assert {statement for statement, verdict in verdicts.items() if verdict is TOO_FEW} == {CLAIMS[13].statement}


def test_what_lies_at_its_floor_has_nothing_to_order():
    """Of samples of which 0.4% are decided otherwise, none can be 0.5% fewer."""
    for without, verdict in ((0.004, NOTHING), (0.006, HOLDS)):
        results = results_with(
            lambda config, without=without: {**holding(config), "train.nc4": 0.0 if config.weight_decay else without}
        )
        assert verdicts_of(results)[CLAIMS[3].statement] is verdict


def test_a_gap_just_below_zero_costs_no_row():
    results = results_with(
        lambda config: {**holding(config), "train.sqi_gap": 0.01 if config.weight_decay else (config.seed - 102) * 7e-7}
    )
    assert verdicts_of(results)[CLAIMS[5].statement] is HOLDS


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(0.5, 1)), min_size=3, max_size=6), st.integers(1, 4))
def test_a_quotient_is_in_its_interval_where_differences_cannot_be_told_from_zero(pairs, comparisons):
    top, bottom = (list(each) for each in zip(*pairs, strict=True))
    found = quotient_interval(top, bottom, comparisons)
    assume(math.isfinite(found.low) and found.high - found.low > 1e-6)
    for r in (found.low, found.high):  # there zero is at an end of the interval of the differences
        interval = mean_interval([a - r * b for a, b in pairs], comparisons)
        assert min(abs(interval.low), abs(interval.high)) < 1e-6
    assert found.low <= found.estimate <= found.high


def test_chances_are_corrected_across_all_rows():
    assert holm([0.04, 0.01, 0.02, 1.0]) == [0.08, 0.04, 0.06, 1.0]
    findings = compared({0.1: {s: 0.36 + s * 0.03 for s in range(5)}}, {0.1: dict.fromkeys(range(5), 1.0)})
    part = Part("a quantity", Rule(0.5, 1.0), findings)
    logs = [math.log((0.36 + s * 0.03) / 0.5) for s in range(5)]
    assert part.chance(HOLDS) == pytest.approx(stats.ttest_1samp(logs, 0).pvalue)
    judged = [dataclasses.replace(judge_claims(MNIST5K, [])[0], parts=(part,) * number) for number in (1, 9)]
    assert [corrected([each])[0].parts[0].verdict for each in judged] == [HOLDS, PART]
    assert part.chance(HOLDS) < 0.05 < 9 * part.chance(HOLDS)


# Contrasts


def result(decay, seed, value, **fields):
    values = {"another": 0.0} if value is None else {"key": value}
    return Result(RunConfig(weight_decay=decay, seed=seed, **fields), values)


def test_numbers_are_those_of_the_runs_asked_for():
    results = [result(0.0, 1, 1.0), result(0.1, 2, 2.0), result(0.1, 1, 3.0), result(0.1, 3, None)]
    results.append(result(0.1, 1, 9.0, bias="free"))
    found = numbers(results[:4], "key")
    assert found[0.0] == {1: 1.0}
    assert found[0.1] == {2: 2.0, 1: 3.0, 3: pytest.approx(NAN, nan_ok=True)}
    assert numbers(results, "key", bias="free") == {0.1: {1: 9.0}}
    assert numbers([Result(RunConfig(weight_decay=0.1), {}), *results[:1]], "key") == {0.1: {}, 0.0: {1: 1.0}}
    assert numbers(results, "key", bias="free", width=3) == {}


def test_decayed_undecayed_and_negated():
    values = {0.2: {1: 1.0}, 0.0: {1: 2.0}, 0.1: {1: 3.0}}
    assert list(decayed(values)) == [0.1, 0.2]
    assert undecayed(values) == {0.1: {1: 2.0}, 0.2: {1: 2.0}}
    assert undecayed({0.1: {1: 1.0}}) == {0.1: {}}
    assert negated(values) == {0.2: {1: -1.0}, 0.0: {1: -2.0}, 0.1: {1: -3.0}}


def test_runs_are_paired_by_seed_and_the_error_is_shared_over_decays():
    top = {0.1: {3: 3.0, 1: 1.0, 2: 8.0, 7: 100.0}, 0.2: {1: 1.0}, 0.3: {1: 5.0, 2: 6.0}}
    bottom = {0.1: {1: 2.0, 2: 4.0, 3: 9.0, 8: 1e9}, 0.2: {1: 2.0, 2: 2.0}}
    for contrast in (ratio_interval, difference_interval):
        found = compared(top, bottom, contrast)
        assert [finding.label for finding in found] == ["λ = 0.1", "λ = 0.2", "λ = 0.3"]
        assert found[0].interval == contrast([1.0, 8.0, 3.0], [2.0, 4.0, 9.0], 3)
        assert found[0].interval != contrast([1.0, 8.0, 3.0], [2.0, 4.0, 9.0], 1)
        assert [finding.interval.seeds for finding in found] == [3, 1, 0]
        assert all(math.isnan(finding.interval.low) for finding in found[1:])
    assert close(difference_interval([1.0, 2.0], [0.5, 1.5], 1), 0.5, 0.5, 0.5)


def test_pairs_tell_more_than_means():
    """Seeds that differ by far, and by the same factor each: the ratio is known exactly."""
    top, bottom = {0.1: {s: 10.0**s for s in range(4)}}, {0.1: {s: 2 * 10.0**s for s in range(4)}}
    assert close(compared(top, bottom)[0].interval, 0.5, 0.5, 0.5)


def test_means_alone_share_the_error():
    values = {0.1: {1: 1.0, 2: 2.0, 3: 4.0}, 0.2: {1: 1.0}}
    found = alone(values)
    assert found[0] == Finding("λ = 0.1", mean_interval([1.0, 2.0, 4.0], 2))
    assert math.isnan(found[1].interval.low)


def test_rank_correlation_is_spearmans_within_each_seed():
    generator = np.random.default_rng(0)
    first, second = ({k / 10: dict(enumerate(generator.normal(size=3).tolist())) for k in range(6)} for _ in range(2))
    each = [
        stats.spearmanr(*([values[decay][seed] for decay in sorted(values)] for values in (first, second))).statistic
        for seed in range(3)
    ]
    expected = mean_interval([float(one) for one in each])
    found = rank_correlation(first, second).interval
    assert close(found, expected.estimate, expected.low, expected.high)
    same = rank_correlation(first, first).interval
    assert close(same, 1, 1, 1)
    assert close(rank_correlation(first, negated(first)).interval, -1, -1, -1)


def test_where_there_is_no_order_there_is_no_rank_correlation():
    seeds = {decay: {1: decay, 2: -decay} for decay in (0.1, 0.2, 0.3)}
    assert not math.isnan(rank_correlation(seeds, seeds).interval.low)
    for values in (
        {},
        {0.1: seeds[0.1]},
        {**seeds, 0.2: {1: NAN, 2: -0.2}},
        {**seeds, 0.2: {2: -0.2}},
        {decay: {1: 1.0, 2: -decay} for decay in seeds},  # all are the same
    ):
        for other in (values, negated(values)):
            assert math.isnan(rank_correlation(values, other).interval.low), values


# Every claim, on runs made up so that all hold, so that none does, and with one quantity turned at a time

COLLAPSE = ("train.nc1", "train.nc2_equinorm", "train.nc2_cosine", "train.nc3")
RESIDUALS = {
    "theorem": [
        f"if SQI holds: Theorem 2.3: {row}" for row in ("W, Eq. 2", "‖W^c‖², Eq. 3", "mean cos(W^c, W^c')", "NC3")
    ],
    "sqi": [
        f"symmetric quasi-interpolation itself: {row}"
        for row in ("spread of ε over samples", "(C−1) × off-class output", "(C−1) × spread of off-class outputs")
    ],
    "norms": ["at a critical point: λ‖W‖² of"],
}


def holding(config):
    """What a run would have measured if every claim were true, a little different for every seed."""
    decay, noisy = config.weight_decay, config.label_noise > 0
    wobble = 1 + 0.01 * math.sin(config.seed)
    collapse = (0.3 / (1 + 1e3 * decay) if decay else 1.0) * wobble
    size = 1 / (1 + 1e3 * decay)
    return {
        **dict.fromkeys(COLLAPSE, collapse),
        "train.nc4": (0.01 if decay else 0.05) * wobble,
        "train.error": 0.0,
        "train.loss_data": 0.01 * wobble,
        "train.sqi_gap": (0.1 if decay else 0.01) * wobble,
        **dict.fromkeys(itertools.chain(*RESIDUALS.values()), 0.01 * wobble),
        "normalized_margin": (0.1 if noisy else 1.0) * wobble,
        "classifier_norm": size * wobble,
        "train.margin_mean": size * wobble,
        "test.accuracy": (1 - size / 10) * wobble,
        "minority_norm": (1.0 if config.imbalance == "none" else 0.2) * wobble,
        "minority_cosine": (-0.1 if config.imbalance == "none" else 0.8) * wobble,
    }


def failing(config):
    """What it would have if every claim were false."""
    values, decay = holding(config), config.weight_decay
    noise = 3 if config.label_noise else 1
    size = 1 / (1 + 1e3 * decay)
    return dict.fromkeys(values, 0.9) | {
        **dict.fromkeys(COLLAPSE, noise * ((2 - size) if decay else 0.1)),
        "train.nc4": 0.05 if decay else 0.01,
        "train.loss_data": 1.0 if decay else 0.01,
        "train.sqi_gap": 0.01 if decay else 0.1,
        "normalized_margin": 1.0 * noise,
        "train.margin_mean": 1 - size,
        "classifier_norm": size,
        "test.accuracy": 2 - size if decay else 0.1,
        "minority_norm": 1.0 if config.imbalance == "none" else 2.0,
        "minority_cosine": 0.8 if config.imbalance == "none" else -0.1,
    }


#: What every claim is judged by.
KEYS = {
    "Weight decay is needed for NC1": ["train.nc1"],
    "Weight decay is needed for NC2": ["train.nc2_equinorm", "train.nc2_cosine"],
    "Weight decay is needed for NC3": ["train.nc3"],
    "Weight decay is needed for NC4": ["train.nc4"],
    "The same training loss is reached": ["train.error", "train.loss_data"],
    "Solutions with weight decay do not interpolate": ["train.sqi_gap", *RESIDUALS["norms"]],
    "Theorem 2.3's equations hold at the end of training.": RESIDUALS["theorem"],
    "Theorem 2.3's equations hold at the end of training with": RESIDUALS["theorem"],
    "Is symmetric quasi-interpolation satisfied?": RESIDUALS["sqi"],
    "Is symmetric quasi-interpolation satisfied with": RESIDUALS["sqi"],
    "Do networks with biases collapse": COLLAPSE,
    "Networks trained on random labels collapse": ["train.error", *COLLAPSE],
    "Solutions that do not have large margins": ["normalized_margin", "train.nc1"],
    "The length of the classifier's rows": ["classifier_norm", "train.margin_mean"],
    "Is collapse good for generalisation": ["train.nc1", "test.accuracy"],
    "Neural collapse appears under the cross-entropy": COLLAPSE,
    "With imbalanced classes": ["minority_norm", "minority_cosine"],
}


def results_with(values_of, setting=MNIST5K):
    return [Result(config, values_of(config)) for config in setting]


def verdicts_of(results, setting=MNIST5K):
    return {each.claim.statement: each.verdict for each in judge_claims(setting, results)}


def test_the_list_of_claims_is_the_one_that_is_walked_here():
    statements = [claim.statement for claim in PAPER]
    assert len(set(statements)) == len(PAPER) == len(KEYS)
    assert all(statement.startswith(start) for statement, start in zip(statements, KEYS, strict=True))
    assert {name for claim in PAPER for name in claim.experiments} == set(MNIST5K.experiments)


def test_every_claim_holds_on_runs_of_which_it_is_true_and_not_on_those_of_which_it_is_false():
    for values_of, verdict in ((holding, HOLDS), (failing, NOT)):
        judged = judge_claims(MNIST5K, results_with(values_of))
        assert [each.claim for each in judged] == list(PAPER)
        for each in judged:
            assert each.parts
            for part in each.parts:
                assert part.verdict is verdict, f"{each.claim.statement}: {part}"
            assert each.verdict is verdict


def turned(config, key):
    """One quantity as it would be were its claims false. Of two that are correlated only one may turn."""
    size = 1 / (1 + 1e3 * config.weight_decay)
    return {"classifier_norm": 1 - size, "test.accuracy": size}.get(key, failing(config)[key])


@pytest.mark.parametrize("key", holding(RunConfig()))
def test_a_quantity_moves_the_claims_that_are_judged_by_it_and_no_other(key):
    """Turned to what it would be were the claims false, and taken away."""
    concerned = {claim.statement for claim, keys in zip(PAPER, KEYS.values(), strict=True) if key in keys}
    assert concerned
    for value_of in (lambda config: turned(config, key), lambda config: NAN):
        moved = verdicts_of(results_with(lambda config, value=value_of: {**holding(config), key: value(config)}))
        assert {statement for statement, verdict in moved.items() if verdict is not HOLDS} == concerned
    lacking = verdicts_of(results_with(lambda config: {k: v for k, v in holding(config).items() if k != key}))
    assert lacking == moved


def test_without_the_runs_of_its_experiments_a_claim_has_no_verdict():
    for claim in PAPER:
        runs = {config for name in claim.experiments for config in MNIST5K.experiments[name]}
        results = [result for result in results_with(holding) if result.config not in runs]
        assert verdicts_of(results)[claim.statement] is NO_RUNS, claim.statement


def test_a_decay_of_which_no_run_has_finished_leaves_it_undecided_and_its_share_of_the_error():
    results = [result for result in results_with(holding) if result.config.weight_decay != 1e-3]
    nc1 = judge_claims(MNIST5K, results)[0]
    whole = judge_claims(MNIST5K, results_with(holding))[0]
    assert (nc1.verdict, whole.verdict) == (UNDECIDED, HOLDS)
    known = {found.label: found.interval for found in nc1.parts[0].findings}
    assert known["λ = 0.001"].seeds == 0
    for found in whole.parts[0].findings:
        if found.label != "λ = 0.001":
            assert known[found.label] == found.interval


@pytest.mark.parametrize(("seeds", "verdict"), [(0, NO_RUNS), (1, UNDECIDED)])
def test_a_single_seed_decides_nothing(seeds, verdict):
    results = [result for result in results_with(holding) if result.config.seed < 100 + seeds]
    assert set(verdicts_of(results).values()) == {verdict}


def test_without_the_runs_at_no_decay_what_is_compared_with_them_has_no_verdict():
    results = [result for result in results_with(holding) if result.config.weight_decay]
    verdicts = verdicts_of(results)
    compared_with_none = [
        claim.statement for claim, keys in zip(PAPER, KEYS.values(), strict=True)
        if {"train.nc3", "train.nc2_cosine", "train.nc4"} & set(keys) or claim is PAPER[0]
    ]  # fmt: skip
    # The training error of random labels is known, so that claim holds in part.
    found = {verdicts[statement] for statement in compared_with_none if "random labels" not in statement}
    assert found <= {NO_RUNS, UNDECIDED}
    assert verdicts[PAPER[6].statement] is HOLDS


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.05, 0.5, 0.95]))
def test_missing_runs_are_never_an_error(seed, share):
    generator = np.random.default_rng(seed)
    results = [result for result in results_with(holding) if generator.random() < share]
    judged = judge_claims(MNIST5K, results)
    assert [each.claim for each in judged] == list(PAPER)
    assert {part.verdict for each in judged for part in each.parts} <= {HOLDS, UNDECIDED, NO_RUNS}
    claims_page(judged, "command")
    json.loads(to_json(claims_values(judged)), parse_constant=pytest.fail)


def test_a_setting_is_asked_the_claims_that_it_has_experiments_for():
    assert FULL[: len(QUICK)] == QUICK
    for setting in SETTINGS[:-1]:
        asked = [each.claim for each in judge_claims(setting, results_with(holding, setting))]
        assert asked == [claim for claim in PAPER if set(claim.experiments) <= set(setting.experiments)]
    assert {claim.experiments for claim in asked} == {("decay",)}
    assert len(asked) == 10
    assert judge_claims(Setting("none", "nothing", {}), []) == []


def test_runs_of_other_experiments_are_not_taken_for_an_experiments_own():
    """The decay experiment's runs have no bias, no noise, no imbalance, and the square loss."""
    for name, sweep in MNIST5K.experiments.items():
        others = {config for other, of in MNIST5K.experiments.items() if other != name for config in of}
        assert not others & set(sweep)
    strange = [Result(config, failing(config)) for config in Sweep(RunConfig(), {"seed": range(100, 105)})]
    assert verdicts_of(results_with(holding) + strange) == verdicts_of(results_with(holding))


def test_every_run_of_a_setting_comes_once_and_by_seeds_that_were_not_seen():
    for setting in SETTINGS[:-1]:
        runs = list(setting)
        assert len(runs) == len(set(runs)) == sum(map(len, setting.experiments.values()))
        assert {config.seed for config in runs} <= set(range(100, 105))
        for sweep in setting.experiments.values():
            assert {config.weight_decay for config in sweep} >= {0.0, 5e-4}


# The page


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def tables(page):
    return [
        list(lines) for is_table, lines in itertools.groupby(page.splitlines(), lambda line: line.startswith("|"))
        if is_table
    ]  # fmt: skip


@pytest.mark.parametrize("values_of", [holding, failing, lambda config: {}], ids=["holds", "fails", "no numbers"])
@pytest.mark.parametrize("of", [SETTINGS[:1], SETTINGS], ids=["quick", "full"])
def test_the_page_has_every_claim_with_its_verdict_in_tables_that_are_whole(of, values_of):
    judged = [each for setting in of for each in judge_claims(setting, results_with(values_of, setting))]
    page = claims_page(judged, "neurocollapse claims --quick")
    overview, *of_claims = tables(page)
    for table in (overview, *of_claims):
        assert table[0].endswith("|")
        assert set(table[1]) == {"|", "-"}
        assert len({len(cells(line)) for line in table}) == 1
    assert cells(overview[0]) == ["claim", *(setting.name for setting in of)]
    by_name = {(each.claim.statement, each.setting.name): str(each.verdict) for each in judged}
    expected = [[c.statement, *(by_name.get((c.statement, s.name), "") for s in of)] for c in CLAIMS]
    assert [cells(line) for line in overview[2:]] == expected
    asked = [claim for claim in CLAIMS if any(each.claim is claim for each in judged)]
    assert asked == (list(CLAIMS) if DECAYS in of else PAPER)
    assert page.count("\n## ") == len(asked)
    for claim, table in zip(asked, of_claims, strict=True):
        assert f"## {claim.statement}\n\n{claim.source}.\n\n{table[0]}\n" in page
        rows = [cells(line) for line in table[2:]]
        expected = []
        for each in judged:
            if each.claim is claim:
                expected += [[each.setting.name, part.quantity, str(part.verdict)] for part in each.parts]
                expected.append([f"**{each.setting.name}**", "", f"**{each.verdict}**"])
        assert [[row[0], row[1], row[-1]] for row in rows] == expected
    assert "```\nneurocollapse claims --quick\n```" in page
    for setting in of:
        assert f"- `{setting.name}`: {setting.words}." in page


def test_intervals_and_bounds_are_shown():
    assert shown(Interval(0.31, 0.22, 0.4412, 5)) == "0.31 (0.22 to 0.441; 5 seeds)"
    assert shown(UNKNOWN) == "0.3 (1 seed)"
    page = claims_page(judge_claims(MNIST5K, results_with(holding)), "command")
    assert "| 0.5, 1 |" in page
    assert "| 0.001, 0.01 (possible) |" in page
    assert "λ = 0.0005: " in page
    assert "; 5 seeds)" in page
    assert "no runs" in claims_page(judge_claims(MNIST5K, []), "command")


def test_the_values_are_those_of_the_page():
    judged = judge_claims(MNIST5K, results_with(holding))
    values = json.loads(to_json(claims_values(judged)), parse_constant=pytest.fail)
    assert [(each["claim"], each["verdict"]) for each in values] == [(c.statement, "holds") for c in PAPER]
    part, its = values[0]["parts"][0], judged[0].parts[0]
    assert {name: part[name] for name in ("quantity", "strong", "weak", "contradicted", "verdict")} == {
        "quantity": its.quantity, "strong": 0.5, "weak": 1.0, "contradicted": True, "verdict": "holds",
    }  # fmt: skip
    assert [Interval(**{k: found[k] for k in ("estimate", "low", "high", "seeds")}) for found in part["findings"]] == [
        found.interval for found in its.findings
    ]


# Numbers of real runs

GAUSSIAN = load_dataset("gaussian")
TINY = RunConfig(
    dataset="gaussian", network="mlp", depth=3, width=8, weight_decay=1e-2, learning_rate=0.02, batch_size=100, epochs=2
)


def test_a_result_is_of_the_last_record_the_weights_and_the_worst_layer(tmp_path):
    folder = execute(TINY, GAUSSIAN, tmp_path)
    table = verify_run(folder)
    (found,) = results_of([folder], {folder: table})
    last, weights = folder.records()[-1], {name: w.double().numpy() for name, w in folder.weights().items()}
    assert found.config == TINY
    for key in ("train.nc1", "test.accuracy", "train.margin_min", "gradient_norm"):
        assert found.values[key] == last[key]
    assert "train.weight_norms" not in found.values  # numbers only
    assert found.values["train.error"] == pytest.approx(1 - last["train.accuracy"])
    product = math.prod(np.sqrt((W**2).sum()) for W in weights.values())
    assert found.values["weight_norms_product"] == pytest.approx(product, rel=1e-6)
    assert found.values["normalized_margin"] == pytest.approx(last["train.margin_min"] / product, rel=1e-6)
    W = weights["classifier.weight"]
    norms = [math.sqrt(sum(x * x for x in row)) for row in W.tolist()]
    assert found.values["classifier_norm"] == pytest.approx(math.sqrt(sum(norm**2 for norm in norms)))
    assert found.values["minority_norm"] == pytest.approx((norms[2] + norms[3]) / (norms[0] + norms[1]))
    assert found.values["minority_cosine"] == pytest.approx(float(W[2] @ W[3]) / (norms[2] * norms[3]))
    of_layers = [row.residual for row in table.sections["at a critical point"] if row.name.startswith("λ‖W‖² of")]
    assert len(of_layers) == 3
    assert found.values["at a critical point: λ‖W‖² of"] == max(of_layers) > min(of_layers)
    for reading, row in (
        ("if SQI holds: Theorem 2.3", "W, Eq. 2"),
        ("symmetric quasi-interpolation itself", "(C−1) × off-class output"),
    ):
        (comparison,) = [each for each in table.sections[reading] if each.name == row]
        assert found.values[f"{reading}: {row}"] == comparison.residual
    assert set(itertools.chain(*RESIDUALS.values())) <= set(found.values)  # the rows that claims read are there
    assert set(holding(TINY)) <= set(found.values)


def test_runs_that_have_not_finished_are_no_results(tmp_path):
    diverged = execute(dataclasses.replace(TINY, learning_rate=1e9), GAUSSIAN, tmp_path)
    assert diverged.status == "diverged"
    assert results_of([diverged, RunFolder(tmp_path / "not begun")], {}) == []


def test_a_result_without_a_theory_table_and_of_the_cross_entropy(tmp_path):
    config = dataclasses.replace(TINY, loss="cross_entropy", bias="all", epochs=1)
    (found,) = results_of([execute(config, GAUSSIAN, tmp_path)], {})
    assert not [key for key in found.values if "Theorem" in key]
    assert found.values["train.cross_entropy"] > 0
    assert found.values["train.loss_data"] > 0


# Results as data

KEPT = [
    Result(
        TINY, {"train.nc1": 0.1 + 0.2, "a: residual of λ": NAN, "train.nc3": math.inf}, ("of <few>",), ({"torch": "2"},)
    ),
    Result(RunConfig(seed=104, weight_decay=0.0), {}),
    Result(RunConfig(per_class=50, bias="free"), {"minority_norm": -math.inf, "train.nc1": 1e-300}),
]


def test_results_are_read_as_they_were_written(tmp_path):
    write_results(tmp_path / RESULTS, KEPT)
    again = read_results(tmp_path / RESULTS)
    assert list(again) == [result.config for result in KEPT]
    assert list(map(repr, again.values())) == list(map(repr, KEPT))  # nan is not equal to itself
    for line in (tmp_path / RESULTS).read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_results_of_two_machines_are_one_file_after_the_other_and_the_last_of_a_run_counts(tmp_path):
    (tmp_path / "a").mkdir()
    write_results(tmp_path / "a" / RESULTS, KEPT[:2])
    write_results(tmp_path / RESULTS, [dataclasses.replace(KEPT[1], values={"train.nc1": 7.0}), KEPT[2]])
    together = (tmp_path / "a" / RESULTS).read_text() + (tmp_path / RESULTS).read_text()
    (tmp_path / RESULTS).write_text(together)
    found = read_results(tmp_path / RESULTS)
    assert set(found) == {result.config for result in KEPT}
    assert found[KEPT[1].config].values == {"train.nc1": 7.0}
    assert read_results(tmp_path / "nothing") == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda line: "{", "line 2 is cut off"),
        (lambda line: "[]", "it must be an object, got []"),
        (lambda line: line.replace('"definitions": 1', '"definitions": 0'), "its version of definitions is 0"),
        (lambda line: line.replace('"defaults": 2', '"defaults": 9'), "the defaults is 9, but this package has 2"),
        (lambda line: line.replace('"theory": 1, ', ""), "it has no 'theory'"),
        (lambda line: line.replace('"epochs"', '"eras"'), "unknown field 'eras'"),
        (lambda line: line.replace('"epochs": 2', '"epochs": -2'), "epochs must be at least 0, got -2"),
        (lambda line: line.replace('"values": {', '"values": {"x": "y", '), "values.x must be a number, got 'y'"),
        (lambda line: line.replace('"notes": [', '"n": ['), "it has no 'notes'"),
    ],
)  # fmt: skip
def test_a_line_that_is_not_a_result_is_named(tmp_path, change, said):
    path = tmp_path / RESULTS
    write_results(path, KEPT)
    first, second, third = path.read_text().splitlines()
    assert change(first) != first
    path.write_text("\n".join([second, change(first), third]))
    with pytest.raises(
        RunError, match=f"^line 2 of {re.escape(str(path))} is not a result \\(.*{re.escape(said)}"
    ) as caught:
        read_results(path)
    assert str(caught.value).endswith("; take that line out to train its run again")


def test_a_file_of_results_cut_within_a_character_names_the_line(tmp_path):
    path = tmp_path / RESULTS
    write_results(path, KEPT)
    path.write_bytes(path.read_bytes() + '{"notes": ["λ'.encode()[:-1])
    with pytest.raises(RunError, match=rf"^line {len(KEPT) + 1} of {re.escape(str(path))} is not a result \(.*UTF-8"):
        read_results(path)


def test_notes_on_a_setting_say_of_how_many_results_they_are():
    runs = list(TINY_SETTING)[:3]
    notes = [("of all",), ("of all", "of two"), ("of all", "of two")]
    results = {config: Result(config, {}, each) for config, each in zip(runs, notes, strict=True)}
    results[RunConfig()] = Result(RunConfig(), {}, ("of none of them",))
    assert notes_on(TINY_SETTING, results) == ["Note: of all.", "Note, of 2 of these 3 runs: of two."]
    assert notes_on(TINY_SETTING, {}) == []


def test_the_projects_page_is_judged_from_the_results_beside_it():
    docs = Path(__file__).parents[2] / "docs"
    results = read_results(docs / "claims.jsonl")
    page = (docs / "claims.md").read_text(encoding="utf-8")
    judged = corrected([each for setting in FULL for each in judge_claims(setting, results.values())])
    notes = {setting.name: notes_on(setting, results) for setting in FULL}
    assert page == claims_page(judged, "neurocollapse claims --full", notes)
    assert set(results) == {config for setting in FULL for config in setting}


# The command


TINY_SETTING = Setting(
    "gaussian",
    "four Gaussian clusters",
    {
        "decay": Sweep(TINY, {"weight_decay": (0.0, 1e-2), "seed": (0, 1)}),
        "bias": Sweep(TINY, {"bias": ("free",), "weight_decay": (0.0, 1e-2), "seed": (0, 1)}),
        "cross-entropy": Sweep(dataclasses.replace(TINY, loss="cross_entropy"), {"weight_decay": (0.0, 1e-2)}),
    },
)


@pytest.fixture
def claims(monkeypatch, run):
    """The command on a tiny setting: its exit status, what it printed and what it said."""
    monkeypatch.setattr("neurocollapse.claims.QUICK", (TINY_SETTING,))
    return lambda *words: run("claims", "--quick", *words)


def test_not_both_settings_can_be_asked_for_nor_what_is_not_there_be_read(claims, tmp_path):
    status, printed, said = claims("--full", "--out", tmp_path)
    assert (status, printed) == (2, "")
    assert said.startswith("error: claims takes either --quick or --full: all claims on the 5,000 bundled digits, or ")
    status, printed, said = claims("--read", "--out", tmp_path / "nowhere")
    assert (status, printed) == (2, "")
    assert said.startswith(f"error: there are no runs to read in {tmp_path / 'nowhere'}: name their folder")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_processes")
def test_to_read_is_to_judge_by_what_has_finished_and_to_train_nothing(claims, tmp_path):
    for config in [*TINY_SETTING.experiments["decay"]][:3]:  # one seed is missing where there is decay
        execute(config, GAUSSIAN, tmp_path)
    status, printed, said = claims("--read", "--json", "--out", tmp_path)
    assert status == 0
    values = json.loads(printed, parse_constant=pytest.fail)
    assert {each["verdict"] for each in values} == {"undecided", "no runs", "too few runs to judge"}
    assert "seed)" in (tmp_path / "claims.md").read_text()
    assert f"reading the 3 of {len(list(TINY_SETTING))} runs that have ended, in {tmp_path}\n" in said
    assert "about" not in said
    assert [found["seeds"] for found in values[0]["parts"][0]["findings"]] == [1]
    assert json.loads((tmp_path / "claims.json").read_text()) == values
    assert "| Weight decay is needed for NC1" in (tmp_path / "claims.md").read_text()


@pytest.mark.usefixtures("no_processes")
def test_what_is_known_of_a_run_needs_neither_its_folder_nor_its_data(claims, monkeypatch, tmp_path):
    for config in TINY_SETTING:
        execute(config, GAUSSIAN, tmp_path / "first")
    status, printed, _ = claims("--json", "--out", tmp_path / "first")
    assert status == 0
    page = (tmp_path / "first" / "claims.md").read_text()
    assert "clusters.\n  - Note" not in page
    (tmp_path / "second").mkdir()
    lines = (tmp_path / "first" / RESULTS).read_text().splitlines(keepends=True)
    noted = lines[0].replace('"notes": []', '"notes": ["another machine"]')
    (tmp_path / "second" / RESULTS).write_text("".join([noted, *lines[1:]]))
    monkeypatch.setattr("neurocollapse.sweeps.checks.training_data", lambda *_: pytest.fail("it loads data"))
    for options in ([], ["--read"]):
        status, again, said = claims("--json", "--out", tmp_path / "second", *options)
        assert (status, again) == (0, printed)
        assert said == f"10 of 10 runs are known from {tmp_path / 'second' / RESULTS}\n"
        again = (tmp_path / "second" / "claims.md").read_text()
        assert again == page.replace("clusters.\n", "clusters.\n  - Note, of 1 of these 10 runs: another machine.\n")
    assert {path.name for path in (tmp_path / "second").iterdir()} == {RESULTS, "claims.md", "claims.json"}


def test_what_is_known_and_what_has_finished_are_judged_together(claims, tmp_path):
    first, *others = TINY_SETTING.experiments["decay"]
    execute(first, GAUSSIAN, tmp_path / "a")
    assert claims("--read", "--out", tmp_path / "a")[0] == 0
    for config in others:
        execute(config, GAUSSIAN, tmp_path / "b")
    (tmp_path / "b" / RESULTS).write_bytes((tmp_path / "a" / RESULTS).read_bytes())
    status, printed, said = claims("--read", "--json", "--out", tmp_path / "b")
    assert status == 0
    assert f"1 of 10 runs are known from {tmp_path / 'b' / RESULTS}\nreading the 3 of 9 runs that have ended" in said
    assert [found["seeds"] for found in json.loads(printed)[0]["parts"][0]["findings"]] == [2]
    assert set(read_results(tmp_path / "b" / RESULTS)) == {first, *others}


def test_a_file_of_results_that_cannot_be_read_is_left_as_it_is(claims, tmp_path):
    (tmp_path / RESULTS).write_text("nonsense\n")
    status, printed, said = claims("--read", "--out", tmp_path)
    assert (status, printed) == (2, "")
    assert said.startswith(
        f"error: line 1 of {tmp_path / RESULTS} is not a result (line 1 is no JSON from character 1 on"
    )
    assert (tmp_path / RESULTS).read_text() == "nonsense\n"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_damaged_run_is_left_out_and_named(claims, tmp_path):
    for config in TINY_SETTING.experiments["decay"]:
        execute(config, GAUSSIAN, tmp_path)
    damaged = execute(TINY, GAUSSIAN, tmp_path)
    (damaged.path / "result.json").write_text("{")
    status, printed, said = claims("--read", "--json", "--out", tmp_path)
    assert status == 1
    assert f"left out: {damaged.path / 'result.json'} is damaged" in said
    assert [found["seeds"] for found in json.loads(printed)[0]["parts"][0]["findings"]] == [1]


@pytest.mark.slow
def test_claims_are_run_judged_and_written_once(claims, monkeypatch, tmp_path):
    status, printed, said = claims("--out", tmp_path)
    assert status == 0, said
    page, values = (tmp_path / "claims.md").read_text(), json.loads((tmp_path / "claims.json").read_text())
    folders = [RunFolder(path) for path in tmp_path.iterdir() if path.is_dir()]
    assert {folder.config for folder in folders} == set(TINY_SETTING)
    assert {folder.status for folder in folders} == {"finished"}
    asked = [claim for claim in CLAIMS if set(claim.experiments) <= set(TINY_SETTING.experiments)]
    assert [each["claim"] for each in values] == [claim.statement for claim in asked]
    assert len(asked) == 14
    for each in values:
        assert f"| {each['claim']} | {each['verdict']} |" in page
        assert each["claim"] in printed
    assert "neurocollapse claims --quick" in page
    assert "Traceback" not in said
    assert "warning" not in said
    theorem = next(each for each in values if each["claim"].startswith("Theorem 2.3's equations hold at the end of tr"))
    assert all(found["seeds"] == 2 for part in theorem["parts"] for found in part["findings"])

    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", lambda self: pytest.fail("it trains"))
    before = (tmp_path / "claims.md").read_bytes(), (tmp_path / "claims.json").read_bytes()
    for options in ([], ["--read"]):
        assert claims("--out", tmp_path, *options)[0] == 0
        assert ((tmp_path / "claims.md").read_bytes(), (tmp_path / "claims.json").read_bytes()) == before


def test_changed_defaults_change_no_run_of_the_claims():
    """The runs that were published: what they are made of is named by the version of its defaults."""
    runs = json.dumps([config.changed_from(2) for setting in FULL for config in setting])
    assert hashlib.sha256(runs.encode()).hexdigest()[:16] == "b6cf017488397b6b"
