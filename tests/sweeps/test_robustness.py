"""A sweep through the real command, and what befalls it: kills at random moments, a disk that cannot be written."""

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest

from neurocollapse import InputError, RunError
from neurocollapse.sweeps import RunFolder, Sweep
from neurocollapse.sweeps.engines.processes import _start
from neurocollapse.sweeps.engines.work import environment_of_children
from neurocollapse.sweeps.resuming import execute
from neurocollapse.training import RunConfig
from tests.commands import start, train_words
from tests.folders import GAUSSIAN, folder_of, stopped_after

SMALL = RunConfig(dataset="gaussian", network="mlp", depth=2, width=8, learning_rate=0.01, epochs=3)


def contents(out: Path) -> dict[str, bytes]:
    """The files of every run, and what must be the same in them: not the seconds."""
    apart = {"timings.jsonl", "snapshots.safetensors"}
    return {
        str(path.relative_to(out)): b"" if path.name in apart else path.read_bytes()
        for path in out.glob("*/*")
        if path.name != ".lock"
    }


def written(out: Path) -> set[int]:
    """The checkpoints there, told apart by what renaming changes."""
    found = set()
    for path in out.glob("*/checkpoint.safetensors"):
        try:
            found.add(path.stat().st_ino)
        except FileNotFoundError:  # replaced just now
            continue
    return found


def test_children_do_not_import_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "elsewhere", str(tmp_path)])
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    with environment_of_children(1):
        assert sys.path == ["elsewhere"]
        assert os.environ["PYTHONSAFEPATH"] == "1"
    assert sys.path == ["", "elsewhere", str(tmp_path)]
    assert "PYTHONSAFEPATH" not in os.environ


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_a_module_of_pythons_name_in_the_current_folder_is_not_run(tmp_path, engine):
    if engine == "ray":
        pytest.importorskip("ray")
    for name in ("random", "queue", "numpy", "torch", "csv"):
        (tmp_path / f"{name}.py").write_text("open('executed', 'a').write(__name__)\nraise SystemExit\n")
    (tmp_path / "own.py").write_text("from helper import nn\nbuild = lambda *_: nn.Linear(16, 4, bias=False)\n")
    (tmp_path / "helper.py").write_text("from torch import nn\n")
    words = train_words(dataclasses.replace(SMALL, network="own:build"), tmp_path / "out", "--engine", engine)
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert not (tmp_path / "executed").exists()


def test_a_folder_with_too_long_a_name_for_a_socket_is_named():
    class Refused(SpawnProcess):
        def start(self):
            raise OSError("AF_UNIX path too long")

    with pytest.raises(InputError, match=r"too long a name for a socket.*set TMPDIR to one of at most 60 letters"):
        _start(Refused())


@pytest.mark.slow
def test_a_sweep_killed_twenty_times_ends_with_the_files_of_an_undisturbed_one(tmp_path):
    sweep = Sweep(dataclasses.replace(SMALL, epochs=700), {"weight_decay": (0.0, 5e-4, 1e-3), "seed": range(8)})
    axes = [f"{name}={','.join(map(str, values))}" for name, values in sweep.axes.items()]
    axes = ["--workers", "2", "--vary", *axes]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    out, moments = tmp_path / "killed", random.Random(0)
    for kill in range(20):
        process = start(train_words(sweep.base, out, *axes), **quiet)
        before = written(out)
        if kill % 5 == 4:  # before it has come to training
            time.sleep(3 * moments.random())
        else:
            while written(out) <= before:
                assert process.poll() is None, f"it ended before kill {kill}"
                time.sleep(0.01)
            time.sleep(moments.random())
        assert process.poll() is None, f"it ended before kill {kill}"
        if kill % 2:  # its workers must find out by themselves
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert sum(RunFolder(path).result is not None for path in out.iterdir()) < len(sweep)
    for folder in (out, tmp_path / "whole"):
        assert subprocess.run(train_words(sweep.base, folder, *axes), capture_output=True).returncode == 0
    assert len(list(out.iterdir())) == 24
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.slow
def test_a_disk_that_is_read_only_is_one_line(small_disk, run):
    execute(SMALL, GAUSSIAN, small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert run(*train_words(SMALL, small_disk)[1:], "--vary", "seed=0,1") == (
        2,
        "",
        f"error: out {small_disk}: {small_disk} is not a folder that can be written to; name another "
        f"(Read-only file system)\n",
    )


def test_a_flipped_bit_of_a_checkpoint_is_found_or_does_no_harm(tmp_path):
    execute(SMALL, GAUSSIAN, tmp_path / "whole")
    begun = (stopped_after(2, SMALL, tmp_path / "begun").path / "checkpoint.safetensors").read_bytes()
    messages = []
    for place in [8, *random.Random(0).sample(range(len(begun)), 18), -1]:  # the header's first, and the last
        shutil.rmtree(tmp_path / "flipped", ignore_errors=True)
        shutil.copytree(tmp_path / "begun", tmp_path / "flipped")
        content = bytearray(begun)
        content[place] ^= 1
        (folder_of(tmp_path / "flipped", SMALL).path / "checkpoint.safetensors").write_bytes(content)
        try:
            execute(SMALL, GAUSSIAN, tmp_path / "flipped")
        except RunError as error:
            messages.append(str(error))
        else:
            assert contents(tmp_path / "flipped") == contents(tmp_path / "whole")
    assert len(messages) > 15
    assert all("checkpoint.safetensors is damaged (" in message for message in messages)
