"""Training until rest: rounds, the distance from rest in the records, and where a run ends."""

import math
from dataclasses import replace

import pytest
import torch

from neurocollapse.training import RunConfig, epochs, flow_time, network_of
from neurocollapse.training.rest import at_rest, distance
from neurocollapse.training.run import Run
from neurocollapse.training.schedule import recorded_epochs, rounds
from tests.training.runs import FEW, decayed, history

SMALL = RunConfig(
    dataset="gaussian",
    network="mlp",
    depth=3,
    width=12,
    weight_decay=0.05,
    initial_norm=2.0,
    learning_rate=0.05,
    decay_start=4.0,
    batch_size=20,
    epochs=3,
    until="rest",
)


def test_every_round_has_the_whole_schedule_larger_batches_and_only_the_first_a_higher_decay():
    assert rounds(SMALL) == (3, 9, 21)
    assert {3, 9, 21} <= set(recorded_epochs(SMALL))
    run = Run(SMALL, FEW, "cpu")
    sizes = [[places.stop - places.start for places in run.batches(epoch)] for epoch in (1, 3, 4, 9, 10, 21)]
    assert sizes == [[20] * 5] * 2 + [[100]] * 4  # 20 and 160 and 1,280 of 100 samples
    paces = [run.pace(epoch) for epoch in range(1, 22)]
    falling = [0.05 * (1 - step / steps) for steps in (15, 6, 12) for step in range(steps)]
    assert torch.cat([pace.rate for pace in paces]).tolist() == pytest.approx(falling)
    assert torch.cat([pace.count for pace in paces]).tolist() == list(range(1, 34))
    factors = torch.cat([pace.decay for pace in paces]).tolist()
    assert (
        factors[:15]
        == torch.cat([Run(replace(SMALL, until="epochs"), FEW, "cpu").pace(e).decay for e in (1, 2, 3)]).tolist()
    )
    assert (factors[0], set(factors[9:])) == (4, {1.0})
    assert flow_time(SMALL, 21, 100) == pytest.approx(sum(falling) / (1 - SMALL.momentum))


@pytest.mark.parametrize("bias", ["none", "free"])
def test_relative_gradient_and_spread_of_the_norms_equal_those_of_a_twin_in_double_precision(bias):
    config = replace(SMALL, bias=bias, until="epochs")
    for state in epochs(config, FEW):
        if state.record is None:
            continue
        model = network_of(config, FEW)
        model.load_state_dict({k.removeprefix("model."): v for k, v in state.tensors.items() if k.startswith("model.")})
        full = decayed(model, FEW.train.images, FEW.train.labels, config.weight_decay)
        _, gradient = full.data_gradient()
        decay = torch.cat([config.weight_decay * p.flatten() * (p.ndim > 1) for p in full.model.parameters()])
        relative = (gradient + decay).norm() / (gradient.norm() + decay.norm())
        norms = [p.square().sum().item() for p in full.model.parameters() if p.ndim > 1]
        assert state.record["relative_gradient"] == pytest.approx(relative.item(), rel=1e-4)
        assert state.record["norm_spread"] == pytest.approx(max(norms) / min(norms) - 1, rel=1e-4, abs=1e-6)


def test_without_decay_the_gradient_has_no_scale():
    *_, last = history(replace(SMALL, weight_decay=0.0, epochs=1, until="epochs"), FEW)
    assert last.record["relative_gradient"] is None


def test_slope_is_the_power_of_the_epoch_with_which_nc1_falls():
    records = [
        {"epoch": t, "train.nc1": 5 * t**-1.5 if t else 1.0, "train.weight_norms": (4.0, 5.0)} for t in (0, 4, 6)
    ]
    assert distance(records[2], records[1]) == {"norm_spread": 0.25, "nc1_slope": pytest.approx(-1.5)}
    assert distance(records[1], records[0])["nc1_slope"] is None
    assert distance(records[0], None)["nc1_slope"] is None
    assert distance(records[2] | {"train.nc1": 0.0}, records[1])["nc1_slope"] is None
    assert distance(records[0] | {"train.weight_norms": (0.0, 1.0)}, None)["norm_spread"] == math.inf


REST = {"relative_gradient": 0.09, "norm_spread": 0.09, "train.loss_data": 2e-3, "train.accuracy": 0.9}
FITTED = {"relative_gradient": None, "norm_spread": 3.0, "train.loss_data": 9e-5, "train.accuracy": 1.0}


@pytest.mark.parametrize(
    ("fields", "record", "expected"),
    [
        ({}, REST, True),
        ({}, REST | {"relative_gradient": 0.11}, False),
        ({}, REST | {"norm_spread": 0.11}, False),
        ({"bias": "all"}, REST | {"norm_spread": 3.0}, True),
        ({"normalization": "batch"}, REST | {"norm_spread": 3.0}, True),
        ({"network": "my:net"}, REST | {"norm_spread": 3.0}, True),
        ({"bias": "free"}, REST | {"norm_spread": 3.0}, False),
        ({}, REST | {"relative_gradient": math.nan}, False),
        ({"weight_decay": 0.0}, FITTED, True),
        ({"weight_decay": 0.0}, FITTED | {"train.loss_data": 1.1e-4}, False),
        ({"weight_decay": 0.0}, FITTED | {"train.accuracy": 0.999}, False),
        ({"weight_decay": 0.0, "loss": "cross_entropy"}, FITTED | {"train.cross_entropy": 9e-4}, True),
        ({"weight_decay": 0.0, "loss": "cross_entropy"}, FITTED | {"train.cross_entropy": 2e-3}, False),
    ],
)
def test_rest(fields, record, expected):
    assert at_rest(replace(SMALL, **fields), record) is expected


def test_a_run_ends_at_the_first_record_at_rest_or_after_three_rounds():
    states = history(replace(SMALL, epochs=20, decay_start=1.0), FEW)
    measured = [state.record for state in states if state.record and state.epoch]
    assert states[-1].finished
    assert [at_rest(SMALL, record) for record in measured] == [False] * (len(measured) - 1) + [True]
    assert states[-1].epoch < 140
    assert [state.epoch for state in history(replace(SMALL, weight_decay=1e-9, epochs=2), FEW)] == list(range(15))


def test_a_run_stopped_within_a_later_round_resumes_as_if_it_had_not():
    config = replace(SMALL, weight_decay=1e-9, epochs=2)
    whole = history(config, FEW)
    before = next(state.record for state in reversed(whole[:8]) if state.record)
    again = history(config, FEW, resume=(whole[7].tensors, before))
    assert [state.epoch for state in again] == list(range(8, 15))
    assert again[-1].record == whole[-1].record
    assert all(torch.equal(again[-1].tensors[name], tensor) for name, tensor in whole[-1].tensors.items())
