"""TensorBoard: its own reader finds in the event files what records.jsonl has, each once, whatever happened between."""

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from neurocollapse import RunError, WriteError
from neurocollapse._files import to_json
from neurocollapse.sweeps import RunFolder
from neurocollapse.sweeps.resuming import execute
from neurocollapse.sweeps.tensorboard import Tracker
from neurocollapse.training import RunConfig
from tests.commands import start, train_words, wait_for
from tests.folders import GAUSSIAN, Killed, folder_of

SMALL = RunConfig(dataset="gaussian", network="mlp", depth=3, width=8, learning_rate=0.01, epochs=6)
TYPED = ["--dataset", "gaussian", "--network", "mlp", "--depth", "3", "--width", "8", "--learning-rate", "0.01"]


def read(logdir: Path, name: str) -> EventAccumulator:
    events = EventAccumulator(str(logdir / name), size_guidance={"scalars": 0})
    events.Reload()
    return events


def points(logdir: Path, name: str) -> dict[str, list[tuple[int, float]]]:
    """Each scalar's steps and values."""
    events = read(logdir, name)
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def recorded(folder: RunFolder) -> dict[str, list[tuple[int, float]]]:
    """What there must be of them, from the lines of the file."""
    expected: dict[str, list[tuple[int, float]]] = {}
    for line in (folder.path / "records.jsonl").read_text().splitlines():
        record = json.loads(line)
        epoch = record.pop("epoch")
        for key, value in record.items():
            if value is None or key.endswith(("class_counts", "classifier_sum")):
                continue
            layers = value if isinstance(value, list) else [value]
            for layer, number in enumerate(layers):
                tag = f"{key}/{layer}" if isinstance(value, list) else key
                with np.errstate(over="ignore"):
                    expected.setdefault(tag, []).append((epoch, float(np.float32(number))))
    return expected


def assert_tracked(logdir: Path, *folders: RunFolder) -> None:
    """Of each of these runs there is what was recorded, once, and of no other run anything."""
    assert {path.name for path in logdir.iterdir()} == {folder.path.name for folder in folders}
    for folder in folders:
        expected, found = recorded(folder), points(logdir, folder.path.name)
        assert expected
        assert found.keys() == expected.keys()
        for tag, values in expected.items():
            assert [step for step, _ in found[tag]] == [epoch for epoch, _ in values], tag
            np.testing.assert_array_equal([value for _, value in found[tag]], [value for _, value in values], tag)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return execute(SMALL, GAUSSIAN, tmp_path_factory.mktemp("trained"))


@pytest.fixture
def folder(trained, tmp_path):
    """A run of one's own."""
    return RunFolder(shutil.copytree(trained.path, tmp_path / "out" / trained.path.name))


def event_files(logdir: Path, folder: RunFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((logdir / folder.path.name).iterdir())}


# The event files


def test_a_run_that_has_ended_is_written_whole_and_only_once(folder, tmp_path):
    Tracker(tmp_path / "logs")(folder)
    assert_tracked(tmp_path / "logs", folder)
    found = points(tmp_path / "logs", folder.path.name)
    assert {"train.nc1", "test.nc3", "gradient_norm", "train.weight_norms/0", "train.weight_norms/2"} <= found.keys()
    assert not {"train.weight_norms/3", "epoch"} & found.keys()
    before = event_files(tmp_path / "logs", folder)
    Tracker(tmp_path / "logs")(folder)
    assert event_files(tmp_path / "logs", folder) == before


def test_records_that_are_made_anew_replace_the_old_with_nan_and_infinity_too(folder, tmp_path):
    Tracker(tmp_path / "logs")(folder)
    lines = folder.records()
    lines[1] |= {"train.nc1": math.nan, "train.nc3": math.inf, "test.nc1": -math.inf, "test.nc3": 1e300}
    (folder.path / "records.jsonl").write_text("".join(to_json(line) + "\n" for line in lines))
    Tracker(tmp_path / "logs")(folder)
    found = points(tmp_path / "logs", folder.path.name)
    assert math.isnan(found["train.nc1"][1][1])
    assert [found[key][1][1] for key in ("train.nc3", "test.nc1", "test.nc3")] == [math.inf, -math.inf, math.inf]
    before = event_files(tmp_path / "logs", folder)
    Tracker(tmp_path / "logs")(folder)
    assert event_files(tmp_path / "logs", folder) == before
    assert_tracked(tmp_path / "logs", folder)


def test_a_run_is_tracked_as_it_trains(tmp_path):
    logs, folder = tmp_path / "logs", folder_of(tmp_path, SMALL)
    track = Tracker(logs)

    def tracked(state):
        track(folder)
        assert_tracked(logs, folder)

    execute(SMALL, GAUSSIAN, tmp_path, on_state=tracked)
    assert len(event_files(logs, folder)) <= 3
    times = [event.wall_time for event in read(logs, folder.path.name).Scalars("train.nc1")]
    seconds = np.cumsum([line["train"] + line["measure"] for line in folder.timings()])
    np.testing.assert_allclose(np.diff(times), np.diff(seconds), atol=1e-5)
    assert abs(times[0] - time.time()) < 60


def test_a_torn_file_is_made_up_for_wherever_it_was_torn(folder, tmp_path):
    Tracker(tmp_path / "logs")(folder)
    written = event_files(tmp_path / "logs", folder)
    name, whole = max(written.items(), key=lambda item: len(item[1]))
    for cut in (0, 11, 200, len(whole) // 2, len(whole) - 1):
        for rest in (b"", bytes(len(whole) - cut)):
            for path in (tmp_path / "logs" / folder.path.name).iterdir():
                path.unlink() if path.name not in written else path.write_bytes(written[path.name])
            (tmp_path / "logs" / folder.path.name / name).write_bytes(whole[:cut] + rest)
            Tracker(tmp_path / "logs")(folder)
            assert_tracked(tmp_path / "logs", folder)


def stop_at(epoch, folder, logs):
    track = Tracker(logs)

    def on_state(state):
        track(folder)
        if state.epoch == epoch:
            raise Killed

    return on_state


def test_records_that_are_cut_and_made_again_are_there_once(tmp_path):
    logs, folder = tmp_path / "logs", folder_of(tmp_path, SMALL)
    saved = tmp_path / "saved"
    with pytest.raises(Killed):
        execute(SMALL, GAUSSIAN, tmp_path, on_state=stop_at(2, folder, logs))
    shutil.copy(folder.path / "checkpoint.safetensors", saved)
    with pytest.raises(Killed):
        execute(SMALL, GAUSSIAN, tmp_path, on_state=stop_at(4, folder, logs))
    shutil.copy(saved, folder.path / "checkpoint.safetensors")  # as if it was killed before the next was written
    assert [step for step, _ in points(logs, folder.path.name)["train.nc1"]] == [0, 1, 2, 3, 4]

    steps, track = [], Tracker(logs)

    def look(state):
        track(folder)
        steps.append([step for step, _ in points(logs, folder.path.name)["train.nc1"]])

    execute(SMALL, GAUSSIAN, tmp_path, on_state=look)
    assert steps[0] == [0, 1, 2, 3]
    assert steps[-1] == [0, 1, 2, 3, 4, 6]
    Tracker(logs)(folder)
    assert_tracked(logs, folder)


@pytest.mark.parametrize("status", ["finished", "diverged"])
def test_the_hyperparameters_and_the_end_are_in_the_table_of_tensorboard(folder, tmp_path, status):
    def session(tag):
        return read(tmp_path / "logs", folder.path.name).SummaryMetadata(tag).plugin_data.content

    (folder.path / "result.json").rename(tmp_path / "result.json")
    (folder.path / "checkpoint.safetensors").unlink()
    Tracker(tmp_path / "logs")(folder)
    with pytest.raises(KeyError):
        session(metadata.SESSION_START_INFO_TAG)
    (folder.path / "result.json").write_text(to_json({"status": status, "epoch": 6}))
    Tracker(tmp_path / "logs")(folder)
    start = metadata.parse_session_start_info_plugin_data(session(metadata.SESSION_START_INFO_TAG))
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    config = {name: value for name, value in dataclasses.asdict(SMALL).items() if value is not None}
    assert values == {**config, "status": status}


def test_what_is_no_run_or_a_damaged_one_writes_nothing(folder, tmp_path):
    Tracker(tmp_path / "logs")(RunFolder(tmp_path / "nothing"))
    (folder.path / "records.jsonl").write_text("{")
    with pytest.raises(RunError, match=r"records\.jsonl is damaged"):
        Tracker(tmp_path / "logs")(folder)
    assert not (tmp_path / "logs").exists()


def test_a_file_that_cannot_be_written_is_named(folder, tmp_path):
    (tmp_path / "logs").write_text("")
    with pytest.raises(WriteError, match=r"cannot be written .*; name a folder that can be written to"):
        Tracker(tmp_path / "logs")(folder)


# The command


def the_runs(out: Path) -> list[RunFolder]:
    return [RunFolder(path.parent) for path in sorted(out.glob("*/config.json"))]


@pytest.mark.parametrize(
    "engine", ["batched", *(pytest.param(name, marks=pytest.mark.slow) for name in ("processes", "ray"))]
)
def test_every_engine_is_tracked(tmp_path, request, run, engine):
    out, logs = tmp_path / "out", tmp_path / "logs"
    if engine == "ray":
        request.getfixturevalue("two_cores")
    arguments = ["train", *TYPED, "--epochs", "3", "--vary", "seed=0,1", "--engine", engine]
    status, _, said = run(*arguments, "--out", out, "--tensorboard", logs)
    assert status == 0, said
    assert len(the_runs(out)) == 2
    assert_tracked(logs, *the_runs(out))


def test_runs_of_earlier_commands_are_told_and_a_damaged_one_stops_nothing(tmp_path, run):
    out, logs = tmp_path / "out", tmp_path / "logs"
    arguments = ["train", *TYPED, "--epochs", "3", "--vary", "seed=0,1,2", "--engine", "batched", "--out", out]
    assert run(*arguments)[0] == 0
    whole, ended, damaged = the_runs(out)
    (damaged.path / "records.jsonl").write_text("{")
    for name in ("result.json", "checkpoint.safetensors", "records.jsonl"):
        (whole.path / name).unlink()  # so that it is trained again
    status, _, said = run(*arguments, "--tensorboard", logs)
    assert status == 1
    assert "damaged: λ=0.0005 seed 2: " in said
    assert "not in TensorBoard" not in said
    assert_tracked(logs, whole, ended)


@pytest.mark.usefixtures("figures_unsaved")
def test_reproduce_tracks_too(tmp_path, run):
    out, logs = tmp_path / "out", tmp_path / "logs"
    words = ["reproduce", *TYPED, "--epochs", "2", "--engine", "batched", "--out", out, "--tensorboard", logs]
    status, _, said = run(*words)
    assert status == 0, said
    assert len(the_runs(out)) == 3
    assert_tracked(logs, *the_runs(out))


@pytest.mark.parametrize("command", ["train", "reproduce"])
@pytest.mark.usefixtures("no_estimates")
def test_without_tensorboard_it_is_one_line_before_anything_is_trained(tmp_path, run, monkeypatch, command):
    monkeypatch.delitem(sys.modules, "neurocollapse.sweeps.tensorboard", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.setitem(sys.modules, name, None)
    status, printed, said = run(command, *TYPED, "--out", tmp_path / "out", "--tensorboard", tmp_path / "logs")
    assert (status, printed) == (2, "")
    (line,) = said.splitlines()
    assert line.startswith("error: tensorboard needs TensorBoard, which is not installed (")
    assert line.endswith("): pip install 'neurocollapse[track]'")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "message"), [("file", " is not a folder that can be written to"), ("", "is empty")])
@pytest.mark.usefixtures("no_estimates")
def test_a_folder_that_is_none_is_refused_before_anything_is_trained(tmp_path, run, name, message):
    (tmp_path / "file").write_text("")
    status, _, said = run("train", *TYPED, "--out", tmp_path / "out", "--tensorboard", name and tmp_path / name)
    assert status == 2
    assert message in " ".join(said.split())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_dry_run_leaves_no_folder(tmp_path, run):
    arguments = ["train", *TYPED, "--dry-run", "--out", tmp_path / "out", "--tensorboard", tmp_path / "logs"]
    assert run(*arguments)[0] == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kills a group of processes")
def test_killed_again_and_again_every_record_is_there_once(tmp_path):
    config = dataclasses.replace(SMALL, epochs=400)
    out, logs = tmp_path / "out", tmp_path / "logs"
    folder = folder_of(out, config)
    command = train_words(config, out, "--tensorboard", logs)

    def written():
        return sum(path.stat().st_size for path in logs.glob("*/*tfevents*"))

    for _ in range(3):
        process, size = start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), written()
        wait_for(lambda size=size: written() > size)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    subprocess.run(command, check=True, capture_output=True)
    assert folder.status == "finished"
    assert_tracked(logs, folder)
