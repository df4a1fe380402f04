"""Engines: real processes, and real tasks of Ray, that train runs, fail alone and end with their parent."""

import dataclasses
import inspect
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from neurocollapse import RunError, WriteError
from neurocollapse.datasets import load_dataset
from neurocollapse.sweeps import Event, RunFolder, Sweep, default_workers, run_id
from neurocollapse.sweeps.engines import processes, work
from neurocollapse.sweeps.engines.processes import train_side_by_side
from neurocollapse.sweeps.resuming import execute
from neurocollapse.sweeps.writing import RunWriter
from neurocollapse.training import RunConfig

GAUSSIAN = load_dataset("gaussian")
SMALL = RunConfig(
    dataset="gaussian", network="mlp", depth=3, width=12, optimizer="adam", learning_rate=2e-3, batch_size=64, epochs=4
)
ENDLESS = dataclasses.replace(SMALL, epochs=10**6)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY")


def test_workers_fill_the_cores():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert default_workers() == cores
    assert default_workers(threads=10**6) == 1


def test_no_workers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        next(train_side_by_side([SMALL], tmp_path, workers=0))


def test_nothing_to_train_is_no_events(tmp_path):
    assert list(train_side_by_side([], tmp_path)) == []


# Processes

NETWORKS = """
    import os, signal, time
    from torch import nn

    def build(shape, classes, forward=None):
        network = nn.Sequential(nn.Linear(*shape, 8, bias=False), nn.ReLU(), nn.Linear(8, classes, bias=False))
        if forward:
            network[1].register_forward_hook(lambda *_: forward())
        return network

    def healthy(shape, classes):
        return build(shape, classes)

    def raises(shape, classes):
        def forward():
            raise KeyError("no such layer\\nat all")
        return build(shape, classes, forward)

    def slow(shape, classes):
        network = build(shape, classes)
        def wait(module, inputs):
            if module.training and len(inputs[0]) == 64:
                time.sleep(100)
        network[0].register_forward_pre_hook(wait)
        return network

    def killed(shape, classes):
        return build(shape, classes, lambda: os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "networks_of_a_user.py").write_text(textwrap.dedent(NETWORKS))
    monkeypatch.chdir(tmp_path)
    return "networks_of_a_user"


def test_runs_fail_alone_and_say_how(tmp_path, user_module, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = {name: os.environ.get(name) for name in THREADS}
    kinds = ["raises", "killed", "healthy"]
    diverging = dataclasses.replace(SMALL, optimizer="sgd", learning_rate=1e9)
    configs = [dataclasses.replace(SMALL, network=f"{user_module}:{kind}") for kind in kinds] + [diverging]
    events = list(train_side_by_side(configs, tmp_path / "out", workers=3))
    assert {name: os.environ.get(name) for name in THREADS} == before
    assert not multiprocessing.active_children()

    ends = {event.index: event for event in events if event.kind != "epoch"}
    assert [ends[index].kind for index in range(4)] == ["failed", "failed", "done", "failed"]
    assert ends[0].message.startswith(f"NetworkError: {user_module}:raises raised KeyError: 'no such layer\\nat all' (")
    assert f"{user_module}.py, line " in ends[0].message
    assert ends[1].message == "its process was killed by SIGKILL (out of memory?); the same command resumes it"
    assert "the objective became" in ends[3].message
    assert [event.epoch for event in events if event.index == 2] == [0, 1, 2, 3, 4, 4]

    healthy = RunFolder(tmp_path / "out" / run_id(configs[2], GAUSSIAN))
    told = [event for event in events if event.index == 2 and event.nc1 is not None]
    assert [event.nc1 for event in told] == [record["train.nc1"] for record in healthy.records()]
    (here,) = healthy.description["provenance"]
    assert here["threads"] == 1
    alone = execute(configs[2], GAUSSIAN, tmp_path / "alone")  # side by side or alone, the same bits
    assert (alone.path / "records.jsonl").read_bytes() == (healthy.path / "records.jsonl").read_bytes()
    assert (alone.path / "model.safetensors").read_bytes() == (healthy.path / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("error", "kind"),
    [(RunError("f is damaged"), "failed"), (WriteError(Path("f"), OSError("no room")), "stuck")],
    ids=["folder", "disk"],
)
def test_a_worker_tells_apart_its_folder_and_the_disk(tmp_path, monkeypatch, error, kind):
    def fail(*_args, **_options):
        raise error

    told: list[Event] = []
    monkeypatch.setattr(work, "execute", fail)
    monkeypatch.setattr(processes, "_end_with_parent", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    sender = SimpleNamespace(send=told.append)
    inspect.unwrap(processes._work)(sender, 7, SMALL, tmp_path, None, 1, "cpu")
    assert told == [Event(7, kind, message=str(error))]


def test_a_process_that_ends_without_a_word_is_a_failure():
    process = multiprocessing.get_context("spawn").Process(target=sys.exit, args=(3,))
    process.start()
    event = processes._silent_end(7, process)
    assert (event.index, event.kind) == (7, "failed")
    assert event.message == "its process ended with status 3 (out of memory?); the same command resumes it"


def ended(pid):
    """Whether no such process runs; one that has ended but whose parent never asked counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")


@linux
def test_closing_the_iterator_ends_the_processes_and_keeps_what_is_saved(tmp_path):
    configs = list(Sweep(ENDLESS, {"seed": range(4)}))
    with closing(train_side_by_side(configs, tmp_path, workers=2)) as events:
        seen = set()
        for event in events:
            seen.add(event.index)
            if seen == {0, 1} and event.epoch > 2:
                break
        children = [child.pid for child in multiprocessing.active_children()]
        assert len(children) == 2
        assert not any(ended(pid) for pid in children)
    assert all(ended(pid) for pid in children)
    assert not multiprocessing.active_children()
    begun = [RunWriter(tmp_path / run_id(config, GAUSSIAN)) for config in configs]
    assert [folder.started for folder in begun] == [True, True, False, False]
    assert all(folder.resume_point() for folder in begun[:2])


ORPHANS = """
    import json, multiprocessing, os, sys
    from pathlib import Path
    from neurocollapse.sweeps.engines.processes import train_side_by_side
    from neurocollapse.sweeps import Sweep
    from neurocollapse.training import RunConfig

    if __name__ == "__main__":
        base = RunConfig(**json.loads(sys.argv[1]))
        seen = set()
        for event in train_side_by_side(list(Sweep(base, {"seed": range(2)})), Path(sys.argv[2]), workers=2):
            seen.add(event.index)
            if seen == {0, 1}:
                print(*(child.pid for child in multiprocessing.active_children()), flush=True)
                seen.clear()
"""


@linux
@pytest.mark.parametrize("network", ["mlp", pytest.param("networks_of_a_user:slow", marks=pytest.mark.slow)])
def test_workers_end_when_their_parent_is_killed(tmp_path, user_module, network):
    config = dataclasses.replace(ENDLESS, network=network)
    (tmp_path / "parent.py").write_text(textwrap.dedent(ORPHANS))
    command = [sys.executable, "parent.py", json.dumps(dataclasses.asdict(config)), "out"]
    parent = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    with parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2
        parent.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 10  # less than an epoch of the slow network takes
        while not all(ended(pid) for pid in workers) and time.monotonic() < deadline:
            time.sleep(0.05)
        left = [pid for pid in workers if not ended(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        errors = parent.stderr.read()
    assert not left
    assert "Traceback" not in errors


def test_the_environment_is_restored_when_a_process_cannot_be_started(tmp_path, monkeypatch):
    def refuse(self):
        assert [os.environ[name] for name in THREADS] == ["3", "3", "PASSIVE"]
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        raise OSError("no more processes")

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    before = dict(os.environ)
    with pytest.raises(OSError, match="no more processes"):
        next(train_side_by_side([SMALL], tmp_path, threads=3))
    assert dict(os.environ) == before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
