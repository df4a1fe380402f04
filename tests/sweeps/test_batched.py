"""The engine `batched`: which runs share a program, and what befalls one. What all engines promise: test_engines.py."""

import dataclasses
from contextlib import closing

import pytest
import torch

from neurocollapse.sweeps import Sweep
from neurocollapse.sweeps.engines import batched
from neurocollapse.sweeps.engines.batched import train_batched as train_with_all_cores
from neurocollapse.training import RunConfig, stack_key
from tests.commands import start, train_words, wait_for
from tests.folders import folder_of

SMALL = RunConfig(
    dataset="gaussian", network="mlp", depth=3, width=12, learning_rate=0.01, initial_norm=2.0, batch_size=64, epochs=4
)
SWEEP = list(Sweep(SMALL, {"weight_decay": (0.0, 1e-3), "seed": range(2), "learning_rate": (0.01, 0.02)}))


def train_batched(configs, out, **options):
    """On one thread, for beside other tests two would wait for each other."""
    return train_with_all_cores(configs, out, **{"threads": 1, **options})


def test_what_cannot_share_a_program_has_its_own(tmp_path, monkeypatch):
    sizes = []
    inner = batched.execute_together

    def counted(configs, *rest, **options):
        sizes.append(len(configs))
        return inner(configs, *rest, **options)

    monkeypatch.setattr(batched, "execute_together", counted)
    sweep = [dataclasses.replace(config, epochs=0) for config in SWEEP]
    others = [dataclasses.replace(sweep[0], **changes) for changes in ({"width": 13}, {"label_noise": 0.5, "seed": 1})]
    list(train_batched([*sweep[:3], *others, sweep[3]], tmp_path))
    assert sizes == [4, 1, 1]
    sizes.clear()
    list(train_batched(sweep, tmp_path / "again", workers=3))
    assert sizes == [3, 3, 2]


def test_the_key_of_a_program_leaves_out_what_is_each_runs_own():
    assert len({stack_key(config) for config in SWEEP}) == 1
    for name, value in {"network": "convnet", "batch_size": 63, "optimizer": "adam", "loss": "cross_entropy"}.items():
        assert stack_key(dataclasses.replace(SMALL, **{name: value})) != stack_key(SMALL)
    noisy = dataclasses.replace(SMALL, label_noise=0.5)
    assert stack_key(noisy) != stack_key(dataclasses.replace(noisy, seed=1))


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


def test_threads_are_put_back(tmp_path):
    before = torch.get_num_threads()
    with closing(train_batched([SMALL], tmp_path, threads=before + 1)) as events:
        next(events)
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_a_killed_program_goes_on_where_it_was(tmp_path):
    configs = [dataclasses.replace(SMALL, epochs=600, seed=seed) for seed in range(3)]
    process = start(train_words(configs[0], tmp_path / "out", "--engine", "batched", "--vary", "seed=0,1,2"))
    checkpoint = folder_of(tmp_path / "out", configs[2]).path / "checkpoint.safetensors"
    wait_for(lambda: checkpoint.exists() and folder_of(tmp_path / "out", configs[2]).checkpoint_epoch() >= 23)
    process.kill()
    process.communicate()
    began = {config.seed: folder_of(tmp_path / "out", config).checkpoint_epoch() for config in configs}
    assert min(began.values()) >= 23
    events = list(train_batched(configs, tmp_path / "out"))
    assert min(event.epoch for event in events if event.index == 0) == began[0] + 1
    list(train_batched(configs, tmp_path / "undisturbed"))
    for config in configs:
        mine, undisturbed = (folder_of(tmp_path / out, config).records() for out in ("out", "undisturbed"))
        assert [record["epoch"] for record in mine] == [record["epoch"] for record in undisturbed]
        assert mine[-1]["train.loss"] == pytest.approx(undisturbed[-1]["train.loss"], rel=1e-2)
