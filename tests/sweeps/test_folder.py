"""Runs on disk: ids, whole files whatever happens, resumption bit for bit, damage told, many runs as one table."""

import dataclasses
import errno
import html
import json
import math
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tests.folders
from neurocollapse import RunError, WriteError
from neurocollapse._files import atomic_path, to_json, write_text
from neurocollapse.datasets import load_dataset
from neurocollapse.metrics import METRICS
from neurocollapse.networks import build_network
from neurocollapse.sweeps import RECORDED, RunFolder, folders, run_id, runs_table
from neurocollapse.sweeps import resuming as execution
from neurocollapse.sweeps.frame import frame_of, runs
from neurocollapse.sweeps.networks_tried import NOT_HOMOGENEOUS
from neurocollapse.sweeps.resuming import execute
from neurocollapse.sweeps.writing import RunWriter
from neurocollapse.training import DEFAULTS_VERSION, RunConfig
from tests import naive
from tests.commands import wait_for
from tests.folders import GAUSSIAN, Killed

FEW = load_dataset("gaussian", per_class=20)
SMALL = RunConfig(
    dataset="gaussian", network="mlp", depth=3, width=12, optimizer="adam", learning_rate=2e-3, batch_size=64, epochs=6
)
DIVERGING = dataclasses.replace(SMALL, optimizer="sgd", learning_rate=20.0)
stopped_after = partial(tests.folders.stopped_after, dataset=FEW)


def contents(folder: RunFolder) -> dict[str, bytes]:
    """What of a run must be the same bit for bit however it came about: not the seconds."""
    names = ("config.json", "records.jsonl", "checkpoint.safetensors", "model.safetensors", "result.json")
    return {name: (folder.path / name).read_bytes() for name in names if (folder.path / name).exists()}


def files(folder: RunFolder) -> set[str]:
    return {path.name for path in folder.path.iterdir()} - {".lock"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> RunFolder:
    return execute(SMALL, FEW, tmp_path_factory.mktemp("undisturbed"))


# The id


def test_the_id_is_the_same_on_every_machine_and_day():
    assert run_id(RunConfig(), FEW) == "mnist5k-convnet-wd0.0005-seed0-4a177951"
    varied = RunConfig(dataset="cifar10", network="mlp", depth=3, weight_decay=1e-3, seed=7, per_class=100)
    assert run_id(varied, FEW) == "cifar10-mlp-wd0.001-seed7-1934ac63"


def test_defaults_cannot_change_unnoticed():
    # The id names what differs from the defaults, so new defaults need a new DEFAULTS_VERSION, or old runs would be
    # taken for runs of the new ones. What they were before goes into FORMER_DEFAULTS.
    assert DEFAULTS_VERSION == 2
    assert dataclasses.asdict(RunConfig()) == {
        "dataset": "mnist5k", "per_class": None, "imbalance": "none", "imbalance_ratio": 10.0, "label_noise": 0.0,
        "augmentation": "none",
        "network": "convnet", "depth": 5, "width": 512, "bias": "none", "normalization": "none",
        "linear_tail": 0, "loss": "square", "weight_decay": 0.0005, "decay_start": 1.0,
        "initialization": "norm", "initial_norm": 4.0,
        "optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "schedule": "linear", "batch_size": 32,
        "precision": "float32", "balancing": "none", "epochs": 80, "until": "epochs", "layers": "last",
        "gradient_tolerance": 0.0, "seed": 0,
    }  # fmt: skip


TWO_VALUES = {
    "dataset": ("mnist", "cifar10"), "per_class": (None, 5), "imbalance": ("step", "exponential"),
    "imbalance_ratio": (10.0, 100.0), "label_noise": (0.0, 1.0), "augmentation": ("shift", "shift_flip"),
    "network": ("mlp", "convnet"), "depth": (4, 6), "width": (511, 512), "bias": ("none", "free"),
    "linear_tail": (0, 1), "normalization": ("none", "batch"),
    "loss": ("square", "cross_entropy"), "weight_decay": (5e-4, 5.000001e-4),
    "decay_start": (1.0, 10.0), "initialization": ("kaiming", "norm"), "initial_norm": (4.0, 4.5),
    "optimizer": ("sgd", "adam"), "learning_rate": (0.123, 0.124), "momentum": (0.8, 0.0),
    "schedule": ("constant", "cosine"), "batch_size": (63, 64), "precision": ("tf32", "bfloat16"),
    "balancing": ("none", "epoch"), "epochs": (100, 101), "until": ("epochs", "rest"),
    "layers": ("last", "all"), "gradient_tolerance": (0.0, 1e-9), "seed": (0, 1),
}  # fmt: skip


def test_the_id_changes_with_every_field():
    assert TWO_VALUES.keys() == {field.name for field in dataclasses.fields(RunConfig)}
    for name, (first, second) in TWO_VALUES.items():
        ids = [run_id(dataclasses.replace(SMALL, **{name: value}), FEW) for value in (first, second)]
        assert ids[0] != ids[1], name


def test_a_whole_number_is_the_same_as_its_float():
    whole = dataclasses.replace(SMALL, weight_decay=0.0)
    object.__setattr__(whole, "weight_decay", 0)
    whole.__post_init__()  # as RunConfig(weight_decay=0) does, where types are not checked
    assert run_id(whole, FEW) == run_id(dataclasses.replace(SMALL, weight_decay=0.0), FEW)


def test_a_data_file_counts_by_its_content_wherever_it_lies(tmp_path):
    config = dataclasses.replace(SMALL, dataset=str(tmp_path / "a" / "data.npz"))
    elsewhere = dataclasses.replace(SMALL, dataset="data.npz")
    edited = dataclasses.replace(FEW, sha256="1" * 64)
    assert run_id(config, FEW) == run_id(elsewhere, FEW)
    assert run_id(config, edited) != run_id(config, FEW)
    assert str(tmp_path) not in run_id(config, FEW)
    assert run_id(SMALL, edited) == run_id(SMALL, FEW)


def test_a_run_on_a_folder_with_nearly_a_known_name_is_read_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("cifar-10").mkdir()
    config = dataclasses.replace(SMALL, dataset="cifar-10", epochs=0)
    folder = execute(config, FEW, tmp_path / "runs")
    Path("cifar-10").rmdir()
    assert folder.config == config
    assert runs(tmp_path / "runs")["dataset"].tolist() == ["cifar-10"]


def test_an_id_is_one_folder_name():
    config = dataclasses.replace(SMALL, dataset="/some/where/my data.npz", network="package.module:function")
    assert Path(run_id(config, FEW)).name == run_id(config, FEW)
    assert run_id(config, FEW).startswith("my data-package.module.function-wd0.0005-seed0-")


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("hf:ylecun/mnist,streaming", "hf.ylecun.mnist.streaming-"),
        ("my.module:load", "my.module.load-"),
        ("/some/where/pictures-1.5/", "pictures-1.5-"),
        (f"hf:/{'long' * 99}", f"{'long' * 15}-"),
        ("cifar100", "cifar100-"),
    ],
)
def test_data_of_all_kinds_give_one_folder_name_and_count_by_content(dataset, name):
    config = dataclasses.replace(SMALL, dataset=dataset)
    assert run_id(config, FEW).startswith(f"{name}mlp-wd")
    assert Path(run_id(config, FEW)).name == run_id(config, FEW)
    other = dataclasses.replace(FEW, sha256="0" * 64)
    assert (run_id(config, other) == run_id(config, FEW)) == (dataset == "cifar100")


# Atomic files and strict JSON

#: The keys that every record and every line of timings has.
RECORD = {
    "epoch": 4, "learning_rate": 0.1, "gradient_norm": 0.5, "terminal_phase_start": None, "train.accuracy": 0.1,
    "train.weight_norms": [1.0, 2.0, 3.0],
}  # fmt: skip
SECONDS = {"train": 0.5, "measure": 0.25}


def test_a_file_is_replaced_as_a_whole_or_left_as_it_was(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), atomic_path(path) as temporary:  # noqa: PT012
            temporary.write_text("half of the ne")
            raise error
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("make", "kind"),
    [(os.mkfifo, "a pipe"), (os.mkdir, "a folder"), (lambda path: path.symlink_to(os.devnull), "a device")],
)
def test_what_is_no_file_is_not_replaced(tmp_path, make, kind):
    path = tmp_path / "there"
    make(path)
    before = path.lstat().st_mode
    with pytest.raises(WriteError, match=rf"there cannot be written \(it is {kind}, not a file\); name another file"):
        write_text(path, "new")
    assert path.lstat().st_mode == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("umask", "new"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_a_file_keeps_its_permissions_and_a_new_one_has_those_that_the_umask_leaves(tmp_path, umask, new):
    before = os.umask(umask)
    try:
        for mode in (None, 0o600, 0o664):
            path = tmp_path / f"{mode}"
            if mode is not None:
                path.touch()
                path.chmod(mode)
            write_text(path, "new")
            assert path.stat().st_mode & 0o777 == (new if mode is None else mode)
    finally:
        os.umask(before)


def test_a_link_is_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert (target.read_text(), link.is_symlink()) == ("new", True)


numbers = st.integers(-(2**60), 2**60) | st.floats()
values = st.none() | st.booleans() | numbers | st.lists(numbers, max_size=3)


@given(record=st.dictionaries(st.text(max_size=8), values, max_size=4), epoch=st.integers(0, 99))
def test_records_are_strict_json_and_come_back_as_they_were(tmp_path_factory, record, epoch):
    folder = RunWriter(tmp_path_factory.mktemp("records"))
    record = {**record, **RECORD, "epoch": epoch}
    folder.append(record, SECONDS, {})

    def no_constants(name):
        raise AssertionError(f"{name} is not JSON")

    for line in (folder.path / "records.jsonl").read_text(encoding="utf-8").split("\n")[:-1]:
        json.loads(line, parse_constant=no_constants)
    (read,) = folder.records()
    assert repr(read) == repr(record)  # tells nan from nan, 1 from 1.0 and -0.0 from 0.0


def test_numbers_that_json_lacks_become_strings():
    text = to_json({"a": [math.nan, (math.inf, 1)], "b": {"c": -math.inf}, "λ": 0.5})
    assert text == '{"a": ["nan", ["inf", 1]], "b": {"c": "-inf"}, "λ": 0.5}'


# One run


def test_a_finished_run_has_the_files_of_the_design(undisturbed):
    assert files(undisturbed) == {
        "config.json", "records.jsonl", "timings.jsonl", "snapshots.safetensors", "checkpoint.safetensors",
        "model.safetensors", "result.json",
    }  # fmt: skip
    assert undisturbed.path.name == run_id(SMALL, FEW)
    assert undisturbed.status == "finished"
    assert undisturbed.result == {"status": "finished", "epoch": 6}
    assert [record["epoch"] for record in undisturbed.records()] == [0, 1, 2, 3, 4, 6]
    timings = [json.loads(line) for line in (undisturbed.path / "timings.jsonl").read_text().splitlines()]
    assert [timing["epoch"] for timing in timings] == [0, 1, 2, 3, 4, 6]
    assert list(undisturbed.snapshots()) == [0, 1, 2, 3, 4, 6]
    assert all(timing.keys() == {"epoch", "train", "measure"} and timing["measure"] > 0 for timing in timings)


def test_the_configuration_is_beside_the_run_with_where_it_ran(undisturbed):
    described = json.loads((undisturbed.path / "config.json").read_text())
    assert RunConfig(**described["config"]) == SMALL
    assert described["data_sha256"] == FEW.sha256
    assert described["num_classes"] == 4
    assert described["definitions"] == 1
    (here,) = described["provenance"]
    assert here["torch"] == torch.__version__
    assert here["threads"] == 1
    assert here["device"] == "cpu"
    assert str(Path.cwd()) not in json.dumps(described)


def test_the_saved_weights_give_the_last_records_numbers(undisturbed):
    model = build_network("mlp", (16,), 4, depth=3, width=12).double()
    saved = safetensors.torch.load_file(undisturbed.path / "model.safetensors")
    model.load_state_dict({name: value.double() for name, value in saved.items()})
    outputs = model(FEW.train.images.double())
    targets = nn.functional.one_hot(FEW.train.labels, 4)
    loss = (outputs - targets).square().sum() / 2 / len(targets)
    loss += SMALL.weight_decay / 2 * sum(W.square().sum() for W in model.parameters())
    assert undisturbed.records()[-1]["train.loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_the_same_run_elsewhere_has_the_same_bytes(undisturbed, tmp_path):
    assert contents(execute(SMALL, FEW, tmp_path)) == contents(undisturbed)


def test_a_run_that_diverges_keeps_its_records_and_says_so(tmp_path):
    folder = execute(DIVERGING, FEW, tmp_path)
    assert folder.status == "diverged"
    assert "the objective became" in folder.result["message"]
    assert "learning rate" in folder.result["message"]
    assert folder.records()
    assert not (folder.path / "model.safetensors").exists()


@pytest.mark.parametrize("config", [SMALL, DIVERGING], ids=["finished", "diverged"])
def test_a_run_that_has_ended_is_not_run_again(tmp_path, monkeypatch, config):
    def look(folder):
        return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.path.glob("[!.]*")}

    before = look(execute(config, FEW, tmp_path))
    monkeypatch.setattr(execution, "epochs", lambda *_args, **_kwargs: pytest.fail("it trains again"))
    assert look(execute(config, FEW, tmp_path)) == before


def test_states_are_told_when_they_are_safe_on_disk(tmp_path):
    saved = []

    def on_state(state):
        folder = RunFolder(tmp_path / run_id(SMALL, FEW))
        saved.append((state.epoch, folder.records()[-1]["epoch"], folder.status))

    execute(SMALL, FEW, tmp_path, on_state=on_state)
    assert saved == [
        (e, r, "finished" if e == 6 else "unfinished") for e, r in zip(range(7), [0, 1, 2, 3, 4, 4, 6], strict=True)
    ]


def test_tied_weights_are_saved(tmp_path, monkeypatch):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.last(self.second(self.first(x).relu()).relu())

    module = type(sys)("users_tied")
    module.build = lambda shape, classes: Tied()
    monkeypatch.setitem(sys.modules, "users_tied", module)
    folder = execute(dataclasses.replace(SMALL, network="users_tied:build"), FEW, tmp_path)
    saved = safetensors.torch.load_file(folder.path / "model.safetensors")
    assert torch.equal(saved["first.weight"], saved["second.weight"])


# Stopped at any moment, a run goes on to the same end


def kill_at_write(monkeypatch, number, *, after):
    """Die at the rename of that number, just before it or just after; returns the count of renames so far."""
    count = [0]
    replace = Path.replace

    def dying(self, target):
        count[0] += 1
        if count[0] == number and not after:
            raise Killed
        result = replace(self, target)
        if count[0] == number:
            raise Killed
        return result

    monkeypatch.setattr(Path, "replace", dying)
    return count


EARLY_END = dataclasses.replace(SMALL, weight_decay=0.1, learning_rate=0.02, gradient_tolerance=2.5)


MOMENTS = [
    pytest.param(dataclasses.replace(SMALL, epochs=2), False, id="finished, before"),
    pytest.param(dataclasses.replace(SMALL, epochs=3), True, id="finished, after", marks=pytest.mark.slow),
    pytest.param(EARLY_END, False, id="early, before", marks=pytest.mark.slow),
    pytest.param(EARLY_END, True, id="early, after", marks=pytest.mark.slow),
    pytest.param(DIVERGING, False, id="diverged, before", marks=pytest.mark.slow),
    pytest.param(DIVERGING, True, id="diverged, after"),
]


@pytest.mark.parametrize(("config", "after"), MOMENTS)
def test_killed_at_any_write_a_run_goes_on_to_the_same_end(tmp_path, monkeypatch, config, after):
    whole = execute(config, FEW, tmp_path / "whole")
    with monkeypatch.context() as patch:
        writes = kill_at_write(patch, 0, after=after)
        execute(config, FEW, tmp_path / "count")
    assert writes[0] > 8
    for number in range(1, writes[0] + 1):
        out = tmp_path / str(number)
        with monkeypatch.context() as patch:
            kill_at_write(patch, number, after=after)
            with pytest.raises(Killed):
                execute(config, FEW, out)
        resumed = execute(config, FEW, out)
        same = {name: value for name, value in contents(whole).items() if name != "checkpoint.safetensors"}
        assert {name: value for name, value in contents(resumed).items() if name in same} == same, number
        timings = [json.loads(line)["epoch"] for line in (resumed.path / "timings.jsonl").read_text().splitlines()]
        assert timings == [record["epoch"] for record in whole.records()]


def test_the_run_that_ends_early_does(tmp_path):
    folder = execute(EARLY_END, FEW, tmp_path)
    assert folder.result["status"] == "finished"
    assert 0 < folder.result["epoch"] < 6


def test_between_records_checkpoints_are_written_in_time(tmp_path, monkeypatch):
    config = dataclasses.replace(SMALL, epochs=12)
    monkeypatch.setattr(execution, "CHECKPOINT_SECONDS", 0.0)
    folder = stopped_after(10, config, tmp_path / "stopped")
    assert int(safetensors.torch.load_file(folder.path / "checkpoint.safetensors")["epoch"]) == 10
    assert folder.records()[-1]["epoch"] == 8
    again = []
    execute(config, FEW, tmp_path / "stopped", on_state=lambda state: again.append(state.epoch))
    assert again == [11, 12]
    assert contents(folder) == contents(execute(config, FEW, tmp_path / "whole"))


def records_past_the_checkpoint(folder):
    for name, line in (("records.jsonl", RECORD), ("timings.jsonl", {"epoch": 4, **SECONDS})):
        with (folder.path / name).open("a") as file:
            file.write(json.dumps(line) + "\n")
    folder.append({**RECORD, "epoch": 6}, SECONDS, {"samples": torch.zeros(2)})


def half_written_files(folder):
    (folder.path / ".checkpoint-abc123.safetensors").write_bytes(b"half")
    (folder.path / ".records-x_y-z.jsonl").write_bytes(b"half")


def no_checkpoint(folder):
    (folder.path / "checkpoint.safetensors").unlink()


@pytest.mark.parametrize("leave", [records_past_the_checkpoint, half_written_files, no_checkpoint])
def test_what_a_killed_process_leaves_does_not_matter(undisturbed, tmp_path, leave):
    folder = stopped_after(3, SMALL, tmp_path)
    leave(folder)
    execute(SMALL, FEW, tmp_path)
    assert contents(folder) == contents(undisturbed)
    assert files(folder) == files(undisturbed)


def test_snapshots_that_cannot_be_read_cost_no_run(tmp_path):
    folder = stopped_after(3, SMALL, tmp_path)
    shots = folder.path / "snapshots.safetensors"
    shots.write_bytes(shots.read_bytes()[:-4])
    assert folder.damage is None
    with pytest.raises(RunError, match=r"snapshots\.safetensors is damaged"):
        folder.snapshots()
    execute(SMALL, FEW, tmp_path)
    assert list(folder.snapshots()) == [4, 6]


def test_the_same_name_with_other_data_is_refused_finished_or_not(undisturbed, tmp_path):
    other = dataclasses.replace(GAUSSIAN, sha256="0" * 64)
    begun = stopped_after(2, SMALL, tmp_path)
    before = contents(begun)
    for out in (tmp_path, undisturbed.path.parent):
        with pytest.raises(RunError, match=r"was made with data_sha256 .*and now it is 0000.*another folder"):
            execute(SMALL, other, out)
    assert contents(begun) == before


def test_another_place_that_goes_on_with_a_run_is_added_to_its_provenance(tmp_path, monkeypatch):
    folder = stopped_after(3, SMALL, tmp_path)
    monkeypatch.setattr(
        "neurocollapse.sweeps.writing.provenance", lambda device: {"torch": "another", "device": device}
    )
    execute(SMALL, FEW, tmp_path)
    first, second = folder.description["provenance"]
    assert first["torch"] == torch.__version__
    assert second == {"torch": "another", "device": "cpu"}


# Damage


def cut_by(number):
    return lambda path: path.write_bytes(path.read_bytes()[:-number])


def content(data):
    return lambda path: path.write_bytes(data)


def lines(kept):
    return lambda path: path.write_text("".join(path.read_text().splitlines(keepends=True)[kept]))


def a_folder(path):
    path.unlink()
    path.mkdir()


def other_tensors(path):
    safetensors.torch.save_file({"other": torch.zeros(2)}, path)


DAMAGES = {
    "checkpoint.safetensors": [cut_by(50), content(b""), content(bytes(range(256)) * 9), other_tensors],
    "records.jsonl": [
        cut_by(9), content(b"\xff\xfe\x00"), content(b"[1, 2]\n"), content(b'{"no": "epoch"}\n'), content(b""),
        Path.unlink,
    ],
    "timings.jsonl": [content(b"{")],
    "config.json": [content(b"{'single': quotes}"), content(b"[]"), content(b"\xff\xfe\x00")],
    "result.json": [content(b""), content(b"{}")],
}  # fmt: skip
DAMAGES_OF_A_FINISHED_RUN = {
    "config.json": [Path.unlink, a_folder],
    "result.json": [Path.unlink, a_folder],
    "records.jsonl": [Path.unlink, a_folder, content(b""), lines(slice(-1)), lines(slice(1, None))],
    "model.safetensors": [Path.unlink, cut_by(4), content(b"")],
}


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A run that was stopped after its epoch 3."""
    return stopped_after(3, SMALL, tmp_path_factory.mktemp("half"))


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_told_with_the_file_and_what_to_do(half, tmp_path, name):
    for place, damage in enumerate(DAMAGES[name]):
        folder = RunFolder(shutil.copytree(half.path, tmp_path / str(place) / half.path.name))
        damage(folder.path / name)
        with pytest.raises(RunError) as caught:
            execute(SMALL, FEW, folder.path.parent)
        assert str(folder.path / name) in str(caught.value)
        assert f"delete {folder.path}" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", DAMAGES_OF_A_FINISHED_RUN)
def test_a_finished_run_that_is_damaged_is_an_error_too(undisturbed, tmp_path, name):
    for place, damage in enumerate(DAMAGES_OF_A_FINISHED_RUN[name]):
        out = tmp_path / str(place)
        folder = RunFolder(shutil.copytree(undisturbed.path, out / undisturbed.path.name))
        assert folder.damage is None
        damage(folder.path / name)
        for look in (lambda out=out: execute(SMALL, FEW, out), lambda out=out: runs(out)):
            with pytest.raises(RunError) as caught:
                look()
            assert str(folder.path / name) in str(caught.value)
            assert f"delete {folder.path} to run it again" in str(caught.value)
        (row,) = runs_table(folders(out)).to_dict("records")
        assert (row["run_id"], row["status"]) == (folder.path.name, "damaged")


@pytest.mark.parametrize("ended", [True, False])
def test_a_run_of_another_version_is_left_alone(undisturbed, half, tmp_path, ended):
    folder = RunFolder(shutil.copytree((undisturbed if ended else half).path, tmp_path / half.path.name))
    described = folder.description
    newer = {**described, "config": {**described["config"], "mixup": 0.1}}
    for changed, reason in (
        ({**described, "format": 99}, "its format is 99, and that of this version 2"),
        (newer, "config.json has the unknown field 'mixup'"),
    ):
        (folder.path / "config.json").write_text(to_json(changed))
        before = contents(folder)
        with pytest.raises(RunError, match=f"was made by another version of neurocollapse .*{reason}.*; use that, or"):
            execute(SMALL, FEW, tmp_path)
        assert contents(folder) == before


@pytest.mark.parametrize(
    ("function", "number", "message"),
    [
        ("write_bytes", errno.ENOSPC, r"snapshots\.safetensors cannot be written \(No space left.*\); make room"),
        ("mkdir", errno.ENOSPC, r"gaussian-mlp.* cannot be written \(No space left.*\); make room"),
        ("mkdir", errno.EROFS, r"gaussian-mlp.* cannot be written \(Read-only file system\); name a folder that can"),
        (
            "mkdir",
            errno.ENOLCK,
            r"cannot be written \(No locks available\); name a folder on a file system with locks",
        ),
    ],
)
def test_what_is_wrong_with_the_disk_is_told_from_what_is_wrong_with_the_folder(
    tmp_path, monkeypatch, function, number, message
):
    def fail(*_args, **_options):
        raise OSError(number, os.strerror(number))

    (tmp_path / "a_file").write_text("")
    with pytest.raises(
        RunError, match=r"a_file.* cannot be written to \(\S*a_file is a file, not a folder\); name another folder"
    ):
        execute(SMALL, FEW, tmp_path / "a_file")
    monkeypatch.setattr(Path, function, fail)
    with pytest.raises(WriteError, match=message):
        execute(SMALL, FEW, tmp_path)


# The user's own network


@pytest.fixture
def users(monkeypatch):
    """A module of a network whose activation and width a test may change."""
    module = type(sys)("users_edited")
    module.width, module.activation = 12, nn.ReLU
    module.build = lambda shape, classes: nn.Sequential(
        nn.Linear(*shape, module.width, bias=False), module.activation(), nn.Linear(module.width, classes, bias=False)
    )
    monkeypatch.setitem(sys.modules, "users_edited", module)
    return module


@pytest.mark.parametrize("ended", [True, False])
def test_the_same_name_with_an_edited_network_is_refused(tmp_path, users, ended):
    config = dataclasses.replace(SMALL, network="users_edited:build")
    folder = execute(config, FEW, tmp_path) if ended else stopped_after(3, config, tmp_path)
    before = contents(folder)
    for users.width, users.activation in ((12, nn.Tanh), (13, nn.ReLU)):
        with pytest.raises(
            RunError,
            match="was made with another network: users_edited:build has changed since; change it back, or name",
        ):
            execute(config, FEW, tmp_path)
        assert contents(folder) == before


def test_a_network_is_known_again_and_no_part_of_the_id(tmp_path, users):
    config = dataclasses.replace(SMALL, network="users_edited:build", initialization="norm")
    whole = execute(config, FEW, tmp_path / "whole")
    assert whole.path.name == "gaussian-users_edited.build-wd0.0005-seed0-e9fe2ea1"
    stopped_after(3, config, tmp_path)
    assert contents(execute(config, FEW, tmp_path)) == contents(whole)
    assert whole.description["notes"] == []
    users.activation = nn.Tanh
    other = execute(config, FEW, tmp_path / "other")
    assert other.path.name == whole.path.name
    assert other.description["notes"] == [NOT_HOMOGENEOUS]


def test_a_run_from_before_fingerprints_goes_on(tmp_path, users):
    config = dataclasses.replace(SMALL, network="users_edited:build")
    folder = stopped_after(3, config, tmp_path)
    described = folder.description
    del described["network"]
    (folder.path / "config.json").write_text(to_json(described))
    assert execute(config, FEW, tmp_path).status == "finished"
    assert "network" in folder.description


def test_a_folder_of_something_else_is_not_a_run(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"name": "something else"}')
    with pytest.raises(RunError, match="other is not a run"):
        runs(tmp_path)
    with pytest.raises(RunError, match="there is no folder"):
        runs(tmp_path / "absent")
    with pytest.raises(RunError, match=r"config\.json is a file, not a folder"):
        runs(tmp_path / "other" / "config.json")


# Many runs as one table


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A finished, an unfinished and a diverged run, and things that are no runs."""
    out = tmp_path_factory.mktemp("shelf")
    execute(SMALL, FEW, out)
    stopped_after(3, dataclasses.replace(SMALL, seed=1, per_class=9), out)
    execute(DIVERGING, FEW, out)
    (out / "figure.png").write_bytes(b"")
    (out / "empty").mkdir()
    return out


def test_runs_is_one_row_for_each_record(shelf):
    frame = runs(shelf)
    assert frame.groupby("status").size()[["finished", "unfinished"]].tolist() == [6, 4]
    assert set(frame["status"]) == {"finished", "unfinished", "diverged"}
    finished = frame[frame["status"] == "finished"]
    assert set(finished["run_id"]) == {run_id(SMALL, FEW)}
    assert finished["epoch"].tolist() == [0, 1, 2, 3, 4, 6]


def test_runs_has_the_columns_it_says(shelf):
    frame = runs(shelf)
    recorded = set(METRICS) - {"weight_norms", "nc5", *naive.LAYER_KEYS}
    scalars = {f"{split}.{key}" for split in ("train", "test") for key in recorded}
    norms = {f"{split}.weight_norms.{layer}" for split in ("train", "test") for layer in range(3)}
    fields = {field.name for field in dataclasses.fields(RunConfig)}
    bare = {
        "run_id", "status", "num_classes", "epoch", "gradient_norm", "terminal_phase_start", "current_learning_rate",
        "relative_gradient", "norm_spread", "nc1_slope",
    }  # fmt: skip
    assert set(frame) == scalars | norms | fields | bare | {"train.rank", "test.rank"}
    assert bare - RECORDED == {"run_id", "status", "num_classes"}
    assert all(pd.api.types.is_float_dtype(frame[key]) for key in scalars | norms | {"terminal_phase_start"})
    assert all(pd.api.types.is_integer_dtype(frame[key]) for key in ("epoch", "seed", "num_classes", "epochs"))
    assert frame["weight_decay"].dtype == float


def test_what_no_record_could_compute_is_nan():
    undefined = dict.fromkeys(["terminal_phase_start", "relative_gradient", "train.nc3", "test.layers.0.nc1"])
    frame = frame_of([{"run_id": name, "note": None, **undefined} for name in "ab"])
    assert all(frame[name].dtype == float and frame[name].isna().all() for name in undefined)
    assert frame["note"].tolist() == [None, None]  # of the user's own


def test_one_runs_folder_is_a_shelf_of_one_and_an_empty_shelf_an_empty_frame(shelf, tmp_path):
    frame = runs(str(shelf / run_id(SMALL, FEW)))
    assert set(frame["run_id"]) == {run_id(SMALL, FEW)}
    assert frame["train.nc1"].tolist() == runs(shelf)[lambda f: f["status"] == "finished"]["train.nc1"].tolist()
    assert runs(tmp_path).empty
    assert runs_table(folders(tmp_path)).empty


def test_the_table_of_runs_says_how_far_each_is(shelf):
    table = runs_table(folders(shelf)).set_index("status")
    assert table.loc["finished", ["epoch", "epochs"]].tolist() == [6, 6]
    assert table.loc["unfinished", ["epoch", "epochs"]].tolist() == [3, 6]
    assert table.loc["finished", "train.nc1"] == runs(shelf)[lambda f: f["status"] == "finished"]["train.nc1"].iloc[-1]


# In a notebook


def cells(table):
    """The rows of an HTML table by their first cells, unescaped."""
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in table.split("<tr>")[1:]]
    return {html.unescape(name): html.unescape(value) for name, value in rows}


def test_a_run_shows_how_far_it_is_what_it_is_and_its_last_numbers(shelf):
    whole = RunFolder(str(shelf / run_id(SMALL, FEW)))
    assert repr(whole) == f"RunFolder({str(whole.path)!r})"
    table = whole._repr_html_()
    assert f"<caption>{whole.path.name}</caption>" in table
    shown = cells(table)
    assert shown["status"] == "finished at epoch 6 of 6"
    assert {name: shown[name] for name in SMALL.changed} == {name: str(value) for name, value in SMALL.changed.items()}
    assert "momentum" not in shown  # for it is at its default
    last = whole.records()[-1]
    for key in ("train.nc1", "train.loss", "test.accuracy"):
        assert float(shown[key]) == pytest.approx(last[key], rel=1e-5)


def test_a_run_without_an_end_or_with_a_bad_one_says_so(shelf, tmp_path):
    shown = cells(RunFolder(shelf / run_id(dataclasses.replace(SMALL, seed=1, per_class=9), FEW))._repr_html_())
    assert shown["status"] == "unfinished at epoch 3 of 6"
    diverged = RunFolder(shelf / run_id(DIVERGING, FEW))
    shown = cells(diverged._repr_html_())
    assert shown["status"].startswith("diverged at epoch ")
    assert shown["message"] == diverged.result["message"]
    assert cells(RunFolder(tmp_path)._repr_html_()) == {"status": "there is no run here"}
    damaged = RunFolder(shutil.copytree(shelf / run_id(SMALL, FEW), tmp_path / "run"))
    (damaged.path / "records.jsonl").write_text("{")
    assert cells(damaged._repr_html_()) == {"damaged": damaged.damage}


def test_what_a_run_is_called_is_text_and_no_html(shelf, tmp_path):
    spoilt = RunFolder(shutil.copytree(shelf / run_id(SMALL, FEW), tmp_path / "<script>"))
    described = spoilt.description
    described["config"]["dataset"] = "<script>alert(1)</script>.npz"
    (spoilt.path / "config.json").write_text(to_json(described))
    table = spoilt._repr_html_()
    assert cells(table)["dataset"] == "<script>alert(1)</script>.npz"
    assert "<script" not in table


# Real processes

LONGER = dataclasses.replace(SMALL, epochs=24)
TWICE = """
import sys
from pathlib import Path
import torch
from neurocollapse.datasets import load_dataset
from neurocollapse.sweeps.resuming import execute
from neurocollapse.training import DEFAULTS_VERSION, RunConfig
torch.set_num_threads(1)
config = RunConfig(**{config})
execute(config, load_dataset("gaussian"), Path(sys.argv[1]))
"""


def test_two_processes_at_the_same_run_do_not_spoil_it(tmp_path):
    whole = execute(LONGER, GAUSSIAN, tmp_path / "whole")
    program = TWICE.replace("{config}", repr(dataclasses.asdict(LONGER)))
    command = [sys.executable, "-c", program, str(tmp_path / "shared")]
    other = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for((tmp_path / "shared").exists)  # it has imported PyTorch, and begins
    shared = execute(LONGER, GAUSSIAN, tmp_path / "shared")
    said = other.communicate(timeout=120)[1]
    assert other.returncode == 0, said
    assert contents(shared) == contents(whole)
    assert files(shared) == files(whole)


def test_the_table_of_runs_shows_what_their_names_do_not(tmp_path):
    for bias in ("none", "free"):
        execute(dataclasses.replace(SMALL, bias=bias), FEW, tmp_path)
    table = runs_table(folders(tmp_path))
    assert list(table)[:3] == ["run_id", "bias", "status"]
    assert set(table["bias"]) == {"none", "free"}
    assert "bias" not in runs_table(folders(tmp_path)[:1])
