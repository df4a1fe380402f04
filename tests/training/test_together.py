"""Runs trained as one program: each is what it is alone, whatever happens to the others."""

import math
import sys
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import nn

from neurocollapse import DivergedError, NetworkError
from neurocollapse.datasets import load_dataset
from neurocollapse.training import RunConfig, State, epochs, train_together
from tests.modules import Model
from tests.training.runs import FEW, GAUSSIAN, history, images, kept

MODULE = "stacked_networks"

# In batches of 22, the 100 samples are five steps an epoch, the last of them on fewer.
SMALL = RunConfig(
    dataset="gaussian",
    network=f"{MODULE}:mlp",
    weight_decay=3e-3,
    initialization="norm",
    initial_norm=2.0,
    learning_rate=0.05,
    batch_size=22,
    epochs=2,
)
#: What may differ between runs that are stacked.
VARIED = (
    {"seed": 0},
    {"seed": 1, "weight_decay": 0.0},
    {"seed": 2, "learning_rate": 0.01},
    {"seed": 0, "initial_norm": 3.0, "weight_decay": 0.1},
)


def double(*layers):
    """A network in float64, which takes the images of float32."""
    return Model(lambda model, images: model.network(images.double()), network=nn.Sequential(*layers).double())


def mlp(shape, classes, *between, bias=False):
    return double(nn.Linear(*shape, 12, bias=False), *between, nn.ReLU(), nn.Linear(12, classes, bias=bias))


def conv(shape, classes):
    layers = nn.Conv2d(shape[0], 4, 3, padding=1, stride=2, bias=False), nn.ReLU(), nn.Flatten()
    return double(*layers, nn.Linear(4 * math.ceil(shape[1] / 2) * math.ceil(shape[2] / 2), classes, bias=False))


def frozen(shape, classes):
    network = mlp(shape, classes)
    network.network[0].requires_grad_(False)
    return network


@pytest.fixture(autouse=True)
def networks(monkeypatch):
    module = type(sys)(MODULE)
    module.mlp, module.conv, module.frozen = mlp, conv, frozen
    module.biased = lambda shape, classes: mlp(shape, classes, bias=True)
    module.dropout = lambda shape, classes: mlp(shape, classes, nn.Dropout(0.5))
    module.batch_norm = lambda shape, classes: mlp(shape, classes, nn.BatchNorm1d(12))
    monkeypatch.setitem(sys.modules, MODULE, module)


def configs_of(base=SMALL, varied=VARIED):
    return [replace(base, **options) for options in varied]


def alone(configs, dataset):
    return [history(config, dataset) for config in configs]


def together(configs, dataset, **options):
    found = [[] for _ in configs]
    for index, state in train_together(configs, dataset, **options):
        found[index].append(kept(state) if isinstance(state, State) else state)
    return found


def assert_close(first, second, rel=1e-10):
    """Equal states, epoch by epoch, but for rounding and seconds."""
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert (one.epoch, one.finished) == (other.epoch, other.finished)
        assert one.objective == pytest.approx(other.objective, rel=rel, nan_ok=True)
        assert one.tensors.keys() == other.tensors.keys()
        for name, tensor in one.tensors.items():
            torch.testing.assert_close(tensor, other.tensors[name], rtol=rel, atol=rel)
        assert (one.record is None) == (other.record is None)
        for key, value in (one.record or {}).items():
            its = other.record[key]
            # What is a small difference of large terms has fewer digits.
            assert value is its or value == pytest.approx(its, rel=1e2 * rel, abs=rel, nan_ok=True), key


def assert_each_is_as_alone(configs, dataset, **tolerance):
    stacked = together(configs, dataset)
    for one, other in zip(alone(configs, dataset), stacked, strict=True):
        assert_close(one, other, **tolerance)
    return stacked


OPTIONS = {
    "sgd": {},
    "no momentum": {"momentum": 0.0},
    "adam": {"optimizer": "adam", "learning_rate": 2e-3},
    "adamw": {"optimizer": "adamw", "learning_rate": 2e-3},
    "cross-entropy": {"loss": "cross_entropy"},
    "free bias": {"network": f"{MODULE}:biased", "bias": "free", "weight_decay": 0.05},
    "balanced": {"balancing": "epoch"},
    "cosine": {"schedule": "cosine"},
    "full batch": {"batch_size": 1000, "epochs": 5},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_runs_together_are_each_alone(options):
    """Ten steps in float64."""
    stacked = assert_each_is_as_alone(configs_of(replace(SMALL, **options)), FEW)
    assert len({run[-1].objective for run in stacked}) == len(stacked)  # no run is another


@pytest.mark.parametrize("loss", ["square", "cross_entropy"])
@pytest.mark.parametrize("augmentation", ["none", "shift", "shift_flip"])
def test_augmented_images_together_are_each_alone(augmentation, loss):
    base = replace(SMALL, network=f"{MODULE}:conv", augmentation=augmentation, loss=loss)
    assert_each_is_as_alone(configs_of(base), images())


def test_augmentation_changes_the_runs():
    base = replace(SMALL, network=f"{MODULE}:conv", epochs=1)
    configs = [replace(base, augmentation=kind) for kind in ("none", "shift", "shift_flip")]
    assert len({run[-1].objective for run in alone(configs, images())}) == 3


def test_labels_with_noise_are_the_data_sets():
    assert_each_is_as_alone(configs_of(), load_dataset("gaussian", per_class=25, label_noise=0.5, seed=3))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_runs_resumed_at_different_epochs_go_on_together(optimizer):
    """One from the start, one from the middle, one that has ended, and one with its last epoch to go."""
    configs = configs_of(replace(SMALL, optimizer=optimizer, learning_rate=2e-3, epochs=3))
    whole = alone(configs, FEW)
    resumes = [None, *((run[at].tensors, run[at].record) for run, at in zip(whole[1:], (1, 3, 2), strict=True))]
    stacked = together(configs, FEW, resumes=resumes)
    assert [[state.epoch for state in run] for run in stacked] == [[0, 1, 2, 3], [2, 3], [], [3]]
    for run, found in zip(whole, stacked, strict=True):
        assert_close(run[len(run) - len(found) :], found)


def test_runs_of_different_lengths_leave_one_by_one():
    """One ends early by its own tolerance; the others go on as alone."""
    configs = configs_of(replace(SMALL, epochs=4))
    configs[1] = replace(configs[1], gradient_tolerance=1e3)
    assert [len(run) for run in assert_each_is_as_alone(configs, FEW)] == [5, 1, 5, 5]


@pytest.mark.parametrize("place", [0, 2])
def test_a_run_that_diverges_is_named_and_the_others_continue(place):
    configs = configs_of(replace(SMALL, epochs=4))
    configs[place] = replace(configs[place], learning_rate=1e8)
    stacked = together(configs, FEW)
    *states, error = stacked[place]
    assert isinstance(error, DivergedError)
    assert "try a smaller learning rate" in str(error)
    assert [state.epoch for state in states] == list(range(len(states)))
    assert states  # what was recorded before
    with pytest.raises(DivergedError) as caught:
        list(epochs(configs[place], FEW))
    assert str(caught.value) == str(error)
    for index in {0, 1, 2, 3} - {place}:
        assert_close(alone([configs[index]], FEW)[0], stacked[index])


def test_random_numbers_of_the_caller_are_untouched():
    before = torch.get_rng_state()
    for _ in train_together(configs_of(), FEW):
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": f"{MODULE}:batch_norm"},
         r"batch_norm.*buffers like those of batch normalisation \(network\.1\.running_mean, network\.1\.running"),
        ({"network": f"{MODULE}:frozen"}, r"frozen.*frozen parameters, or buffers.*\(network\.0\.weight\)"),
        ({"network": f"{MODULE}:dropout"}, r"dropout.*cannot be trained stacked \(.*random"),
        ({"network": "mlp", "depth": 2, "width": 8, "normalization": "batch"},
         "mlp has frozen parameters, or buffers.*"),
    ],
)  # fmt: skip
def test_a_network_that_cannot_be_stacked_is_refused_with_the_remedy(options, message):
    with pytest.raises(NetworkError, match=f"{message}.*; train its runs in processes of their own"):
        together(configs_of(replace(SMALL, **options)), FEW)


def test_the_packages_networks_in_float32_part_by_rounding_only():
    configs = configs_of(replace(SMALL, network="mlp", depth=3, width=12, epochs=2))
    assert_each_is_as_alone(configs, FEW, rel=1e-4)


def ends(runs):
    """log NC1 and the objective at the end of every run."""
    return [[math.log(run[-1].record["train.nc1"]) for run in runs], [run[-1].objective for run in runs]]


@pytest.mark.slow
def test_long_runs_together_end_as_those_alone_in_distribution():
    """Two samples of 20 seeds, Kolmogorov and Smirnov's test at the level 0.001, which detects another decay."""
    base = RunConfig(dataset="gaussian", network="mlp", depth=4, width=32, weight_decay=2e-3, epochs=60)
    seeds = [{"seed": seed} for seed in range(20)]
    separate, stacked = (ends(way(configs_of(base, seeds), GAUSSIAN)) for way in (alone, together))
    other = ends(together(configs_of(replace(base, weight_decay=4e-3), seeds), GAUSSIAN))
    for one, its, of_other in zip(separate, stacked, other, strict=True):
        assert stats.ks_2samp(one, its).pvalue > 1e-3
        assert stats.ks_2samp(one, of_other).pvalue < 1e-3
