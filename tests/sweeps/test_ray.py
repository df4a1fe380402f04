"""The engine of Ray, on a real one: retried runs that resume, quiet ends. What all engines promise: test_engines.py."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from neurocollapse.datasets import load_dataset
from neurocollapse.sweeps import ENGINES, RunFolder, Sweep, run_id
from neurocollapse.sweeps.engines.processes import train_side_by_side
from neurocollapse.sweeps.engines.ray_cluster import train_on_ray
from neurocollapse.sweeps.writing import RunWriter
from neurocollapse.training import RunConfig
from tests.commands import start, train_words, wait_for

slow = pytest.mark.slow
GAUSSIAN = load_dataset("gaussian")
SMALL = RunConfig(dataset="gaussian", network="mlp", depth=2, width=8, learning_rate=0.01, epochs=3)
ON_RAY = ["--engine", "ray"]
RAY = str(Path(sys.executable).with_name("ray"))
SAME = ("config.json", "records.jsonl", "checkpoint.safetensors", "model.safetensors", "result.json")


def contents(out):
    return {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.name in SAME}


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
def test_what_fits_on_no_machine_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a run needs 99 CPU\(s\), and no machine of the Ray cluster has as many"):
        next(train_on_ray([SMALL], tmp_path, threads=99))


# The command


@slow
def test_the_command_trains_quietly(tmp_path):
    out = tmp_path / "out"
    process = start(train_words(SMALL, out, *ON_RAY, "--vary", "seed=0,1", "--json"))
    printed, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert [row["status"] for row in json.loads(printed)] == ["finished", "finished"]
    assert "2 run(s), " in said
    assert all(line.startswith(("2 run(s), ", "λ=0.0005 seed ", "all runs ")) for line in said.splitlines()), said
    assert contents(out)


ENDS = {
    "Ctrl-C": (130, lambda process: os.killpg(process.pid, signal.SIGINT)),
    "SIGTERM": (143, lambda process: process.send_signal(signal.SIGTERM)),
    "SIGKILL": (-signal.SIGKILL, lambda process: process.kill()),
}


@slow
@pytest.mark.parametrize(("status", "stop"), ENDS.values(), ids=ENDS)
def test_when_the_command_ends_so_do_its_workers(tmp_path, status, stop):
    config = dataclasses.replace(SMALL, epochs=100_000)
    process = start(train_words(config, tmp_path, *ON_RAY))
    run = RunWriter(tmp_path / run_id(config, GAUSSIAN))
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


MISSING = {
    "no cluster": (["--address", "auto"],
        "error: address auto is that of a Ray cluster, and the engine is processes; choose the engine ray\n"),
    "no engine": (["--engine", "threads"], f"error: there is no engine 'threads'; choose from {', '.join(ENGINES)}\n"),
    "no Ray": (["--engine", "ray"],
        "error: engine ray needs Ray, which is not installed: pip install 'neurocollapse[ray]'\n"),
}  # fmt: skip


@pytest.mark.parametrize("command", ["train", "reproduce"])
@pytest.mark.parametrize(("options", "message"), MISSING.values(), ids=MISSING)
@pytest.mark.usefixtures("no_estimates")
def test_an_engine_that_is_not_there_is_one_line(tmp_path, run, monkeypatch, command, options, message):
    monkeypatch.setattr("neurocollapse.sweeps.engines.ray_cluster.find_spec", lambda _: None)
    words = [command, *options, "--dataset", "gaussian", "--network", "mlp", "--out", tmp_path / "out"]
    assert run(*words) == (2, "", message)
    assert not (tmp_path / "out").exists()


GIVE_ANOTHER = "give HOST:PORT of one that `ray start --head` started, or auto on one of its machines"
#: The address; what Ray finds in its own files and in the environment; what is said.
SILENT = {
    "no port": ("127.0.0.1:1", None, None, GIVE_ANOTHER),
    "no such port": ("127.0.0.1:99999999", None, None, GIVE_ANOTHER),
    "no host": ("nowhere", None, None, GIVE_ANOTHER),
    "a client's": ("ray://127.0.0.1:1", None, None, GIVE_ANOTHER),
    "gone, in the environment": ("auto", None, "127.0.0.1:1", "no Ray cluster answers there ([Errno 111]"),
    "gone, in Ray's own file": ("auto", "127.0.0.1:1", None, "no Ray cluster answers there ([Errno 111]"),
    "none": ("auto", None, None, "no Ray cluster answers there (Could not find any running Ray"),
}


@pytest.mark.parametrize(("address", "in_file", "in_environment", "message"), SILENT.values(), ids=SILENT)
@pytest.mark.usefixtures("no_estimates")
def test_a_cluster_that_does_not_answer_is_one_line(
    tmp_path, run, monkeypatch, address, in_file, in_environment, message
):
    monkeypatch.setattr("neurocollapse.sweeps.engines.ray_cluster.find_spec", lambda _: True)
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)
    monkeypatch.setattr("ray._private.services.find_bootstrap_address", lambda _: in_file)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if in_environment:
        monkeypatch.setenv("RAY_ADDRESS", in_environment)
    status, _, said = run("train", "--engine", "ray", "--address", address, "--out", tmp_path / "out")
    assert (status, said.count("\n")) == (2, 1)
    assert said.startswith(f"error: address {address}: no Ray cluster answers there (")
    assert message in said


CAUSES = {
    "The current node timed out during startup.\nThis could": "Ray did not start: its processes did not answer",
    "AF_UNIX path length cannot exceed 107 bytes: '/tmp/...": "Ray did not start: the name of the folder for temporary",
    "no raylet\nhere": "Ray did not start: no raylet here; try again when the machine is less busy",
}


@pytest.mark.parametrize(("text", "message"), CAUSES.items(), ids=range(len(CAUSES)))
def test_a_ray_that_does_not_start_is_one_line(tmp_path, monkeypatch, text, message):
    def init(**_):
        raise Exception(text)

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(ValueError, match=f"^{message}.*$"):
        next(train_on_ray([SMALL], tmp_path))


def test_a_sigterm_while_ray_starts_goes_to_the_handler_that_was_there(tmp_path, monkeypatch):
    """Ray's own handler, which it sets before it has started, would end the process with status 15."""
    received = []

    def init(**_):
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("ray.init", init)
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        with pytest.raises(SystemExit):
            list(train_on_ray([SMALL], tmp_path))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]


# A cluster


def begin_node(*options):
    """A machine of a cluster, as `ray start` makes it: here several on one."""
    command = [RAY, "start", "--block", "--num-cpus", "1", *options]
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
        health = [RAY, "health-check", "--address", f"127.0.0.1:{port}"]
        wait_for(lambda: subprocess.run(health, capture_output=True).returncode == 0)
        nodes.append(begin_node("--address", f"127.0.0.1:{port}"))
        base = dataclasses.replace(SMALL, network=f"{user_module}:slow", epochs=400)
        configs = list(Sweep(base, {"seed": range(2)}))
        address = ["--address", f"127.0.0.1:{port}"]
        process = start(train_words(base, Path("killed"), *ON_RAY, *address, "--vary", "seed=0,1"))
        runs = [RunFolder(tmp_path / "killed" / run_id(config, GAUSSIAN)) for config in configs]
        wait_for(lambda: all((run.path / "checkpoint.safetensors").exists() for run in runs))  # one on each machine
        end_node(nodes.pop())
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said
    finally:
        for node in nodes:
            end_node(node)
    assert "as many as the cluster has room for at a time" in said
    list(train_side_by_side(configs, tmp_path / "whole", workers=2))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
