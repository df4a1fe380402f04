"""What is wrong with one file of a run is said with the file and the key, is that run's alone, and harms nothing."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

import neurocollapse as nc
from neurocollapse import RunError
from neurocollapse._files import to_json
from neurocollapse.datasets import load_dataset
from neurocollapse.sweeps import RunFolder, TheoryFile, folders, run_id, runs_table, verify_runs
from neurocollapse.sweeps.identity import check_resumable
from neurocollapse.sweeps.naming import RUN_NAME, run_name
from neurocollapse.sweeps.resuming import execute, execute_together
from neurocollapse.training import config as configuration
from tests.reports.test_report import of_page

DATA = load_dataset("gaussian")
CONFIG = nc.RunConfig(dataset="gaussian", network="mlp", depth=2, width=8, epochs=1, learning_rate=0.01)
OTHER = dataclasses.replace(CONFIG, seed=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder of two finished runs."""
    out = tmp_path_factory.mktemp("trained")
    for config in (CONFIG, OTHER):
        execute(config, DATA, out)
    return out


@pytest.fixture
def shelf(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "shelf"))


def described(**changes):
    return lambda text: to_json({**json.loads(text), **changes})


def configured(**changes):
    return lambda text: to_json({**json.loads(text), "config": {**json.loads(text)["config"], **changes}})


def record(**changes):
    """Every line with these values; a value of ... takes the key out."""

    def edited(text):
        lines = [{**json.loads(line), **changes} for line in text.splitlines()]
        return "".join(to_json({k: v for k, v in line.items() if v is not ...}) + "\n" for line in lines)

    return edited


def of_line(number, **changes):
    def edited(text):
        lines = text.splitlines(keepends=True)
        return "".join([*lines[: number - 1], record(**changes)(lines[number - 1]), *lines[number:]])

    return edited


DEEP = lambda text: "[" * 200_000  # noqa: E731, the parser's own error is no ValueError

EDITS = [
    ("config.json", configured(epochs="1"), "config.epochs must be a whole number, got '1'"),
    ("config.json", configured(epochs=1.0), "config.epochs must be a whole number, got 1.0"),
    ("config.json", configured(epochs=None), "config.epochs must be a whole number, got None"),
    ("config.json", configured(weight_decay=[]), "weight_decay must be a number"),
    ("config.json", configured(optimizer=3), "optimizer must be 'sgd' or"),
    ("config.json", configured(width=-1), "width must be at least 1"),
    ("config.json", described(config=[]), "config must be an object"),
    ("config.json", described(num_classes="4"), "num_classes must be a whole number"),
    ("config.json", described(notes="none"), "notes must be a list"),
    ("config.json", described(provenance=[1]), r"provenance\[0\] must be an object"),
    ("config.json", described(network={"sha256": "0"}), "network has no 'outputs'"),
    ("config.json", described(network={"sha256": "0", "outputs": ["1"]}), r"network.outputs\[0\] must be a number"),
    ("config.json", DEEP, "line 1 has too many brackets"),
    ("result.json", described(status="lost"), "status must be 'finished' or 'diverged', got 'lost'"),
    ("result.json", described(epoch="1"), "epoch must be a whole number"),
    ("result.json", lambda text: '{"status": "finished"}', "it has no 'epoch'"),
    ("records.jsonl", record(epoch=[1]), r"line 1: epoch must be a whole number, got \[1\]"),
    ("records.jsonl", record(learning_rate=...), "line 1 has no 'learning_rate'"),
    ("records.jsonl", record(**{"train.nc1": {"a": 1}}), "line 1: train.nc1 must be a number"),
    ("records.jsonl", record(**{"train.weight_norms": 3}), "line 1: train.weight_norms must be a list"),
    ("records.jsonl", lambda text: text + "[]\n", "line 3 must be an object"),
    ("records.jsonl", DEEP, "line 1 has too many brackets"),
    ("config.json", described(num_classes=0), "num_classes must be from 1 to 100000000, got 0"),
    ("config.json", described(num_classes=10**12), "num_classes must be from 1 to 100000000, got 1000000000000"),
    ("result.json", described(epoch=-5), "its epoch is -5, and the last record is of epoch 1"),
    ("result.json", described(epoch=0), "its epoch is 0, and the last record is of epoch 1"),
    ("result.json", described(status="diverged", epoch=2), "it lacks epoch 2, the last one by result.json"),
    ("records.jsonl", record(**{"train.nc1": 10**400}), "line 1: train.nc1 is an integer beyond any float"),
    ("records.jsonl", lambda text: text.replace('"epoch": 1', f'"epoch": {"9" * 5000}'), "2 has an integer beyond"),
    ("records.jsonl", record(**{"train.nc1": [1, 2]}), r"line 1: train.nc1 must be a number, got \[1, 2\]"),
    ("records.jsonl", record(**{"train.layers.0.nc1": "abc"}), "train.layers.0.nc1 must be a number, got 'abc'"),
    ("records.jsonl", record(**{"test.loss": True}), "line 1: test.loss must be a number, got True"),
    ("records.jsonl", record(nc1_slope=[]), r"line 1: nc1_slope must be a number, got \[\]"),
    ("records.jsonl", record(classifier_sum=3), "line 1: classifier_sum must be a list, got 3"),
    ("records.jsonl", record(**{"test.class_counts": [None]}), r"line 1: test.class_counts\[0\] must be a number"),
    ("records.jsonl", record(**{"train.weight_norms": []}), "line 1: train.weight_norms has 0 numbers, not 1"),
    ("records.jsonl", of_line(2, **{"train.weight_norms": [1]}), "line 2: train.weight_norms has 1 numbers, not 2"),
    ("records.jsonl", lambda text: text + text.splitlines()[0], "line 3: epoch 0 follows epoch 1"),
    ("records.jsonl", lambda text: "\n".join(text.splitlines()[::-1]), "line 2: epoch 0 follows epoch 1"),
    ("records.jsonl", of_line(1, epoch=-1), "line 1: epoch -1 is before the first, 0"),
    ("records.jsonl", lambda text: text + of_line(2, epoch=7)(text).splitlines()[1], "3: epoch 7 is after the run's"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "edit", "reason"), EDITS)
def test_a_value_of_a_wrong_type_is_the_damage_of_its_run_alone(shelf, name, edit, reason):
    bad, good = (RunFolder(shelf / run_id(config, DATA)) for config in (CONFIG, OTHER))
    path = bad.path / name
    path.write_text(edit(path.read_text()))
    before = path.read_bytes()
    with pytest.raises(RunError, match=reason) as caught:
        execute(CONFIG, DATA, shelf)
    assert str(bad.path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert runs_table(folders(shelf)).set_index("run_id")["status"].to_dict() == {
        bad.path.name: "damaged", good.path.name: "finished",
    }  # fmt: skip
    with pytest.warns(UserWarning, match=reason):
        assert set(nc.runs(shelf)["run_id"]) == {good.path.name}
    assert path.read_bytes() == before


def rename(path, old, new):
    tensors = {name.replace(old, new): tensor for name, tensor in safetensors.torch.load_file(path).items()}
    safetensors.torch.save_file(tensors, path)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [("1.means", "1.meens", "epoch 1 has the tensors .*meens"), ("1.means", "one.means", "'one.means' belongs to no")],
)
def test_a_renamed_tensor_in_a_snapshot_is_left_out_of_the_report(shelf, old, new, reason):
    bad = shelf / run_id(CONFIG, DATA) / "snapshots.safetensors"
    rename(bad, old, new)
    with pytest.raises(RunError, match=reason):
        RunFolder(bad.parent).snapshots()
    with pytest.warns(UserWarning, match=reason):
        nc.report(shelf)


@pytest.mark.parametrize("name", ["timings.jsonl", "snapshots.safetensors"])
@pytest.mark.parametrize("content", ["{", '{"epoch": 0, "train": "x", "measure": 0}'])
def test_without_a_file_that_no_number_depends_on_the_run_is_reported(shelf, name, content):
    path = shelf / run_id(CONFIG, DATA) / name
    path.write_text(content)
    with pytest.warns(UserWarning, match=rf"{name} is damaged \(.*\); delete {path}, the run is whole but for the s"):
        made = of_page(nc.report(shelf).read_text())
    assert [(run["name"], run["status"]) for run in made["runs"]] == [
        (run.path.name, "finished") for run in folders(shelf)
    ]
    path.unlink()
    nc.report(shelf)  # without a warning
    assert execute(CONFIG, DATA, shelf).status == "finished"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tensors: tensors.pop("epoch"), "does not contain tensor epoch"),
        (lambda tensors: tensors.update(epoch=torch.zeros(2)), "only length-1 arrays|only 0-dim"),
        (lambda tensors: tensors.pop("model.classifier.weight"), "it lacks the tensor 'model.classifier.weight'"),
        (lambda tensors: tensors.update(other=torch.zeros(2)), "it has the tensor 'other'"),
        (
            lambda tensors: tensors.update({"model.classifier.weight": torch.zeros(4, 9)}),
            r"is float32 of shape \(4, 9\)",
        ),
    ],
)
def test_a_checkpoint_of_another_run_is_damage(shelf, change, reason):
    folder = RunFolder(shelf / run_id(CONFIG, DATA))
    (folder.path / "result.json").unlink()
    path = folder.path / "checkpoint.safetensors"
    other = shelf / run_id(OTHER, DATA)
    (other / "result.json").unlink()
    (other / "checkpoint.safetensors").unlink()
    tensors = safetensors.torch.load_file(path) | {"epoch": torch.tensor(0)}
    change(tensors)
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(RunError, match=rf"checkpoint\.safetensors is damaged .*({reason}).*; delete {folder.path} "):
        execute(CONFIG, DATA, shelf)
    arrived = dict(execute_together([CONFIG, OTHER], DATA, shelf))
    assert isinstance(arrived[0], RunError)
    assert arrived[1].status == "finished"


def test_the_weights_of_another_network_are_damage(shelf):
    path = shelf / run_id(CONFIG, DATA) / "model.safetensors"
    rename(path, "classifier", "head")
    for look in (lambda: nc.train(CONFIG, out=shelf), lambda: nc.verify(path.parent)):
        with pytest.raises(RunError, match=r"model\.safetensors is damaged .*of another network"):
            look()


def test_the_weights_of_another_run_are_damage(shelf):
    path, other = (shelf / run_id(config, DATA) / "model.safetensors" for config in (CONFIG, OTHER))
    shutil.copy(other, path)
    for look in (lambda: nc.train(CONFIG, out=shelf), lambda: nc.verify(path.parent)):
        with pytest.raises(RunError, match=r"model\.safetensors is damaged \(it is of another run: the norms"):
            look()
    assert nc.verify(other.parent)


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.update(facts={"nc1": "much"}),
        lambda entry: entry.update(sections=[]),
        lambda entry: next(iter(entry["sections"].values()))[0].pop("residual"),
        lambda entry: entry.update(notes=None),
    ],
)
def test_a_kept_theory_table_with_a_wrong_key_is_computed_again(shelf, change):
    folder, file = RunFolder(shelf / run_id(CONFIG, DATA)), shelf / "theory.json"
    table = dict(verify_runs([folder], TheoryFile(file)))[folder]
    entries = json.loads(file.read_text())
    change(entries[folder.path.name])
    file.write_text(to_json(entries))
    assert TheoryFile(file).get(folder) is None
    assert dict(verify_runs([folder], TheoryFile(file)))[folder] == table
    assert TheoryFile(file).get(folder) == table


@pytest.mark.parametrize("change", [{"seed": 5}, {"width": 16}, {"weight_decay": 0.25}])
def test_an_edited_configuration_is_not_taken_for_the_run_that_was_asked_for(shelf, change):
    folder = RunFolder(shelf / run_id(CONFIG, DATA))
    path = folder.path / "config.json"
    path.write_text(configured(**change)(path.read_text()))
    for look in (lambda: nc.train(CONFIG, out=shelf), lambda: nc.verify(folder), folder.check_whole):
        with pytest.raises(RunError, match="holds another run than its name says, gaussian-mlp-") as caught:
            look()
        assert "delete" not in str(caught.value)


def test_a_copy_under_another_runs_name_is_not_that_run(shelf):
    asked = dataclasses.replace(CONFIG, seed=7)
    shutil.copytree(shelf / run_id(CONFIG, DATA), shelf / run_id(asked, DATA))
    with pytest.raises(RunError, match=f"{run_id(asked, DATA)} holds another run .*{run_id(CONFIG, DATA)}"):
        execute(asked, DATA, shelf)
    free = Path(shutil.copytree(shelf / run_id(CONFIG, DATA), shelf / "my best run"))
    assert RunFolder(free).damage is None  # a name that says nothing about the run may be any


def test_a_run_of_older_defaults_is_read_and_verified_but_not_resumed(shelf, monkeypatch):
    monkeypatch.setattr(configuration, "FORMER_DEFAULTS", {1: {"width": 8, "optimizer": "adam"}})
    older = dataclasses.replace(CONFIG, optimizer="sgd")
    assert [nc.RunConfig.of_version(v).optimizer for v in (1, 2)] == ["adam", "sgd"]
    assert nc.RunConfig.of_version(1, optimizer="muon", width=9) == nc.RunConfig(optimizer="muon", width=9)
    assert older.changed_from(1).keys() == {"dataset", "network", "depth", "epochs", "learning_rate", "optimizer"}
    name = run_name(older, DATA.sha256, 1)
    assert name != run_id(older, DATA)
    folder = RunFolder((shelf / run_id(CONFIG, DATA)).rename(shelf / name))
    path = folder.path / "config.json"
    config = {key: value for key, value in json.loads(path.read_text())["config"].items() if key != "width"}
    path.write_text(described(config=config, defaults=1)(path.read_text()))
    assert folder.config == older
    assert set(nc.runs(shelf)["width"]) == {8}
    assert set(nc.runs(shelf)["run_id"]) == {name, run_id(OTHER, DATA)}
    table = nc.verify(folder)
    assert len(list(table)) > 5
    assert "renamed" not in " ".join(table.notes)
    assert nc.report(shelf).exists()
    with pytest.raises(RunError, match="was made with defaults 1, and now it is 2; name another folder"):
        check_resumable(folder, DATA, None)


def test_a_run_from_before_the_two_versions_keeps_its_name(shelf):
    path = shelf / run_id(CONFIG, DATA) / "config.json"
    values = json.loads(path.read_text())
    assert (values.pop("format"), values.pop("defaults")) == (2, 2)
    path.write_text(to_json({**values, "schema": 2}))
    assert execute(CONFIG, DATA, shelf).status == "finished"
    assert RunFolder(path.parent).damage is None


@pytest.fixture
def unreadable(monkeypatch):
    """Makes the system refuse a path; the superuser may read everything."""

    def refuse(refused):
        kept = Path.stat

        def stat(self, **options):
            if refused in (self, self.parent) and self.suffix:
                raise PermissionError(13, os.strerror(13), str(self))
            return kept(self, **options)

        monkeypatch.setattr(Path, "stat", stat)

    return refuse


@pytest.mark.parametrize("name", ["", "records.jsonl", "config.json", "model.safetensors"])
def test_what_may_not_be_read_is_not_called_damaged(shelf, unreadable, name):
    folder = RunFolder(shelf / run_id(CONFIG, DATA))
    unreadable(folder.path / name if name else folder.path)
    with pytest.raises(RunError, match=r"cannot be read \(Permission denied\); check its permissions") as caught:
        folder.check_whole()
    assert "delete" not in str(caught.value)
    with pytest.warns(UserWarning, match="Permission denied"):
        assert set(nc.runs(shelf)["run_id"]) == {run_id(OTHER, DATA)}


@pytest.mark.parametrize("name", [None, "notes.txt", "result.json", "records.jsonl", "config.json"])
def test_no_one_is_advised_to_delete_a_folder_that_is_no_run(shelf, name):
    if name:
        (shelf / name).write_text("{")
    with pytest.raises(RunError) as caught:
        _ = RunFolder(shelf).config
    assert "delete" not in str(caught.value)
    assert RUN_NAME.fullmatch(run_id(CONFIG, DATA))


def test_a_pipe_in_a_runs_folder_does_not_block(shelf):
    path = shelf / run_id(CONFIG, DATA) / "records.jsonl"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RunError, match=r"records\.jsonl is damaged \(it is a pipe, not a file\)"):
        RunFolder(path.parent).check_whole()


def test_runs_that_have_ended_need_no_folder_that_can_be_written_to(shelf, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    assert nc.train(CONFIG, out=shelf).status == "finished"
    assert [run.status for run in nc.sweep([CONFIG, OTHER], shelf)] == ["finished", "finished"]
    with pytest.raises(nc.NeurocollapseError, match="is not a folder that can be written to"):
        nc.sweep([CONFIG, dataclasses.replace(CONFIG, seed=2)], shelf)


def test_a_kept_theory_table_does_not_stand_for_a_damaged_run(shelf):
    kept = TheoryFile(shelf / "theory.json")
    list(verify_runs(folders(shelf), kept))
    config = shelf / run_id(CONFIG, DATA) / "config.json"
    config.write_text(configured(epochs="1")(config.read_text()))
    verified = {folder.path.name: table for folder, table in verify_runs(folders(shelf), kept)}
    assert "config.epochs must be a whole number" in verified.pop(run_id(CONFIG, DATA))
    assert not isinstance(verified.pop(run_id(OTHER, DATA)), str)


def test_what_does_not_touch_a_whole_runs_numbers_is_remarked(shelf):
    folder = folders(shelf)[0]
    (folder.path / "config.json").write_text(described(num_clases=3)((folder.path / "config.json").read_text()))
    (folder.path / "timings.jsonl").write_text("{")
    key, seconds = folder.remarks
    assert key.endswith("config.json has the unknown key 'num_clases' (did you mean 'num_classes'?), which is ignored")
    assert seconds.endswith(
        "timings.jsonl is damaged (line 1 is cut off); the run is whole but for the seconds that it took"
    )
    with pytest.warns(UserWarning, match="unknown key 'num_clases'|for the seconds"):
        assert set(nc.runs(shelf)["run_id"]) == {each.path.name for each in folders(shelf)}


def test_a_frame_shows_what_tells_and_names_the_column_that_is_meant(shelf):
    frame = nc.runs(shelf)
    first, *_, last = repr(frame).splitlines()
    assert {"run_id", "status", "epoch", "train.nc1", "train.nc3"} < set(first.split())
    assert last == f"of {len(frame.columns)} columns"
    assert "seed" in repr(frame[["run_id", "seed"]])
    with pytest.raises(KeyError, match=r"no column 'train.nc9' \(did you mean 'train.nc"):
        frame["train.nc9"]
