"""The paper's panels, and the page, from what is not a folder of this package's runs."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import neurocollapse as nc
from neurocollapse import InputError, RunError
from neurocollapse.claims import QUICK, judge_all
from neurocollapse.cli.report import map as drawn_map
from neurocollapse.reports import collapse_figure, layers_figure, map_table
from neurocollapse.reports.trajectories import trajectory_runs
from neurocollapse.sweeps import Machines
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


def _line(**values):
    return json.dumps({"checkpoint": "epoch_1.pt", "split": "train", **values}) + "\n"


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


FRAMES = {
    "no run": ({"run_id": ["a", None]}, "a row of the frame has no run_id"),
    "words for epochs": ({"epoch": ["1", "two"]}, "epoch of run mine is 'two'; it must be a number"),
    "a date": ({"epoch": pd.to_datetime(["2026-01-01", "2026-01-02"])}, "epoch of run mine is Timestamp("),
    "an epoch of nan": ({"epoch": [1, math.nan]}, "an epoch of run mine is nan; epochs are numbers from 0 on"),
    "an epoch without end": ({"epoch": [math.inf, 1]}, "an epoch of run mine is inf"),
    "an epoch far away": ({"epoch": [1, 1e300]}, "an epoch of run mine is 1e+300"),
    "an epoch before the first": ({"epoch": [-1, 1]}, "an epoch of run mine is -1.0"),
    "beyond any float": (
        {"train.nc1": pd.Series([1, 10**400], dtype=object)}, "train.nc1 of run mine is an integer beyond any float"
    ),
    "words for a metric": ({"train.nc1": [1, "x"]}, "train.nc1 of run mine is 'x'; it must be a number"),
    "complex numbers": ({"train.nc1": [1j, 2]}, "train.nc1 of run mine is 1j; it must be a number"),
    "a list in a cell": ({"loss": [["a"], "b"]}, "loss of run mine is ['a']; a cell holds one number or text"),
    "words for a number of classes": ({"num_classes": "four"}, "num_classes of run mine is 'four'"),
}  # fmt: skip


@pytest.mark.parametrize(("columns", "message"), FRAMES.values(), ids=FRAMES)
def test_what_a_frame_cannot_hold_is_named_with_its_run(columns, message):
    given = pd.DataFrame({"run_id": "mine", "epoch": [1, 2], **{f"train.{key}": 0.5 for key in KEYS}} | columns)
    for draw in (nc.plot, map_table):
        with pytest.raises(InputError, match=re.escape(message)):
            draw(given)


@pytest.mark.parametrize("draw", [map_table, collapse_figure, layers_figure])
def test_a_figure_is_drawn_from_a_frame(draw):
    with pytest.raises(InputError, match=f"{draw.__name__}: frame must be a DataFrame, got .* of type list"):
        draw([{"run_id": "mine"}])
    with pytest.raises(InputError, match="more than one column 'epoch'"):
        draw(pd.DataFrame([[1, 2]], columns=["epoch", "epoch"]))
    if draw is map_table:
        with pytest.raises(InputError, match=r"^the frame has no column epoch, train\.loss_data") as caught:
            draw(pd.DataFrame({"run_id": ["mine"]}))
        assert str(caught.value).count("run_id") == 1


def test_ids_of_two_types_and_a_decay_in_words_are_lines():
    given = pd.DataFrame({"run_id": ["a", 1], "weight_decay": [0.1, "high"], "seed": 0, "epoch": 1, "train.nc1": 0.5})
    assert lines_of(nc.plot(given)) == ["1", "a"]


def test_a_map_names_the_run_that_has_no_configuration():
    with pytest.raises(InputError, match=r"run b has no configuration of RunConfig \(weight_decay must be at least 0"):
        map_table(frame(weight_decay=[0.5] * 3 + [-1.0] * 3))


def test_what_the_package_wrote_is_replaced(tmp_path):
    own_runs(tmp_path)
    for _ in range(2):
        drawn_map(tmp_path)
        nc.report(tmp_path)
    assert {"map.csv", "map.png", "report.html"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("layout", ["{run}/epoch_{epoch}.pt", "{run}/checkpoint-{epoch}/model.safetensors"])
def test_the_checkpoints_of_two_runs_in_one_trajectory_are_two_lines(tmp_path, layout):
    path = tmp_path / "t5.jsonl"
    for name in ("one", "two"):
        for epoch in (1, 2, 10):
            file = layout.format(run=f"/runs/{name}", epoch=epoch)
            trajectory(path, [Path(file).name], path=file)
    assert [[record["epoch"] for record in run.records] for run in trajectory_runs(path)] == [[1, 2, 10]] * 2
    assert lines_of(nc.plot(path)) == ["t5-0", "t5-1"]
    with pytest.raises(RunError, match=r"there is no folder .*t5 \(did you mean 't5\.jsonl'\?\)"):
        nc.report(tmp_path / "t5")


def own_runs(out: Path) -> Path:
    for decay in (0.0, 0.5):
        with nc.Recorder(out / str(decay), {"weight_decay": decay, "seed": 0}) as recorder:
            recorder.add(1, dict.fromkeys(KEYS, 0.5))
    return out


OUTPUTS = {
    **dict.fromkeys(("map.csv", "map.png", "map.pdf", "map.svg"), drawn_map),
    "report.html": nc.report,
    "save.safetensors": lambda out: nc.measure_model(
        torch.nn.Linear(16, 4), nc.load_dataset("gaussian").train, save_features=out / "save.safetensors"
    ),
    **dict.fromkeys(
        ("figure.png", "figure.pdf", "figure.svg", "summary.csv"), lambda out: nc.reproduce(out=out, progress=False)
    ),
    **dict.fromkeys(("claims.md", "claims.json"), lambda out: judge_all(QUICK, out, Machines())),
}


@pytest.mark.parametrize(("name", "write"), OUTPUTS.items(), ids=OUTPUTS)
def test_what_the_package_did_not_write_is_never_replaced(tmp_path, monkeypatch, name, write):
    for planned in ("neurocollapse.reports.reproduction.plan_sweep", "neurocollapse.claims.judging.plan_claims"):
        monkeypatch.setattr(planned, lambda *_: pytest.fail("the file is not looked for before the runs"))
    mine = own_runs(tmp_path) / name
    mine.write_text("epoch,nc1\n1,2\n")
    with pytest.raises(nc.WriteError, match=rf"{name} cannot be written \(it is there, and neurocollapse did not"):
        write(tmp_path)
    assert mine.read_text() == "epoch,nc1\n1,2\n"


def test_a_page_of_the_users_own_is_not_replaced(tmp_path):
    path = trajectory(tmp_path / "t.jsonl")
    page = tmp_path / "t.html"
    page.write_text("precious")
    with pytest.raises(nc.WriteError, match=r"t\.html cannot be written \(it is there, and neurocollapse did not"):
        nc.report(path)
    assert page.read_text() == "precious"
    page.unlink()
    assert nc.report(path) == nc.report(path) == page


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"epoch": 1}\n', "is no trajectory (line 1 has no 'checkpoint'); mend it, or name another file"),
        ("[\n", "is no trajectory (line 1 is cut off); mend it, or name another file"),
        (_line(nc1=10**400), "is no trajectory (line 1: nc1 is an integer beyond any float); mend it"),
        (_line(nc1=[1, 2]), "line 1: nc1 must be a number, got [1, 2]"),
        (_line(nc3=True), "line 1: nc3 must be a number, got True"),
        (_line(nc3="abc"), "line 1: nc3 must be a number, got 'abc'"),
        (_line(nc4={}), "line 1: nc4 must be a number, got {}"),
        (_line(class_counts="abc"), "line 1: class_counts must be a list, got 'abc'"),
        (_line(weight_norms=[None]), "line 1: weight_norms[0] must be a number, got None"),
        (None, "there is no file "),
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
