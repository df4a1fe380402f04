"""Last records, means over seeds, and the paper's ordering, against sums done by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from neurocollapse.reports import describe_ordering, describe_rest, missing_decays, paper_ordering, summary, wide
from neurocollapse.reports.summaries import (
    DOES_NOT_HOLD,
    HOLDS,
    IN_THE_MEANS,
    ORDERED_KEYS,
    SUMMARY_KEYS,
    final_records,
    number,
)


def frame_of(*runs):
    """Rows for runs given as (λ, seed, status, values of every ordered metric by epoch)."""
    return pd.DataFrame(
        {
            "run_id": f"{decay:g}-{seed}",
            "weight_decay": decay,
            "seed": seed,
            "status": status,
            "epoch": epoch,
            **dict.fromkeys(ORDERED_KEYS, value),
            "train.accuracy": 1.0,
            "train.weight_norms.0": 10 * value,
            "gradient_norm": 2 * value,
        }
        for decay, seed, status, values in runs
        for epoch, value in enumerate(values)
    )


THREE_SEEDS = frame_of(
    (0.0, 0, "finished", [9.0, 0.5]),
    (0.0, 1, "finished", [8.0, 0.7]),
    (0.0, 2, "finished", [7.0, 0.9]),
    (1e-3, 0, "finished", [9.0, 5.0, 0.1]),
    (1e-3, 1, "finished", [1.0, 5.0, 0.3]),
)


def cell(table, decay, key, column="mean"):
    (value,) = table[(table["weight_decay"] == decay) & (table["key"] == key)][column]
    return value


def test_the_last_record_of_every_run_whatever_the_order_of_rows():
    shuffled = THREE_SEEDS.sample(frac=1, random_state=0)
    final = final_records(shuffled).set_index("run_id")["train.nc1"]
    assert final.to_dict() == {"0-0": 0.5, "0-1": 0.7, "0-2": 0.9, "0.001-0": 0.1, "0.001-1": 0.3}


def test_means_and_sample_deviations_over_seeds():
    table = summary(THREE_SEEDS)
    assert list(table) == ["weight_decay", "key", "mean", "deviation", "runs"]
    assert cell(table, 0.0, "train.nc1") == pytest.approx((0.5 + 0.7 + 0.9) / 3)
    assert cell(table, 0.0, "train.nc1", "deviation") == pytest.approx(0.2)
    assert cell(table, 0.0, "train.nc1", "runs") == 3
    assert cell(table, 1e-3, "train.weight_norms.0") == pytest.approx(2.0)
    assert cell(table, 1e-3, "gradient_norm", "deviation") == pytest.approx(math.sqrt(2 * 0.2**2))
    assert cell(table, 1e-3, "train.nc4", "runs") == 2
    assert cell(table, 1e-3, "train.accuracy", "deviation") == 0.0


def test_keys_keep_their_order_and_layers_come_last():
    keys = summary(THREE_SEEDS)["key"].unique().tolist()
    assert keys == [key for key in SUMMARY_KEYS if key in THREE_SEEDS] + ["train.weight_norms.0"]


def test_one_seed_has_no_deviation():
    table = summary(frame_of((0.0, 0, "finished", [0.5])))
    assert table["deviation"].isna().all()
    assert wide(table).loc["train.nc1"].tolist() == ["0.5"]


@pytest.mark.parametrize("status", ["diverged", "unfinished"])
def test_only_runs_that_finished_count(status):
    frame = pd.concat([THREE_SEEDS, frame_of((0.0, 3, status, [1e9]), (0.5, 0, status, [1.0]))])
    pd.testing.assert_frame_equal(summary(frame), summary(THREE_SEEDS))
    assert paper_ordering(frame) == paper_ordering(THREE_SEEDS)


def test_nothing_finished_is_an_empty_summary():
    frame = frame_of((0.0, 0, "diverged", [1.0, 2.0]), (1e-3, 0, "unfinished", [1.0]))
    assert summary(frame).empty
    assert wide(summary(frame)).empty
    assert paper_ordering(frame) == {}


def test_other_groups():
    frame = THREE_SEEDS.assign(network=["mlp"] * 6 + ["convnet"] * 6)
    table = summary(frame, by=("network", "weight_decay"))
    assert list(table)[:3] == ["network", "weight_decay", "key"]
    assert set(zip(table["network"], table["weight_decay"], strict=True)) == {("mlp", 0.0), ("convnet", 1e-3)}


def test_a_metric_that_is_nan_in_some_runs_is_averaged_over_the_others():
    frame = THREE_SEEDS.copy()
    frame.loc[frame["run_id"] == "0-2", "train.nc3"] = np.nan
    table = summary(frame)
    assert cell(table, 0.0, "train.nc3") == pytest.approx(0.6)
    assert cell(table, 0.0, "train.nc3", "runs") == 2


# The paper's ordering: λ = 0 above every λ > 0


def test_the_ordering_where_lambda_zero_is_above_all():
    assert paper_ordering(THREE_SEEDS) == dict.fromkeys(ORDERED_KEYS, HOLDS)


@pytest.mark.parametrize(
    ("at_zero", "others", "verdict"),
    [
        (0.5, [0.4, 0.49], HOLDS),
        (0.5, [0.4, 0.51], DOES_NOT_HOLD),
        (0.5, [0.51, 0.4], DOES_NOT_HOLD),
        (0.5, [0.5, 0.1], DOES_NOT_HOLD),
        (0.5, [0.6, 0.7], DOES_NOT_HOLD),
        (0.5, [0.1, np.nan], DOES_NOT_HOLD),  # what is undefined is not below zero's
        (math.inf, [0.5], HOLDS),
    ],
)
def test_the_ordering_is_against_every_lambda_and_strict(at_zero, others, verdict):
    decayed = [(10.0 ** -(index + 2), 0, "finished", [value]) for index, value in enumerate(others)]
    frame = frame_of((0.0, 0, "finished", [at_zero]), *decayed)
    assert paper_ordering(frame) == dict.fromkeys(ORDERED_KEYS, verdict)


def test_the_ordering_in_the_means_over_seeds_alone():
    frame = frame_of(
        (0.0, 0, "finished", [0.1]), (0.0, 1, "finished", [0.9]), (1e-3, 0, "finished", [0.3]),
        (1e-3, 1, "finished", [0.4]),
    )  # fmt: skip
    ordering = paper_ordering(frame)
    assert ordering == dict.fromkeys(ORDERED_KEYS, IN_THE_MEANS)
    assert "in the means over seeds only: nc1, nc2_norm_variance" in describe_ordering(ordering)


def test_every_metric_is_judged_on_its_own():
    frame = THREE_SEEDS.copy()
    frame.loc[frame["weight_decay"] > 0, "train.nc2_norm_variance"] = 3.0
    ordering = paper_ordering(frame)
    assert [key for key, verdict in ordering.items() if verdict != HOLDS] == ["train.nc2_norm_variance"]
    sentence = describe_ordering(ordering)
    assert sentence == (
        "the paper's ordering, λ = 0 above every λ > 0, holds in: nc1, nc2_equinorm, nc2_cosine, nc3, nc4; "
        "in the means over seeds only: none; does not hold in: nc2_norm_variance"
    )


@pytest.mark.parametrize(
    "frame",
    [
        frame_of((1e-3, 0, "finished", [0.5]), (1e-4, 0, "finished", [0.5])),
        frame_of((0.0, 0, "finished", [0.5]), (0.0, 1, "finished", [0.5])),
    ],
)
def test_without_both_kinds_there_is_no_ordering(frame):
    assert paper_ordering(frame) == {}
    assert describe_ordering({}) == "no comparison with λ = 0: it takes finished runs with λ = 0 and with λ > 0"


def test_a_verdict_names_the_lambdas_that_it_is_not_on():
    asked = (0.0, 1e-3, 1e9)
    frame = pd.concat([THREE_SEEDS, frame_of((1e9, 0, "diverged", [9.0]))])
    assert missing_decays(frame, asked) == [1e9]
    assert missing_decays(THREE_SEEDS, (0.0, 1e-3)) == []
    sentence = describe_ordering(paper_ordering(frame), asked, [1e9])
    assert "λ = 0 above every λ > 0 (of 2 of 3 λ; 1e+09 failed), holds in: nc1" in sentence
    assert describe_ordering({}, asked, [0.0]).startswith("no comparison with λ = 0 (of 2 of 3 λ; 0 failed): it takes")


def test_a_metric_that_is_undefined_holds_no_ordering():
    frame = THREE_SEEDS.copy()
    frame["train.nc1"] = np.nan  # in every run
    frame.loc[frame["weight_decay"] > 0, "train.nc3"] = np.nan
    ordering = paper_ordering(frame)
    assert [key for key, verdict in ordering.items() if verdict == DOES_NOT_HOLD] == ["train.nc1", "train.nc3"]


# For reading


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((0.0123449,), "0.01234"),
        ((0.0123449, 0.00056), "0.01234 ± 0.00056"),
        ((1e-9, 0.0), "1e-09 ± 0"),
        ((math.inf,), "inf"),
        ((math.nan, math.nan), "nan"),
    ],
)
def test_numbers(values, text):
    assert number(*values) == text


def test_a_summary_for_reading_has_a_column_for_each_lambda():
    table = wide(summary(THREE_SEEDS))
    assert list(table) == ["λ = 0", "λ = 0.001"]
    assert table.loc["train.nc1"].tolist() == ["0.7 ± 0.2", "0.2 ± 0.14"]


def test_the_distance_from_rest_is_a_median_over_seeds_of_the_last_records():
    frame = frame_of(*[(decay, seed, "finished", [9.0, 1.0]) for decay in (0.0, 1e-3) for seed in range(3)])
    assert describe_rest(frame) == ""  # as records of earlier versions, it lacks the columns
    last = frame["epoch"] == 1
    frame["relative_gradient"] = np.where(frame["weight_decay"] == 0, math.nan, np.where(last, 0.05, 0.9))
    frame["norm_spread"] = np.where(last, 0.01 + 0.02 * frame["seed"], 5.0)
    frame["train.loss_data"] = np.where(last, 2e-5, 0.5)
    assert describe_rest(frame) == (
        "distance from rest at the end: ‖∇L‖ / (‖∇L_data‖ + λ‖W‖) and the spread of the ‖W_l‖² are 0.05 and 0.03 at "
        "λ = 0.001; the data term is 2e-05 at λ = 0"
    )
