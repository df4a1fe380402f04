"""Engines: what all of them promise, each beside runs alone; then processes, which end with their parent."""

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import torch

from neurocollapse import RunError, WriteError
from neurocollapse.sweeps import ENGINES, Event, Sweep, default_workers
from neurocollapse.sweeps.engines import processes, work
from neurocollapse.sweeps.engines.processes import train_side_by_side
from neurocollapse.sweeps.engines.ray_cluster import RETRIES
from neurocollapse.sweeps.resuming import execute
from neurocollapse.training import RunConfig
from tests.commands import start, wait_for
from tests.folders import GAUSSIAN, folder_of, stopped_after

SMALL = RunConfig(
    dataset="gaussian", network="mlp", depth=3, width=12, learning_rate=0.01, initial_norm=2.0, batch_size=64, epochs=4
)
SWEEP = [*Sweep(SMALL, {"weight_decay": (0.0, 1e-3), "seed": range(2)}), dataclasses.replace(SMALL, learning_rate=0.02)]
ENDLESS = dataclasses.replace(SMALL, epochs=10**6)
WILD = dataclasses.replace(SMALL, learning_rate=1e9)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY")
SAME = ("config.json", "records.jsonl", "checkpoint.safetensors", "model.safetensors", "result.json")


class Engine:
    """An engine by its name, on one thread: beside other tests two would wait for each other."""

    def __init__(self, name):
        self.name, self.train = name, partial(ENGINES[name], threads=1)

    def assert_same(self, mine, theirs):
        """Bit for bit, and to rounding where runs are trained as one program."""
        assert {path.name for path in mine.path.iterdir()} == {path.name for path in theirs.path.iterdir()}
        if self.name != "batched":
            assert {name: (mine.path / name).read_bytes() for name in SAME} == {
                name: (theirs.path / name).read_bytes() for name in SAME
            }
        assert mine.description["config"] == theirs.description["config"]
        for record, other in zip(mine.records(), theirs.records(), strict=True):
            assert record["epoch"] == other["epoch"]
            assert record["train.loss"] == pytest.approx(other["train.loss"], rel=1e-4)
        for name, weight in theirs.weights().items():
            torch.testing.assert_close(mine.weights()[name], weight, rtol=1e-3, atol=1e-5)


def engines(*without):
    return [
        pytest.param(name, marks=pytest.mark.slow if name == "ray" else ()) for name in ENGINES if name not in without
    ]


@pytest.fixture(params=engines())
def engine(request):
    if request.param == "ray":
        request.getfixturevalue("two_cores")
    return Engine(request.param)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folders of `SWEEP`, of which each run was trained by itself."""
    out = tmp_path_factory.mktemp("alone")
    return [execute(config, GAUSSIAN, out) for config in SWEEP]


def told_of(events, index):
    return [(event.kind, event.epoch) for event in events if event.index == index]


def ends_of(events):
    return {event.index: event for event in events if event.kind != "epoch"}


# What all engines promise


def test_folders_are_those_of_runs_alone_and_every_epoch_is_told(tmp_path, engine, alone):
    events = list(engine.train(SWEEP, tmp_path, workers=2))
    for index, theirs in enumerate(alone):
        mine = folder_of(tmp_path, SWEEP[index])
        engine.assert_same(mine, theirs)
        assert told_of(events, index) == [*(("epoch", epoch) for epoch in range(5)), ("done", 4)]
        told = [event.nc1 for event in events if event.index == index and event.nc1 is not None]
        assert told == [record["train.nc1"] for record in mine.records()]
        assert [here["threads"] for here in mine.description["provenance"]] == [1]


def test_runs_that_diverge_or_are_damaged_fail_alone(tmp_path, engine, alone):
    healthy, ended, half, *_ = SWEEP
    execute(ended, GAUSSIAN, tmp_path)
    (folder_of(tmp_path, ended).path / "result.json").write_text("{")
    checkpoint = stopped_after(2, half, tmp_path).path / "checkpoint.safetensors"
    content = bytearray(checkpoint.read_bytes())
    content[-1] ^= 1
    checkpoint.write_bytes(content)
    ends = ends_of(engine.train([WILD, ended, half, healthy], tmp_path, workers=2 if engine.name != "batched" else 4))
    assert [ends[index].kind for index in range(4)] == ["failed", "failed", "failed", "done"]
    assert "the objective became" in ends[0].message
    assert folder_of(tmp_path, WILD).status == "diverged"
    assert "result.json is damaged" in ends[1].message
    assert "checkpoint.safetensors is damaged" in ends[2].message
    assert checkpoint.read_bytes() == content
    engine.assert_same(folder_of(tmp_path, healthy), alone[0])


def test_what_was_begun_is_resumed_and_what_has_ended_is_left(tmp_path, engine, alone):
    stopped_after(2, SWEEP[0], tmp_path)
    ended = execute(SWEEP[1], GAUSSIAN, tmp_path)
    diverged = execute(WILD, GAUSSIAN, tmp_path)
    written = [(run.path / "result.json").stat().st_mtime_ns for run in (ended, diverged)]
    events = list(engine.train([*SWEEP[:2], WILD], tmp_path))
    assert told_of(events, 0) == [("epoch", 3), ("epoch", 4), ("done", 4)]
    assert told_of(events, 1) == [("done", 4)]
    assert [kind for kind, _ in told_of(events, 2)] == ["failed"]
    assert [(run.path / "result.json").stat().st_mtime_ns for run in (ended, diverged)] == written
    engine.assert_same(folder_of(tmp_path, SWEEP[0]), alone[0])


def test_a_run_that_another_process_trains_is_waited_for_or_refused(tmp_path, engine):
    with closing(engine.train([SMALL], tmp_path)) as events:
        with folder_of(tmp_path, SMALL).lock():
            event = next(events)
        if engine.name == "batched":  # whose other runs would wait too
            assert event.kind == "failed"
            assert "another process is training a run of this program" in event.message
        else:
            assert event.kind == "waiting"
            assert [event.kind for event in events] == ["epoch"] * 5 + ["done"]


def test_closing_the_iterator_ends_all_work_and_keeps_what_is_saved(tmp_path, engine):
    configs = list(Sweep(ENDLESS, {"seed": range(4)}))
    with closing(engine.train(configs, tmp_path, workers=2)) as events:
        seen = set()
        for event in events:
            seen.add(event.index)
            if seen == {0, 1} and event.epoch > 2:
                break
    assert not multiprocessing.active_children()
    runs = [folder_of(tmp_path, config) for config in configs]
    assert [run.started for run in runs] == [True, True, False, False]
    for run in runs[:2]:
        with run.lock(lambda: pytest.fail("a worker goes on")):
            assert run.resume_point()


@pytest.mark.slow
def test_a_full_disk_stops_all_runs_which_are_resumed_where_there_is_room(tmp_path, small_disk, engine):
    configs = list(Sweep(dataclasses.replace(SMALL, width=500), {"seed": range(3)}))
    with pytest.raises(RunError, match=rf"^{small_disk}.* cannot be written \(.*No space left on device.*; make room"):
        list(engine.train(configs, small_disk))
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    list(engine.train(configs, small_disk))
    for config in configs:
        engine.assert_same(folder_of(small_disk, config), execute(config, GAUSSIAN, tmp_path / "alone"))


def test_no_workers_are_refused_and_nothing_to_train_is_no_events(tmp_path, engine):
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        next(engine.train([SMALL], tmp_path, workers=0))
    assert list(engine.train([], tmp_path)) == []


KILLED = {
    "processes": "its process was killed by SIGKILL (out of memory?); the same command resumes it",
    "ray": f"its worker died {RETRIES + 1} times (out of memory?); the same command resumes it",
}


@pytest.mark.parametrize("engine", engines("batched"), indirect=True)
def test_a_network_that_raises_or_is_killed_fails_alone(tmp_path, engine, user_module, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = {name: os.environ.get(name) for name in THREADS}
    configs = [dataclasses.replace(SMALL, network=f"{user_module}:{kind}") for kind in ("raises", "killed", "healthy")]
    events = list(engine.train(configs, tmp_path / "out"))
    assert {name: os.environ.get(name) for name in THREADS} == before
    assert not multiprocessing.active_children()
    ends = ends_of(events)
    assert [ends[index].kind for index in range(3)] == ["failed", "failed", "done"]
    assert ends[0].message.startswith(f"NetworkError: {user_module}:raises raised KeyError: 'no such layer\\nat all' (")
    assert f"{user_module}.py, line " in ends[0].message
    assert ends[1].message == KILLED[engine.name]
    assert [epoch for _, epoch in told_of(events, 2)] == [0, 1, 2, 3, 4, 4]


# Processes


def test_workers_fill_the_cores():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert default_workers() == cores
    assert default_workers(threads=10**6) == 1


@pytest.mark.parametrize(
    ("cores", "runs", "workers"),
    [(2, 1, 1), (2, 2, 2), (2, 3, 3), (2, 4, 2), (2, 5, 3), (2, 11, 2), (16, 17, 17), (16, 31, 16), (1, 3, 1)],
)
def test_no_core_is_idle_in_the_last_round(cores, runs, workers, monkeypatch):
    monkeypatch.setattr("neurocollapse.sweeps.engines.work.default_workers", lambda: cores)
    assert work.workers_for(runs) == workers


@pytest.mark.parametrize(
    ("error", "kind"),
    [(RunError("f is damaged"), "failed"), (WriteError(Path("f"), OSError("no room")), "stuck")],
    ids=["folder", "disk"],
)
def test_a_worker_tells_apart_its_folder_and_the_disk(tmp_path, monkeypatch, error, kind):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr(work, "execute", fail)
    end = work.train_and_report(7, SMALL, tmp_path, pytest.fail, data_dir=None, threads=1, device="cpu")
    assert end == Event(7, kind, message=str(error))


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


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("network", ["mlp", pytest.param("networks_of_a_user:waits", marks=pytest.mark.slow)])
def test_workers_end_when_their_parent_is_killed(tmp_path, user_module, network):
    config = dataclasses.replace(ENDLESS, network=network)
    (tmp_path / "parent.py").write_text(textwrap.dedent(ORPHANS))
    parent = start([sys.executable, "parent.py", json.dumps(dataclasses.asdict(config)), "out"], cwd=tmp_path)
    with parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2
        parent.send_signal(signal.SIGKILL)
        try:  # less than an epoch of the slow network takes
            wait_for(lambda: all(ended(pid) for pid in workers), 10)
        finally:
            for pid in workers:
                if not ended(pid):
                    os.kill(pid, signal.SIGKILL)
        assert "Traceback" not in parent.stderr.read()


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
