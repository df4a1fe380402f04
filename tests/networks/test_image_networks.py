"""ResNet-18 and VGG-11 for small images: published sizes, a slow twin, homogeneity, and that they learn and stack."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

import neurocollapse as nc
from neurocollapse import NetworkError
from neurocollapse.networks import build_network, check_homogeneous
from neurocollapse.sweeps.networks_tried import NOT_HOMOGENEOUS, run_notes
from neurocollapse.training import RunConfig, train_together
from tests.training.runs import history, images

NETWORKS = ("resnet18", "vgg11")
SMALL = RunConfig(
    network="resnet18", width=32, weight_decay=1e-4, optimizer="muon", learning_rate=0.3, batch_size=15, epochs=20
)
DATA = images((3, 8, 8), samples=30)


def small(name, **options):
    torch.manual_seed(0)
    return build_network(name, (3, 16, 16), 4, width=16, **options)


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("resnet18", {"bias": True, "batch_norm": True}, 11_173_962),  # of github.com/kuangliu/pytorch-cifar
        ("vgg11", {"bias": True, "batch_norm": True, "hidden_bias": True}, 9_231_114),  # of the same
        ("vgg11", {"bias": True, "batch_norm": True}, 9_228_362),
        ("vgg11", {"hidden_bias": True}, 9_220_480 + 5120),  # the convolutions of torchvision, and the classifier
    ],
)
def test_published_sizes(name, options, parameters):
    assert sum(p.numel() for p in build_network(name, (3, 32, 32), 10, **options).parameters()) == parameters


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 5, 7)])
def test_width_is_the_number_of_features_for_images_of_any_size(name, shape):
    model = build_network(name, shape, 10, width=24, linear_tail=1)
    assert model.classifier.in_features == model.features(torch.randn(2, *shape)).shape[1] == 24
    assert model(torch.randn(2, *shape)).shape == (2, 10)
    first = next(model.parameters())
    assert first.shape == (3, shape[0], 3, 3)
    with pytest.raises(NetworkError, match=f"the first layer of {name} .* so the width is a multiple of 8; got 20"):
        build_network(name, shape, 10, width=20)
    with pytest.raises(NetworkError, match=rf"{name} needs images .*got samples of shape \(7,\)"):
        build_network(name, (7,), 10)


def test_resnet18_is_what_he_et_al_drew():
    model, inputs = small("resnet18"), torch.randn(2, 3, 16, 16)
    weights = iter(model.parameters())

    def convolved(h, stride=1):
        weight = next(weights)
        return functional.conv2d(h, weight, stride=stride, padding=weight.shape[-1] // 2)

    h = convolved(inputs).relu()
    for stride in (1, 1, 2, 1, 2, 1, 2, 1):
        residual = convolved(convolved(h, stride).relu())
        h = (residual + (convolved(h, 2) if stride == 2 else h)).relu()
    outputs = h.mean(dim=(2, 3)) @ next(weights).T
    torch.testing.assert_close(model(inputs), outputs)
    assert next(weights, None) is None


@pytest.mark.parametrize("name", ["convnet", *NETWORKS])
@pytest.mark.parametrize("options", [{}, {"batch_norm": True}, {"hidden_bias": True}])
def test_homogeneity_is_said_as_it_is_measured(name, options):
    measured = check_homogeneous(small(name, **options), torch.randn(4, 3, 16, 16))
    assert (measured.by_input < 1e-4) is (not options)
    assert measured.holds() is (not options and name != "resnet18")  # a residual block is passed by
    fields = {"normalization": "batch" if "batch_norm" in options else "none"}
    config = replace(SMALL, network=name, bias="all" if "hidden_bias" in options else "none", **fields)
    assert (NOT_HOMOGENEOUS not in run_notes(config, DATA)) is measured.holds()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("options", [{}, {"normalization": "batch", "optimizer": "sgd", "learning_rate": 0.03}])
def test_they_overfit_a_few_samples(name, options):
    run = nc.train(replace(SMALL, network=name, **options), dataset=DATA)
    assert run.status == "finished"
    assert run.records["train.accuracy"].iloc[-1] == 1


@pytest.mark.parametrize("name", NETWORKS)
def test_they_stack_without_normalisation(name):
    configs = [replace(SMALL, network=name, epochs=1, seed=seed) for seed in (0, 1)]
    stacked = [state for _, state in train_together(configs, DATA) if state.epoch]
    for config, state in zip(configs, stacked, strict=True):
        (_, alone) = history(config, DATA)
        assert state.objective == pytest.approx(alone.objective, rel=1e-5)
        torch.testing.assert_close(state.tensors, alone.tensors)
    with pytest.raises(
        NetworkError, match=f"{name} has .* batch normalisation .* cannot be trained stacked; train its"
    ):
        list(train_together([replace(config, normalization="batch") for config in configs], DATA))
