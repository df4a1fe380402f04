"""Training on the cross-entropy: what is recorded, that it is the gradient's own, and that neural collapse appears."""

import dataclasses
import math

import pytest
import torch

from neurocollapse import VerificationError
from neurocollapse.datasets import load_dataset
from neurocollapse.metrics import METRICS
from neurocollapse.reports import summary
from neurocollapse.sweeps import objective_of_run, records_frame, runs_table, verify_run
from neurocollapse.sweeps.networks_tried import DECOUPLED, NOT_HOMOGENEOUS, run_notes
from neurocollapse.sweeps.resuming import execute
from neurocollapse.training import RunConfig, epochs, network_of
from tests import naive

GAUSSIAN = load_dataset("gaussian")
SMALL = RunConfig(dataset="gaussian", network="mlp", depth=3, width=12, initial_norm=2.0, epochs=6)
SMALL = dataclasses.replace(SMALL, loss="cross_entropy", weight_decay=3e-3, learning_rate=0.05, batch_size=50)


def history(config):
    found = []
    for state in epochs(config, GAUSSIAN):
        weights = {name.removeprefix("model."): t.clone() for name, t in state.tensors.items() if "model." in name}
        found.append((state, weights))
    return found


def objective_by_hand(model, split, config):
    """(1/N) Σ_i −log softmax(f_i)_{c(i)} + (λ/2) Σ_k ‖W_k‖², sample by sample; the free bias is apart."""
    outputs = model(split.images.double())
    data = sum(torch.logsumexp(f, 0) - f[c] for f, c in zip(outputs, split.labels.tolist(), strict=True))
    decayed = sum(
        p.square().sum() for name, p in model.named_parameters()
        if not (config.bias == "free" and name == "classifier.bias")
    )  # fmt: skip
    return data / len(split.labels), config.weight_decay / 2 * decayed


@pytest.mark.parametrize("options", [{}, {"bias": "free"}, {"bias": "all"}], ids=lambda o: o.get("bias", "none"))
def test_the_record_is_of_the_cross_entropy(options):
    config = dataclasses.replace(SMALL, epochs=2, **options)
    for state, weights in (history(config)[i] for i in (0, -1)):
        model = network_of(config, GAUSSIAN).double()
        model.load_state_dict(weights)
        for name, split in (("train", GAUSSIAN.train), ("test", GAUSSIAN.test)):
            data, decay = objective_by_hand(model, split, config)
            assert state.record[f"{name}.cross_entropy"] == pytest.approx(data.item(), rel=1e-5)
            assert state.record[f"{name}.objective"] == pytest.approx((data + decay).item(), rel=1e-5)
            if name == "train":
                (data + decay).backward()
        gradient_norm = math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters()))
        assert gradient_norm > 1e-3
        assert state.record["gradient_norm"] == pytest.approx(gradient_norm, rel=1e-4)


def test_the_keys_of_a_record():
    (_, (state, _)) = history(dataclasses.replace(SMALL, epochs=1))
    measured = {*METRICS, "class_counts", "rank", "cross_entropy", "objective"} - {"nc5", "loss", *naive.LAYER_KEYS}
    keys = {key.removeprefix("train.") for key in state.record if key.startswith("train.")}
    assert keys == measured
    assert "loss_data" in keys  # the square loss of the outputs, comparable between losses
    assert {key.removeprefix("test.") for key in state.record if key.startswith("test.")} == measured


def test_the_square_loss_has_no_such_keys():
    *_, state = epochs(dataclasses.replace(SMALL, loss="square", epochs=1), GAUSSIAN)
    assert "train.loss" in state.record
    assert not {"train.cross_entropy", "train.objective"} & state.record.keys()


def test_the_objective_falls():
    config = dataclasses.replace(SMALL, batch_size=400, momentum=0.0, schedule="constant", epochs=60)
    states = [state for state, _ in history(config)]
    records = [state.record["train.objective"] for state in states if state.record]
    assert records == sorted(records, reverse=True)
    assert records[-1] < 0.7 * records[0]
    objectives = [state.objective for state in states[1:]]
    assert objectives == sorted(objectives, reverse=True)
    decays = config.weight_decay / 2 * sum(states[1].record["train.weight_norms"])
    assert objectives[0] == pytest.approx(states[0].record["train.cross_entropy"] + decays, rel=1e-5)


# Neural collapse

COLLAPSE = ("nc1", "nc2_equinorm", "nc2_cosine", "nc3")
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]


def ends(config):
    *_, last = epochs(config, GAUSSIAN)
    assert last.record["train.accuracy"] == 1
    return {key: last.record[f"train.{key}"] for key in COLLAPSE}


@pytest.mark.parametrize("seed", SEEDS)
def test_with_decay_the_means_and_the_classifier_collapse_and_nc1_falls_as_far_as_it_can(seed):
    """A bias-free network is homogeneous: how far out a sample lies is handed on, whatever becomes of its direction.

    With features ⟨x, μ_c⟩ along an orthogonal frame, all is gone but the variance σ² = 1/4 along each class's own mean,
    ‖μ_c‖² = 12: Σ_W = σ²I/C and Σ_B = ‖μ_c‖²(I − 11ᵀ/C)/C, so that NC1 = (C − 1) σ²/‖μ_c‖² = 1/16.
    """
    config = dataclasses.replace(
        SMALL, width=16, initial_norm=3.0, learning_rate=0.3, weight_decay=1e-2, batch_size=100, epochs=200, seed=seed
    )
    decayed, undecayed = ends(config), ends(dataclasses.replace(config, weight_decay=0.0))
    assert decayed["nc1"] == pytest.approx(1 / 16, rel=0.02)
    assert decayed["nc1"] < 0.9 * undecayed["nc1"]
    for key in COLLAPSE[1:]:
        assert decayed[key] < 0.01, key
        assert decayed[key] < 0.1 * undecayed[key], key


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_neural_collapse_appears_with_decay(seed):
    """Where batch normalisation lets NC1 fall, too: what of it λ = 0 reaches, and what λ > 0 does."""
    config = dataclasses.replace(SMALL, depth=4, width=32, normalization="batch", initial_norm=3.0, seed=seed)
    config = dataclasses.replace(config, learning_rate=0.2, weight_decay=1e-2, batch_size=100, epochs=150)
    decayed, undecayed = ends(config), ends(dataclasses.replace(config, weight_decay=0.0))
    assert decayed["nc1"] < 0.002 < 0.02 < undecayed["nc1"]
    assert decayed["nc3"] < 0.1 < 0.3 < undecayed["nc3"]
    for key in ("nc2_equinorm", "nc2_cosine"):
        assert decayed[key] < 0.005 < 0.01 < undecayed[key], key


# On disk


def test_tables_show_the_cross_entropy_and_its_objective(tmp_path):
    folder = execute(dataclasses.replace(SMALL, epochs=1), GAUSSIAN, tmp_path)
    last = folder.records()[-1]
    (row,) = runs_table([folder]).to_dict("records")
    assert row["train.objective"] == last["train.objective"]
    assert "train.loss" not in row
    of_square = execute(dataclasses.replace(SMALL, epochs=1, loss="square"), GAUSSIAN, tmp_path)
    assert "train.objective" not in runs_table([of_square])
    both = runs_table([folder, of_square])
    assert both[["train.loss", "train.objective"]].notna().to_numpy().tolist() == [[False, True], [True, False]]
    means = summary(records_frame([folder])).set_index("key")["mean"]
    for key in ("train.cross_entropy", "train.objective", "train.loss_data"):
        assert means[key] == last[key]
    assert "train.loss" not in means


# What the theory does not speak of


def test_a_run_on_the_cross_entropy_is_not_verified(tmp_path):
    folder = execute(dataclasses.replace(SMALL, optimizer="adam", epochs=1), GAUSSIAN, tmp_path)
    for ask in (verify_run, objective_of_run):
        with pytest.raises(VerificationError, match=r"is cross_entropy, and the theory is about the square loss"):
            ask(folder)
    with pytest.raises(VerificationError, match="the theory is about the square loss"):
        verify_run(folder, force=True)


@pytest.mark.parametrize("optimizer", ["adamw", "sgdw"])
def test_a_run_with_decoupled_decay_is_verified_where_forced_and_every_row_says_so(tmp_path, optimizer):
    config = dataclasses.replace(SMALL, loss="square", optimizer=optimizer, learning_rate=1e-3, epochs=1)
    folder = execute(config, GAUSSIAN, tmp_path)
    with pytest.raises(VerificationError, match=rf"{optimizer} decouples its .*train with coupled decay, .*force"):
        verify_run(folder)
    rows = [row for rows in verify_run(folder, force=True).sections.values() for row in rows]
    assert rows
    assert all("not claimed" in row.tells for row in rows)


@pytest.mark.parametrize("coupled", ["adam", "sgd"])
def test_without_decay_coupled_and_decoupled_are_one(tmp_path, coupled):
    config = dataclasses.replace(SMALL, loss="square", learning_rate=1e-3, epochs=2, weight_decay=0.0)
    (*_, one), (*_, other) = (
        history(dataclasses.replace(config, optimizer=optimizer)) for optimizer in (coupled, f"{coupled}w")
    )
    assert all(torch.equal(weight, other[1][name]) for name, weight in one[1].items())
    assert verify_run(execute(dataclasses.replace(config, optimizer=f"{coupled}w"), GAUSSIAN, tmp_path)).sections


NOTES = [
    ({}, ()),
    ({"bias": "free"}, ()),
    ({"bias": "decayed"}, ()),
    ({"bias": "all"}, (NOT_HOMOGENEOUS,)),
    ({"normalization": "batch"}, (NOT_HOMOGENEOUS,)),
    ({"optimizer": "adamw"}, (DECOUPLED.format("adamw"),)),
    ({"optimizer": "sgdw"}, (DECOUPLED.format("sgdw"),)),
    ({"optimizer": "adamw", "weight_decay": 0.0}, ()),
    ({"optimizer": "adamw", "bias": "all"}, (NOT_HOMOGENEOUS, DECOUPLED.format("adamw"))),
]


@pytest.mark.parametrize(("options", "notes"), NOTES, ids=str)
def test_what_the_theory_does_not_speak_of_is_noted(options, notes):
    assert run_notes(dataclasses.replace(SMALL, **options), GAUSSIAN) == notes
