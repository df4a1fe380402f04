"""The map of a sweep, against medians computed by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from neurocollapse.reports import PANELS, least_over, map_figure, map_table
from neurocollapse.training import RunConfig

KEYS = ("loss_data", *(key for key in PANELS if key.startswith("nc")))
STARTS = ({"initialization": "default"}, {"initial_norm": 2.0}, {"initial_norm": 16.0})


def record(start, weight_decay, seed, nc1, gradient=0.05):
    config = RunConfig(weight_decay=weight_decay, decay_start=5.0, seed=seed, network="mlp", **start)
    numbers = {f"train.{key}": 1e-5 for key in KEYS} | {"train.nc1": nc1, "train.accuracy": 1.0}
    row = {"run_id": f"{start}-{weight_decay}-{seed}", "epoch": 7, "terminal_phase_start": np.nan, **vars(config)}
    return [
        {**row, "epoch": 0, **numbers, "train.nc1": 99.0},
        {**row, **numbers, "relative_gradient": gradient, "norm_spread": 0},
    ]


def frame():
    rng = np.random.default_rng(0)
    rows = [
        line
        for start in STARTS
        for weight_decay in (0.0, 1e-3, 1e-4)
        for seed in range(3)
        for line in record(start, weight_decay, seed, rng.uniform(), 0.5 if (weight_decay, seed) == (1e-3, 1) else 0.05)
    ]
    return pd.DataFrame(rows)


def test_a_cell_is_the_median_over_seeds_of_the_last_records():
    data = frame()
    table = map_table(data)
    assert list(table)[:5] == ["weight_decay", "initialization", "initial_norm", "seeds", "at_rest"]
    assert len(table) == 9
    for cell in table.to_dict("records"):
        like = data[(data["epoch"] == 7) & (data["weight_decay"] == cell["weight_decay"])]
        like = like[like["initialization"] == cell["initialization"]]
        if cell["initialization"] == "norm":
            like = like[like["initial_norm"] == cell["initial_norm"]]
        assert cell["nc1"] == sorted(like["train.nc1"])[1]
        assert (cell["seeds"], cell["at_rest"]) == (3, 2 if cell["weight_decay"] == 1e-3 else 3)
    pd.testing.assert_frame_equal(map_table(data.astype({"initial_norm": "Float64"})), table)  # with pd.NA for none


def test_the_least_of_each_row_stands_beside_the_first():
    table = map_table(frame())
    least = least_over(table, "weight_decay", "nc1")
    assert least[""].tolist() == [
        "initialization default",
        *(f"initialization norm, initial norm {norm}" for norm in (2, 16)),
    ]
    cells = table[table["initial_norm"] == 2].set_index("weight_decay")["nc1"]
    assert least.iloc[1]["nc1 at weight_decay 0"] == cells[0.0]
    assert least.iloc[1]["least of the others"] == min(cells[1e-3], cells[1e-4])
    assert float(least.iloc[1]["at"]) == cells[[1e-3, 1e-4]].idxmin()


def test_the_figure_shows_every_number_and_brackets_those_of_runs_that_did_not_rest():
    data = frame()
    data.loc[(data["epoch"] == 7) & (data["weight_decay"] == 1e-4), "train.nc4"] = 0.0  # which has no logarithm
    table = map_table(data)
    figure = map_figure(table)
    panels = {axes.get_title(loc="left").split("\n")[0]: axes for axes in figure.axes if axes.axison}
    assert len(panels) < len(KEYS) == sum(axes.axison for axes in figure.axes)  # three are called NC2
    shown = [text.get_text() for text in panels["NC1"].texts]
    cells = {
        (cell["initialization"], cell["initial_norm"], cell["weight_decay"]): cell["nc1"]
        for cell in table.to_dict("records")
    }
    assert f"{cells['norm', 2.0, 0.0]:.2g}" in shown
    assert f"({cells['norm', 16.0, 1e-3]:.2g})" in shown
    assert [label.get_text() for label in panels["NC1"].get_xticklabels()] == ["0", r"$10^{-4}$", r"$10^{-3}$"]
    assert [text.get_text() for text in panels["NC4"].texts].count("0") == 3


def test_a_map_across_the_only_field_that_varies_has_one_row():
    data = frame()
    table = map_table(data[data["initialization"] == "default"])
    assert least_over(table, "weight_decay", "nc1")[""].tolist() == [""]
    map_figure(table)


@pytest.mark.parametrize(
    ("across", "message"),
    [
        (
            "depth",
            "depth is the same in all runs; choose a field that varies: weight_decay, initialization, initial_norm",
        ),
        ("seed", "seed varies within the cells of a map; choose a field that varies: weight_decay, init"),
        ("wdith", r"a map has no field 'wdith' \(did you mean 'width'\?\)"),
    ],
)
def test_a_field_that_does_not_vary_is_named(across, message):
    with pytest.raises(ValueError, match=message):
        map_table(frame(), across)


def test_runs_that_differ_in_their_seed_alone_make_no_map():
    data = frame()
    with pytest.raises(ValueError, match="no field but the seed varies in these runs, and a map needs one"):
        map_table(data[(data["initialization"] == "default") & (data["weight_decay"] == 0)])


def test_a_cell_with_a_run_that_diverged_says_so_in_place_of_the_median_of_the_others():
    data = frame().assign(status="finished")
    data.loc[data["run_id"] == f"{STARTS[1]}-0.0-2", "status"] = "diverged"
    data.loc[(data["run_id"] == f"{STARTS[1]}-0.001-2") & (data["epoch"] == 7), "train.nc3"] = np.nan
    table = map_table(data)
    cells = table.set_index(["initial_norm", "weight_decay"])
    assert cells["diverged"].sum() == cells.loc[(2.0, 0.0), "diverged"] == 1
    found = [
        math.isnan(cells.loc[cell, key]) for cell, key in (((2, 0), "nc1"), ((2, 1e-3), "nc3"), ((2, 1e-3), "nc1"))
    ]
    assert found == [True, True, False]
    panel = next(axes for axes in map_figure(table).axes if axes.get_title(loc="left").startswith("NC1"))
    assert [text.get_text() for text in panel.texts].count("div.") == 1


def test_records_of_earlier_versions_do_not_say_whether_they_are_at_rest():
    table = map_table(frame().drop(columns=["relative_gradient", "norm_spread"]))
    assert dict(zip(table["weight_decay"], table["at_rest"], strict=True)) == {0.0: 3, 1e-3: 0, 1e-4: 0}


def test_runs_that_differ_in_what_is_no_field_of_a_run_are_not_taken_for_seeds():
    data = frame()
    data["lr"] = 0.1
    other = data.assign(run_id="other " + data["run_id"], lr=0.2)
    with pytest.raises(ValueError, match="have the same seed and the same fields of RunConfig"):
        map_table(pd.concat([data, other]))
