"""Where a run starts from: the package's networks at one norm, any other as it is built, unless asked otherwise."""

import pickle
import sys
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

import neurocollapse as nc
from neurocollapse.sweeps.naming import run_name
from neurocollapse.training import RunConfig, network_of
from neurocollapse.training.run import first_network
from tests.training.runs import FEW

OWN = RunConfig(dataset="gaussian", network="own_start:build")


@pytest.fixture(autouse=True)
def own(monkeypatch):
    module = type(sys)("own_start")
    module.build = lambda shape, classes: nn.Sequential(
        nn.Linear(*shape, 8, bias=False), nn.ReLU(), nn.Linear(8, classes, bias=False)
    )
    monkeypatch.setitem(sys.modules, "own_start", module)


def norms(config):
    return [torch.linalg.norm(weight).item() for weight in first_network(config, FEW).parameters()]


def test_your_own_network_starts_as_it_is_built():
    torch.manual_seed(OWN.seed)
    built = network_of(OWN, FEW)
    assert all(map(torch.equal, first_network(OWN, FEW).parameters(), built.parameters()))
    assert norms(replace(OWN, initialization="norm", initial_norm=3.0)) == pytest.approx([3.0, 3.0])
    assert norms(replace(OWN, network="mlp", depth=2)) == pytest.approx([4.0, 4.0])


@pytest.mark.parametrize("base", [RunConfig(), pickle.loads(pickle.dumps(RunConfig())), OWN, RunConfig(network="mlp")])
def test_the_start_follows_the_network_until_it_is_chosen(base):
    networks = ("convnet", "mlp", "resnet18", "vgg11", "timm:resnet18", "my:net")
    starts = ["norm", "norm", *["default"] * 4]
    assert [run.initialization for run in nc.Sweep(base, {"network": networks})] == starts
    for chosen in ("norm", "kaiming", "default"):
        sweep = nc.Sweep(replace(base, initialization=chosen), {"network": networks})
        assert {run.initialization for run in sweep} == {chosen}
    configs = list(nc.Sweep(base, {"network": networks}))
    assert [eval(repr(config)) for config in configs] == configs


def test_ids_of_earlier_runs_stay():
    def name(**options):
        return run_name(RunConfig(network="my:net", **options), "0" * 64)

    assert name(initialization="norm") == "mnist5k-my.net-wd0.0005-seed0-27f059c5"  # what my:net was at first
    assert name() == name(initialization="default") == "mnist5k-my.net-wd0.0005-seed0-e6d77113"
    earlier = RunConfig(**asdict(RunConfig(network="my:net")) | {"initialization": "norm"})
    assert earlier.changed == {"network": "my:net", "initialization": "norm"}
    assert RunConfig(network="my:net").changed == {"network": "my:net"}
