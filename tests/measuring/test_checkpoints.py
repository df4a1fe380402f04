"""Replaying checkpoints: which files in which order, whose weights, and what is measured again."""

import argparse
import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

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
    with pytest.raises(CheckpointError, match=r"no file matches '.*nothing_\*'; quote the pattern"):
        find_checkpoints(str(tmp_path / "nothing_*"))


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
    "script.pt": lambda w, path: torch.save({"model_state_dict": w, "optimizer": {"lr": 0.1}}, path),
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


def saved_beside(path: Path, **options: bool) -> None:
    torch.save({"model": weights(0), "args": argparse.Namespace(epochs=3)}, path, **options)


class Code:
    def __reduce__(self):
        return print, ("this must not run",)


FAULTS = {
    "other.safetensors": (
        lambda path: save_file(network(5).state_dict(), path),
        r"other.safetensors is of another model than Sequential: size mismatch for 2.weight",
    ),
    "names.pt": (
        lambda path: torch.save({"fc.weight": torch.ones(2)}, path),
        r"it lacks 0.weight, 2.bias, 2.weight and has fc.weight, unlike Sequential",
    ),
    "truncated.safetensors": (truncated, r"truncated.safetensors is damaged or holds more than weights"),
    "empty.pt": (lambda path: path.write_bytes(b""), r"empty.pt is damaged or holds more than weights"),
    "code.pt": (lambda path: torch.save({"model": Code()}, path), r"code.pt is damaged or holds more than weights"),
    "beside.pt": (saved_beside, r"weights \(it holds argparse.Namespace, which is no weight\); save a state_dict$"),
    "older.pt": (partial(saved_beside, _use_new_zipfile_serialization=False), r"\(it holds argparse.Namespace, which"),
    "text.pt": (lambda path: path.write_bytes(b"\x1b[31mno pickle"), r"text.pt is damaged .* save a state_dict$"),
    "list.pt": (lambda path: torch.save([torch.ones(2)], path), r"list.pt holds list, not a state_dict"),
}


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
    if "other" not in name:  # a mismatch of shapes is found halfway
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


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
    assert [(line["name"], line["nc1"]) for line in lines] == [("epoch_1", "inf"), ("new", 1.0)]


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


def test_a_file_that_is_no_trajectory(tmp_path):
    (tmp_path / "notes.jsonl").write_text("hello")
    with pytest.raises(CheckpointError, match=r"notes.jsonl is no trajectory .*remove it, or name another file"):
        Trajectory(tmp_path / "notes.jsonl", {})
