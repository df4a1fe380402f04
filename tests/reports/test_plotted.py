"""The paper's panels, and the page, from what is not a folder of this package's runs."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import neurocollapse as nc
from neurocollapse import InputError, RunError
from neurocollapse.reports.trajectories import trajectory_runs
from tests.reports.test_report import of_page

KEYS = ("loss_data", "nc1", "nc2_norm_variance", "nc2_equinorm", "nc2_cosine", "nc3", "nc4")


def frame(**columns):
    """Two runs, three records each."""
    runs = pd.DataFrame({"run_id": list("aaabbb"), "epoch": [0, 1, 2] * 2, **columns})
    return runs.assign(**{f"train.{key}": np.linspace(1, 2, 6) for key in KEYS})


def lines_of(figure):
    return [line.get_label() for line in figure.axes[1].lines if not str(line.get_label()).startswith("_")]


@pytest.mark.parametrize(
    ("columns", "lines", "title"),
    [
        ({"weight_decay": [0.0] * 3 + [0.5] * 3, "seed": 0}, ["0", "0.5"], r"Weight decay $\lambda$, training set"),
        ({"weight_decay": 0.5, "seed": [0] * 3 + [1] * 3}, ["0.5"], r"Weight decay $\lambda$, training set"),
        ({"weight_decay": 0.5, "seed": 0}, ["a", "b"], "Run, training set"),
        ({"weight_decay": [None] * 3 + [0.5] * 3, "seed": 0}, ["a", "b"], "Run, training set"),
        ({"weight_decay": 0.5}, ["a", "b"], "Run, training set"),
        ({}, ["a", "b"], "Run, training set"),
    ],
)
def test_a_line_is_a_decay_or_a_run(columns, lines, title):
    figure = nc.plot(frame(**columns))
    assert lines_of(figure) == lines
    assert figure.axes[7].artists[0].get_title().get_text() == title


def test_what_was_not_recorded_leaves_its_panel_empty():
    figure = nc.plot(frame().drop(columns=["train.nc3", "train.loss_data"]))
    empty = [each.get_title(loc="left") for each in figure.axes if "no finite value" in str([*map(str, each.texts)])]
    assert empty == ["Square loss", "NC3 · distance from self-duality"]
    with pytest.raises(InputError, match=r"nothing in the records begins with test\.; measure that split, or draw"):
        nc.plot(frame(), split="test")
    with pytest.raises(InputError, match="the frame has no rows"):
        nc.plot(frame().iloc[:0])


def trajectory(path: Path, names=("epoch_1.pt", "epoch_2.pt", "epoch_10.pt"), /, **conditions) -> Path:
    shared = {"model": "mine:net", "dataset": "mnist", "split": "train", "data_sha256": "0", "definitions": 1}
    network = {"network": {"sha256": "a", "outputs": [1.0]}}
    with path.open("a") as file:
        for place, name in enumerate(names):
            numbers = {f"{key}": 1 / (1 + place) for key in KEYS} | {"nc1_vci": "nan", "class_counts": [5, 5, 0, 5]}
            file.write(
                json.dumps({"checkpoint": name, "sha256": "1", **shared, **network, **conditions, **numbers}) + "\n"
            )
    return path


def test_a_trajectory_is_drawn_and_reported(tmp_path):
    path = trajectory(trajectory(tmp_path / "t.jsonl"), split="test", data_sha256="1")
    figure = nc.plot(path, split="test")
    assert figure.axes[1].lines[0].get_xydata().tolist() == [[1, 1], [2, 0.5], [10, 1 / 3]]
    page = nc.report(path)
    assert page == tmp_path / "t.html"
    made = of_page(page.read_text())
    assert (made["title"], made["fields"]) == (
        "Neural collapse of the mine:net on MNIST",
        [{"name": "run", "values": ["t"]}],
    )
    (run,) = made["runs"]
    assert (run["recorded"], run["classes"], run["series"]["test"]["nc1"]) == ([1, 2, 10], 3, [1, 0.5, 0.3333333])


@pytest.mark.parametrize(
    ("names", "epochs"),
    [
        (("a/last.pt", "b/best.pt"), [1, 2]),
        (("a/3.pt", "b/3.pt"), [1, 2]),
        (("7.pt", "3.pt"), [3, 7]),
        (("epoch=1-val_loss=0.50.ckpt", "epoch=3-val_loss=0.25.ckpt"), [1, 3]),
        (("epoch=0-step=500.ckpt", "epoch=0-step=900.ckpt"), [500, 900]),
        (("checkpoint-10/model.safetensors", "checkpoint-30/model.safetensors"), [10, 30]),
        (("checkpoint-10", "checkpoint-30"), [10, 30]),
        (("10/resnet18.pt", "30/resnet18.pt"), [10, 30]),
        (("resnet18_10.pt", "resnet18_30.pt"), [10, 30]),
        (("iter_5000_lr0.1.pt", "iter_6000_lr0.01.pt"), [5000, 6000]),
        (("epoch_5.pt", "last7.pt"), [1, 2]),
        (("5_a3.pt", "6_a4.pt"), [1, 2]),
        (("loss0.50.pt", "loss0.25.pt"), [1, 2]),
        (("model_1_v2.pt", "best_2_v2.pt"), [1, 2]),
        (("epoch_7.pt",), [7]),
        (("resnet18.pt",), [1]),
        ((f"epoch_{10**30}.pt", "epoch_2.pt"), [1, 2]),
    ],
)
def test_the_epoch_of_a_checkpoint(tmp_path, names, epochs):
    (run,) = trajectory_runs(trajectory(tmp_path / "t.jsonl", names))
    assert [record["epoch"] for record in run.records] == epochs


@pytest.mark.parametrize(
    ("one", "other", "field"),
    [
        ({}, {"model": "other:net"}, {"name": "model", "values": ["mine:net", "other:net"]}),
        ({"head": "h1"}, {"head": "h2"}, {"name": "head", "values": ["h1", "h2"]}),
        ({}, {"head": "h2"}, {"name": "head", "values": [None, "h2"]}),
        ({}, {"data_sha256": "1"}, {"name": "run", "values": ["t-0", "t-1"]}),
    ],
)
def test_what_was_measured_otherwise_is_another_run(tmp_path, one, other, field):
    path = trajectory(trajectory(tmp_path / "t.jsonl", **one), **other)
    assert lines_of(nc.plot(path)) == ["t-0", "t-1"]
    assert of_page(nc.report(path).read_text())["fields"] == [field]


def test_a_checkpoint_of_two_runs_is_told_by_its_path(tmp_path):
    path = trajectory(tmp_path / "t.jsonl", ["epoch_1.pt"], path="/run1/epoch_1.pt")
    trajectory(path, ["epoch_1.pt"], split="test")  # of an earlier version, which kept no path
    assert len(trajectory_runs(path)[0].records) == 1
    (run,) = trajectory_runs(trajectory(path, ["epoch_1.pt"], path="/run2/epoch_1.pt"))
    assert [record["epoch"] for record in run.records] == [1, 2]


def test_a_page_of_the_users_own_is_not_replaced(tmp_path):
    path = trajectory(tmp_path / "t.jsonl")
    page = tmp_path / "t.html"
    page.write_text("precious")
    with pytest.raises(RunError, match=r"t\.html is no report, and the report would replace it"):
        nc.report(path)
    assert page.read_text() == "precious"
    page.unlink()
    assert nc.report(path) == nc.report(path) == page


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"epoch": 1}\n', "is no trajectory (line 1 has no 'checkpoint'); mend it, or name another file"),
        ("[\n", "is no trajectory (line 1 is cut off); mend it, or name another file"),
        (None, "there are no checkpoints in "),
    ],
)
def test_what_is_no_trajectory(tmp_path, run, content, message):
    path = tmp_path / "t.jsonl"
    if content is not None:
        path.write_text(content)
    for read in (nc.report, nc.plot):
        with pytest.raises(RunError, match=re.escape(message)):
            read(path)
    status, _, said = run("report", path)
    assert (status, said.count("\n")) == (2, 1)
    assert "a trajectory is complete, so --follow would have no effect" in run("report", path, "--follow")[2]
