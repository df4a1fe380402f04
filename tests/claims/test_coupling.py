"""The claims about optimisers: their runs, and verdicts on results made up so that they hold, or do not."""

import dataclasses
import math

import pytest

from neurocollapse.claims import CLAIMS, FULL, Result, Verdict, judge_claims, results_of
from neurocollapse.claims.coupling import MOMENTA, OPTIMIZERS
from neurocollapse.claims.experiments import MATCHED
from neurocollapse.claims.results import AT_LEVEL
from neurocollapse.datasets import load_dataset
from neurocollapse.sweeps.resuming import execute
from neurocollapse.training import RunConfig
from neurocollapse.training.schedule import decay_alone

DECAYS = FULL[-1]
RUNS = {name: list(sweep) for name, sweep in DECAYS.experiments.items()}
TINY = RunConfig(dataset="gaussian", per_class=10, network="mlp", depth=3, width=8, epochs=4, learning_rate=0.02)


def judged(value_of):
    """The verdicts of rows on results with `value_of(config, key)`."""
    keys = ("matched.missed", "nc3.epoch", *(f"matched.{key}" for key in AT_LEVEL))
    results = [Result(config, {key: value_of(config, key) for key in keys}) for config in DECAYS]
    return [part for each in judge_claims(DECAYS, results) for part in each.parts]


def true(config, key):
    wobble = 1 + 0.01 * math.sin(config.seed)
    if key == "matched.missed":
        return 0.0
    fast = config.momentum if key == "nc3.epoch" else 0.7 if config.optimizer in ("sgd", "adam") else 0.0
    return (1 if fast == 0 else 0.3) * wobble


def false(config, key):
    return 1.0 if key == "matched.missed" else 1 / true(config, key)


def test_the_claims_are_asked_of_their_setting_alone():
    assert [each.claim for each in judge_claims(DECAYS, [])] == list(CLAIMS[-2:])
    assert set(OPTIMIZERS) | set(MOMENTA) == set(RUNS)
    assert {part.verdict for part in judged(true)} == {Verdict.HOLDS}
    assert {part.verdict for part in judged(false) if "share" not in part.quantity} == {Verdict.NOT}
    assert Verdict.HOLDS not in {part.verdict for part in judged(false)}


def test_what_is_predicted_exactly_is_not_judged():
    rows = [part.quantity for part in judged(true) if "`nc0`" in part.quantity]
    assert [row.partition(",")[0] for row in rows] == ["square", "square", "cross-entropy"]
    assert rows[-1].endswith("adam over adamw")


def test_runs_that_miss_the_loss_leave_their_rows_undecided():
    def value_of(config, key):
        missed = config.optimizer == "adamw" and config.seed == 200
        return true(config, key) if not missed else 1.0 if key == "matched.missed" else math.nan

    verdicts = {part.quantity: part.verdict for part in judged(value_of)}
    undecided = {quantity for quantity, verdict in verdicts.items() if verdict is Verdict.UNDECIDED}
    assert undecided >= {f"{loss}, `nc1` at one training loss: adam over adamw" for loss in ("square", "cross-entropy")}
    assert all("adamw" in quantity for quantity in undecided)


def test_decoupled_decays_shrink_the_weights_as_coupled_ones_of_sgd_do():
    for loss in ("square", "cross-entropy"):
        coupled = [config for config in RUNS[f"{loss}, sgd"] if config.seed == 200]
        for name in ("sgdw", "adamw"):
            for config, other in zip(coupled, [c for c in RUNS[f"{loss}, {name}"] if c.seed == 200], strict=True):
                decoupled = dataclasses.replace(other, optimizer="sgdw")  # whose law AdamW's decay alone obeys, too
                shares = [math.log(decay_alone(each, each.epochs, 450)[-1]) for each in (config, decoupled)]
                assert shares[0] == pytest.approx(shares[1], rel=0.05)


def test_steps_of_each_momentum_move_as_far_along_the_flow_and_seeds_are_new():
    for loss, time in (("square", 100.0), ("cross-entropy", 100.0)):
        for name in ("0", "0.5", "0.9"):
            for config in RUNS[f"{loss}, momentum {name}"]:
                assert config.epochs * config.learning_rate / (1 - config.momentum) == pytest.approx(time)
    assert {config.seed for config in DECAYS} == set(range(200, 205))
    assert len(list(DECAYS)) == len(set(DECAYS)) == 25 * 14


@pytest.mark.parametrize("loss", MATCHED)
def test_a_result_has_the_first_record_at_the_level(tmp_path, monkeypatch, loss):
    folder = execute(dataclasses.replace(TINY, loss=loss), load_dataset("gaussian", per_class=10), tmp_path)
    records = folder.records()
    term = "train.loss_data" if loss == "square" else "train.cross_entropy"
    for place in (2, len(records)):  # at a record, and below all
        level = records[place][term] if place < len(records) else 0.0
        monkeypatch.setitem(MATCHED, loss, level)
        ((values,),) = [[found.values for found in results_of([folder], {})]]
        first = next((record for record in records if record[term] <= level), None)
        assert values["matched.missed"] == (first is None)
        for key in AT_LEVEL:
            expected = math.nan if first is None else first[f"train.{key}"]
            assert values[f"matched.{key}"] == pytest.approx(expected, nan_ok=True)
