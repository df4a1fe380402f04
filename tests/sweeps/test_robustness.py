"""A sweep through the real command, and what befalls it: kills, a full disk, damaged folders, another version's."""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from neurocollapse import RunError
from neurocollapse.datasets import load_dataset
from neurocollapse.sweeps import RunFolder, Sweep, run_id
from neurocollapse.sweeps.resuming import execute
from neurocollapse.training import RunConfig

GAUSSIAN = load_dataset("gaussian")
COMMAND = str(Path(sys.executable).with_name("neurocollapse"))
SMALL = RunConfig(dataset="gaussian", network="mlp", depth=2, width=8, learning_rate=0.01, epochs=3)


def typed(sweep: Sweep, out: Path) -> list[str]:
    options = {name: value for name, value in dataclasses.asdict(sweep.base).items() if value is not None}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    axes = [f"{name}={','.join(map(str, values))}" for name, values in sweep.axes.items()]
    return [COMMAND, "train", *words, "--out", str(out), "--workers", "2", "--vary", *axes]


def train(sweep: Sweep, out: Path) -> tuple[int, str, str]:
    finished = subprocess.run(typed(sweep, out), capture_output=True, text=True)
    assert "Traceback" not in finished.stderr
    return finished.returncode, finished.stdout, finished.stderr


def results(out: Path) -> dict[str, bytes]:
    """Records and weights of every run."""
    names = ("records.jsonl", "model.safetensors")
    return {str(path.relative_to(out)): path.read_bytes() for path in out.glob("*/*") if path.name in names}


# Kills


def written(out: Path) -> set[int]:
    """The checkpoints there, told apart by what renaming changes."""
    found = set()
    for path in out.glob("*/checkpoint.safetensors"):
        try:
            found.add(path.stat().st_ino)
        except FileNotFoundError:  # replaced just now
            continue
    return found


@pytest.mark.slow
def test_a_sweep_killed_twenty_times_ends_with_the_records_of_an_undisturbed_one(tmp_path):
    sweep = Sweep(dataclasses.replace(SMALL, epochs=700), {"weight_decay": (0.0, 5e-4, 1e-3), "seed": range(8)})
    out, moments = tmp_path / "killed", random.Random(0)
    for kill in range(20):
        process = subprocess.Popen(
            typed(sweep, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        before = written(out)
        while written(out) <= before:  # it has not come to training yet
            assert process.poll() is None, f"it ended before kill {kill}"
            time.sleep(0.01)
        time.sleep(moments.random())
        assert process.poll() is None, f"it ended before kill {kill}"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert sum(RunFolder(path).result is not None for path in out.iterdir()) < len(sweep)
    status, _, said = train(sweep, out)
    assert status == 0, said

    assert train(sweep, tmp_path / "whole")[0] == 0
    assert len(results(tmp_path / "whole")) == 2 * 24
    assert results(out) == results(tmp_path / "whole")
    assert not list(out.rglob(".*-*"))


# The disk


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, too small for some runs; mounting one needs the superuser."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_a_full_disk_stops_the_sweep_with_one_line_and_it_goes_on_where_there_is_room(tmp_path, small_disk, engine):
    if engine == "ray" and find_spec("ray") is None:
        pytest.skip("needs Ray")
    sweep = Sweep(dataclasses.replace(SMALL, width=500), {"seed": range(3)})
    command = [*typed(sweep, small_disk), "--engine", engine]
    finished = subprocess.run(command, capture_output=True, text=True)
    errors = [line for line in finished.stderr.splitlines() if not line.startswith(("3 run(s), ", "λ=", "all runs "))]
    assert (finished.returncode, finished.stdout, len(errors)) == (2, "", 1), finished.stderr
    assert errors[0].startswith(f"error: {small_disk}")
    assert " cannot be written (" in errors[0]
    assert "No space left on device" in errors[0]
    assert errors[0].endswith("; make room, or name another folder")

    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    assert train(sweep, small_disk)[0] == 0
    assert train(sweep, tmp_path / "whole")[0] == 0
    assert results(small_disk) == results(tmp_path / "whole")


@pytest.mark.slow
def test_a_disk_that_is_read_only_is_one_line(small_disk):
    sweep = Sweep(SMALL, {"seed": range(2)})
    execute(SMALL, GAUSSIAN, small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    status, printed, said = train(sweep, small_disk)
    assert (status, printed) == (2, "")
    assert said == (
        f"error: out {small_disk}: {small_disk} is not a folder that can be written to; name another "
        f"(Read-only file system)\n"
    )


# A damaged run among others


def edited(path: Path, **changes: object) -> None:
    described = json.loads(path.read_text())
    described["config"] |= changes.pop("config", {})
    path.write_text(json.dumps(described | changes))


def flipped(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "checkpoint cut": ("checkpoint.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-50]), "delete"),
    "checkpoint's header": ("checkpoint.safetensors", lambda path: flipped(path, 8), "delete"),
    "checkpoint's last byte": ("checkpoint.safetensors", lambda path: flipped(path, -1), "its checksum does not match"),
    "records cut": ("records.jsonl", lambda path: path.write_bytes(path.read_bytes()[:-9]), "delete"),
    "a newer field": ("config.json", lambda path: edited(path, config={"mixup": 0.1}), "the unknown field 'mixup'"),
    "a newer schema": ("config.json", lambda path: edited(path, schema=99), "its schema is 99, and that of this"),
}


class SeenEnough(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(("name", "damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_run_is_named_and_the_others_go_on(tmp_path, name, damage, message):
    def stop(state):
        if state.epoch == 2:
            raise SeenEnough

    sweep = Sweep(SMALL, {"seed": range(3)})
    finished, begun, _ = sweep
    execute(finished, GAUSSIAN, tmp_path)
    with pytest.raises(SeenEnough):
        execute(begun, GAUSSIAN, tmp_path, on_state=stop)
    damaged = tmp_path / run_id(begun, GAUSSIAN)
    damage(damaged / name)
    before = {path: path.read_bytes() for path in tmp_path.glob("*/*.*") if path.name != ".lock"}
    status, printed, said = train(sweep, tmp_path)
    assert status == 1
    (line,) = [line for line in said.splitlines() if line.startswith(("damaged: ", "failed: "))]
    assert "λ=0.0005 seed 1: " in line
    assert str(damaged) in line
    assert message in line
    assert f"delete {damaged} to run it again" in line or "use that, or name another folder" in line
    shown = {row.split()[0].split("-")[3]: row.split()[1] for row in printed.splitlines()[2:]}
    assert shown["seed0"] == shown["seed2"] == "finished"
    assert {path: path.read_bytes() for path in before} == before


def test_a_flipped_bit_of_a_checkpoint_is_found_or_does_no_harm(tmp_path):
    def stop(state):
        if state.epoch == 2:
            raise SeenEnough

    whole = execute(SMALL, GAUSSIAN, tmp_path / "whole")
    with pytest.raises(SeenEnough):
        execute(SMALL, GAUSSIAN, tmp_path / "begun", on_state=stop)
    size = (tmp_path / "begun" / whole.path.name / "checkpoint.safetensors").stat().st_size
    messages = []
    for place in random.Random(0).sample(range(size), 20):
        shutil.rmtree(tmp_path / "flipped", ignore_errors=True)
        shutil.copytree(tmp_path / "begun", tmp_path / "flipped")
        flipped(tmp_path / "flipped" / whole.path.name / "checkpoint.safetensors", place)
        try:
            execute(SMALL, GAUSSIAN, tmp_path / "flipped")
        except RunError as error:
            messages.append(str(error))
        else:
            assert results(tmp_path / "flipped") == results(tmp_path / "whole")
    assert len(messages) > 15
    assert all("checkpoint.safetensors is damaged (" in message for message in messages)
