"""Sweeps: the list of configurations, and the time a run should take."""

import dataclasses
import itertools
import re
import time

import pytest
import torch

from neurocollapse import InputTypeError, NeurocollapseError
from neurocollapse.datasets import load_dataset
from neurocollapse.sweeps import Sweep
from neurocollapse.sweeps import checks as checking
from neurocollapse.sweeps.axes import estimate_seconds
from neurocollapse.training import RunConfig, epochs

GAUSSIAN = load_dataset("gaussian")
SMALL = RunConfig(
    dataset="gaussian", network="mlp", depth=3, width=12, optimizer="adam", learning_rate=2e-3, batch_size=64, epochs=4
)


# The list


def test_a_sweep_is_the_product_of_its_axes_in_order():
    runs = Sweep(SMALL, {"weight_decay": (0.0, 1e-3), "network": ("mlp", "convnet"), "seed": range(3)})
    assert [(run.weight_decay, run.network, run.seed) for run in runs] == list(
        itertools.product((0.0, 1e-3), ("mlp", "convnet"), range(3))
    )
    assert len(runs) == 12
    assert all(dataclasses.replace(run, weight_decay=5e-4, network="mlp", seed=0) == SMALL for run in runs)
    assert list(runs) == list(runs)
    assert list(Sweep(SMALL, {})) == [SMALL]
    assert len(Sweep(SMALL, {})) == 1
    once = Sweep(SMALL, {"seed": (seed for seed in range(3))})  # a generator is not used up
    assert [run.seed for run in once] == [run.seed for run in once] == [0, 1, 2]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"no_such_field": (1,)}, "a run has no field 'no_such_field'; there are dataset, "),
        ({"sead": (1,)}, r"a run has no field 'sead' \(did you mean 'seed'\?\); there are"),
        ({"epochs": (1, -1)}, "epochs must be at least 0, got -1"),
        ({"network": "mlp"}, "network takes a sequence of values, got 'mlp'; write"),
        ({"seed": 3}, "seed takes a sequence of values, got 3; write"),
        ({"seed": range(10**9)}, "seed has more than 20000 values, the most runs of a sweep"),
        ({"seed": range(10**4), "momentum": (0.0, 0.1, 0.2)}, "at most 20000 runs, and these values make 10000 × 3"),
        ({"seed": ()}, "seed needs at least one value, got none"),
        ({"weight_decay": (0.0, 0.0)}, "weight_decay has a value twice: 0.0, 0.0"),
        (
            {"imbalance_ratio": (2.0, 5.0)},
            "imbalance_ratio makes no difference to these runs: it needs imbalance step or ex",
        ),
        ({"depth": (2, 3), "network": ["convnet"]}, "depth makes no difference to these runs: it needs network mlp"),
        (
            {"initial_norm": (2.0, 3.0), "initialization": ["kaiming"]},
            "initial_norm makes .* it needs initialization norm",
        ),
        ({"decay_start": (1.0, 9.0), "weight_decay": [0.0]}, "decay_start makes .* it needs a positive weight_decay"),
    ],
)
def test_what_makes_no_sense_is_refused_when_the_sweep_is_made(axes, message):
    with pytest.raises(NeurocollapseError, match=message):
        Sweep(SMALL, axes)


def test_a_sweep_needs_its_axes():
    with pytest.raises(InputTypeError, match="Sweep: missing a required argument: 'axes'; it takes base, axes"):
        Sweep(SMALL)


def test_runs_that_repeat_others_give_a_warning():
    with pytest.warns(UserWarning, match="^2 of the 6 runs repeat others: width needs network mlp, resnet18 or vgg11$"):
        Sweep(SMALL, {"network": ("mlp", "convnet"), "width": (2, 3, 4)})


def test_a_field_that_makes_no_difference_gives_the_same_numbers():
    for name, value in {"imbalance_ratio": 3.0, "initial_norm": 9.0, "decay_start": 9.0}.items():
        config = dataclasses.replace(SMALL, epochs=1, weight_decay=0.0, initialization="kaiming")
        (record, other) = (
            [*epochs(each, GAUSSIAN)][-1].record for each in (config, dataclasses.replace(config, **{name: value}))
        )
        assert record == other


def test_a_sweep_shows_its_axes_and_what_its_runs_share():
    base = dataclasses.replace(SMALL, dataset="<script>.npz", width=13)
    table = Sweep(base, {"weight_decay": (0.0, 1e-3), "width": (8, 16), "seed": range(3)})._repr_html_()
    assert "<caption>Sweep of 12 run(s); " in table
    rows = [re.findall(r">([^<>]+)</td>", row) for row in table.split("<tr>")[1:]]
    assert rows[:3] == [
        ["weight_decay", "0.0, 0.001", "2 value(s)"],
        ["width", "8, 16", "2 value(s)"],
        ["seed", "0, 1, 2", "3 value(s)"],
    ]
    shared = dict(rows[3:])
    assert shared.keys() == base.changed.keys() - {"width"}
    assert shared["dataset"] == "&lt;script&gt;.npz"
    assert "<caption>Sweep of 1 run(s); " in Sweep(SMALL, {})._repr_html_()


# The estimate


def test_the_estimate_is_of_the_right_size():
    config = dataclasses.replace(SMALL, width=128, epochs=30)
    list(epochs(dataclasses.replace(config, epochs=1), GAUSSIAN))  # what is slow the first time only
    best = float("inf")
    for _ in range(3):  # on a machine that does other things as well
        estimate = estimate_seconds(config, GAUSSIAN)
        start = time.perf_counter()
        list(epochs(config, GAUSSIAN))
        ratio = estimate / (time.perf_counter() - start)
        best = min(best, max(ratio, 1 / ratio))
        if best < 2:
            break
    assert best < 4


def test_the_estimate_grows_with_epochs_and_data():
    few = load_dataset("gaussian", per_class=10)
    short, long = (min(estimate_seconds(dataclasses.replace(SMALL, epochs=n), few) for _ in range(3)) for n in (5, 500))
    assert 0 < short < long


def test_the_estimate_leaves_threads_alone_and_cannot_diverge():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert estimate_seconds(dataclasses.replace(SMALL, learning_rate=1e9, optimizer="sgd"), GAUSSIAN) > 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_estimate_is_of_the_device_that_is_to_train(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(checking, "estimate_seconds", lambda config, dataset, device: asked.append(device) or 1.0)
    checking.check_runs([SMALL], tmp_path, None, device="cuda:1")
    checking.check_runs([SMALL], tmp_path, None)
    assert asked == ["cuda:1", "cpu"]


def test_a_run_for_the_gpus_of_a_cluster_is_timed_without_one(tmp_path):
    (run,) = checking.check_runs([dataclasses.replace(SMALL, precision="tf32")], tmp_path, None)
    assert run.seconds > 0


def test_an_estimate_needs_no_samples_of_some_classes_more_than_there_are():
    images, labels = GAUSSIAN.train.images, GAUSSIAN.train.labels
    part = torch.cat([(labels == 0).nonzero().flatten()[:1], (labels > 0).nonzero().flatten()])
    unbalanced = dataclasses.replace(GAUSSIAN, train=type(GAUSSIAN.train)(images[part], labels[part]), test=None)
    assert estimate_seconds(SMALL, unbalanced) > 0
