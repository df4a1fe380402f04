"""Training: the objective, what is recorded, when it stops, and that the same configuration gives the same bits."""

import inspect
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from neurocollapse import DivergedError, NetworkError, measure_layers, training
from neurocollapse.datasets import Dataset, Split
from neurocollapse.metrics import METRICS
from neurocollapse.networks import balance, build_network, find_layers, initialize
from neurocollapse.training import RunConfig, epochs, learning_rate, network_of, recorded_epochs
from neurocollapse.training.run import LAYER_KEYS, Run, first_network
from neurocollapse.training.schedule import decay_factor
from tests import naive
from tests.modules import Model
from tests.training.runs import FEW, GAUSSIAN, history, kept, toy

SMALL = RunConfig(
    dataset="gaussian",
    network="mlp",
    depth=3,
    width=12,
    weight_decay=3e-3,
    initial_norm=2.0,
    optimizer="adam",
    learning_rate=2e-3,
    schedule="linear",
    batch_size=64,
    epochs=6,
)
FULL_BATCH = replace(SMALL, optimizer="sgd", momentum=0.0, schedule="constant", batch_size=10**6)


def records(states):
    return [state.record for state in states if state.record is not None]


def same(first, second):
    """Equal bit for bit, nan included."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(value, second[key]) for key, value in first.items())
    if isinstance(first, float) and math.isnan(first):
        return isinstance(second, float) and math.isnan(second)
    return type(first) is type(second) and first == second


def same_run(first, second):
    """Equal records, objectives and tensors, epoch by epoch; seconds aside."""
    return len(first) == len(second) and all(
        (a.epoch, a.finished) == (b.epoch, b.finished)
        and same(a.record, b.record)
        and same(a.objective, b.objective)
        and a.tensors.keys() == b.tensors.keys()
        and all(torch.equal(value, b.tensors[name]) for name, value in a.tensors.items())
        for a, b in zip(first, second, strict=True)
    )


def weights(state, dtype=torch.float64):
    return {n.removeprefix("model."): t.to(dtype) for n, t in state.tensors.items() if n.startswith("model.")}


# Eq. 1, written once more: float64, sample by sample, autograd over everything


def network_in_double(config, dataset, state):
    model = network_of(config, dataset).double()
    model.load_state_dict(weights(state))
    return model


def equation_one(model, split, weight_decay, num_classes):
    """L(W) = (1/2N) Σ_i ‖f_i − y_i‖² + (λ/2) Σ_k ‖W_k‖_F²; a bias, of the package's networks the free one, is apart."""
    outputs = model(split.images.double())
    data = 0.0
    for f, label in zip(outputs, split.labels.tolist(), strict=True):
        y = torch.zeros(num_classes, dtype=torch.float64)
        y[label] = 1
        data = data + (f - y).square().sum()
    decay = sum(W.square().sum() for W in model.parameters() if W.ndim > 1)
    return data / (2 * len(split.labels)) + weight_decay / 2 * decay


@pytest.mark.parametrize("bias", ["none", "free"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.03])
@pytest.mark.parametrize("dataset", [GAUSSIAN, toy([5, 11, 2])], ids=["balanced", "unbalanced"])
def test_a_full_batch_step_goes_down_the_gradient_of_equation_one(dataset, weight_decay, bias):
    config = replace(FULL_BATCH, weight_decay=weight_decay, learning_rate=0.7, epochs=1, bias=bias)
    before, after = history(config, dataset)
    model = network_in_double(config, dataset, before)
    equation_one(model, dataset.train, weight_decay, dataset.num_classes).backward()
    for name, W in model.named_parameters():
        step = weights(after)[name] - weights(before)[name]
        assert W.grad.abs().max() > 1e-3
        torch.testing.assert_close(step, -0.7 * W.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_training_mean_squared_error_with_decay_w_is_equation_one_with_half_c_w(momentum):
    config = replace(FULL_BATCH, weight_decay=0.02, learning_rate=0.05, momentum=momentum)
    half = GAUSSIAN.num_classes / 2
    states = history(config)
    model = network_in_double(config, GAUSSIAN, states[0])
    optimizer = torch.optim.SGD(
        model.parameters(), config.learning_rate * half, momentum=momentum, weight_decay=config.weight_decay / half
    )
    targets = nn.functional.one_hot(GAUSSIAN.train.labels).double()
    for _ in range(config.epochs):
        optimizer.zero_grad()
        nn.MSELoss()(model(GAUSSIAN.train.images.double()), targets).backward()
        optimizer.step()
    for name, W in model.named_parameters():
        torch.testing.assert_close(weights(states[-1])[name], W.detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "dataset"),
    [
        (SMALL, GAUSSIAN),
        (SMALL, toy([700, 301, 499])),  # more than are measured in one forward pass, and not balanced
        (replace(SMALL, network="convnet", epochs=1), toy([3, 2], shape=(1, 16, 16))),
        (replace(SMALL, bias="free", weight_decay=0.1), GAUSSIAN),
    ],
    ids=["gaussian", "chunks", "convnet", "free bias"],
)
def test_recorded_loss_gradient_and_norms_are_those_of_equation_one(config, dataset):
    for state in (history(config, dataset)[i] for i in (0, -1)):
        model = network_in_double(config, dataset, state)
        objective = equation_one(model, dataset.train, config.weight_decay, dataset.num_classes)
        objective.backward()
        gradient_norm = math.sqrt(sum(W.grad.square().sum().item() for W in model.parameters()))
        norms = [W.detach().square().sum().item() for W in model.parameters() if W.ndim > 1]
        decay = config.weight_decay / 2 * sum(norms)
        assert state.record["train.loss"] == pytest.approx(objective.item(), rel=1e-5)
        assert state.record["train.loss_data"] == pytest.approx(objective.item() - decay, rel=1e-5)
        assert state.record["gradient_norm"] == pytest.approx(gradient_norm, rel=1e-4)
        assert state.record["train.weight_norms"] == pytest.approx(norms, rel=1e-6)
        test = equation_one(model, dataset.test, config.weight_decay, dataset.num_classes).item()
        assert state.record["test.loss"] == pytest.approx(test, rel=1e-5)


def test_the_objective_of_an_epoch_is_that_at_the_weights_of_its_steps():
    config = replace(FULL_BATCH, learning_rate=0.1)
    states = history(config)
    assert math.isnan(states[0].objective)
    assert states[1].objective != pytest.approx(states[0].record["train.loss"], rel=1e-6)  # decay is of the new weights
    data, decay = states[0].record["train.loss_data"], sum(states[1].record["train.weight_norms"])
    assert states[1].objective == pytest.approx(data + config.weight_decay / 2 * decay, rel=1e-5)


# What is recorded, and when


def test_a_record_has_every_metric_on_train_and_test_data():
    state = history(replace(SMALL, epochs=1))[-1]
    measured = {*METRICS, "class_counts", "rank"} - {"nc5", *naive.LAYER_KEYS}  # a run has no samples of no class
    bare = {"epoch", "learning_rate", "gradient_norm", "terminal_phase_start"}
    bare |= {"relative_gradient", "norm_spread", "nc1_slope", "classifier_sum"}
    assert set(state.record) == bare | {f"{split}.{key}" for split in ("train", "test") for key in measured}
    assert state.record["train.class_counts"] == [100] * 4
    assert state.record["test.class_counts"] == [25] * 4


def test_all_layers_are_measured_on_training_data_if_asked_for():
    config = RunConfig(dataset="gaussian", network="mlp", depth=3, width=6, epochs=0, layers="all")
    (state,) = history(config, FEW)
    model = first_network(config, FEW)
    measured = measure_layers(model, FEW.train, vci=False)
    expected = {
        f"train.layers.{layer}.{key}": m[key] for layer, m in measured.items() for key in LAYER_KEYS if key in m
    }
    assert {key: value for key, value in state.record.items() if "layers" in key} == pytest.approx(expected, rel=1e-9)
    assert "train.layers.features.3.weight_alignment_frame" in expected
    (plain,) = history(replace(config, layers="last"), FEW)
    assert {key: value for key, value in state.record.items() if "layers" not in key} == plain.record


def test_without_a_test_split_or_where_it_lacks_a_class_there_are_no_test_metrics():
    data, config = toy([4, 4, 4]), replace(SMALL, epochs=1)
    without = history(config, replace(data, test=None))
    lacking = history(config, replace(data, test=Split(data.test.images[:8], data.test.labels[:8])))
    assert not [key for key in without[-1].record if key.startswith("test.")]
    assert without[-1].record["train.class_counts"] == [4, 4, 4]
    assert same_run(without, lacking)


def test_per_class_takes_a_balanced_part():
    states = list(epochs(replace(SMALL, per_class=7, epochs=1)))
    assert states[-1].record["train.class_counts"] == [7] * 4
    assert states[-1].record["test.class_counts"] == [25] * 4


@given(st.integers(0, 10**6))
def test_records_are_two_to_an_octave_and_at_both_ends(epochs):
    recorded = recorded_epochs(RunConfig(epochs=epochs))
    assert recorded[0] == 0
    assert recorded[-1] == epochs
    assert list(recorded) == sorted(set(recorded))
    inner = recorded[1:-1]
    assert set(inner) <= set(recorded_epochs(RunConfig(epochs=2**20 - 1)))  # the same epochs for runs of any length
    for octave in range(1, max(epochs, 1).bit_length() - 1):
        assert sum(2**octave <= epoch < 2 ** (octave + 1) for epoch in recorded) == 2


def test_every_epoch_is_yielded_and_the_recorded_ones_measured():
    states = history(replace(SMALL, epochs=9))
    assert [state.epoch for state in states] == list(range(10))
    assert (
        [record["epoch"] for record in records(states)]
        == list(recorded_epochs(replace(SMALL, epochs=9)))
        == [0, 1, 2, 3, 4, 6, 8, 9]
    )
    assert [state.finished for state in states] == [False] * 9 + [True]
    assert all(state.seconds.keys() == {"train", "measure"} for state in states)


def test_no_epochs_measure_the_network_as_it_starts():
    (state,) = history(replace(SMALL, epochs=0))
    assert state.finished
    assert state.record["epoch"] == 0


def test_recorded_rate_is_the_one_after_the_epochs_steps():
    states = history(replace(SMALL, learning_rate=0.01, epochs=4))
    assert [record["learning_rate"] for record in records(states)] == pytest.approx([0.01, 0.0075, 0.005, 0.0025, 0])


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25, 0]),
        ("cosine", [1, 0.8535533906, 0.5, 0.1464466094, 0]),
        ("steps", [1, 1, 0.1, 0.01]),
    ],
)
def test_schedules(schedule, factors):
    config = replace(SMALL, schedule=schedule, learning_rate=0.3)
    rates = [learning_rate(config, quarter / 4) for quarter in range(len(factors))]
    assert rates == pytest.approx([0.3 * factor for factor in factors], abs=1e-9)


def test_a_decay_that_starts_high_comes_down_geometrically_to_its_own():
    config = replace(SMALL, decay_start=100.0)
    factors = [decay_factor(config, share) for share in (0.0, 0.3, 0.6, 1.0)]
    assert factors == pytest.approx([100, 10, 1, 1])
    assert decay_factor(SMALL, 0.0) == 1


def test_the_first_steps_decay_by_the_higher_one_and_records_are_of_its_own():
    config = replace(FULL_BATCH, decay_start=50.0, learning_rate=0.1, epochs=100)
    before, after = history(replace(config, epochs=1))
    (_, as_is) = history(replace(config, epochs=1, decay_start=1.0))
    for name, W in weights(before).items():
        further = weights(as_is)[name] - weights(after)[name]
        torch.testing.assert_close(further, 0.1 * 49 * config.weight_decay * W, rtol=1e-3, atol=1e-6)
    decay = config.weight_decay / 2 * sum(after.record["train.weight_norms"])
    assert after.record["train.loss"] == pytest.approx(after.record["train.loss_data"] + decay, rel=1e-6)


@pytest.mark.parametrize(
    ("schedule", "factor"),
    [
        ("constant", lambda share: 1),
        ("linear", lambda share: 1 - share),
        ("cosine", lambda share: math.cos(math.pi * share / 2) ** 2),
        ("steps", lambda share: 1 if share < 1 / 3 else 0.1 if share < 2 / 3 else 0.01),
    ],
)
def test_every_step_is_taken_at_the_rate_of_the_schedule(schedule, factor):
    config = replace(FULL_BATCH, schedule=schedule, learning_rate=0.3, epochs=7)
    states = history(config)
    model = network_in_double(config, GAUSSIAN, states[0])
    for step in range(config.epochs):
        gradients = torch.autograd.grad(
            equation_one(model, GAUSSIAN.train, config.weight_decay, 4), list(model.parameters())
        )
        with torch.no_grad():
            for W, gradient in zip(model.parameters(), gradients, strict=True):
                W -= 0.3 * factor(step / config.epochs) * gradient
    for name, W in model.named_parameters():
        torch.testing.assert_close(weights(states[-1])[name], W.detach(), rtol=1e-3, atol=1e-5)


def test_the_terminal_phase_starts_where_the_error_stays_zero(monkeypatch):
    accuracies = [0.5, 1.0, 1.0, 0.99, 1.0, 1.0, 1.0]

    def measured(self, epoch):
        whole = {"epoch": epoch, "train.accuracy": accuracies[epoch], "gradient_norm": 1.0}
        return whole | {"train.nc1": 1.0, "train.weight_norms": (1.0,)}, {}

    monkeypatch.setattr(Run, "measure", measured)
    monkeypatch.setattr(training.loop, "recorded_epochs", lambda config: tuple(range(config.epochs + 1)))
    states = history(SMALL)
    assert [record["terminal_phase_start"] for record in records(states)] == [None, 1, 1, None, 4, 4, 4]
    resumed = history(SMALL, resume=(states[4].tensors, states[4].record))
    assert [record["terminal_phase_start"] for record in records(resumed)] == [4, 4]


# When it stops


def test_it_stops_at_the_first_record_with_a_gradient_below_the_tolerance():
    config = replace(FULL_BATCH, learning_rate=0.1, epochs=50)
    whole = history(config)
    norms = {record["epoch"]: record["gradient_norm"] for record in records(whole)}
    tolerance = norms[11] * (1 + 1e-9)
    assert all(norm > tolerance for epoch, norm in norms.items() if epoch < 11)
    stopped = history(replace(config, gradient_tolerance=tolerance))
    assert len(stopped) == 12
    assert stopped[-1].finished
    assert same_run([replace(s, finished=False) for s in stopped], whole[:12])


def test_divergence_keeps_what_was_recorded_and_says_what_to_do():
    config = replace(FULL_BATCH, learning_rate=30.0, epochs=50)
    seen = []
    with pytest.raises(
        DivergedError, match=r"objective became (inf|nan) in epoch \d+ \(λ = 0\.003, learning rate 30\)"
    ):
        seen.extend(kept(state) for state in epochs(config, GAUSSIAN))
    assert 1 < len(seen) < 50
    assert all(math.isfinite(norm) for state in seen for norm in weights(state).values() for norm in norm.flatten())
    assert [state.epoch for state in seen] == list(range(len(seen)))


@pytest.mark.parametrize(("loss", "rate"), [("square", 30.0), ("cross_entropy", 1e3)])
def test_a_run_that_ends_far_above_its_start_has_diverged(loss, rate):
    config = replace(FULL_BATCH, learning_rate=rate, loss=loss, weight_decay=0.3, epochs=1)
    seen = []
    message = (
        r"became \d\S+ in epoch 1, which is more than 1000 times that of the start .*; try a smaller learning rate$"
    )
    with pytest.raises(DivergedError, match=message):
        seen.extend(epochs(config, GAUSSIAN))
    assert [state.epoch for state in seen] == [0]
    with pytest.raises(DivergedError, match=message):
        list(epochs(config, GAUSSIAN, resume=(seen[0].tensors, seen[0].record)))


def test_a_run_may_start_far_above_and_go_far_up_on_the_way():
    (*_, last) = records(history(replace(FULL_BATCH, initial_norm=300.0, learning_rate=1e-9, epochs=1)))
    assert last["train.loss"] > 1e6
    states = epochs(replace(FULL_BATCH, learning_rate=30.0, epochs=2), GAUSSIAN)
    assert next(states).record["train.loss"] * 1000 < next(states).record["train.loss"]


def test_a_network_that_starts_with_infinite_outputs_has_diverged():
    with pytest.raises(DivergedError, match="features are no longer finite; try a smaller learning rate"):
        list(epochs(replace(SMALL, initial_norm=1e30), GAUSSIAN))


# The same configuration gives the same bits


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_same_configuration_gives_the_same_run(optimizer):
    config = replace(SMALL, optimizer=optimizer)
    first = history(config)
    torch.manual_seed(12345)  # the caller's random numbers do not matter
    second = history(config)
    assert same_run(first, second)


def test_runs_taken_in_turns_do_not_disturb_one_another():
    configs = [replace(SMALL, seed=seed) for seed in (0, 1)]
    alone = [history(config) for config in configs]
    in_turns = [(kept(a), kept(b)) for a, b in zip(*(epochs(config, GAUSSIAN) for config in configs), strict=True)]
    assert all(same_run(run, turns) for run, turns in zip(alone, zip(*in_turns, strict=True), strict=True))


def test_a_seed_decides_the_first_weights_and_the_order_of_samples():
    config = replace(SMALL, learning_rate=1e-3)
    first, second = history(config), history(replace(config, seed=1))
    assert not torch.equal(weights(first[0])["classifier.weight"], weights(second[0])["classifier.weight"])
    orders = []
    for seed, epoch in ((0, 1), (0, 2), (1, 1)):
        with training.seeded(seed, epoch):
            orders.append(tuple(torch.randperm(400).tolist()))
    assert len(set(orders)) == 3


def test_the_weight_decay_and_length_of_a_run_do_not_change_its_start():
    first = history(replace(SMALL, epochs=0))[0]
    second = history(replace(SMALL, epochs=2, weight_decay=0.5))[0]
    assert all(torch.equal(value, weights(second)[name]) for name, value in weights(first).items())


def test_the_start_is_pytorchs_own_under_the_seed():
    (state,) = history(replace(SMALL, epochs=0, seed=3, initialization="kaiming"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3 * 2**20)
        model = build_network("mlp", (16,), 4, depth=3, width=12)
        initialize(model, "kaiming", 1.0)
    assert all(torch.equal(value.float(), model.state_dict()[name]) for name, value in weights(state).items())


def test_the_callers_random_numbers_are_untouched():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # not Python's: beartype uses those here
    for _ in epochs(replace(SMALL, epochs=2), GAUSSIAN):
        assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def tied(shape, classes):
    """Two layers with one weight."""
    first, second = (nn.Linear(*shape, *shape, bias=False) for _ in range(2))
    second.weight = first.weight
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(*shape, classes))


def of_a_user(*layers):
    return lambda shape, classes: nn.Sequential(nn.Linear(*shape, 12), *layers, nn.ReLU(), nn.Linear(12, classes))


@pytest.fixture
def users(monkeypatch):
    """A module of networks that are not the paper's, as a user would have it."""
    module = type(sys)("users_networks")
    module.dropout, module.batch_norm = of_a_user(nn.Dropout(0.4)), of_a_user(nn.BatchNorm1d(12))
    module.tied = tied
    monkeypatch.setitem(sys.modules, "users_networks", module)
    return module


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "learning_rate": 0.05},
        {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.0},
        {"optimizer": "adam"},
        {"optimizer": "adam", "bias": "free"},
        {"optimizer": "muon", "balancing": "epoch"},
        {"network": "users_networks:dropout"},
        {"network": "users_networks:batch_norm", "optimizer": "sgd", "learning_rate": 0.05},
        {"network": "users_networks:tied"},
        {"network": "convnet", "epochs": 3, "batch_size": 4},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
@pytest.mark.usefixtures("users")
def test_a_run_resumed_at_any_epoch_continues_as_if_it_had_never_stopped(options):
    config = replace(SMALL, **options)
    dataset = toy([4, 3], shape=(1, 16, 16)) if config.network == "convnet" else GAUSSIAN
    whole = history(config, dataset)
    first = next(name for name in whole[0].tensors if name.startswith("model."))
    assert not torch.equal(whole[1].tensors[first], whole[-1].tensors[first])
    for state in (whole[0], whole[2], whole[-2]):  # of six epochs the last but one has no record
        last = next(before.record for before in whole[state.epoch :: -1] if before.record)
        before = {name: t.clone() for name, t in state.tensors.items()}
        assert same_run(history(config, dataset, resume=(state.tensors, last)), whole[state.epoch + 1 :])
        assert all(torch.equal(t, before[name]) for name, t in state.tensors.items())  # what was given is not changed


def test_an_epoch_that_is_balanced_is_an_epoch_and_then_the_balance():
    config = replace(SMALL, optimizer="sgd", learning_rate=0.05, schedule="constant", epochs=1)
    (_, as_is), (_, balanced) = (history(replace(config, balancing=how)) for how in ("none", "epoch"))
    model = network_of(config, GAUSSIAN)
    model.load_state_dict(weights(as_is, torch.float32))
    balance(find_layers(model, GAUSSIAN.train.images[:4]))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights(balanced, torch.float32)[name])
    moments = [name for name in as_is.tensors if name.startswith("optimizer.")]
    assert all(torch.equal(as_is.tensors[name], balanced.tensors[name]) for name in moments)
    for key in ("train.accuracy", "train.loss_data", "test.sqi_gap", "test.loss_data"):
        assert balanced.record[key] == pytest.approx(as_is.record[key], rel=1e-5)
    assert sum(balanced.record["train.weight_norms"]) < 0.999 * sum(as_is.record["train.weight_norms"])
    decay = (sum(balanced.record["train.weight_norms"]) - sum(as_is.record["train.weight_norms"])) / 2
    saved = config.weight_decay * decay
    assert balanced.objective - as_is.objective == pytest.approx(saved, rel=1e-3)
    assert balanced.record["train.loss"] - as_is.record["train.loss"] == pytest.approx(saved, rel=1e-3)


def test_a_users_bias_can_be_free_and_must_be_there(users):
    users.unbiased = lambda shape, classes: nn.Sequential(nn.Linear(*shape, classes, bias=False))
    config = replace(FULL_BATCH, network="users_networks:dropout", weight_decay=0.5, epochs=1)
    (start, free), (_, decayed) = (history(replace(config, bias=bias)) for bias in ("free", "none"))
    spared = config.learning_rate * config.weight_decay * weights(start)["3.bias"]
    torch.testing.assert_close(weights(free)["3.bias"] - weights(decayed)["3.bias"], spared, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(weights(free)["0.bias"], weights(decayed)["0.bias"])
    with pytest.raises(NetworkError, match="has no bias that trains, so none can be free of decay"):
        history(replace(config, network="users_networks:unbiased", bias="free"))


def test_dropout_and_batch_norm_are_measured_as_in_use(users):
    config = replace(SMALL, network="users_networks:dropout", epochs=1)
    state = history(config)[-1]
    model = users.dropout((16,), 4)
    model.load_state_dict(weights(state, torch.float32))
    model.eval()
    correct = model(GAUSSIAN.train.images).argmax(dim=1) == GAUSSIAN.train.labels
    assert state.record["train.accuracy"] == correct.double().mean().item()
    assert model.train()(GAUSSIAN.train.images).ne(model(GAUSSIAN.train.images)).any()


@given(
    size=st.integers(2, 9),
    batches=st.integers(0, 4),
    rest=st.integers(0, 8),
    normalization=st.sampled_from(["none", "batch"]),
)
def test_every_sample_is_in_one_step_and_none_is_normalised_alone(size, batches, rest, normalization):
    samples = max(1, batches * size + rest)
    split = Split(torch.randn(samples, 3), torch.zeros(samples, dtype=torch.long))
    data = Dataset("few", split, None, 2, "", ())
    config = replace(SMALL, depth=2, width=2, batch_size=size, normalization=normalization)
    steps = Run(config, data, "cpu").batches(1)
    assert [place for step in steps for place in range(samples)[step]] == list(range(samples))
    sizes = [step.stop - step.start for step in steps]
    assert set(sizes[:-1]) <= {size}
    if normalization == "none":
        assert sizes[-1] <= size
    elif samples > 1:
        assert 2 <= sizes[-1] <= size + 1


# What cannot be trained


def unused(shape, classes, forward=lambda model, x: model.head(x)):
    return Model(forward, forgotten=nn.Linear(*shape, *shape), head=nn.Linear(*shape, classes))


def alone(forward):
    return lambda shape, classes: Model(forward, fc=nn.Linear(*shape, classes, bias=False))


REFUSED = {
    "a parameter outside the loss": (unused,
        r"forgotten\.weight of Model does not enter the loss; remove it, or freeze"),
    "a classifier that is never called": (
        lambda shape, classes: unused(shape, classes, lambda model, x: model.forgotten(x)),
        r"does not call its last linear layer.*return the output of such a layer"),
    "a classifier whose outputs are changed": (alone(lambda model, x: 0.5 * model.fc(x)),
        "output is not that of its last linear layer"),
    "a tuple": (alone(lambda model, x: (model.fc(x), x)),
        "the network returns a tuple; return the classifier's output alone"),
    "nothing to train": (lambda shape, classes: nn.Linear(*shape, classes).requires_grad_(False),
        "all parameters of Linear are frozen, so there is nothing to train"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_network_that_cannot_be_trained_is_refused(users, case):
    users.network, message = REFUSED[case]
    with pytest.raises(NetworkError, match=message):
        history(replace(SMALL, network="users_networks:network"))


def test_a_frozen_parameter_stays(users):
    def frozen(shape, classes):
        network = unused(shape, classes)
        network.forgotten.requires_grad_(False)
        return network

    users.frozen = frozen
    first, *_, last = history(replace(SMALL, network="users_networks:frozen"))
    assert torch.equal(first.tensors["model.forgotten.weight"], last.tensors["model.forgotten.weight"])
    assert not torch.equal(first.tensors["model.head.weight"], last.tensors["model.head.weight"])
    assert len(last.record["train.weight_norms"]) == 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("dataset", "gausian", "unknown data set 'gausian'; did you mean 'gaussian'?"),
        ("dataset", "CIFAR-10", "unknown data set 'CIFAR-10'; did you mean 'cifar10'?"),
        ("dataset", "", "unknown data set ''"),
        ("network", "convnt", "there is no network 'convnt'; choose convnet, mlp, resnet18, vgg11, timm:NAME"),
        ("weight_decay", -1e-4, "weight_decay must be at least 0, got -0.0001"),
        ("weight_decay", math.nan, "weight_decay must be finite, got nan"),
        ("weight_decay", math.inf, "weight_decay must be finite, got inf"),
        ("learning_rate", 0.0, "learning_rate must be positive, got 0.0"),
        ("learning_rate", math.inf, "learning_rate must be finite, got inf"),
        ("initial_norm", -1.0, "initial_norm must be positive, got -1.0"),
        ("momentum", 1.0, r"momentum must be in \[0, 1\), got 1.0"),
        ("momentum", math.nan, "momentum must be finite, got nan"),
        ("gradient_tolerance", math.nan, "gradient_tolerance must be finite, got nan"),
        ("per_class", 0, "per_class must be at least 1, got 0"),
        ("depth", 1, "depth must be at least 2, got 1"),
        ("width", 0, "width must be at least 1, got 0"),
        ("batch_size", 0, "batch_size must be at least 1, got 0"),
        ("batch_size", 10**30, "batch_size must be at most 1000000000, got 1000000000000000"),
        ("depth", 1001, "depth must be at most 1000, got 1001"),
        ("width", 10**400, "width must be at most 1000000, got 1000000000000000"),
        ("epochs", -1, "epochs must be at least 0, got -1"),
        ("epochs", 2**20, "epochs must be below 1048576, got 1048576"),
        ("seed", -1, "seed must be at least 0, got -1"),
        ("seed", 2**43, "seed must be below 8796093022208"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(**{field: value})
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **{field: value})


def unchecked(**fields):
    """A configuration without the tests' own checking of types, which would come first in __init__."""
    config = SimpleNamespace(**{**asdict(SMALL), **fields})
    RunConfig.__post_init__(config)
    return config


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("optimizer", "rmsprop", "optimizer must be sgd or sgdw or muon or adam or adamw, got 'rmsprop'"),
        ("schedule", "cosin", "schedule must be constant or steps or cosine or linear, got 'cosin'"),
        ("initialization", "xavier", "initialization must be default or kaiming or norm, got 'xavier'"),
        ("weight_decay", 10**400, "weight_decay must be finite, got 1000000000"),
    ],
)
def test_a_choice_that_there_is_not_and_a_number_beyond_any_float_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        unchecked(**{field: value})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 1.5, "epochs must be an integer, got 1.5 of type float"),
        ("epochs", "3", "epochs must be an integer, got '3' of type str"),
        ("seed", np.bool_(1), "seed must be an integer, got True of type bool"),
        ("seed", True, "seed must be an integer, got True of type bool"),
        ("batch_size", 2.0, "batch_size must be an integer, got 2.0 of type float"),
        ("batch_size", None, "batch_size must be an integer, got None of type NoneType"),
        ("per_class", 2.5, "per_class must be an integer, got 2.5"),
        ("weight_decay", "a", "weight_decay must be a number, got 'a' of type str"),
        ("weight_decay", "1e-3", "weight_decay must be a number, got '1e-3' of type str"),
        ("weight_decay", None, "weight_decay must be a number, got None of type NoneType"),
        ("momentum", False, "momentum must be a number, got False of type bool"),
        ("learning_rate", [0.1], r"learning_rate must be a number, got \[0.1\] of type list"),
        ("network", len, "network must be a string, got <built-in function len>"),
        ("dataset", Path("data.npz"), "dataset must be a string, got"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(field, value, message):
    with pytest.raises(TypeError, match=message):
        unchecked(**{field: value})


@pytest.mark.parametrize(
    ("field", "value", "plain"),
    [
        ("epochs", np.int64(3), 3),
        ("seed", np.uint8(7), 7),
        ("per_class", torch.tensor(5), 5),
        ("weight_decay", 0, 0.0),
        ("weight_decay", np.float32(0.5), 0.5),
        ("weight_decay", torch.tensor(0.5, requires_grad=True), 0.5),
        ("learning_rate", np.int32(1), 1.0),
    ],
)
def test_numbers_of_other_libraries_become_pythons_own(field, value, plain):
    found = getattr(unchecked(**{field: value}), field)
    assert (found, type(found)) == (plain, type(plain))


def test_training_takes_a_configuration_and_says_so():
    with pytest.raises(TypeError, match="epochs takes a RunConfig, got 'x' of type str"):
        inspect.unwrap(epochs)("x")  # without the tests' own checking of types


def test_an_mlp_that_does_not_fit_in_memory_is_said(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("neurocollapse.networks.architectures.nn.Linear", refuse)
    with pytest.raises(NetworkError, match=r"a layer of 12×16 weights \(7.68e-07 GB\) does not fit in memory"):
        history(SMALL)


def test_the_largest_seed_trains():
    assert history(replace(SMALL, seed=2**43 - 1, epochs=1))[-1].finished


def test_the_layers_norms_are_apart_from_decayed_biases(users):
    users.biased = of_a_user()
    state = history(replace(SMALL, network="users_networks:biased", epochs=1, weight_decay=0.5), toy([4, 4, 4]))[-1]
    record = state.record
    assert len(record["train.weight_norms"]) == 2
    decayed = sum(weight.square().sum().item() for weight in weights(state).values())
    assert decayed > sum(record["train.weight_norms"])
    assert record["train.loss"] == pytest.approx(record["train.loss_data"] + 0.25 * decayed, rel=1e-12)
