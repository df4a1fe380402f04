"""Steps that are recorded and replayed. The counting is tested everywhere, the replaying where there is a GPU."""

import contextlib
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch

from neurocollapse.training import RunConfig, epoch, recording, train_together
from tests.training.runs import FEW, history, images, kept

# In batches of 22, the 100 samples are five steps an epoch, the last of them on fewer.
BASE = RunConfig(
    dataset="gaussian", network="mlp", depth=3, width=8, batch_size=22, learning_rate=0.02, weight_decay=1e-2, epochs=2
)
VARIED = [{"seed": 0}, {"seed": 1, "weight_decay": 0.0}, {"seed": 2, "learning_rate": 0.01}]

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need an NVIDIA GPU")


CASES = {
    "sgd": ({}, FEW),
    "adam, whose steps differ by their count": ({"optimizer": "adam", "learning_rate": 2e-3}, FEW),
    "muon, with a λ that comes down": ({"optimizer": "muon", "decay_start": 10.0}, FEW),
    "balanced after every epoch": ({"balancing": "epoch"}, FEW),
    "one step an epoch": ({"batch_size": 1000}, FEW),
    "whole batches only": ({"batch_size": 25}, FEW),
    "batch norm, whose last batch takes one more": ({"normalization": "batch", "batch_size": 33}, FEW),
    "shifted images": ({"augmentation": "shift_flip", "network": "convnet"}, images((1, 9, 8), samples=60)),
}


def stacked(configs, dataset, **options):
    return [kept(state) for _, state in train_together(configs, dataset, **options)]


def assert_same(first, second, **tolerance):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.objective == pytest.approx(other.objective, rel=tolerance.get("rtol", 0), nan_ok=True)
        for name, tensor in one.tensors.items():
            torch.testing.assert_close(tensor, other.tensors[name], **{"rtol": 0, "atol": 0, **tolerance})


@pytest.fixture
def by_counter(monkeypatch):
    """Every run takes its steps as on a GPU, but that none is recorded; how many of them at a time."""
    taken = []

    class Recording:
        def __init__(self, step, device):
            self.step = step

        def repeat(self, times):
            taken.append(times)
            for _ in range(times):
                self.step()

    monkeypatch.setattr(epoch, "is_recordable", lambda config, device: True)
    monkeypatch.setattr(epoch, "Recording", Recording)
    return taken


@pytest.mark.parametrize(("options", "dataset"), CASES.values(), ids=CASES)
def test_steps_numbered_by_a_counter_are_the_steps(by_counter, monkeypatch, options, dataset):
    config = replace(BASE, **options)
    counted = history(config, dataset)
    samples, size = len(dataset.train.labels), min(config.batch_size, len(dataset.train.labels))
    joined = config.normalization == "batch" and samples % size == 1
    assert by_counter == [samples // size - joined] * 2
    monkeypatch.undo()
    assert_same(counted, history(config, dataset))


STACKED = {name: case for name, case in CASES.items() if "norm" not in name}


@pytest.mark.parametrize(("options", "dataset"), STACKED.values(), ids=STACKED)
def test_stacked_steps_numbered_by_a_counter_are_the_steps(by_counter, monkeypatch, options, dataset):
    configs = [replace(BASE, **{**options, **varied}) for varied in VARIED]
    counted = stacked(configs, dataset)
    assert by_counter
    monkeypatch.undo()
    assert_same(counted, stacked(configs, dataset))


def test_the_packages_networks_are_recorded_on_a_gpu_and_no_others():
    assert recording.is_recordable(BASE, "cuda:1")
    assert not recording.is_recordable(BASE, "cpu")
    assert not recording.is_recordable(replace(BASE, network="module:function"), "cuda")


@pytest.fixture
def gpu(monkeypatch):
    """As much of a GPU as counts steps: what is called while recording is executed at each replay, and not at once."""

    class Graph:
        def replay(self):
            for step in self.steps:
                step()

    class Gpu:
        recording, failing, taken, recorded = None, False, 0, 0

        def step(self):
            if self.recording is None:
                self.taken += 1
            elif self.failing:
                raise RuntimeError("not\nwhile it is recorded")
            else:
                self.recording.steps.append(self.step)

    @contextlib.contextmanager
    def record(graph, stream):
        graph.steps, gpu.recording = [], graph
        gpu.recorded += 1
        try:
            yield
        finally:
            gpu.recording = None

    gpu = Gpu()
    for name, stand_in in {"CUDAGraph": Graph, "graph": record}.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: Mock())
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    return gpu


@pytest.mark.parametrize("times", [0, 1, 3, 4, 10])
def test_as_many_steps_are_taken_as_are_asked_for(gpu, times):
    recorded = recording.Recording(gpu.step, "cuda")
    for calls in (1, 2, 3):
        recorded.repeat(times)
        assert gpu.taken == calls * times
    assert gpu.recorded == (times > 3)


def test_a_step_that_cannot_be_recorded_is_launched_each_time_with_a_warning(gpu):
    gpu.failing = True
    recorded = recording.Recording(gpu.step, "cuda")
    with pytest.warns(UserWarning, match=r"cannot be recorded as a CUDA graph, .* \(not while it is recorded\)"):
        recorded.repeat(10)
    recorded.repeat(10)
    assert gpu.taken == 20


@needs_gpu
@pytest.mark.parametrize(("options", "dataset"), CASES.values(), ids=CASES)
def test_on_a_gpu_what_is_replayed_is_what_is_launched(monkeypatch, options, dataset):
    config = replace(BASE, **options)
    replayed = history(config, dataset, device="cuda")
    monkeypatch.setattr(epoch, "is_recordable", lambda config, device: False)
    assert_same(replayed, history(config, dataset, device="cuda"), rtol=1e-4, atol=1e-5)


@needs_gpu
def test_on_a_gpu_stacked_steps_are_replayed_too(monkeypatch):
    configs = [replace(BASE, epochs=3, **varied) for varied in VARIED]
    replayed = stacked(configs, FEW, device="cuda")
    monkeypatch.setattr(epoch, "is_recordable", lambda config, device: False)
    assert_same(replayed, stacked(configs, FEW, device="cuda"), rtol=1e-4, atol=1e-5)
