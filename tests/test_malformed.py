"""Thousands of malformed files of every kind that is read: an error of the package each, in one line, and no harm."""

import copy
import io
import json
import random
import resource
import shutil
import signal
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import nn

import neurocollapse as nc
from neurocollapse import NeurocollapseError
from neurocollapse.datasets import load_dataset
from neurocollapse.measuring import Trajectory, load_weights, read_features
from neurocollapse.sweeps import RunFolder, TheoryFile, folders, runs_table, verify_runs
from neurocollapse.sweeps.resuming import execute

from .feature_formats import WRITERS, write_npz, write_safetensors

pytestmark = pytest.mark.slow

CONFIG = nc.RunConfig(dataset="gaussian", network="mlp", depth=2, width=8, epochs=1, learning_rate=0.01)
STRANGE: list[Any] = [
    None, True, -1, 0, 3, 2**70, 1e300, -0.5, "", "30", "nan", "inf", "λ\u0000", [], [[]], [1, "a"], {}, {"a": {}},
    "x" * 5000,
]  # fmt: skip


def strange_json(values: Any, chance: random.Random) -> Any:
    """A copy with one value, somewhere, that is another, that is gone, or that has another name."""
    changed = copy.deepcopy(values)
    place, parents = changed, []
    while isinstance(place, dict | list) and place and (not parents or chance.random() < 0.7):
        key = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
        parents.append((place, key))
        place = place[key]
    if not parents:
        return chance.choice(STRANGE)
    parent, key = parents[-1]
    match chance.randrange(4):
        case 0 if isinstance(parent, dict):
            parent[f"{key}s"] = parent.pop(key)
        case 1:
            del parent[key]
        case _:
            parent[key] = chance.choice(STRANGE)
    return changed


def strange_bytes(data: bytes, chance: random.Random) -> bytes:
    """A copy that is cut, has bits turned over, or has bytes more or less."""
    start = chance.randrange(max(len(data), 1))
    match chance.randrange(4):
        case 0:
            return data[:start]
        case 1:
            return data[:start] + bytes([data[start] ^ (1 << chance.randrange(8))]) + data[start + 1 :]
        case 2:
            return data[:start] + chance.randbytes(chance.randrange(40)) + data[start + chance.randrange(40) :]
        case _:
            return chance.randbytes(4) + data[4:]


def damage(path: Path, chance: random.Random) -> None:
    data = path.read_bytes()
    if path.suffix in (".json", ".jsonl") and chance.random() < 0.85:
        lines = data.decode().splitlines() if path.suffix == ".jsonl" else [data.decode()]
        place = chance.randrange(len(lines))
        lines[place] = json.dumps(strange_json(json.loads(lines[place]), chance))
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_bytes(strange_bytes(data, chance))


SHAPES = [(), (0,), (1,), (12,), (12, 0), (0, 5), (12, 5), (5, 12), (12, 5, 1), (2, 12, 5), (3, 5), (3, 6), (1, 1)]
TYPES = ["f2", "f4", "f8", ">f4", "i1", "i8", "u8", "?", "c8", "M8[s]", "S3", "U3", "V4", "g"]


def strange_arrays(chance: random.Random) -> dict[str, np.ndarray]:
    """Arrays of a feature file, one or two of which are not as they should be."""
    draw = np.random.default_rng(chance.randrange(2**30))
    arrays = {
        "features": draw.normal(size=(12, 5)), "labels": np.arange(12) % 3, "weight": draw.normal(size=(3, 5)),
        "bias": draw.normal(size=3), "ood": draw.normal(size=(4, 5)), "images": draw.normal(size=(12, 5)),
    }  # fmt: skip
    for name in chance.sample(sorted(arrays), chance.choice((1, 1, 2))):
        match chance.randrange(5):
            case 0:
                del arrays[name]
            case 1:
                arrays[name] = np.zeros(chance.choice(SHAPES), dtype="f8")
            case 2:
                with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
                    arrays[name] = np.zeros(arrays[name].shape).astype(chance.choice(TYPES))
            case 3:
                array = arrays[name].astype(float)
                array.flat[chance.randrange(array.size)] = chance.choice((np.nan, np.inf, -1, 255, 1e30, 1e308, 0.5))
                with np.errstate(all="ignore"):
                    arrays[name] = array if name != "labels" or chance.random() < 0.3 else array.astype(int)
            case _:
                arrays[f"{name}_"] = arrays.pop(name)
    return arrays


def npz(arrays: dict[str, np.ndarray], chance: random.Random) -> bytes:
    ways = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2]
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", chance.choice(ways)) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array)
            archive.writestr(f"{name}.npy", member.getvalue())
    return data.getvalue()


@pytest.fixture
def bounded():
    """Ends a test that hangs."""

    def hangs(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def attempt(call: Callable[..., object], *args: object, **options: object) -> bool:
    """Whether it fails; it may fail with an error of the package in one line, and in no other way."""
    signal.alarm(30)
    try:
        with warnings.catch_warnings(action="ignore"):
            call(*args, **options)
    except NeurocollapseError as error:
        message = str(error)
    else:
        return False
    assert message
    assert "\n" not in message
    return True


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # kilobytes


def measured(path: Path) -> None:
    nc.measure(**read_features(path))


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("seed", range(6))
def test_feature_files_and_data_sets(tmp_path, seed):
    chance, failed = random.Random(seed), 0
    for number in range(600):
        arrays = strange_arrays(chance)
        suffix = ".safetensors" if number % 3 == 0 else ".npz"
        try:
            data = safetensors.numpy.save(arrays) if suffix == ".safetensors" else npz(arrays, chance)
        except Exception:  # what cannot be written
            continue
        path = tmp_path / f"x{suffix}"
        path.write_bytes(strange_bytes(data, chance) if number % 2 else data)
        before = path.read_bytes()
        failed += attempt(measured, path)
        if suffix == ".npz":
            failed += attempt(load_dataset, path)
        assert path.read_bytes() == before
    assert failed > 400


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("write", [write for write in WRITERS if write not in (write_npz, write_safetensors)])
def test_other_feature_files(tmp_path, write):
    chance, failed = random.Random(0), 0
    for number in range(150):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            path = write(folder, strange_arrays(chance))
        except Exception:  # what cannot be written
            continue
        if number % 3:
            damage(chance.choice([file for file in sorted(folder.rglob("*")) if file.is_file()]), chance)
        before = files(folder)
        failed += attempt(measured, path)
        assert files(folder) == before
    assert failed > 60


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    for seed in range(2):
        execute(nc.RunConfig(**{**vars(CONFIG), "seed": seed}), load_dataset("gaussian"), out)
    list(verify_runs(folders(out), TheoryFile(out / "theory.json")))
    return out


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("seed", range(2))
def test_folders_of_runs(trained, tmp_path, seed):
    chance, damaged = random.Random(seed), 0
    bad, good = (folder.path.name for folder in folders(trained))
    for number in range(200):
        out = tmp_path / str(number)
        shutil.copytree(trained, out)
        if chance.random() < 0.3:
            (out / bad / "result.json").unlink()
        path = chance.choice(
            [path for path in sorted(out.rglob("*")) if path.is_file() and path.suffix and good not in path.parts]
        )
        damage(path, chance)
        before = files(out)
        statuses = runs_table(folders(out)).set_index("run_id")["status"]
        assert statuses[good] == "finished"
        damaged += statuses[bad] == "damaged"
        attempt(nc.runs, out)
        attempt(RunFolder(out / bad).snapshots)
        attempt(RunFolder(out / bad).weights)
        attempt(nc.verify, RunFolder(out / bad))
        RunFolder(out / bad)._repr_html_()
        assert files(out) == before
        verified = dict(verify_runs(folders(out), TheoryFile(out / "theory.json")))
        assert [folder.path.name for folder, table in verified.items() if not isinstance(table, str)][-1] == good
        attempt(nc.report, out)
        attempt(nc.train, CONFIG, out=out, progress=False)
        shutil.rmtree(out)
    assert damaged > 80


def trajectory(path: Path, network: object) -> None:
    Trajectory(path, {"network": network}).of([path])


@pytest.mark.usefixtures("bounded")
def test_checkpoints_and_trajectories(tmp_path):
    chance, failed = random.Random(0), 0
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    saved = io.BytesIO()
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, saved)
    line = {"checkpoint": "a", "sha256": "b", "network": {"sha256": "c", "outputs": [1.0]}, "nc1": 0.5}
    for number in range(1500):
        kind = number % 3
        path = tmp_path / ("x.safetensors", "x.pt", "x.jsonl")[kind]
        path.write_bytes((safetensors.numpy.save(tensors), saved.getvalue(), json.dumps(line).encode() + b"\n")[kind])
        damage(path, chance)
        before = path.read_bytes()
        failed += attempt(load_weights, model, path) if kind < 2 else attempt(trajectory, path, line["network"])
        assert path.read_bytes() == before
    assert failed > 800
