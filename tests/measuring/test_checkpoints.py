"""Replaying checkpoints: which files in which order, whose weights, and what is measured again."""

import argparse
import json
import os
import types
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn
from torch.nn.utils import parametrizations

from neurocollapse import CheckpointError
from neurocollapse.measuring import Trajectory, find_checkpoints, load_weights


def network(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(4, width, bias=False), nn.ReLU(), nn.Linear(width, 2))


def weights(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return network().state_dict()


def test_checkpoints_come_in_the_order_of_their_numbers(tmp_path):
    for name in ("epoch_10", "epoch_9", "epoch_100", "other_1"):
        save_file(weights(0), tmp_path / f"{name}.safetensors")
    (tmp_path / "epoch_5.safetensors").mkdir()
    found = find_checkpoints(f"{tmp_path}/epoch_*.safetensors")
    assert [path.stem for path in found] == ["epoch_9", "epoch_10", "epoch_100"]
    assert find_checkpoints(str(tmp_path / "other_1.safetensors")) == [tmp_path / "other_1.safetensors"]
    with pytest.raises(CheckpointError, match=r"no file matches '.*nothing_\*'; name files of weights, or a pattern"):
        find_checkpoints(str(tmp_path / "nothing_*"))
    for pattern in ("epoch_5.safetensors", "epoch_5.*"):
        with pytest.raises(CheckpointError, match=r"epoch_5.safetensors is a folder without weights; name files of "):
            find_checkpoints(str(tmp_path / pattern))


WRITERS = {
    "plain.safetensors": lambda w, path: save_file(w, path),
    "run.safetensors": lambda w, path: save_file(
        {"epoch": torch.tensor(3), "optimizer.0.m": torch.ones(2)} | {f"model.{k}": v for k, v in w.items()}, path
    ),
    "plain.pt": torch.save,
    "ddp.pth": lambda w, path: torch.save({"module." + k: v for k, v in w.items()}, path),
    "compiled.pt": lambda w, path: torch.save({"_orig_mod." + k: v for k, v in w.items()}, path),
    "lightning.ckpt": lambda w, path: torch.save(
        {"state_dict": {"model." + k: v for k, v in w.items()}, "epoch": 3}, path
    ),
    "two.pt": lambda w, path: torch.save({"module._orig_mod." + k: v for k, v in w.items()}, path),
    "three.safetensors": lambda w, path: save_file({"model.module._orig_mod." + k: v for k, v in w.items()}, path),
    "fsdp.pt": lambda w, path: torch.save({k.replace(".", "._fsdp_wrapped_module."): v for k, v in w.items()}, path),
    "own.pt": lambda w, path: torch.save({"net." + k: v for k, v in w.items()} | {"loss.w": torch.ones(1)}, path),
    "average.pt": lambda w, path: torch.save(
        {"module." + k: v for k, v in w.items()} | {"n_averaged": torch.tensor(3)}, path
    ),
    "net.pt": lambda w, path: torch.save(
        {"net": w, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}, path
    ),
    "within.pt": lambda w, path: torch.save({"last": {"params": {"module." + k: v for k, v in w.items()}}}, path),
    "two networks.pt": lambda w, path: torch.save(
        {"model": {"a": torch.ones(2)}, "weights": w, "G": dict([*w.items()][:1])}, path
    ),
    "a twin.pt": lambda w, path: torch.save({"ema": weights(3), "state_dict": w}, path),
    "script.pt": lambda w, path: torch.save({"model_state_dict": w, "optimizer": {"lr": 0.1}}, path),
    "options.pt": lambda w, path: torch.save({"state_dict": w, "args": argparse.Namespace(lr=0.1)}, path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_weights_as_they_are_usually_saved(name, tmp_path):
    expected = weights(1)
    WRITERS[name](expected, tmp_path / name)
    model = network()
    load_weights(model, tmp_path / name)
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def truncated(path: Path) -> None:
    save_file(weights(0), path)
    path.write_bytes(path.read_bytes()[:-9])


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(80_000_000))


def saved_beside(path: Path, **options: bool) -> None:
    torch.save({"model": weights(0), "args": types.SimpleNamespace(epochs=3)}, path, **options)


class Code:
    def __reduce__(self):
        return print, ("this must not run",)


FAULTS = {
    "other.safetensors": (lambda path: save_file(network(5).state_dict(), path),
        r"model than Sequential: 0.weight is \(5, 4\), and here \(3, 4\); 2.weight"),
    "names.pt": (lambda path: torch.save({"fc.weight": torch.ones(2)}, path),
        r"it lacks 0.weight, 2.bias, 2.weight and has fc.weight, unlike Sequential"),
    "truncated.safetensors": (truncated, r"truncated.safetensors is damaged or holds more than weights"),
    "empty.pt": (lambda path: path.write_bytes(b""), r"empty.pt is damaged or holds more than weights"),
    "code.pt": (lambda path: torch.save({"model": Code()}, path), r"code.pt is damaged or holds more than weights"),
    "more.pt": (
        lambda path: torch.save(
            {"module." + k: v for k, v in [*weights(0).items(), ("4.weight", torch.ones(2))]}, path
        ),
        r"it has 4.weight, unlike Sequential",
    ),
    "two.pt": (
        lambda path: torch.save({p + k: v for p in ("student.", "teacher.") for k, v in weights(0).items()}, path),
        r"two.pt holds several such models, under student, teacher; save the state_dict of one alone",
    ),
    "pipe.pt": (os.mkfifo, "pipe.pt is a pipe, not a file; name a file of weights"),
    "bomb.pt": (bomb, "bomb.pt has .* bytes and would unpack to 80000000, which is beyond reason"),
    "named.pt": (
        lambda path: torch.save({"net": weights(0), "ema": weights(1), "args": {"lr": 0.1}}, path),
        r"named.pt holds several such models, under net, ema; save the state_dict of one alone",
    ),
    "none.pt": (
        lambda path: torch.save({"net": {"a": torch.ones(2)}, "epoch": 3}, path),
        "none.pt is of another model: it lacks .* and has a, unlike",
    ),
    "beside.pt": (saved_beside, r"weights \(it holds types.SimpleNamespace, which is no weight\); save a state_dict$"),
    "older.pt": (partial(saved_beside, _use_new_zipfile_serialization=False), r"holds types.SimpleNamespace, which"),
    "text.pt": (lambda path: path.write_bytes(b"\x1b[31mno pickle"), r"text.pt is damaged .* save a state_dict$"),
    "numbers.pt": (lambda path: torch.save({0: torch.ones(2)}, path), r"numbers.pt holds dict, not a state_dict"),
    "sparse.pt": (lambda path: torch.save({k: v.to_sparse() for k, v in weights(0).items()}, path),
        r"sparse.pt cannot be loaded: 0.weight is a sparse tensor, .*; save dense tensors of real numbers"),
    "complex.pt": (lambda path: torch.save({k: v + 1j for k, v in weights(0).items()}, path),
        "0.weight is a tensor of complex numbers"),
    "meta.pt": (lambda path: torch.save({k: v.to("meta") for k, v in weights(0).items()}, path),
        "0.weight is a tensor without data"),
    "scalar.pt": (lambda path: torch.save({"model": weights(0), "best": np.float64(0.5)}, path),
        r"scalar.pt holds values of NumPy, for which PyTorch would run .*; save float\(x\) and torch.from_numpy\(x\)"),
    "arrays.pt": (lambda path: torch.save({"0.weight": np.ones((5, 6))}, path), "arrays.pt holds values of NumPy"),
    "epoch.pt": (lambda path: torch.save(weights(0) | {"epoch": 3}, path), "no state_dict: its 'epoch' is int, no"),
    "program.pt": (lambda path: torch.export.save(torch.export.export(network(), (torch.ones(2, 4),)), path),
        r"program.pt is a program of torch.export; save the state_dict of the model from which it was made$"),
    "earlier.pt2": (lambda path: zipfile.ZipFile(path, "w").writestr("serialized_exported_program.json", "{}"),
        r"earlier.pt2 is a program of torch.export; save the state_dict of the model"),
    "arrays.npz": (lambda path: np.savez(path, a=np.ones(3)), "arrays.npz is a file of NumPy arrays; save torch.from"),
    "pointer.pt": (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n"),
        "pointer.pt is a pointer of Git LFS, not the file; get it with git lfs pull"),
    "nan.pt": (lambda path: torch.save({k: v * torch.nan for k, v in weights(0).items()}, path),
        r"nan.pt: 0.weight is not finite; the model diverged, so take an earlier checkpoint"),
    "list.pt": (lambda path: torch.save([torch.ones(2)], path), r"list.pt holds list, not a state_dict"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_files_that_are_no_weights_of_this_model(name, tmp_path, capsys):
    write, message = FAULTS[name]
    write(tmp_path / name)
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message) as caught:
        load_weights(model, tmp_path / name)
    assert not {"weights_only", "trust", "\x1b"} & {*str(caught.value).split(), *str(caught.value)}
    assert "this must not run" not in capsys.readouterr().out
    if name not in ("other.safetensors", "more.pt", "nan.pt"):  # these faults are found halfway
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Tied(nn.Module):
    """Two names of one matrix, a third of its transpose, and a state that is no tensor."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5)
        self.head.weight = self.embed.weight
        self.turned = nn.Parameter(self.embed.weight.detach().T)
        self.epochs = 0

    def get_extra_state(self):
        return {"epochs": self.epochs}

    def set_extra_state(self, state):
        self.epochs = state["epochs"]


@pytest.mark.parametrize(
    "left_out", [(), ("head.weight",), ("embed.weight", "turned"), ("embed.weight", "head.weight")]
)
def test_names_that_share_memory_may_be_absent_and_states_may_be_no_tensors(tmp_path, left_out):
    torch.manual_seed(1)
    saved, model = Tied(), Tied()
    saved.epochs = 7
    torch.save({k: v for k, v in saved.state_dict().items() if k not in left_out}, tmp_path / "weights.pt")
    load_weights(model, tmp_path / "weights.pt")
    assert all(model.get_parameter(name).equal(value) for name, value in saved.named_parameters(remove_duplicate=False))
    assert model.epochs == 7
    (tmp_path / "weights.pt").unlink()
    torch.save({k: v for k, v in saved.state_dict().items() if k != "head.bias"}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"it lacks head.bias, unlike Tied"):
        load_weights(model, tmp_path / "weights.pt")


def test_what_safetensors_leaves_out_of_a_tied_model(tmp_path):
    saved, model = (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)) for _ in range(2))
    for network in (saved, model):
        network[1].weight = network[0].weight
    save_model(saved, str(tmp_path / "weights.safetensors"))
    load_weights(model, tmp_path / "weights.safetensors")
    assert all(value.equal(saved.state_dict()[name]) for name, value in model.state_dict().items())


def old_weight_norm():
    with pytest.warns(FutureWarning, match="weight_norm"):
        return nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(4, 2)))


class Versioned(nn.Linear):
    """A module that reads what version wrote its weights, as those of torchvision do."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        if local_metadata.get("version") != 2:
            raise ValueError("what version is it?")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


def without_count(model):
    return {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}


#: a model, and what PyTorch takes for its weights
TAKEN = {
    "of the old weight norm": (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 2))),
        lambda _: old_weight_norm().state_dict(),
    ),
    "a batch norm before counts": (lambda: nn.Sequential(nn.BatchNorm1d(4)), without_count),
    "versions": (lambda: nn.Sequential(Versioned(4, 2)), lambda model: model.state_dict()),
    "a lazy layer": (lambda: nn.Sequential(nn.LazyLinear(2)), lambda _: nn.Sequential(nn.Linear(4, 2)).state_dict()),
    "on no device": (
        lambda: nn.Sequential(nn.Linear(4, 2, device="meta")),
        lambda _: nn.Sequential(nn.Linear(4, 2)).state_dict(),
    ),
}


@pytest.mark.parametrize("case", TAKEN)
def test_pytorch_judges_the_names(case, tmp_path):
    make, write = TAKEN[case]
    torch.save(write(make()), tmp_path / "weights.pt")
    ours, theirs = make(), make()
    load_weights(ours, tmp_path / "weights.pt")
    theirs.load_state_dict(torch.load(tmp_path / "weights.pt"), assign=case == "on no device")
    x = torch.ones(1, 4)
    assert ours.eval()(x).equal(theirs.eval()(x))


def test_wrappers_within_the_model_count_as_little_as_those_of_the_file(tmp_path):
    expected = weights(1)
    torch.save(expected, tmp_path / "weights.pt")
    model = network()
    model[2] = torch.compile(model[2], backend="eager")
    load_weights(model, tmp_path / "weights.pt")
    assert [value.tolist() for value in model.state_dict().values()] == [value.tolist() for value in expected.values()]


def test_a_trajectory_goes_on_where_it_was(tmp_path):
    checkpoints = []
    for epoch in range(3):
        checkpoints.append(tmp_path / f"epoch_{epoch}.safetensors")
        save_file(weights(epoch), checkpoints[-1])
    path, conditions = tmp_path / "trajectory.jsonl", {"dataset": "gaussian"}
    trajectory = Trajectory(path, conditions)
    for checkpoint, begun in list(trajectory.missing(checkpoints))[:2]:
        trajectory.add({**begun, "nc1": float("inf"), "name": checkpoint.stem})
    again = Trajectory(path, conditions)
    assert [checkpoint.stem for checkpoint, _ in again.missing(checkpoints)] == ["epoch_2"]
    assert [checkpoint.stem for checkpoint, _ in Trajectory(path, {"dataset": "mnist5k"}).missing(checkpoints)] == [
        f"epoch_{epoch}" for epoch in range(3)
    ]
    save_file(weights(7), checkpoints[0])  # written anew: measured anew, and its old line replaced
    ((checkpoint, begun), _) = again.missing(checkpoints)
    assert checkpoint == checkpoints[0]
    again.add({**begun, "nc1": 1.0, "name": "new"})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["name"], line["nc1"]) for line in lines] == [("new", 1.0), ("epoch_1", "inf")]


@pytest.mark.parametrize(
    ("network", "known"),
    [
        ({"sha256": "a", "outputs": [1.0, -2.00001]}, True),  # another machine's rounding
        ("a hash, as earlier versions kept it", True),
        ({"sha256": "a", "outputs": [1.0, -2.1]}, False),
        ({"sha256": "b", "outputs": [1.0, -2.0]}, False),
    ],
)
def test_a_trajectory_counts_for_the_same_network(tmp_path, network, known):
    save_file(weights(0), checkpoint := tmp_path / "epoch_0.safetensors")
    conditions = {"dataset": "gaussian", "network": {"sha256": "a", "outputs": (1.0, -2.0)}}
    ((_, begun),) = Trajectory(tmp_path / "trajectory.jsonl", conditions).missing([checkpoint])
    (tmp_path / "trajectory.jsonl").write_text(json.dumps({**begun, "network": network}) + "\n")
    trajectory = Trajectory(tmp_path / "trajectory.jsonl", conditions)
    assert len(list(trajectory.missing([checkpoint]))) == (not known)
    assert len(trajectory.of([checkpoint])) == known


GOOD = json.dumps({"checkpoint": "a", "sha256": "b"})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("hello", "line 1 is no JSON from character 1 on"),
        (f"{GOOD}\n[]", r"line 2 must be an object, got \[\]"),
        (f'{GOOD}\n{{"sha256": "b"}}', "line 2 has no 'checkpoint'"),
        ('{"checkpoint": [1], "sha256": "b"}', r"line 1: checkpoint must be text, got \[1\]"),
        ('{"checkpoint": "a", "sha256": "b", "network": {"sha256": "c"}}', "line 1: network"),
        ("[" * 200_000, "line 1 has too many brackets within one another"),
        (f'{GOOD[:-1]}, "nc1": "abc"}}', "line 1: nc1 must be a number, got 'abc'"),
        (f'{GOOD[:-1]}, "mine": [1, 2]}}', r"line 1: mine must be a number, got \[1, 2\]"),
        (f'{GOOD[:-1]}, "nc3": {10**400}}}', "line 1: nc3 is an integer beyond any float"),
        (GOOD[:-4], "line 1 is cut off"),
        (GOOD.replace("sha256", "checkpoint"), "it has 'checkpoint' twice"),
    ],
)
def test_a_file_that_is_no_trajectory(tmp_path, content, reason):
    (tmp_path / "notes.jsonl").write_text(content)
    with pytest.raises(
        CheckpointError, match=rf"notes.jsonl is no trajectory \({reason}.*\); mend it, or name another"
    ):
        Trajectory(tmp_path / "notes.jsonl", {})
    assert (tmp_path / "notes.jsonl").read_text() == content


def test_a_device_is_no_trajectory():
    with pytest.raises(CheckpointError, match="it is a device, not a file"):
        Trajectory(Path(os.devnull), {})


def test_checkpoints_of_one_name_in_different_folders_are_different(tmp_path):
    checkpoints = [tmp_path / f"checkpoint-{step}" / "model.safetensors" for step in (1, 2, 10)]
    for step, path in enumerate(checkpoints):
        path.parent.mkdir()
        save_file(weights(step), path)
    trajectory = Trajectory(tmp_path / "trajectory.jsonl", {"dataset": "gaussian"})
    for step, (_, begun) in enumerate(trajectory.missing(checkpoints)):
        trajectory.add({**begun, "nc1": float(step)})
    again = Trajectory(tmp_path / "trajectory.jsonl", {"dataset": "gaussian"})
    assert [(line["checkpoint"], line["nc1"]) for line in again.of(checkpoints)] == [
        (str(path), float(step)) for step, path in enumerate(checkpoints)
    ]
    assert not list(again.missing(checkpoints))


def test_a_line_of_an_earlier_version_has_the_name_alone(tmp_path):
    save_file(weights(0), checkpoint := tmp_path / "epoch_0.safetensors")
    ((_, begun),) = Trajectory(tmp_path / "t.jsonl", {}).missing([checkpoint])
    (tmp_path / "t.jsonl").write_text(json.dumps({**begun, "checkpoint": checkpoint.name, "nc1": 0.5}) + "\n")
    trajectory = Trajectory(tmp_path / "t.jsonl", {})
    assert not list(trajectory.missing([checkpoint]))
    assert trajectory.of([checkpoint])[0]["nc1"] == 0.5


def test_runs_that_are_measured_from_their_own_folders_keep_their_lines(tmp_path, monkeypatch):
    given, out = Path("epoch_0.safetensors"), tmp_path / "t.jsonl"
    for seed, run in enumerate(("run1", "run2")):
        (tmp_path / run).mkdir()
        monkeypatch.chdir(tmp_path / run)
        save_file(weights(seed), given)
        trajectory = Trajectory(out, {})
        ((_, begun),) = trajectory.missing([given])
        trajectory.add({**begun, "nc1": float(seed)})
    both = [tmp_path / run / given for run in ("run1", "run2")]
    assert [line["nc1"] for line in Trajectory(out, {}).of(both)] == [0.0, 1.0]
    assert not list(Trajectory(out, {}).missing([Path("../run1") / given, given]))


@pytest.mark.parametrize(("earlier", "lines"), [("epoch_0.safetensors", 2), ("{folder}/epoch_0.safetensors", 1)])
def test_a_relative_path_of_an_earlier_version_may_be_another_runs(tmp_path, monkeypatch, earlier, lines):
    monkeypatch.chdir(tmp_path)
    save_file(weights(0), given := Path("epoch_0.safetensors"))
    line = {"checkpoint": earlier.format(folder=tmp_path.resolve()), "sha256": "of other content"}
    Path("t.jsonl").write_text(json.dumps(line) + "\n")
    trajectory = Trajectory(Path("t.jsonl"), {})
    ((_, begun),) = trajectory.missing([given])
    trajectory.add(begun)
    assert len(trajectory.lines) == lines


@pytest.mark.parametrize("written_anew", [True, False])
def test_the_splits_of_a_record_are_of_one_content(tmp_path, written_anew):
    save_file(weights(0), checkpoint := tmp_path / "epoch_0.safetensors")
    for seed, split in enumerate(("train", "test")):
        save_file(weights(seed * written_anew), checkpoint)
        trajectory = Trajectory(tmp_path / "t.jsonl", {"split": split})
        ((_, begun),) = trajectory.missing([checkpoint])
        trajectory.add(begun)
    assert [line["split"] for line in trajectory.lines] == (["test"] if written_anew else ["train", "test"])
