"""Identities at every point, critical-point laws at exact optima, predictions under each reading."""

import html
import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import neurocollapse as nc
from neurocollapse.geometry import simplex_etf
from neurocollapse.networks import decays, find_classifier
from neurocollapse.theory import (
    STATEMENTS,
    Evidence,
    Parameter,
    TheoryTable,
    balance_along_flow,
    central_path,
    compare,
    gather_evidence,
    theory_table,
)
from neurocollapse.theory.table import NOT_CLAIMED
from neurocollapse.training import FullBatch
from tests.problems import Decay, free_bias, orthogonal_frame, quasi_interpolating, relu_features, rotation
from tests.training.runs import decayed

IDENTITIES, CRITICAL, SQI, THEOREM, FRAME, DECAYED_BIAS, LEMMA_2_1, CERTIFICATE = STATEMENTS
GAUSSIAN = nc.load_dataset("gaussian", per_class=10).train
IMAGES = nc.load_dataset("mnist5k", per_class=3).train

told = {"tells": "nothing", "reference": "here"}


# Comparisons


def test_numbers_are_compared_relative_to_the_larger():
    assert compare("x", 1.0, 4.0, **told).residual == 0.75
    assert compare("x", -2.0, 1.0, **told).residual == 1.5
    assert compare("x", 0.0, 0.0, **told).residual == 0.0
    assert compare("x", 1.0, 1.5, scale=10.0, **told).residual == pytest.approx(0.05)


@pytest.mark.parametrize(("residual", "digits"), [(0.0, 16), (1e-6, 6), (1e-20, 16), (3.0, 0), (math.nan, math.nan)])
def test_digits_of_agreement(residual, digits):
    found = replace(compare("x", 0.0, 0.0, **told), residual=residual).digits
    assert found == pytest.approx(digits, nan_ok=True)


def test_one_number_is_compared_with_each_of_many():
    one = compare("x", 3.0, torch.tensor([2.0, 4.0]), **told)
    assert (one.predicted, one.measured) == (3.0, 3.0)
    assert one.residual == pytest.approx(math.sqrt(2) / math.sqrt(20))
    assert compare("x", 0.0, torch.tensor([2.0, -2.0]), scale=1.0, **told).residual == pytest.approx(2.0)


def test_of_matrices_the_norms_are_shown_and_the_difference_counts():
    A = torch.eye(2, dtype=torch.float64)
    turned = compare("x", A, -A, **told)
    assert turned.predicted == turned.measured == pytest.approx(math.sqrt(2))
    assert turned.residual == pytest.approx(2.0)


# Identities, at random weights


def objective(network, data, *, bias="none", weight_decay=3e-3, seed=0, **size):
    torch.manual_seed(seed)
    model = nc.build_network(
        network, tuple(data.images.shape[1:]), int(data.labels.max()) + 1, bias=bias != "none", **size
    )
    if bias != "none":
        nn.init.normal_(model.classifier.bias)
    each = decays(model, find_classifier(model, data.images), weight_decay, bias)
    return FullBatch(model, data.images, data.labels, each)


def table_of_mlp(data=GAUSSIAN, depth=2, width=24, **options):
    return theory_table(gather_evidence(objective("mlp", data, depth=depth, width=width, **options)))


NETWORKS = {
    **{f"mlp of depth {depth}": ("mlp", GAUSSIAN, {"depth": depth, "width": 24}) for depth in range(2, 11)},
    "convnet": ("convnet", IMAGES, {}),
}


@pytest.mark.parametrize("bias", ["none", "free", "decayed"])
@pytest.mark.parametrize("name", NETWORKS)
def test_identities_hold_at_random_weights(name, bias):
    network, data, size = NETWORKS[name]
    table = theory_table(gather_evidence(objective(network, data, bias=bias, **size)))
    residuals = {comparison.name: comparison.residual for comparison in table.sections[IDENTITIES]}
    assert max(residuals.values()) <= 1e-12, residuals
    layers = 5 if network == "convnet" else size["depth"]
    assert len(residuals) == layers + layers + (layers - 1) + 1  # Euler, Lemma 2.2, neighbours, the central path


def test_identities_hold_where_a_bias_is_a_million_times_the_rest_of_the_outputs():
    tiny = objective("mlp", GAUSSIAN, depth=9, width=24, bias="free")
    tiny.move_to(torch.cat([p.flatten() * 1e-6 ** ((p.ndim > 1) / 9) for p in tiny.parameters.values()]).detach())
    table = theory_table(gather_evidence(tiny))
    assert max(comparison.residual for comparison in table.sections[IDENTITIES]) <= 1e-12


@pytest.mark.parametrize("depth", [2, 6, 10])
def test_identities_hold_for_convolutional_networks_of_any_depth(depth):
    torch.manual_seed(depth)
    layers = []
    for i, o in itertools.pairwise([1] + [6] * (depth - 1)):
        layers += [nn.Conv2d(i, o, 3, padding=1, bias=False), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 10, bias=False))
    table = theory_table(gather_evidence(decayed(model, IMAGES.images, IMAGES.labels, 1e-3)))
    assert max(comparison.residual for comparison in table.sections[IDENTITIES]) <= 1e-12


def test_identities_fail_for_a_network_that_is_not_homogeneous():
    """A bias in a hidden layer breaks homogeneity."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 4, bias=False))
    evidence = gather_evidence(decayed(model, GAUSSIAN.images, GAUSSIAN.labels, 1e-3))
    table = theory_table(evidence, doubt="it has one")
    assert max(comparison.residual for comparison in table.sections[IDENTITIES]) > 1e-3
    assert table.notes[0] == "it has one"
    assert {comparison.tells for comparison in table} == {NOT_CLAIMED}


def test_layer_norms_that_merge_exponentially_agree_and_others_do_not():
    times, decay = [0.5, 1.5, 4.0], 0.3
    factors = [math.exp(-2 * decay * (time - times[0])) for time in times]
    merging = [(7.0, 7.0 + 2 * factor, 7.0 - factor) for factor in factors]
    assert [row.residual < 1e-15 for row in balance_along_flow(times, merging, decay)] == [True, True]
    assert [row.residual > 0.02 for row in balance_along_flow(times, merging, 2 * decay)] == [True, True]


# The central path


@pytest.mark.parametrize("bias", ["none", "free", "decayed"])
def test_the_least_squares_classifier_is_where_the_gradient_by_the_classifier_vanishes(bias):
    evidence = gather_evidence(objective("mlp", GAUSSIAN, bias=bias, depth=3, width=24))
    path = central_path(evidence)
    outputs = evidence.features @ path.weight.T + (0.0 if path.bias is None else path.bias)
    errors = (evidence.targets - outputs) / len(evidence.labels)
    torch.testing.assert_close(errors.T @ evidence.features, evidence.weight_decay * path.weight)
    assert (path.bias is None) == (bias == "none")
    if path.bias is not None:
        torch.testing.assert_close(errors.sum(dim=0), evidence.bias_decay * path.bias)
    assert 0 < path.loss < evidence.loss
    assert path.excess > 0


def test_the_central_path_of_large_features_of_low_rank():
    """(1/N) H Hᵀ + λI has no digits left of λ. The solution is that for features of one dimension: W = a uᵀ."""
    lengths, labels = torch.tensor([2.0, 3.0, 5.0, 7.0]).double() * 2**20, torch.tensor([0, 0, 1, 1])
    direction = torch.tensor([3.0, 4.0, 12.0, 84.0]).double()  # of length 85, and the features are exact
    features = lengths[:, None] * direction
    evidence = evidence_of(
        SimpleNamespace(features=features, labels=labels, weight=torch.ones(2, 4).double(), bias=None), 1e-3
    )
    share = (lengths @ evidence.targets / 4) / (85**2 * lengths.square().mean() + 1e-3)
    torch.testing.assert_close(central_path(evidence).weight, share[:, None] * direction, rtol=1e-5, atol=0)


def test_the_central_path_is_not_unique_without_decay():
    with pytest.raises(ValueError, match="needs λ > 0"):
        central_path(gather_evidence(objective("mlp", GAUSSIAN, weight_decay=0.0, depth=2, width=24)))


# Exact optima: the last layer of an unconstrained features model as evidence


def evidence_of(problem, weight_decay, bias_decay=0.0):
    """The classifier of an exact problem as the only layer; its features take the place of a network's."""
    weight, bias = problem.weight.double(), problem.bias
    errors = nn.functional.one_hot(problem.labels, len(weight)).double() - problem.features @ weight.T
    errors -= 0.0 if bias is None else bias
    gradient = -errors.T @ problem.features / len(errors)
    layers = (Parameter("classifier", weight, gradient, weight_decay),)
    others = () if bias is None else (Parameter("bias", bias, -errors.mean(dim=0), bias_decay),)
    classifier = nc.Classifier(weight, bias)
    return Evidence(layers, others, problem.features, problem.labels, classifier, bias_decay)


def worst(table, reading, *, without=()):
    return max(comparison.residual for comparison in table.sections[reading] if comparison.name not in without)


DECAY = Decay(num_classes=10, per_class=3)


@pytest.mark.parametrize("problem", [free_bias(DECAY), relu_features(DECAY)], ids=str)
def test_with_a_free_bias_the_theorem_holds_exactly(problem):
    table = theory_table(evidence_of(problem, DECAY.weight))
    assert worst(table, SQI) < 1e-11
    assert worst(table, THEOREM) < 1e-11
    # a frame has one layer here, so that Euler's law for all layers is that of the classifier alone
    assert worst(table, CRITICAL) < 1e-11
    assert worst(table, LEMMA_2_1) < 1e-11
    assert FRAME not in table.sections


def test_without_a_bias_it_is_the_orthogonal_frame_that_holds():
    table = theory_table(evidence_of(orthogonal_frame(DECAY), DECAY.weight))
    assert worst(table, FRAME) < 1e-11
    assert worst(table, CRITICAL) < 1e-11
    by_name = {comparison.name: comparison for comparison in table.sections[SQI] + table.sections[THEOREM]}
    for name in ("(C−1) × off-class output", "sum of outputs 1ᵀf", "mean cos(W^c, W^c')", "‖Σ_c W^c‖"):
        assert by_name[name].residual == pytest.approx(1.0)  # as far as the other reading
    assert by_name["NC3"].measured == pytest.approx(0.3203645, abs=1e-7)
    lemma = table.sections[LEMMA_2_1]
    assert lemma[0].residual > 0.5  # W has a mean row, so ½‖Wμ_G‖² is not all
    assert lemma[1].residual < 1e-11


def test_a_decayed_bias_shrinks_the_sum_of_outputs():
    C, bias_decay = 4, 0.25
    b = torch.full((C,), 1 / (C * (1 + bias_decay)), dtype=torch.float64)
    base = free_bias(Decay(C, 5))
    table = theory_table(evidence_of(replace(base, bias=b), Decay(C, 5).weight, bias_decay))
    assert worst(table, DECAYED_BIAS) < 1e-12
    (stationarity,) = [row for row in table.sections[CRITICAL] if row.name == "λ_b b"]
    assert stationarity.residual < 1e-12


def test_sqi_is_found_and_missed():
    exact = evidence_of(quasi_interpolating(6, 9), 1e-3)
    assert worst(theory_table(exact), SQI) < 1e-12
    shaken = replace(exact, features=exact.features + 0.3 * rotation(9)[exact.labels])
    assert worst(theory_table(shaken), SQI) > 0.1


@pytest.mark.parametrize("name", ["W, Eq. 2", "‖W^c‖², Eq. 3", "⟨W^c, μ_G⟩ + b_c", "NC3"])
def test_each_prediction_can_fail(name):
    problem = free_bias(DECAY)
    wrong = replace(problem, weight=1.2 * problem.weight + 0.1 * rotation(10), bias=problem.bias + 0.01)
    rows = {row.name: row for row in theory_table(evidence_of(wrong, DECAY.weight)).sections[THEOREM]}
    assert rows[name].residual > 0.01


def test_lemma_2_1_is_least_where_it_says():
    """With exact NC, L(α) ≥ 1/(2C), reached at α = (C−1)/C."""
    C = 5
    frame = simplex_etf(C)
    labels = torch.arange(C).repeat(3)
    losses = []
    for alpha in (0.7, (C - 1) / C, 0.9):
        problem = replace(
            free_bias(Decay(C, 3)), features=frame[labels], labels=labels, weight=alpha * frame, bias=None
        )
        (row, general) = theory_table(evidence_of(problem, 1e-3)).sections[LEMMA_2_1]
        assert row.residual < 1e-13
        assert general.residual < 1e-13
        losses.append(row.predicted)
    assert losses[1] == pytest.approx(1 / (2 * C), abs=1e-15)
    assert losses[1] < min(losses[0], losses[2])


# The table


def test_without_decay_what_divides_by_it_is_left_out_and_named():
    table = table_of_mlp(weight_decay=0.0, depth=3)
    names = {row.name for row in table}
    assert not {"W, Eq. 2", "λW", "spread of the ‖W_l‖²"} & names
    assert any("equation 2, equation 3" in note for note in table.notes)
    assert worst(table, IDENTITIES) < 1e-12


def test_what_limits_the_theory_is_noted():
    model = nn.Sequential(nn.Dropout(0.2), nn.Linear(16, 4, bias=False))
    dropped = decayed(model, GAUSSIAN.images, GAUSSIAN.labels, 1e-3)
    evidence = gather_evidence(objective("mlp", GAUSSIAN, depth=2, width=24))
    part = replace(evidence, features=evidence.features[:-2], labels=evidence.labels[:-2])
    for table, message in (
        (theory_table(evidence), "cannot hold exactly"),
        (table_of_mlp(IMAGES, width=8), "p = 8 features hold no simplex of 10 classes"),
        (table_of_mlp(IMAGES, width=9), "p = 9 features hold no orthogonal frame"),
        (theory_table(part), "8 to 10 samples"),
        (theory_table(gather_evidence(dropped)), "in training the network computes something else"),
    ):
        assert any(message in note for note in table.notes), message


@pytest.mark.parametrize(
    ("width", "bias", "shown"), [(9, "none", False), (10, "none", True), (8, "free", False), (9, "free", True)]
)
def test_what_sqi_predicts_is_shown_where_the_features_hold_its_frame(width, bias, shown):
    table = table_of_mlp(IMAGES, width=width, bias=bias)
    assert {IDENTITIES, CRITICAL, SQI} <= set(table.sections)
    assert (THEOREM in table.sections) == (LEMMA_2_1 in table.sections) == shown
    assert any("what SQI predicts is left out" in note for note in table.notes) != shown


@pytest.mark.parametrize(("bias", "message"), [("none", "all outputs are zero"), ("free", "all outputs are the bias")])
def test_a_network_that_collapsed_to_zero_is_noted(bias, message):
    zero = objective("mlp", GAUSSIAN, depth=2, width=24, bias=bias)
    is_bias = torch.cat([torch.full(p.shape, p.ndim == 1).flatten() for p in zero.parameters.values()])
    zero.move_to(torch.where(is_bias, 0.25 * (bias == "free"), 0.0).double())
    table = theory_table(gather_evidence(zero))
    assert any(f"{message}: at λ = 0.003 everything that decays has collapsed to zero" in note for note in table.notes)
    assert table.facts["sqi_gap"] == 1 - 0.25 * (bias == "free")
    str(table)


def test_a_table_survives_json_and_is_readable():
    table = table_of_mlp()
    assert TheoryTable.from_dict(table.to_dict()) == table
    assert len(table.to_frame()) == len(list(table))
    text = str(table)
    for row in table:
        assert row.name in text
        assert row.tells in text


def test_a_table_in_a_notebook_has_its_facts_and_escapes():
    table = table_of_mlp()
    (reading, (first, *_)), *_ = table.sections.items()
    spoilt = replace(first, name="<script>", residual=1.25e-17)
    table = TheoryTable({reading: (spoilt,)}, table.facts, ("<script>", *table.notes))
    shown = table._repr_html_()
    assert shown.count("&lt;script&gt;") == 2
    assert "<script" not in shown
    assert "1.25e-17" in shown
    assert f"nc1 {table.facts['nc1']:.5g}," in shown
    assert all(html.escape(note) in shown for note in table.notes)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_a_frozen_bias_has_no_laws_of_a_free_one(value):
    """Those need ∂L/∂b = 0. Frozen at zero it is as good as none, and then the laws without a bias apply."""
    network = nc.build_network("mlp", (16,), 4, depth=2, width=24, bias=True)
    nn.init.constant_(network.classifier.bias, value)
    network.classifier.bias.requires_grad_(False)
    table = nc.verify(network, [(GAUSSIAN.images, GAUSSIAN.labels)], weight_decay=3e-3)
    names = {comparison.name for comparison in table.sections["at a critical point"]}
    assert not {"‖Σ_c W^c‖", "Σ_c b_c", "1ᵀf_i, every sample"} & names
    assert ("mean sum of outputs, q/(1 + q)" in names) == (value == 0)
    assert any("bias is frozen, so the laws that need" in note for note in table.notes) == (value != 0)
    assert worst(table, "identities, at every point") < 1e-12
