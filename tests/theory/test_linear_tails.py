"""Networks that end in linear layers: the tail that is found, its laws, and that SQI collapses them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import neurocollapse as nc
from neurocollapse import NetworkError
from neurocollapse.networks import build_network, find_linear_tail
from neurocollapse.theory import gather_evidence, theory_table
from neurocollapse.theory.linear_tails import balance_of_neighbours_along_flow, certificate
from neurocollapse.theory.two_clusters import joined_clusters, two_clusters
from neurocollapse.training import FullBatch, gradient_flow
from tests.modules import Model
from tests.training.runs import decayed

IDENTITIES, CRITICAL, SQI, THEOREM, *_ = nc.theory.STATEMENTS
GAUSSIAN = nc.load_dataset("gaussian", per_class=10).train
_DIGITS = nc.load_dataset("mnist5k", per_class=2).train
DIGITS = nc.datasets.Split(_DIGITS.images[..., ::2, ::2], _DIGITS.labels)  # so that the convnet has 256 features


def objective(network="mlp", *, seed=0, weight_decay=3e-3, **options):
    data = GAUSSIAN if network == "mlp" else DIGITS
    torch.manual_seed(seed)
    model = build_network(network, tuple(data.images.shape[1:]), int(data.labels.max()) + 1, **options)
    return decayed(model, data.images, data.labels, weight_decay)


def rows(reading, evidence, name):
    return [row for row in theory_table(evidence).sections[reading] if name in row.name]


# The tail that is found


def linear(*, bias=False, width=6):
    return nn.Linear(width, width, bias=bias)


class Rectified(nn.Linear):
    """A linear layer that is not linear."""

    def __init__(self):
        super().__init__(6, 6, bias=False)

    def forward(self, x):
        return super().forward(x).relu()


def hooked(layer):
    layer.register_forward_hook(lambda module, taken, given: given.relu())
    return layer


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([nn.ReLU(), linear(), linear()], (("2", "1"), "ReLU 0")),
        ([nn.ReLU(), linear(), nn.Identity(), nn.Flatten()], (("1",), "ReLU 0")),
        ([linear(), linear()], (("1", "0"), "the input")),
        ([linear(), nn.ReLU()], ((), "ReLU 1")),
        ([linear(), nn.ReLU(inplace=True)], ((), "ReLU 1")),
        ([linear(), nn.Dropout(0.1), linear()], (("2",), "Dropout 1")),
        ([linear(), nn.LayerNorm(6)], ((), "LayerNorm 1")),
        ([linear(), linear(bias=True), linear()], (("2",), "1, which has a bias")),
        ([linear(), Model(lambda model, z: z.relu()), linear()], (("2",), "Model 1")),
        ([Rectified(), linear()], (("1",), "0, which does more than multiply by its weight")),
        ([hooked(linear()), linear()], (("1",), "0, which does more than multiply by its weight")),
        ([weight_norm(linear()), linear()], (("1",), "0, which computes its weight from other parameters")),
        ([nn.Unflatten(1, (1, 6)), linear(), nn.Flatten()], ((), "1, which takes several vectors of a sample")),
    ],
)
def test_the_layers_before_the_classifier_are_found_and_what_ends_them_is_named(layers, expected):
    model = nn.Sequential(*layers, nn.Linear(6, 3))
    found = find_linear_tail(model, torch.randn(5, 6))
    assert (found.layers, found.ended_by) == expected


@pytest.mark.parametrize(
    "function",
    [lambda z: z.relu(), lambda z: z.relu_(), lambda z: z + 1, lambda z: z * 2, lambda z: (z.data.clamp_(min=0), z)[1]],
)
def test_an_operation_that_is_no_module_ends_the_tail(function):
    model = Model(lambda m, z: m.classifier(function(m.layer(z))), layer=linear(), classifier=nn.Linear(6, 3))
    assert find_linear_tail(model, torch.randn(5, 6)).layers == ()


def test_what_is_done_in_training_alone_ends_the_tail_and_leaves_the_model_as_it_was():
    def forward(model, z):
        model.seen = model.seen + model.training
        return model.classifier(nn.functional.dropout(model.layer(model.norm(z)), 0.5, model.training))

    model = Model(forward, norm=nn.BatchNorm1d(6), layer=linear(), classifier=nn.Linear(6, 3))
    model.register_buffer("seen", torch.zeros(()))
    found = find_linear_tail(model.eval(), torch.randn(5, 6))
    assert (found.layers, found.ended_by) == ((), "a function called between modules")
    assert not model.training
    assert model.norm.num_batches_tracked == model.seen == 0


def test_a_model_that_wants_more_in_training_has_the_tail_of_evaluation():
    def forward(model, z):
        if model.training:
            raise ValueError("targets, please")
        return model.classifier(model.layer(z))

    model = Model(forward, layer=nn.Linear(16, 6, bias=False), classifier=nn.Linear(6, 4)).eval()
    evidence = gather_evidence(decayed(model, GAUSSIAN.images, GAUSSIAN.labels, 1e-3))
    assert evidence.tail.layers == ("layer",)
    assert not evidence.differs_in_training


def test_a_layer_called_twice_or_frozen_is_no_part_of_the_tail():
    shared = linear()
    found = find_linear_tail(nn.Sequential(shared, shared, nn.Linear(6, 3)), torch.randn(5, 6))
    assert (found.layers, found.ended_by) == ((), "0, which is called 2 times")
    frozen = linear().requires_grad_(False)
    found = find_linear_tail(nn.Sequential(frozen, nn.Linear(6, 3)), torch.randn(5, 6))
    assert (found.layers, found.ended_by) == ((), "0, which is frozen")


@pytest.mark.parametrize("tail", [0, 1, 3])
@pytest.mark.parametrize("network", ["mlp", "convnet"])
def test_networks_have_the_tail_that_is_asked_for_without_biases(network, tail):
    model = build_network(
        network, (1, 16, 16), 3, depth=5, width=9, linear_tail=tail, hidden_bias=True, batch_norm=True
    )
    found = find_linear_tail(model.eval(), torch.randn(4, 1, 16, 16))
    assert len(found.layers) == tail
    assert found.ended_by.startswith(("ReLU", "Flatten"))


def test_a_tail_of_more_than_the_hidden_layers_is_refused():
    with pytest.raises(
        NetworkError, match="an mlp of depth 3 has 2 hidden layers, so linear_tail is at most that; got 3"
    ):
        build_network("mlp", (4,), 3, depth=3, width=8, linear_tail=3)
    with pytest.raises(NetworkError, match="a linear tail can be asked of convnet, mlp"):
        build_network("my:net", (4,), 3, linear_tail=1)


# Its laws


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("network", "depth", "tail"), [("mlp", 2, 1), ("mlp", 5, 4), ("mlp", 10, 3), ("convnet", 5, 1), ("convnet", 5, 2)]
)
def test_gradients_of_neighbours_agree_at_random_weights(network, depth, tail, bias):
    evidence = gather_evidence(objective(network, depth=depth, width=24, linear_tail=tail, bias=bias))
    found = rows(IDENTITIES, evidence, "∇_W of")
    assert len(found) == tail
    assert all(row.residual < 1e-12 and row.measured > 0 for row in found)


def test_a_bias_in_between_breaks_the_law():
    model = nn.Sequential(nn.Linear(16, 6, bias=False), nn.Linear(6, 4))
    evidence = gather_evidence(decayed(model, GAUSSIAN.images, GAUSSIAN.labels, 0.01))
    (row,) = rows(IDENTITIES, evidence, "∇_W of")
    assert row.residual < 1e-12
    with_bias = nn.Sequential(nn.Linear(16, 6), nn.Linear(6, 4))
    assert gather_evidence(decayed(with_bias, GAUSSIAN.images, GAUSSIAN.labels, 0.01)).linear_pairs == ()


def test_the_difference_of_grams_shrinks_entry_by_entry_along_the_flow():
    """Also with a ReLU below: only the layers above it enter."""
    flow, times = objective(depth=3, width=6, linear_tail=1, weight_decay=0.05), [0.0, 0.2, 0.5]
    layers = list(flow.model.parameters())
    differences = []
    for _ in gradient_flow(flow, times, rtol=1e-6, atol=1e-8):
        W, V = layers[2].detach(), layers[1].detach()
        differences.append(W.T @ W - V @ V.T)
    row = balance_of_neighbours_along_flow(times, differences, 0.05)
    assert row.residual < 1e-5
    assert balance_of_neighbours_along_flow(times, differences, 0.1).residual > 1e-2


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), width=st.integers(3, 12), tail=st.integers(1, 3), bias=st.booleans())
def test_the_certificate_is_never_below_the_value(seed, width, tail, bias):
    evidence = gather_evidence(objective(depth=4, width=width, linear_tail=tail, bias=bias, seed=seed))
    for row in certificate(evidence):
        assert row.predicted >= row.measured * (1 - 1e-12)


def test_near_a_critical_point_the_certificate_is_tight_and_features_follow_from_outputs():
    """All layers are linear, since ReLUs cut a step of the solver short wherever one switches."""
    start = objective(depth=3, width=8, linear_tail=2, weight_decay=0.05)
    for _ in gradient_flow(start, [80.0], rtol=1e-3):
        pass
    evidence = gather_evidence(start)
    assert all(row.residual < 0.01 for row in rows(CRITICAL, evidence, "WᵀW of"))
    assert all(row.residual < 0.05 for row in rows(CRITICAL, evidence, "Σ_W from"))
    bound = next(certificate(evidence))
    assert 0 < bound.measured <= bound.predicted < 1.1 * bound.measured


# Collapse


def test_a_rank_that_is_not_clear_is_read_both_ways_also_where_rounding_follows_it():
    """Singular values as after training in float32: three, and then nothing but rounding."""
    problem = objective(depth=3, width=12, linear_tail=1)
    with torch.no_grad():
        left, _, right = torch.linalg.svd(problem.model.classifier.weight, full_matrices=False)
        problem.model.classifier.weight.copy_(left * torch.tensor([0.7, 0.6, 3e-7, 2e-7]) @ right)
    names = [row.name for row in rows(CRITICAL, gather_evidence(problem), "Σ_W from")]
    assert [name.rpartition(" ")[2] for name in names] == ["2", "4"]


@pytest.mark.parametrize("num_classes", [2, 4, 10])
def test_with_a_linear_layer_sqi_joins_the_clusters(num_classes):
    evidence = gather_evidence(joined_clusters(num_classes, weight_decay=1e-4))
    table = theory_table(evidence)
    for reading in (IDENTITIES, CRITICAL, SQI, THEOREM):
        assert max(row.residual for row in table.sections[reading]) < 1e-11
    assert table.facts["nc1_trace_ratio"] < 1e-28
    assert any("linear layers (features.3, classifier), after ReLU features.2" in note for note in table.notes)


def test_where_layers_decay_differently_what_is_critical_holds_and_sqi_predicts_nothing():
    """With W_l scaled by c_l, of product 1, and λ_l by 1/c_l², the same network is at a critical point."""
    alike = joined_clusters(4, weight_decay=1e-4)
    model, scales = alike.model, (4.0, 0.5, 0.5)
    weights = [(name, p) for name, p in model.named_parameters() if p.ndim == 2]
    with torch.no_grad():
        for (_, p), scale in zip(weights, scales, strict=True):
            p.mul_(scale)
    each = {name: 1e-4 / scale**2 for (name, _), scale in zip(weights, scales, strict=True)}
    table = theory_table(gather_evidence(FullBatch(model, alike.inputs, alike.labels, each)))
    for reading in (IDENTITIES, CRITICAL, SQI):
        assert max(row.residual for row in table.sections[reading]) < 1e-11
    assert THEOREM not in table.sections
    assert {"WᵀW of classifier", "spread of the λ_l‖W_l‖²"} <= {row.name for row in table.sections[CRITICAL]}
    assert "decay differently (features.1 6.25e-06, features.3 0.0004, classifier 0.0004)" in table.notes[0]


def test_a_layer_that_alone_does_not_decay_is_named_and_predicts_nothing_of_its_neighbour():
    problem = objective(depth=3, width=6, linear_tail=1)
    problem.decays["features.3.weight"] = 0.0
    table = theory_table(gather_evidence(problem))
    assert any("a layer does not decay while others do" in note for note in table.notes)
    assert max(row.residual for row in table.sections[IDENTITIES]) < 1e-12
    assert not [row for row in table.sections[CRITICAL] if "WᵀW" in row.name or "Σ_W" in row.name]


def test_without_it_they_stay_apart_and_put_in_it_is_no_critical_point():
    """The identity as a linear layer leaves f and SQI as they are, but WᵀW ≠ VVᵀ: so the point must move."""
    apart = two_clusters(4)
    assert gather_evidence(apart).measurement["nc1_trace_ratio"] == pytest.approx(4 / 3)
    hidden, classifier = apart.model.features[1], apart.model.classifier
    put_in = nn.Linear(8, 8, bias=False)
    put_in.weight.data = torch.eye(8, dtype=torch.float64)
    model = nn.Sequential(hidden, nn.ReLU(), put_in, classifier)
    each = {name: 0.01 for name, p in model.named_parameters() if p.ndim == 2}
    evidence = gather_evidence(FullBatch(model, apart.inputs, apart.labels, each))
    table = theory_table(evidence)
    assert max(row.residual for row in table.sections[SQI]) < 1e-12
    assert evidence.measurement["nc1_trace_ratio"] == pytest.approx(4 / 3)
    (balanced,) = rows(CRITICAL, evidence, "WᵀW of")
    assert balanced.residual > 0.1
    (collapsed,) = rows(THEOREM, evidence, "Tr Σ_W before")
    assert collapsed.residual > 0.1


def test_too_much_decay_is_refused():
    with pytest.raises(ValueError, match="at λ = 1 the clusters of 4 classes collapse to zero"):
        joined_clusters(4, weight_decay=1.0)
