"""The command as it is typed: what it writes and prints, its exit status, and one line for every bad input."""

import dataclasses
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

import neurocollapse as nc
from neurocollapse import cli
from neurocollapse.cli.printing import shown
from neurocollapse.reports import describe_ordering, paper_ordering, reproduction, summary
from neurocollapse.reports.summaries import ORDERED_KEYS
from neurocollapse.sweeps import RunFolder, run_id
from neurocollapse.sweeps.resuming import execute
from neurocollapse.training import RunConfig
from tests.commands import COMMAND, start, train_words, wait_for
from tests.folders import GAUSSIAN, Killed, folder_of, stopped_after

TINY = ["--dataset", "gaussian", "--network", "mlp", "--depth", "2", "--width", "8", "--epochs", "2"]
SMALL = RunConfig(dataset="gaussian", network="mlp", depth=2, width=8, epochs=2)


def assert_one_line(result, message):
    status, printed, said = result
    assert (status, printed) == (2, "")
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1, said
    assert message in said


def strict_json(text):
    def no_constants(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=no_constants)


# reproduce

REPRODUCE = ["reproduce", "--dataset", "gaussian", "--network", "mlp", "--weight-decay", "0", "5e-3", "--seeds", "2"]
REPRODUCE += ["--epochs", "3", "--per-class", "20"]


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """The real command's folder and what it printed."""
    out = tmp_path_factory.mktemp("reproduced") / "results"
    command = [COMMAND, *REPRODUCE, "--workers", "1", "--out", str(out)]  # each worker imports torch
    return out, subprocess.run(command, capture_output=True, text=True, check=True)


def test_reproduce_writes_the_folder_of_the_design(reproduced):
    out, finished = reproduced
    configs = [
        RunConfig(dataset="gaussian", network="mlp", per_class=20, weight_decay=decay, seed=seed, epochs=3)
        for decay in (0.0, 5e-3)
        for seed in (0, 1)
    ]
    ids = {run_id(config, GAUSSIAN) for config in configs}
    drawn = {f"figure.{suffix}" for suffix in ("png", "pdf", "svg")}
    assert {path.name for path in out.iterdir()} == ids | drawn | {"summary.csv", "theory.json", "report.html"}
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")
    frame = nc.runs(out)
    assert set(frame["status"]) == {"finished"}
    assert [epochs.tolist() for _, epochs in frame.groupby("run_id")["epoch"]] == [[0, 1, 2, 3]] * 4
    pd.testing.assert_frame_equal(
        pd.read_csv(out / "summary.csv"), summary(frame), check_dtype=False, check_categorical=False
    )
    assert "Traceback" not in finished.stderr


def test_reproduce_tells_the_time_the_progress_and_the_result(reproduced):
    out, finished = reproduced
    assert "4 run(s), " in finished.stderr
    assert " at a time: about " in finished.stderr
    for decay in ("0", "0.005"):
        for seed in (0, 1):
            assert f"λ={decay} seed {seed}: epoch 3/3 " in finished.stderr
    assert "nan" not in finished.stderr
    assert "None" not in finished.stderr
    rows = {line.split()[0]: line for line in finished.stdout.splitlines() if line.startswith("train.")}
    assert {*ORDERED_KEYS, "train.sqi_gap", "train.loss_data", "train.weight_norms.4"} <= set(rows)
    assert rows["train.nc1"].count("±") == 2
    assert "λ = 0 " in finished.stdout
    assert "λ = 0.005" in finished.stdout
    assert describe_ordering(paper_ordering(nc.runs(out))) in finished.stdout
    assert str(out / "summary.csv") in finished.stdout


@pytest.mark.usefixtures("no_processes", "figures_unsaved")
def test_a_second_reproduce_trains_nothing_and_prints_the_same_numbers_also_as_json(reproduced, run):
    out, finished = reproduced
    before = {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
    assert run(*REPRODUCE, "--out", out) == (0, finished.stdout, f"4 run(s) have ended already, in {out}\n")
    status, printed, _ = run(*REPRODUCE, "--out", out, "--json")
    assert {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()} == before
    answer = strict_json(printed)
    assert (status, answer["failed"]) == (0, [])
    assert answer["ordering"] == paper_ordering(nc.runs(out))
    assert [row["mean"] for row in answer["summary"]] == summary(nc.runs(out))["mean"].tolist()
    assert {row["runs"] for row in answer["summary"]} == {2}


@pytest.mark.usefixtures("no_processes")
def test_a_dry_run_only_tells_the_time_and_the_ids(tmp_path, reproduced, run, monkeypatch):
    status, printed, said = run(*REPRODUCE, "--out", tmp_path / "out", "--dry-run")
    assert (status, printed, said.count("\n")) == (0, "", 1)
    assert said.startswith("4 run(s), ")
    assert " s on this machine" in said
    assert len(strict_json(run("train", *TINY, "--dry-run", "--json", "--out", tmp_path / "out")[1])["runs"]) == 1
    assert list(tmp_path.iterdir()) == []

    monkeypatch.setattr("neurocollapse.sweeps.checks.estimate_seconds", lambda *_: 100.0)
    out, _ = reproduced
    arguments = [word if word != "5e-3" else "1e-2" for word in REPRODUCE]
    arguments += ["--dry-run", "--json", "--workers", "1"]
    status, printed, said = run(*arguments, "--out", out)
    assert status == 0
    assert "2 run(s), 1 at a time: about 3 min 20 s" in said
    answer = strict_json(printed)
    assert (answer["seconds"], answer["workers"]) == (200.0, 1)
    assert [run_id.rpartition("-")[0] for run_id in answer["runs"]] == [f"gaussian-mlp-wd0.01-seed{s}" for s in (0, 1)]
    assert {*answer["ended"]} < {path.name for path in out.iterdir()}
    assert len(answer["ended"]) == 2


@pytest.mark.usefixtures("no_processes")
def test_the_estimate_is_of_the_epochs_that_are_left(tmp_path, run, monkeypatch):
    monkeypatch.setattr("neurocollapse.sweeps.checks.estimate_seconds", lambda *_: 100.0)
    stopped_after(3, dataclasses.replace(SMALL, epochs=4, learning_rate=0.01), tmp_path)
    _, _, said = run("train", *TINY, "--epochs", "4", "--learning-rate", "0.01", "--out", tmp_path, "--dry-run")
    assert "1 run(s), 1 at a time: about 25 s" in said


@pytest.mark.usefixtures("no_processes", "figures_unsaved")
def test_a_damaged_run_is_no_run_that_was_never_asked_for(reproduced, tmp_path, run):
    out = tmp_path / "results"
    shutil.copytree(reproduced[0], out)
    damaged = sorted(path for path in out.iterdir() if path.is_dir())[2]
    model = damaged / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-8])
    before = {path: path.read_bytes() for path in out.glob("*/*.*")}
    status, printed, said = run(*REPRODUCE, "--out", out)  # the others are drawn without it
    assert status == 1
    assert f"damaged: λ=0.005 seed 0: {model} is " in said
    assert f"delete {damaged} to run it again" in said
    assert {path: path.read_bytes() for path in out.glob("*/*.*")} == before
    assert set(pd.read_csv(out / "summary.csv").groupby("weight_decay")["runs"].max()) == {1, 2}
    assert strict_json(run(*REPRODUCE, "--out", out, "--json", "--dry-run")[1])["damaged"] == [damaged.name]

    status, printed, said = run("runs", out)
    rows = {line.split()[0]: line.split()[1] for line in printed.splitlines()[2:]}
    assert rows == {path.name: "damaged" if path == damaged else "finished" for path in out.iterdir() if path.is_dir()}
    assert (status, said.startswith(f"damaged: {model} is ")) == (1, True)
    assert {repr(row["epoch"]) for row in strict_json(run("runs", out, "--json")[1])} == {"3", "None"}


@pytest.mark.usefixtures("no_processes")
def test_the_map_of_a_sweep_is_drawn_and_its_least_nc1_printed(reproduced, tmp_path, run):
    status, printed, said = run("map", reproduced[0], "--out", tmp_path / "drawn")
    assert (status, said) == (0, "")
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {"map.png", "map.pdf", "map.svg", "map.csv"}
    table = pd.read_csv(tmp_path / "drawn" / "map.csv").set_index("weight_decay")
    assert table["seeds"].tolist() == [2, 2]
    assert f"{table['nc1'][0.0]:.4g}" in printed
    assert_one_line(run("map", reproduced[0], "--across", "depth"), "depth is the same in all runs")


def test_epochs_are_shown_whole_beside_those_of_a_damaged_run():
    values = (100_000.0, 1.0, 0.123456, np.nan, np.inf)
    assert [shown(value) for value in values] == ["100000", "1", "0.1235", "", "inf"]


@pytest.mark.parametrize("damage", ["checkpoint.safetensors", "records.jsonl"])
def test_a_damaged_run_that_has_not_ended_is_named_and_the_others_are_trained(tmp_path, run, damage):
    path = stopped_after(1, SMALL, tmp_path).path / damage
    path.write_bytes(b"")
    assert_one_line(run("train", *TINY, "--out", tmp_path), f"delete {path.parent} to run it again")  # if it is alone
    status, printed, said = run("train", *TINY, "--vary", "seed=0,1", "--engine", "batched", "--out", tmp_path)
    assert status == 1
    (line,) = [line for line in said.splitlines() if line.startswith(("damaged: ", "failed: "))]
    assert f"λ=0.0005 seed 0: {path} is " in line
    assert f"delete {path.parent} to run it again" in line
    assert path.read_bytes() == b""
    rows = {row.split()[0].split("-")[3]: row.split()[1] for row in printed.splitlines()[2:]}
    assert rows["seed1"] == "finished"


@pytest.mark.usefixtures("no_processes", "figures_unsaved")
def test_a_verdict_and_a_figure_know_of_the_lambda_that_failed(tmp_path, run, monkeypatch):
    decays = (0.0, 5e-4, 1e9)
    for decay in decays:
        execute(dataclasses.replace(SMALL, weight_decay=decay), GAUSSIAN, tmp_path)
    drawn = []
    figure = reproduction.collapse_figure
    monkeypatch.setattr(
        reproduction, "collapse_figure", lambda *args, **options: drawn.append(options) or figure(*args, **options)
    )
    arguments = ["reproduce", *TINY, "--out", tmp_path, "--weight-decay", *decays]
    status, printed, said = run(*arguments)
    assert (status, said.count("failed earlier: λ=1e+09 seed 0")) == (1, 1)
    assert "λ = 0 above every λ > 0 (of 2 of 3 λ; 1e+09 failed), holds in: " in printed
    assert drawn[0]["weight_decays"] == decays
    assert strict_json(run(*arguments, "--json")[1])["missing"] == [1e9]


@pytest.mark.usefixtures("no_processes")
def test_reproduce_takes_the_options_of_a_run(reproduced, run, tmp_path):
    options = ["--learning-rate", "0.01", "--momentum", "0", "--optimizer", "adam", "--width", "9"]
    arguments = [*REPRODUCE, *options, "--dry-run", "--json", "--out", tmp_path / "out"]
    status, printed, _ = run(*arguments)
    config = RunConfig(dataset="gaussian", network="mlp", per_class=20, epochs=3, learning_rate=0.01, momentum=0.0)
    config = dataclasses.replace(config, optimizer="adam", width=9, weight_decay=5e-3, seed=1)
    assert status == 0
    assert strict_json(printed)["runs"][-1] == run_id(config, GAUSSIAN)
    assert run(*REPRODUCE, "--seed", "3")[0] == 2


@pytest.mark.usefixtures("no_processes")
def test_runs_lists_what_is_there(reproduced, run, tmp_path):
    out, _ = reproduced
    status, printed, _ = run("runs", out)
    assert status == 0
    lines = printed.splitlines()
    assert lines[0].startswith("4 run(s)")
    assert lines[1].split() == ["run_id", "status", "epoch", "epochs", *lines[1].split()[4:]]
    assert [line.split()[1:4] for line in lines[2:]] == [["finished", "3", "3"]] * 4
    status, printed, _ = run("runs", out, "--json")
    rows = strict_json(printed)
    assert [row["run_id"] for row in rows] == sorted(path.name for path in out.iterdir() if path.is_dir())
    assert {(row["status"], row["epoch"], row["epochs"]) for row in rows} == {("finished", 3, 3)}
    assert run("runs", tmp_path)[:2] == (0, "no runs here\n")
    assert run("runs", tmp_path, "--json")[:2] == (0, "[]\n")


# train


def test_train_varies_fields_and_tells_of_failures_each_time(tmp_path, run, monkeypatch):
    arguments = ["train", *TINY, "--out", tmp_path / "[out]", "--optimizer", "sgd", "--seed", "3"]
    arguments += ["--vary", "learning_rate=0.01,1e9"]
    status, printed, said = run(*arguments)
    assert status == 1
    assert "None" not in printed
    assert "failed: λ=0.0005 seed 3 learning_rate=1000000000.0: the objective became" in said
    assert printed.splitlines()[1].split()[:3] == ["run_id", "learning_rate", "status"]
    shown = [line.split()[1:3] for line in printed.splitlines()[2:]]
    assert shown == [["0.01", "finished"], ["1e+09", "diverged"]]
    frame = nc.runs(tmp_path / "[out]")
    assert set(frame["seed"]) == {3}
    assert set(frame.groupby("run_id")["status"].first()) == {"diverged", "finished"}

    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", lambda self: pytest.fail("it trains"))
    status, printed, said = run(*arguments, "--json")
    assert status == 1
    assert {row["status"] for row in strict_json(printed)} == {"finished", "diverged"}
    assert f"2 run(s) have ended already, in {tmp_path / '[out]'}" in said
    assert "failed earlier: λ=0.0005 seed 3 learning_rate=1000000000.0: the objective became" in said


FAILING = """
from torch import nn

class Net(nn.Linear):
    def forward(self, x):
        if len(x) > 100:  # more than it is tried on
            raise TypeError("not today")
        return super().forward(x)

def build(shape, classes):
    return Net(*shape, classes)
"""


def test_reproduce_where_everything_fails(tmp_path, run, monkeypatch):
    (tmp_path / "failing_network.py").write_text(FAILING)
    monkeypatch.chdir(tmp_path)
    arguments = ["reproduce", "--dataset", "gaussian", "--network", "failing_network:build", "--weight-decay", "0"]
    status, printed, said = run(*arguments, "--out", "out")
    assert (status, printed) == (1, "")
    assert "no estimate of the time (TypeError: not today)" in said
    assert "failed: λ=0 seed 0: TypeError: not today" in said
    assert "nothing was recorded, so there is nothing to draw" in said


@pytest.mark.usefixtures("no_processes", "figures_unsaved")
def test_reproduce_where_all_runs_diverged(tmp_path, run):
    wild = dataclasses.replace(SMALL, learning_rate=1e9)
    for decay in (0.0, 1e-3):
        execute(dataclasses.replace(wild, weight_decay=decay), GAUSSIAN, tmp_path)
    arguments = ["reproduce", *TINY, "--learning-rate", "1e9", "--weight-decay", "0", "1e-3"]
    status, printed, said = run(*arguments, "--out", tmp_path)
    assert status == 1
    assert said.count("failed earlier: ") == 2
    assert "no comparison with λ = 0" in printed


# The user's own network

NETWORKS = """
from torch import nn

def net(shape, classes, activation=nn.ReLU, bias=False):
    first, last = nn.Linear(*shape, 8, bias=bias), nn.Linear(8, classes, bias=bias)
    return nn.Sequential(first, activation(), last)

def leave(shape, classes):
    import sys
    sys.exit(3)

def biased(shape, classes):
    return net(shape, classes, bias=True)

def tanh(shape, classes):
    return net(shape, classes, activation=nn.Tanh)
"""


@pytest.fixture
def users(tmp_path, monkeypatch):
    (tmp_path / "networks_typed.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    yield ["train", "--dataset", "gaussian", "--epochs", "2", "--out", "out"]
    sys.modules.pop("networks_typed", None)


UNFIT = {
    "leaves": (["--network", "networks_typed:leave"],
        "networks_typed:leave raised SystemExit: 3; it is called as func"),
    "not balanced": (["--network", "networks_typed:tanh", "--balancing", "epoch"],
        "networks_typed:tanh: the channels of Sequential cannot be balanced: its output changes where those of 0"),
    "normalised": (["--network", "mlp", "--normalization", "batch", "--balancing", "epoch"],
        "balancing epoch needs normalization none"),
    "not stacked": (["--network", "mlp", "--normalization", "batch", "--engine", "batched"],
        "engine batched: mlp has frozen parameters, or buffers like those of batch normalis"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "message"), UNFIT.values(), ids=UNFIT)
@pytest.mark.usefixtures("no_processes")
def test_a_network_that_does_not_fit_is_one_line_before_anything_is_trained(users, run, words, message):
    result = run(*users, *words)
    assert_one_line(result, message)
    if "batched" in words:
        assert result[2].endswith("; train its runs in processes of their own (engine processes)\n")
    assert not Path("out").exists()


def test_a_note_on_some_runs_says_on_how_many(tmp_path, run):
    said = run(*TRAIN, "--vary", "normalization=none,batch", "--dry-run", "--out", tmp_path / "out")[2]
    assert "note, of 1 of the 2 runs: the network is not homogeneous" in said


def test_a_network_that_is_not_homogeneous_is_noted(users, run):
    note = "note: the network is not homogeneous: the theory's identities do not hold for it\n"
    assert note in run(*users, "--network", "networks_typed:biased", "--dry-run")[2]
    assert note not in run(*users, "--network", "networks_typed:net", "--dry-run")[2]


@pytest.mark.usefixtures("no_processes")
def test_an_edited_network_is_one_line(users, run, monkeypatch):
    arguments = [*users, "--network", "networks_typed:net"]
    config = RunConfig(dataset="gaussian", network="networks_typed:net", epochs=2)
    monkeypatch.syspath_prepend(".")
    execute(config, GAUSSIAN, Path("out"))
    assert run(*arguments)[0] == 0
    del sys.modules["networks_typed"]
    Path("networks_typed.py").write_text(NETWORKS.replace("nn.ReLU", "nn.Tanh"))
    assert_one_line(run(*arguments), "was made with another network: networks_typed:net has changed since")


# measure


def feature_arrays():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(30) % 3
    features = torch.eye(3, 6)[labels] + 0.1 * torch.randn(30, 6, generator=generator)
    return {"features": features, "labels": labels, "weight": torch.eye(3, 6), "bias": torch.full((3,), 0.1)}


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("names", [["weight", "bias"], ["weight"], []], ids=str)
def test_measure_prints_what_the_library_measures(tmp_path, run, suffix, names):
    arrays = {name: feature_arrays()[name] for name in ("features", "labels", *names)}
    path = tmp_path / f"features{suffix}"
    if suffix == ".npz":
        np.savez(path, **{name: array.numpy() for name, array in arrays.items()})
    else:
        safetensors.torch.save_file(arrays, path)
    expected = nc.measure(**arrays)
    status, printed, said = run("measure", path, "--json")
    assert (status, said) == (0, "")
    assert strict_json(printed) == expected.to_dict()
    status, printed, said = run("measure", path)
    assert status == 0
    assert printed == f"{expected}\n"
    assert said.startswith("not measured: ")
    assert ("nc3" in said) == (not names)


def test_measure_takes_several_files_as_one(tmp_path, run):
    arrays = {"features": np.eye(4).repeat(3, 0) + np.arange(48).reshape(12, 4) % 5 / 9, "labels": np.arange(12) // 3}
    for part in range(2):
        np.savez(tmp_path / f"f-{part}.npz", **{name: array[part::2] for name, array in arrays.items()})
    named = [tmp_path / "f-0.npz", tmp_path / "f-1.npz"]
    for words in ([tmp_path / "f-*.npz"], named):
        status, printed, _ = run("measure", *words, "--json")
        assert (status, strict_json(printed)["nc1"]) == (0, pytest.approx(nc.measure(**arrays)["nc1"]))
    assert_one_line(run("measure", *named, tmp_path / "absent.pt"), "absent.pt is not there; name a feature file")
    assert_one_line(run("measure", *named, "--jso"), "there is no option --jso (did you mean --json?)")


def test_measure_writes_infinity_as_strict_json(tmp_path, run):
    same_means = {"features": np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]]), "labels": np.array([0, 0, 1, 1])}
    np.savez(tmp_path / "features.npz", **same_means)
    status, printed, _ = run("measure", tmp_path / "features.npz", "--json")
    assert status == 0
    assert strict_json(printed)["nc1"] == "inf"


# measure --model

MODEL = """
import torch
from torch import nn

def build(): return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
"""


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """A module with a model, and three checkpoints of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"models_{tmp_path.name}.py").write_text(MODEL)
    for epoch in (1, 2, 10):
        torch.manual_seed(epoch)
        model = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
        safetensors.torch.save_file(model.state_dict(), f"epoch_{epoch}.safetensors")
    return ["measure", "--model", f"models_{tmp_path.name}:build", "--dataset", "gaussian"]


def by_hand(epoch: int) -> nc.Measurement:
    weights = safetensors.torch.load_file(f"epoch_{epoch}.safetensors")
    images, labels = GAUSSIAN.train.images, GAUSSIAN.train.labels
    hidden = (images @ weights["0.weight"].T + weights["0.bias"]).relu()
    return nc.measure(hidden, labels, weights["2.weight"], weights["2.bias"])


def test_a_checkpoint_is_measured_like_its_features(run, checkpoints):
    status, printed, _ = run(*checkpoints, "--checkpoint", "epoch_2.safetensors", "--json")
    assert status == 0
    measured, expected = strict_json(printed), by_hand(2)
    assert set(measured) - {"class_counts", "rank"} == set(expected)
    for key, value in expected.items():
        assert measured[key] == pytest.approx(value, rel=1e-5, abs=1e-6), key


def test_a_trajectory_is_measured_once_and_printed_in_order(run, checkpoints, monkeypatch):
    arguments = [*checkpoints, "--checkpoint", "epoch_*.safetensors", "--out", "out/trajectory.jsonl"]
    status, printed, _ = run(*arguments)
    assert status == 0
    assert [line.split()[0] for line in printed.splitlines()[2:]] == [f"epoch_{e}.safetensors" for e in (1, 2, 10)]
    written = Path("out/trajectory.jsonl").read_text()
    monkeypatch.setattr(
        "neurocollapse.measuring.checkpoints.measure_model", lambda *_, **__: pytest.fail("it measures again")
    )
    status, printed, said = run(*arguments, "--json")
    assert (status, Path("out/trajectory.jsonl").read_text()) == (0, written)
    assert "3 checkpoint(s) were measured before, in out/trajectory.jsonl" in said
    for line, epoch in zip(strict_json(printed), (1, 2, 10), strict=True):
        assert line["checkpoint"] == f"epoch_{epoch}.safetensors"
        assert line["nc1"] == pytest.approx(by_hand(epoch)["nc1"], rel=1e-5)


def test_checkpoints_may_be_named_one_by_one_as_a_shell_names_them(run, checkpoints):
    names = [f"epoch_{epoch}.safetensors" for epoch in (10, 2)]
    printed = run(*checkpoints, "--checkpoint", *names, "--json")[1]
    assert [line["checkpoint"] for line in strict_json(printed)] == names[::-1]


def test_the_parts_of_a_network_may_be_named(run, tmp_path):
    network = nc.build_network("mlp", (16,), 4, depth=2, width=8, bias=True)
    torch.save(network.state_dict(), tmp_path / "mlp.pt")
    words = ["--model", "mlp", "--depth", 2, "--width", 8, "--bias", "free", "--checkpoint", tmp_path / "mlp.pt"]
    measured = strict_json(run("measure", *words, "--dataset", "gaussian", "--json")[1])
    data = [(GAUSSIAN.train.images, GAUSSIAN.train.labels)]
    assert measured["nc1"] == pytest.approx(nc.measure_model(network, data)["nc1"], rel=1e-5)


def test_a_damaged_checkpoint_does_not_stop_the_others(run, checkpoints):
    Path("epoch_0.safetensors").write_bytes(b"")
    status, printed, said = run(*checkpoints, "--checkpoint", "epoch_*.safetensors")
    assert status == 2
    assert [line.split()[0] for line in printed.splitlines()[2:]] == [f"epoch_{e}.safetensors" for e in (1, 2, 10)]
    assert "not measured: epoch_0.safetensors is damaged or holds more than weights" in said


def test_a_checkpoint_that_was_damaged_loses_its_old_numbers(run, checkpoints):
    arguments = [*checkpoints, "--checkpoint", "epoch_*.safetensors", "--out", "t.jsonl", "--json"]
    assert len(strict_json(run(*arguments)[1])) == 3
    Path("epoch_2.safetensors").write_bytes(b"")
    status, printed, _ = run(*arguments)
    kept = ["epoch_1.safetensors", "epoch_10.safetensors"]
    assert (status, [line["checkpoint"] for line in strict_json(printed)]) == (2, kept)
    assert [json.loads(line)["checkpoint"] for line in Path("t.jsonl").read_text().splitlines()] == kept


def test_a_trajectory_of_an_edited_network_is_measured_anew(run, checkpoints, tmp_path):
    arguments = [*checkpoints, "--checkpoint", "epoch_*.safetensors", "--json"]
    before = strict_json(run(*arguments)[1])
    module = f"models_{tmp_path.name}"
    Path(f"{module}.py").write_text(MODEL.replace("ReLU", "Tanh"))
    sys.modules.pop(module)
    importlib.invalidate_caches()
    shutil.rmtree("__pycache__", ignore_errors=True)
    status, printed, said = run(*arguments)
    assert (status, "measured before" in said) == (0, False)
    assert [line["nc1"] for line in strict_json(printed)] != [line["nc1"] for line in before]


def test_explain_shows_what_numbers_would_be(run, checkpoints):
    rows = strict_json(run(*checkpoints, "--checkpoint", "epoch_2.safetensors", "--explain", "--json")[1])
    assert list(rows[0]) == ["key", "value", "initial", "structureless", "simplex_etf", "no_bias"]
    initial = strict_json(run(*checkpoints, "--json")[1])
    for row in rows:
        assert row["initial"] == pytest.approx(initial[row["key"]]), row["key"]
        assert row["value"] == pytest.approx(by_hand(2)[row["key"]], rel=1e-5, abs=1e-6), row["key"]
    message = "--explain and --vci go with one checkpoint, and 'epoch_*.safetensors' names 3"
    assert_one_line(run(*checkpoints, "--checkpoint", "epoch_*.safetensors", "--explain"), message)


def test_one_checkpoint_and_a_file_named_for_it_is_a_trajectory(run, checkpoints):
    assert run(*checkpoints, "--checkpoint", "epoch_2.safetensors", "--out", "one.jsonl")[0] == 0
    (line,) = Path("one.jsonl").read_text().splitlines()
    assert json.loads(line)["checkpoint"] == "epoch_2.safetensors"


OF_A_MODEL = ["--model", "mlp", "--dataset", "gaussian"]
UNMEASURED = [
    ([], "measure takes either a file of features, or --model with --dataset"),
    (["x.npz", "--model", "mlp"], "measure takes either a file of features, or --model with --dataset"),
    (["x.npz", "--dataset", "gaussian"], "--checkpoint, --dataset and a network's parts go with --model"),
    (["x.npz", "--depth", "3"], "--checkpoint, --dataset and a network's parts go with --model"),
    (
        ["--model", "module:f", "--depth", "3", "--dataset", "gaussian"],
        "--depth is for the package's own networks; build module:f",
    ),
    (
        ["--model", "mpl", "--dataset", "gaussian"],
        "there is no network 'mpl'; choose convnet, mlp, resnet18, vgg11, timm:NAME[,pretrained], "
        "torchvision:NAME[,pretrained], hf:ID, or your own as module:function (did you mean 'mlp'?)",
    ),
    (["--model", "mlp"], "--model needs --dataset"),
    (["--model", "resnet", "--dataset", "gaussian"], "there is no network 'resnet'"),
    ([*OF_A_MODEL, "--checkpoint", "no*"], "no file matches 'no*'"),
    ([*OF_A_MODEL, "--checkpoint", "bad.pt"], "bad.pt is damaged or holds more"),
    (["nan.npz"], "feature 2 of sample 7 is nan"),
    (["cut.npz"], "is truncated or damaged"),
    (["good.npz", "--num-classes", "4"], "num_classes is 4, but weight has 3 rows"),
    (["good.npz", "--min-per-class", "90"], "3 classes have fewer than 90 samples, as class 0 with"),
    ([*OF_A_MODEL, "--min-per-class", "9999"], "classes have fewer than 9999 samples"),
    (["good.npz", "--absent", "leave_out", "--min-per-class", "90"], "good.npz: 0 classes have 90 samples or more"),
    (["[bold]:car:.npz"], "[bold]:car:.npz is empty"),  # and is no markup
]


@pytest.mark.parametrize(("arguments", "message"), UNMEASURED, ids=[" ".join(words) for words, _ in UNMEASURED])
def test_what_cannot_be_measured_is_one_line(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    for empty in ("bad.pt", "[bold]:car:.npz"):
        Path(empty).write_bytes(b"")
    features = feature_arrays()["features"].numpy().copy()
    features[7, 2] = np.nan
    npz(Path("nan.npz"), features=features)
    Path("cut.npz").write_bytes(npz(Path("good.npz")).read_bytes()[:-200])
    assert_one_line(run("measure", *arguments), message)


def npz(path, **changes):
    np.savez(path, **{name: array.numpy() for name, array in feature_arrays().items()} | changes)
    return path


def test_measure_tells_what_it_ignores(tmp_path, run):
    arrays = {name: array.numpy() for name, array in feature_arrays().items()}
    np.savez(tmp_path / "f.npz", features=arrays["features"], labels=arrays["labels"], weights=arrays["weight"])
    (tmp_path / "f.npz").rename(tmp_path / "f.NPZ")
    with warnings.catch_warnings(action="always"):  # as the command runs, where pytest makes errors of them
        status, _, said = run("measure", tmp_path / "f.NPZ")
    assert status == 0
    assert said.startswith(f"warning: {tmp_path / 'f.NPZ'}: ignored: weights (did you mean weight?)\n")


# The real command, for what shows only there


def real(*words, **options):
    finished = subprocess.run([COMMAND, *map(str, words)], stderr=subprocess.PIPE, text=True, **options)
    return finished.returncode, finished.stdout, finished.stderr


def test_where_letters_are_missing_they_are_replaced(tmp_path):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    status, printed, _ = real("measure", npz(tmp_path / "f.npz"), env=environment, stdout=subprocess.PIPE)
    assert status == 0
    assert "Tr(?_W ?_B?)" in printed


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="writes to a device that is always full")
def test_output_that_cannot_be_written_is_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        status, _, said = real("runs", tmp_path, stdout=full)
    assert_one_line((status, "", said), "the output cannot be written (No space left on device); make room, or send it")


# Bad input: one line, exit status 2

TRAIN = ["train", *TINY]
COMMANDS = [
    (["reproduce", "--dataset", "mnist5"], "unknown data set 'mnist5'; did you mean 'mnist5k'?"),
    (["reproduce", "--dataset", "gaussian"], "convnet needs images (channels, height, width), got"),
    (["reproduce", *TINY, "--weight-decay", "0", "1e-3", "0.001"], "weight_decay has a value twice: 0.0, 0.001, 0.001"),
    (["reproduce", *TINY, "--weight-decay"], "weight_decay needs at least one value"),
    ([*REPRODUCE, "--seeds", "0"], "seeds must be at least 1, got 0"),
    ([*REPRODUCE, "--workers", "0"], "workers must be at least 1, got 0"),
    (["reproduce", "--dataset", "mnist", "--data-dir", "absent"], "the data folder absent does not exist"),
    (["reproduce", "--dataset", "mnist", "--data-dir", "a_file"], "the data folder a_file is a file, not a folder"),
    ([*TRAIN, "--depth", "1000000", "--dry-run"], "depth must be at most 1000, got 1000000"),
    ([*TRAIN, "--device", "nonsense"], "device nonsense cannot be used here; there is: cpu"),
    (["verify", ".", "--device", "nonsense"], "device nonsense cannot be used here; there is: cpu"),
    (["claims", "--quick", "--read", "--out", ".", "--device", "nonsense"], "device nonsense cannot be used here"),
    ([*TRAIN, "--device", "mps"], "device mps cannot be used here; there is: cpu"),
    ([*TRAIN, "--out", "x" * 300], "cannot be opened (File name too long); check the path"),
    ([*TRAIN, "--out", "/proc/x"], "/proc is not a folder that can be written to; name another"),
    ([*TRAIN, "--device", "meta"], "device meta cannot be used here"),
    ([*TRAIN, "--out", "a_file"], "a_file is not a folder that can be written to; name another"),
    ([*TRAIN, "--out", "a_file/below"], "a_file is not a folder that can be written to; name another"),
    ([*TRAIN, "--vary", "seed"], "--vary 'seed' is not field=value,value,...; the fields are dataset, per_class"),
    ([*TRAIN, "--vary", "sead=1,2"], "--vary 'sead=1,2': a run has no field 'sead' (did you mean 'seed'?)"),
    ([*TRAIN, "--vary", "seed=1,two"], "--vary 'seed=1,two': 'two' is no value for seed; it takes whole numbers"),
    ([*TRAIN, "--precision", "tf32"], "precision tf32 needs an NVIDIA GPU, got device cpu; take float32"),
    ([*TRAIN, "--vary", "weight_decay=0,x"], "'x' is no value for weight_decay; it takes numbers"),
    ([*TRAIN, "--vary", "schedule=cosin"], "'cosin' is no value for schedule; there are constant, steps, "),
    ([*TRAIN, "--vary", "seed=1,1"], "seed has a value twice: 1, 1"),
    ([*TRAIN, "--vary", "seed=1", "seed=2"], "--vary names a field twice: seed=1 seed=2"),
    (["runs", "absent"], "there is no folder absent"),
    (["runs", "a_file"], "a_file is a file, not a folder"),
    (["map", "absent"], "there is no folder absent"),
]  # fmt: skip


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").write_text("not a folder")
    (tmp_path / "broken" / "run").mkdir(parents=True)
    (tmp_path / "broken" / "run" / "config.json").write_text("{")
    return tmp_path


@pytest.mark.parametrize(("arguments", "message"), COMMANDS, ids=[" ".join(args[-2:]) for args, _ in COMMANDS])
@pytest.mark.usefixtures("no_processes")
def test_what_cannot_be_run_is_one_line(workplace, run, arguments, message):
    before = sorted(workplace.rglob("*"))
    assert_one_line(run(*arguments), message)
    assert sorted(workplace.rglob("*")) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
@pytest.mark.usefixtures("no_processes")
def test_a_folder_that_cannot_be_written_is_one_line(workplace, run):
    (workplace / "closed").mkdir(mode=0o500)
    assert_one_line(run(*TRAIN, "--out", "closed/below"), "closed is not a folder that can be written to")


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_command_has_help_with_an_example(run, command):
    status, printed, _ = run(command, "--help")
    assert status == 0
    text = " ".join(printed.replace("│", " ").split())
    assert f"Example: neurocollapse {command}" in text
    json = 'with NaN and infinity as the strings "nan", "inf", "-inf", and null where there is no value'
    assert (json in text) == (command not in ("report", "map"))  # which print no numbers for programs
    options = [option.partition(" (default: ") for option in text.split(" --")[1:]]
    assert [option for option, default, _ in options if default and len(option.split()) < 4] == []  # without help


# Ctrl-C

LONG = dataclasses.replace(SMALL, depth=3, width=12, optimizer="adam", learning_rate=2e-3, batch_size=64, epochs=10**5)


def assert_ends_quietly(process, expected=130):
    printed, said = process.communicate(timeout=60)
    assert (process.returncode, printed) == (expected, ""), said
    assert "stopped; what was saved stays, and the same command resumes it" in said
    assert "Traceback" not in said


def sweep_of_long_runs(out):
    return start(train_words(LONG, out, "--vary", "seed=0,1,2", "--workers", "2"))


ENDS = {
    "Ctrl-C": (130, lambda process: os.killpg(process.pid, signal.SIGINT)),
    "SIGTERM": (143, lambda process: process.send_signal(signal.SIGTERM)),  # the parent alone: it ends the others
}


@pytest.mark.parametrize(("status", "stop"), ENDS.values(), ids=ENDS)
def test_the_command_ends_quietly_and_the_run_goes_on_later(tmp_path, status, stop):
    run = folder_of(tmp_path, LONG)
    process = sweep_of_long_runs(tmp_path)
    wait_for((run.path / "checkpoint.safetensors").exists)
    for _ in range(2):  # some press it twice
        stop(process)
        time.sleep(0.05)
    assert_ends_quietly(process, status)
    with run.lock(lambda: pytest.fail("a worker goes on")):
        pass
    assert run.status == "unfinished"
    saved, resumed = run.checkpoint_epoch(), []

    def stop_at_once(state):
        resumed.append(state.epoch)
        raise Killed

    with pytest.raises(Killed):
        execute(LONG, GAUSSIAN, tmp_path, on_state=stop_at_once)
    assert resumed == [saved + 1]


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.05, 0.1, 0.3, 1, 3])  # not 0, which may be before there is anything to save
def test_ctrl_c_while_processes_start_is_as_quiet(tmp_path, seconds):
    process = sweep_of_long_runs(tmp_path)
    process.stderr.readline()  # the estimate: after it the workers start, and import for seconds
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    assert_ends_quietly(process)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files")
def test_a_full_disk_is_one_line_and_the_run_goes_on_later(tmp_path):
    import resource

    arguments = ["train", *TINY, "--width", "2048", "--out", "out"]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))  # noqa: E731
    finished = subprocess.run([COMMAND, *arguments], cwd=tmp_path, capture_output=True, text=True, preexec_fn=limit)
    assert (finished.returncode, finished.stdout) == (2, "")
    (line,) = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert "checkpoint.safetensors cannot be written (" in line
    assert "; make room, or name another folder" in line
    (run,) = (tmp_path / "out").iterdir()
    assert RunFolder(run).damage is None
    assert RunFolder(run).status == "unfinished"
