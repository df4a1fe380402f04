"""The engine `batched`: the runs of one program on disk, beside those of runs alone."""

import dataclasses
import json
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import closing

import pytest
import torch

from neurocollapse.datasets import load_dataset
from neurocollapse.sweeps import RunFolder, Sweep, run_id
from neurocollapse.sweeps.engines import batched
from neurocollapse.sweeps.engines.batched import train_batched as train_with_all_cores
from neurocollapse.sweeps.resuming import execute
from neurocollapse.sweeps.writing import RunWriter
from neurocollapse.training import RunConfig, stack_key

GAUSSIAN = load_dataset("gaussian")
SMALL = RunConfig(
    dataset="gaussian", network="mlp", depth=3, width=12, learning_rate=0.01, initial_norm=2.0, batch_size=64, epochs=4
)
SWEEP = list(Sweep(SMALL, {"weight_decay": (0.0, 1e-3), "seed": range(2), "learning_rate": (0.01, 0.02)}))


def train_batched(configs, out, **options):
    """On one thread, for beside other tests two would wait for each other."""
    return train_with_all_cores(configs, out, **{"threads": 1, **options})


def folder(out, config) -> RunFolder:
    return RunFolder(out / run_id(config, GAUSSIAN))


def test_folders_are_those_of_runs_alone_to_rounding(tmp_path):
    events = list(train_batched(SWEEP, tmp_path / "batched"))
    for index, config in enumerate(SWEEP):
        mine, theirs = folder(tmp_path / "batched", config), execute(config, GAUSSIAN, tmp_path / "alone")
        assert {path.name for path in mine.path.iterdir()} == {path.name for path in theirs.path.iterdir()}
        assert mine.description["config"] == theirs.description["config"]
        for record, other in zip(mine.records(), theirs.records(), strict=True):
            assert record["epoch"] == other["epoch"]
            assert record["train.loss"] == pytest.approx(other["train.loss"], rel=1e-4)
        for name, weight in theirs.weights().items():
            torch.testing.assert_close(mine.weights()[name], weight, rtol=1e-3, atol=1e-5)
        told = [event for event in events if event.index == index]
        assert [event.epoch for event in told] == [0, 1, 2, 3, 4, 4]
        assert [event.kind for event in told] == ["epoch"] * 5 + ["done"]


def test_what_cannot_share_a_program_has_its_own(tmp_path, monkeypatch):
    sizes = []
    inner = batched.execute_together

    def counted(configs, *rest, **options):
        sizes.append(len(configs))
        return inner(configs, *rest, **options)

    monkeypatch.setattr(batched, "execute_together", counted)
    others = [dataclasses.replace(SMALL, width=13), dataclasses.replace(SMALL, label_noise=0.5, seed=1)]
    list(train_batched([*SWEEP[:3], *others, SWEEP[3]], tmp_path))
    assert sizes == [4, 1, 1]
    sizes.clear()
    list(train_batched(SWEEP, tmp_path / "again", workers=3))
    assert sizes == [3, 3, 2]


def test_the_key_of_a_program_leaves_out_what_is_each_runs_own():
    assert len({stack_key(config) for config in SWEEP}) == 1
    for name, value in {"network": "convnet", "batch_size": 63, "optimizer": "adam", "loss": "cross_entropy"}.items():
        assert stack_key(dataclasses.replace(SMALL, **{name: value})) != stack_key(SMALL)
    noisy = dataclasses.replace(SMALL, label_noise=0.5)
    assert stack_key(noisy) != stack_key(dataclasses.replace(noisy, seed=1))


def test_an_engine_goes_on_with_what_the_other_began_and_leaves_what_has_ended(tmp_path):
    ended = execute(SWEEP[1], GAUSSIAN, tmp_path)
    before = (ended.path / "model.safetensors").stat().st_mtime_ns
    with closing(train_batched(SWEEP[:4], tmp_path)) as events:
        for event in events:
            if event.index == 0 and event.epoch == 3:
                break
    assert folder(tmp_path, SWEEP[0]).checkpoint_epoch() == 3
    after = [event for event in train_batched(SWEEP[:4], tmp_path) if event.index == 0]
    assert [(event.kind, event.epoch) for event in after] == [("epoch", 4), ("done", 4)]
    assert (ended.path / "model.safetensors").stat().st_mtime_ns == before
    alone = execute(SWEEP[0], GAUSSIAN, tmp_path / "alone")
    assert folder(tmp_path, SWEEP[0]).records()[-1]["train.loss"] == pytest.approx(
        alone.records()[-1]["train.loss"], rel=1e-4
    )


def test_a_run_that_diverges_ends_alone(tmp_path):
    wild = dataclasses.replace(SMALL, learning_rate=1e9)
    ends = {event.index: event for event in train_batched([SMALL, wild], tmp_path) if event.kind != "epoch"}
    assert ends[0].kind == "done"
    assert ends[1].kind == "failed"
    assert "the objective became" in ends[1].message
    assert folder(tmp_path, wild).status == "diverged"
    alone = execute(SMALL, GAUSSIAN, tmp_path / "alone")
    assert folder(tmp_path, SMALL).records()[-1]["train.loss"] == pytest.approx(
        alone.records()[-1]["train.loss"], rel=1e-4
    )


def test_a_network_that_cannot_be_stacked_fails_its_program_alone(tmp_path):
    normalized = dataclasses.replace(SMALL, normalization="batch")
    ends = {event.index: event for event in train_batched([normalized, SMALL], tmp_path) if event.kind != "epoch"}
    assert ends[1].kind == "done"
    assert ends[0].kind == "failed"
    assert (
        "mlp has frozen parameters, or buffers like those of batch normalisation (features.2.running_mean"
        in ends[0].message
    )
    assert "train its runs in processes of their own" in ends[0].message


def test_a_damaged_folder_fails_its_run_alone(tmp_path):
    list(train_batched(SWEEP[:2], tmp_path))
    (folder(tmp_path, SWEEP[0]).path / "result.json").write_text("{")
    damaged, _, *others = list(train_batched(SWEEP[:3], tmp_path))
    assert (damaged.index, damaged.kind) == (0, "failed")
    assert "result.json is damaged" in damaged.message
    assert {event.index for event in others} == {2}
    assert others[-1].kind == "done"


def test_a_damaged_checkpoint_fails_its_run_alone(tmp_path):
    with closing(train_batched(SWEEP[:2], tmp_path)) as events:
        for event in events:
            if event.index == 1 and event.epoch == 2:
                break
    checkpoint = folder(tmp_path, SWEEP[0]).path / "checkpoint.safetensors"
    content = bytearray(checkpoint.read_bytes())
    content[-1] ^= 1
    checkpoint.write_bytes(content)
    ends = {event.index: event for event in train_batched(SWEEP[:2], tmp_path) if event.kind != "epoch"}
    assert (ends[0].kind, ends[1].kind) == ("failed", "done")
    assert "checkpoint.safetensors is damaged" in ends[0].message
    assert checkpoint.read_bytes() == content


def test_a_run_that_another_process_trains_is_not_waited_for(tmp_path):
    with RunWriter(tmp_path / run_id(SMALL, GAUSSIAN)).lock():
        (event,) = train_batched([SMALL], tmp_path)
    assert event.kind == "failed"
    assert "another process is training a run of this program" in event.message


def test_threads_are_put_back(tmp_path):
    before = torch.get_num_threads()
    with closing(train_batched([SMALL], tmp_path, threads=before + 1)) as events:
        next(events)
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


KILLED = """
    import json, sys
    from pathlib import Path
    from neurocollapse.sweeps.engines.batched import train_batched
    from neurocollapse.training import RunConfig

    configs = [RunConfig(**values) for values in json.loads(sys.argv[1])]
    for event in train_batched(configs, Path(sys.argv[2]), threads=1):
        print(event.epoch, flush=True)
"""


@pytest.mark.slow
def test_a_killed_program_goes_on_where_it_was(tmp_path):
    configs = [dataclasses.replace(SMALL, epochs=300, seed=seed) for seed in range(3)]
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(KILLED))
    command = [sys.executable, str(script), json.dumps([dataclasses.asdict(config) for config in configs])]
    with subprocess.Popen([*command, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True) as process:
        while int(process.stdout.readline()) < 40:
            pass
        time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    began = {config.seed: folder(tmp_path / "out", config).checkpoint_epoch() for config in configs}
    assert min(began.values()) >= 23
    events = list(train_batched(configs, tmp_path / "out"))
    assert min(event.epoch for event in events if event.index == 0) == began[0] + 1
    list(train_batched(configs, tmp_path / "undisturbed"))
    for config in configs:
        mine, undisturbed = (folder(tmp_path / out, config).records() for out in ("out", "undisturbed"))
        assert [record["epoch"] for record in mine] == [record["epoch"] for record in undisturbed]
        assert mine[-1]["train.loss"] == pytest.approx(undisturbed[-1]["train.loss"], rel=1e-2)
