"""The engine of Ray, on a real one of two cores: the same records, retried runs that resume, quiet ends."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest

from neurocollapse import cli
from neurocollapse.datasets import load_dataset
from neurocollapse.sweeps import ENGINES, RunFolder, Sweep, run_id
from neurocollapse.sweeps.engines import ray_cluster
from neurocollapse.sweeps.engines.processes import train_side_by_side
from neurocollapse.sweeps.engines.ray_cluster import RETRIES, train_on_ray
from neurocollapse.sweeps.writing import RunWriter
from neurocollapse.training import RunConfig

slow = pytest.mark.slow
GAUSSIAN = load_dataset("gaussian")
SMALL = RunConfig(dataset="gaussian", network="mlp", depth=2, width=8, learning_rate=0.01, epochs=3)
TYPED = ["--dataset", "gaussian", "--network", "mlp", "--depth", "2", "--width", "8", "--learning-rate", "0.01"]
COMMAND = str(Path(sys.executable).with_name("neurocollapse"))
SAME = ("config.json", "records.jsonl", "checkpoint.safetensors", "model.safetensors", "result.json")

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
            raise KeyError("no such layer")
        return build(shape, classes, forward)

    def killed(shape, classes):
        return build(shape, classes, lambda: os.kill(os.getpid(), signal.SIGKILL))

    def slow(shape, classes):
        with open("workers", "a") as file:
            print(os.getpid(), file=file)
        return build(shape, classes, lambda: time.sleep(0.001))
"""


@pytest.fixture(scope="module")
def two_cores():
    """Ray in this process, which the engine then uses: to start it takes seconds."""
    if find_spec("ray") is None:
        pytest.skip("needs Ray")
    ray = ray_cluster._ray()
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "networks_on_ray.py").write_text(textwrap.dedent(NETWORKS))
    monkeypatch.chdir(tmp_path)
    return "networks_on_ray"


def contents(out):
    return {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.name in SAME}


@slow
@pytest.mark.usefixtures("two_cores")
def test_the_records_are_those_of_processes_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    configs = list(Sweep(SMALL, {"weight_decay": (0.0, 1e-3), "seed": range(2)}))
    told = {}
    for engine in (train_side_by_side, train_on_ray):
        told[engine] = list(engine(configs, Path(engine.__name__), workers=2))
    by_ray, by_processes = (contents(tmp_path / engine.__name__) for engine in (train_on_ray, train_side_by_side))
    assert len(by_ray) == 4 * len(SAME)
    assert by_ray == by_processes

    for index in range(4):  # in whichever order the runs were trained
        mine, theirs = ([repr(e) for e in told[engine] if e.index == index] for engine in told)
        assert mine == theirs
        assert len(mine) == 5


@slow
@pytest.mark.usefixtures("two_cores")
def test_a_killed_worker_is_replaced_and_its_run_goes_on_from_the_checkpoint(tmp_path, user_module, capfd):
    base = dataclasses.replace(SMALL, network=f"{user_module}:slow", epochs=300)
    configs = list(Sweep(base, {"seed": range(2)}))
    epochs = []
    for event in train_on_ray(configs, tmp_path / "killed", workers=1):
        if event.index == 0 and event.kind == "epoch":
            epochs.append(event.epoch)
            if epochs.count(100) == 1 and event.epoch == 100:
                os.kill(int(Path("workers").read_text().split()[-1]), signal.SIGKILL)
        last = event
    assert (last.index, last.kind) == (1, "done")
    assert epochs.count(0) == 1
    assert epochs[-1] == 300
    assert len(set(Path("workers").read_text().split())) == 3  # two runs, one of them twice
    assert capfd.readouterr() == ("", "")

    list(train_side_by_side(configs, tmp_path / "whole", workers=2))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@slow
@pytest.mark.usefixtures("two_cores")
def test_runs_fail_alone_and_say_how(tmp_path, user_module):
    kinds = ["raises", "killed", "healthy"]
    configs = [dataclasses.replace(SMALL, network=f"{user_module}:{kind}") for kind in kinds]
    events = list(train_on_ray(configs, tmp_path / "out"))
    ends = {event.index: event for event in events if event.kind != "epoch"}
    assert [ends[index].kind for index in range(3)] == ["failed", "failed", "done"]
    assert ends[0].message.startswith(f"NetworkError: {user_module}:raises raised KeyError: 'no such layer' (")
    assert ends[1].message == (f"its worker died {RETRIES + 1} times (out of memory?); the same command resumes it")
    assert [event.epoch for event in events if event.index == 2] == [0, 1, 2, 3, 3]


@slow
@pytest.mark.usefixtures("two_cores")
def test_closing_the_iterator_cancels_the_tasks_and_keeps_what_is_saved(tmp_path):
    configs = list(Sweep(dataclasses.replace(SMALL, epochs=10**6), {"seed": range(4)}))
    with closing(train_on_ray(configs, tmp_path, workers=2)) as events:
        seen = set()
        for event in events:
            seen.add(event.index)
            if seen == {0, 1} and event.epoch > 2:
                break
    begun = [RunWriter(tmp_path / run_id(config, GAUSSIAN)) for config in configs]
    assert [folder.started for folder in begun] == [True, True, False, False]
    for folder in begun[:2]:
        with folder.lock(lambda: pytest.fail("a worker goes on")):
            assert folder.resume_point()


@slow
@pytest.mark.usefixtures("two_cores")
def test_what_fits_on_no_machine_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a run needs 99 CPU\(s\), and no machine of the Ray cluster has as many"):
        next(train_on_ray([SMALL], tmp_path, threads=99))
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        next(train_on_ray([SMALL], tmp_path, workers=0))


# The command


def start(out, *options):
    return subprocess.Popen(
        [COMMAND, "train", "--engine", "ray", *TYPED, "--out", str(out), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
        # A shell that runs the tests in the background has its children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@slow
def test_the_command_trains_quietly(tmp_path):
    out = tmp_path / "out"
    process = start(out, "--epochs", "3", "--vary", "seed=0,1", "--json")
    printed, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert [row["status"] for row in json.loads(printed)] == ["finished", "finished"]
    assert "2 run(s), " in said
    assert all(line.startswith(("2 run(s), ", "λ=0.0005 seed ", "all runs ")) for line in said.splitlines()), said
    assert contents(out)


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


ENDS = {
    "Ctrl-C": (130, lambda process: os.killpg(process.pid, signal.SIGINT)),
    "SIGTERM": (143, lambda process: process.send_signal(signal.SIGTERM)),
    "SIGKILL": (-signal.SIGKILL, lambda process: process.kill()),
}


@slow
@pytest.mark.parametrize(("status", "stop"), ENDS.values(), ids=ENDS)
def test_when_the_command_ends_so_do_its_workers(tmp_path, status, stop):
    process = start(tmp_path, "--epochs", "100000")
    run = RunWriter(tmp_path / run_id(dataclasses.replace(SMALL, epochs=100_000), GAUSSIAN))
    wait_for((run.path / "checkpoint.safetensors").exists)
    stop(process)
    _, said = process.communicate(timeout=60)
    assert process.returncode == status
    if status > 0:
        assert "stopped; what was saved stays, and the same command resumes it" in said
    assert "Traceback" not in said

    def nobody_works():
        waited = []
        with run.lock(lambda: waited.append(True)):
            return not waited

    wait_for(nobody_works, 20)
    assert run.damage is None
    assert run.status == "unfinished"


@pytest.fixture
def run(capsys, monkeypatch):
    """The command in this process, where nothing may be trained: its exit status and what it said."""
    monkeypatch.setattr("neurocollapse.sweeps.checks.estimate_seconds", lambda *_: pytest.fail("it goes on"))

    def run(*args):
        with pytest.raises(SystemExit) as caught:
            cli.main([*args])
        return caught.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize("command", ["train", "reproduce"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--address", "auto"],
            "error: address auto is that of a Ray cluster, and the engine is processes; choose the engine ray\n",
        ),
        (["--engine", "threads"], f"error: there is no engine 'threads'; choose from {', '.join(ENGINES)}\n"),
        (
            ["--engine", "ray"],
            "error: engine ray needs Ray, which is not installed: pip install 'neurocollapse[ray]'\n",
        ),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_an_engine_that_is_not_there_is_one_line(tmp_path, run, monkeypatch, command, options, message):
    monkeypatch.setattr("neurocollapse.sweeps.engines.ray_cluster.find_spec", lambda _: None)
    out = tmp_path / "out"
    assert run(command, *options, "--dataset", "gaussian", "--network", "mlp", "--out", str(out)) == (2, message)
    assert not out.exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999999", "nowhere", "ray://127.0.0.1:1"])
def test_a_cluster_that_does_not_answer_is_one_line(tmp_path, run, monkeypatch, address):
    monkeypatch.setattr("neurocollapse.sweeps.engines.ray_cluster.find_spec", lambda _: True)
    status, said = run("train", "--engine", "ray", "--address", address, "--out", str(tmp_path / "out"))
    assert (status, said.count("\n")) == (2, 1)
    assert said.startswith(f"error: address {address}: no Ray cluster answers there (")
    assert "give HOST:PORT of one that `ray start --head` started, or auto on one of its machines" in said


@pytest.mark.parametrize("recorded", ["in the environment", "in Ray's own file"])
def test_where_the_cluster_that_auto_finds_is_gone_is_one_line(tmp_path, run, monkeypatch, recorded):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if recorded == "in the environment":
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    else:
        monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)
        monkeypatch.setattr("ray._private.services.find_bootstrap_address", lambda _: "127.0.0.1:1")
    status, said = run("train", "--engine", "ray", "--address", "auto", "--out", str(tmp_path / "out"))
    assert (status, said.count("\n")) == (2, 1)
    assert said.startswith("error: address auto: no Ray cluster answers there ([Errno 111]")


def test_where_auto_finds_none_is_one_line(tmp_path, run, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)
    monkeypatch.setattr("ray._private.services.find_bootstrap_address", lambda _: None)
    status, said = run("train", "--engine", "ray", "--address", "auto", "--out", str(tmp_path / "out"))
    assert (status, said.count("\n")) == (2, 1)
    assert said.startswith("error: address auto: no Ray cluster answers there (Could not find any running Ray")


# A cluster


def begin_node(*options):
    """A machine of a cluster, as `ray start` makes it: here several on one."""
    command = [str(Path(COMMAND).with_name("ray")), "start", "--block", "--num-cpus", "1", *options]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, env=environment
    )


def descendants(process):
    """That process and all that it started, by what /proc knows of parents."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [process.pid]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def end_node(process):
    for pid in descendants(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


@slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
def test_on_a_cluster_a_run_outlives_its_machine(tmp_path, user_module, monkeypatch):
    if find_spec("ray") is None:
        pytest.skip("needs Ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    head = begin_node("--head", "--node-ip-address", "127.0.0.1", "--port", str(port), "--include-dashboard", "false")
    nodes = [head]
    try:
        wait_for(
            lambda: (
                subprocess.run(
                    [str(Path(COMMAND).with_name("ray")), "health-check", "--address", f"127.0.0.1:{port}"],
                    capture_output=True,
                ).returncode
                == 0
            )
        )
        nodes.append(begin_node("--address", f"127.0.0.1:{port}"))
        config = dataclasses.replace(SMALL, network=f"{user_module}:slow", epochs=400)
        process = start(
            Path("killed"),
            "--network",
            config.network,
            "--epochs",
            "400",
            "--vary",
            "seed=0,1",
            "--address",
            f"127.0.0.1:{port}",
        )
        runs = [
            RunFolder(tmp_path / "killed" / run_id(dataclasses.replace(config, seed=seed), GAUSSIAN)) for seed in (0, 1)
        ]
        wait_for(lambda: all((run.path / "checkpoint.safetensors").exists() for run in runs))  # one on each machine
        end_node(nodes.pop())
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said
    finally:
        for node in nodes:
            end_node(node)
    assert "as many as the cluster has room for at a time" in said
    list(train_side_by_side([dataclasses.replace(config, seed=seed) for seed in (0, 1)], tmp_path / "whole", workers=2))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
