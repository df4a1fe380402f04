"""Runs of the user's own loop: what is kept, what reads it, how a loop resumes, and what is refused."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import neurocollapse as nc
from neurocollapse import InputError, InputTypeError, RunError
from neurocollapse.sweeps import RunFolder, TheoryFile, folders, runs_table, verify_runs


def measured(spread=1.0, weight=True, seed=0):
    labels = torch.arange(60) % 3
    noise = torch.randn(60, 5, generator=torch.Generator().manual_seed(seed))
    return nc.measure(3 * torch.eye(3, 5)[labels] + spread * noise, labels, torch.eye(3, 5) if weight else None)


def recorded(path, epochs=(0, 1, 4), config=None, **more):
    with nc.Recorder(path, config) as recorder:
        for epoch in epochs:
            recorder.add(epoch, measured(2 / (1 + epoch)), **more)
    return RunFolder(path)


def test_what_was_recorded_is_read(tmp_path):
    config = {"weight_decay": np.float32(0.5), "seed": 3, "betas": (0.9, 0.99), "compiled": True, "scheduler": None}
    recorded(
        tmp_path / "mine", config=config, test=measured(seed=1), learning_rate=np.float64(0.1), loss=torch.ones(())
    )
    frame = nc.runs(tmp_path)
    assert frame["epoch"].tolist() == [0, 1, 4]
    assert set(frame["status"]) == {"finished"}
    last = frame.iloc[-1]
    wanted = {"run_id": "mine", "weight_decay": 0.5, "seed": 3, "betas": "(0.9, 0.99)", "compiled": True}
    assert {name: last[name] for name in wanted} == wanted
    assert {name: last[name] for name in ("num_classes", "learning_rate", "loss")} == {
        "num_classes": 3, "learning_rate": 0.1, "loss": 1.0,
    }  # fmt: skip
    for split, values in (("train", measured(2 / 5)), ("test", measured(seed=1))):
        assert {key: last[f"{split}.{key}"] for key in values} == pytest.approx(dict(values), nan_ok=True)


def test_the_terminal_phase_starts_where_the_training_error_stays_zero(tmp_path):
    recorder = nc.Recorder(tmp_path)
    for epoch, accuracy in enumerate((0.9, 1.0, 1.0, 0.9, 1.0)):
        recorder.add(epoch, {"accuracy": accuracy})
    assert [record["terminal_phase_start"] for record in RunFolder(tmp_path).records()] == [None, 1, 1, None, 4]


def test_a_mapping_is_a_measurement_too(tmp_path):
    nc.Recorder(tmp_path / "mine").add(1, {"nc1": torch.tensor(0.5), "weight_norms": [1.0, 2.0]})
    last = nc.runs(tmp_path / "mine").iloc[0]
    assert (last["train.nc1"], last["train.weight_norms.1"], last["status"]) == (0.5, 2.0, "unfinished")


def test_a_configuration_of_the_package_may_tell_runs_apart(tmp_path):
    recorded(tmp_path / "mine", config=nc.RunConfig(seed=5, learning_rate=0.3), learning_rate=0.1)
    last = nc.runs(tmp_path).iloc[-1]
    assert (last["seed"], last["learning_rate"], last["current_learning_rate"]) == (5, 0.3, 0.1)


def test_the_table_of_runs_shows_where_they_differ(tmp_path):
    for name, rate in (("a", 0.1), ("b", 0.2)):
        recorded(tmp_path / name, config={"lr": rate, "model": "mine", "seed": 0})
    table = runs_table(folders(tmp_path))
    assert list(table.columns[:4]) == ["run_id", "lr", "status", "epoch"]
    assert table["lr"].tolist() == [0.1, 0.2]
    assert "epochs" not in table


def test_a_loop_resumes_by_epoch(tmp_path):
    recorded(tmp_path, config={"lr": 0.1})
    again = nc.Recorder(tmp_path, {"lr": 0.1})
    assert again.epoch == 4
    again.add(1, measured())
    assert RunFolder(tmp_path).status == "unfinished"
    again.add(2, measured())
    assert [record["epoch"] for record in RunFolder(tmp_path).records()] == [0, 1, 2]
    again.finish()
    assert RunFolder(tmp_path).result == {"status": "finished", "epoch": 2}


def test_an_exception_leaves_the_run_unfinished(tmp_path):
    with pytest.raises(KeyError), nc.Recorder(tmp_path) as recorder:  # noqa: PT012
        recorder.add(0, measured())
        raise KeyError
    assert RunFolder(tmp_path).status == "unfinished"


def test_a_loop_that_is_killed_leaves_the_last_whole_state(tmp_path, monkeypatch):
    recorder = nc.Recorder(tmp_path)
    recorder.add(0, {"nc1": 1.0})
    (tmp_path / ".records-killed.jsonl").write_text('{"epoch": 1, "train.n')
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda *_: sys.exit())
    with pytest.raises(SystemExit):
        recorder.add(1, {"nc1": 0.5})
    monkeypatch.setattr(Path, "replace", replace)
    assert nc.runs(tmp_path)["epoch"].tolist() == [0]
    nc.Recorder(tmp_path).add(1, {"nc1": 0.25})
    assert nc.runs(tmp_path)["train.nc1"].tolist() == [1.0, 0.25]
    assert not list(tmp_path.glob(".records-*"))


def test_numbers_that_are_no_curve_stop_no_reader(tmp_path):
    recorder = nc.Recorder(tmp_path)
    for epoch, norms in enumerate(([1.0, 2.0], [1.0], 3.0)):
        recorder.add(epoch, {"nc1": [1.0], "weight_norms": norms})
    assert "nc1" not in RunFolder(tmp_path)._repr_html_()
    assert nc.report(tmp_path).exists()
    assert nc.runs(tmp_path)["train.weight_norms"].tolist()[-1] == 3.0


def test_layers_are_recorded_by_name(tmp_path):
    by_layer = {"1": measured(), "head": measured(seed=1)}
    nc.Recorder(tmp_path).add(1, by_layer["head"], layers=by_layer)
    last = nc.runs(tmp_path).iloc[0]
    assert (last["layers.1.nc1"], last["layers.head.nc1"]) == (by_layer["1"]["nc1"], last["train.nc1"])


def test_what_else_is_made_of_it(tmp_path):
    folder = recorded(tmp_path / "mine")
    assert nc.report(tmp_path).read_text().startswith("<!doctype html>")
    assert "finished at epoch 4" in folder._repr_html_()
    ((_, reason),) = verify_runs([folder], TheoryFile(tmp_path / "theory.json"))
    assert reason == (
        "a loop of your own recorded this run, and its network and data are not known here; "
        "verify the model itself, with its loader and weight_decay"
    )
    with pytest.raises(RunError, match=r"^a loop of your own recorded this run"):
        nc.verify(folder)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda out: nc.Recorder(out / "mine", {"lr": 2}), RunError, "config: lr was 1, and now it is 2; name another"),
        (lambda out: nc.Recorder(out / "mine", {}), RunError, "another config: lr was 1, and now it is None"),
        (lambda out: nc.Recorder(out), RunError, "holds 1 run.*; name a folder of its own, such as .*mine"),
        (lambda out: nc.Recorder(out / "x", {"epoch": 1}), InputError, "config has 'epoch', which is a column"),
        (lambda out: nc.Recorder(out / "x", [1]), InputTypeError, "Recorder: config must be"),
        (lambda out: nc.Recorder(out / "x").add(-1, {}), InputTypeError, "epoch must be an integer from 0, got -1"),
        (lambda out: nc.Recorder(out / "x").add(True, {}), InputTypeError, "epoch must be an integer from 0, got True"),
        (lambda out: nc.Recorder(out / "x").add(0, {}, x="a"), InputTypeError, "x must be a number or a measurement"),
        (lambda out: nc.Recorder(out / "x").add(0, {"a": "b"}), InputTypeError, r"train\.a must be a number.*str"),
        (lambda out: nc.Recorder(out / "x").add(0, {"a": 10**5000}), InputError, r"train\.a is an integer beyond any"),
        (lambda out: nc.Recorder(out / "x", {"a": 10**5000}), InputError, "config: a is an integer beyond any float"),
        (lambda out: nc.Recorder(out / "x").add(0, {}, a=torch.zeros((), device="meta")), InputTypeError, "a cannot"),
        (lambda out: nc.Recorder(out / "x").add(0, {"class_counts": 5}), InputTypeError, "class_counts must be .*int"),
        (lambda out: nc.Recorder(out / "x").add(0, {"class_counts": "ab"}), InputTypeError, "class_counts must be"),
        (lambda out: nc.Recorder(out / "x").add(0, {"class_counts": [0.5]}), InputTypeError, "class_counts must be"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path, call, error, message):
    recorded(tmp_path / "mine", config={"lr": 1})
    with pytest.raises(error, match=message):
        call(tmp_path)
    assert not (tmp_path / "x" / "records.jsonl").exists()


@pytest.mark.parametrize("counts", [torch.tensor([3, 0, 2]), np.array([1, 1, 0]), (2, 2)])
def test_counts_may_be_any_array_and_names_any_text(tmp_path, counts):
    nc.Recorder(tmp_path / "x", {"file": "\udc80"}).add(0, {"a\udc80": 1.0, "accuracy": [1, 2], "class_counts": counts})
    (row,) = nc.runs(tmp_path).to_dict("records")
    assert (row["num_classes"], row["file"], row[r"train.a\udc80"]) == (2, r"\udc80", 1.0)


def test_epochs_come_in_order(tmp_path):
    recorder = nc.Recorder(tmp_path)
    for number in (1.0, 2.0):
        recorder.add(3, {"nc1": number})
    with pytest.raises(InputError, match="epoch 2 cannot follow epoch 3; record epochs in their order"):
        recorder.add(2, {"nc1": 1.0})
    assert nc.runs(tmp_path)[["epoch", "train.nc1"]].values.tolist() == [[3, 2.0]]


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["ResNet"]}')
    with pytest.raises(RunError, match="holds something else than a run of your own loop; name another folder"):
        nc.Recorder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", {"config": {"lr": []}}, "config.lr must be"),
        ("config.json", {"format": 99}, "its format is 99"),
        ("records.jsonl", {"epoch": "a"}, "line 1: epoch must be a whole number"),
        ("result.json", {"status": "mad"}, "status must be 'finished' or 'diverged'"),
        ("config.json", {"num_classes": -5}, "num_classes must be from 1 to 100000000, got -5"),
        ("records.jsonl", {"train.nc1": 10**400}, "line 1: train.nc1 is an integer beyond any float"),
        ("records.jsonl", {"epoch": -1}, "line 1: epoch -1 is before the first, 0"),
        ("records.jsonl", {"epoch": 3}, "its epoch is 0, and the last record is of epoch 3"),
        ("result.json", {"epoch": 3}, "it lacks epoch 3, the last one by result.json"),
    ],
)
def test_a_damaged_file_is_that_runs_alone(tmp_path, name, change, message):
    recorded(tmp_path / "good")
    path = recorded(tmp_path / "bad", epochs=(0,)).path / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert message in RunFolder(tmp_path / "bad").damage
    with pytest.warns(UserWarning, match=message):
        assert set(nc.runs(tmp_path)["run_id"]) == {"good"}


@pytest.mark.parametrize(
    "more",
    [{"train": {"nc1": 0.5}}, {"train.nc1": 7.0}, {"status": 1.0}, {"run_id": 7}, {"width": 3}, {"epoch": 4}],
    ids=str,
)
def test_a_keyword_replaces_nothing(tmp_path, more):
    recorder = nc.Recorder(tmp_path / "mine", config={"width": 5, "learning_rate": 0.1})
    with pytest.raises((InputError, TypeError), match=r"is a column of (this record|the config)|multiple values"):
        recorder.add(1, {"nc1": 1.0}, **more)
    recorder.add(1, {"nc1": 1.0}, learning_rate=0.05)
    with pytest.raises(InputError, match=r"config has 'train\.nc1', which is a column"):
        nc.Recorder(tmp_path / "other", config={"train.nc1": 5})


def test_what_another_recorder_wrote_is_kept(tmp_path):
    one, other = nc.Recorder(tmp_path / "mine"), nc.Recorder(tmp_path / "mine")
    for recorder, epoch in ((one, 1), (other, 2), (one, 3)):
        recorder.add(epoch, {"nc1": float(epoch)})
    assert nc.runs(tmp_path)["epoch"].tolist() == [1, 2, 3]
