"""Classes without samples, or with few, are left out; the model still decides among all of its outputs."""

import pytest
import torch
from torch import nn

import neurocollapse.statistics.projections
from neurocollapse import class_table, measure, measure_layers, measure_model
from neurocollapse.measuring.features import check_choice
from tests import naive

N, P, C = 120, 6, 30
G = torch.Generator().manual_seed(0)
H = torch.randn(N, P, generator=G)
Y = torch.randint(2, 20, (N,), generator=G)
Y[Y == 7] = 8
W, B = torch.randn(C, P, generator=G), torch.randn(C, generator=G)
FEW = {"absent": "leave_out", "min_per_class": 4, "max_per_class": 6}
MODEL = nn.Sequential(nn.Linear(P, C))
MODEL[0].weight.data, MODEL[0].bias.data = W, B
#: what outputs decide, of all classes or of those measured
DECIDED = {"nc4", "accuracy", "margin_min", "margin_mean", "loss_data"}


def batches(features=H, labels=Y):
    return list(zip(features.split(33), labels.split(33), strict=True))


def chosen(least: int, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample by sample: the first `most` of each class, of the classes that have `least`; and these classes."""
    taken: dict[int, list[int]] = {}
    for i, label in enumerate(Y.tolist()):
        taken[label] = [*taken.get(label, []), i][:most]
    classes = [c for c in sorted(taken) if len(taken[c]) >= least]
    return torch.tensor(sorted(i for c in classes for i in taken[c])), torch.tensor(classes)


@pytest.mark.parametrize(
    ("options", "least", "most"), [(FEW, 4, 6), ({"absent": "leave_out"}, 1, N), ({"max_per_class": 6, **FEW}, 4, 6)]
)
@pytest.mark.parametrize("outputs", [2**24, 100], ids=["outputs of the means kept", "not kept"])
def test_geometry_is_of_the_classes_left_and_decisions_are_of_all(options, least, most, outputs, monkeypatch):
    monkeypatch.setattr(neurocollapse.statistics.projections, "_KEPT_OUTPUTS", outputs)
    samples, classes = chosen(least, most)
    m = measure(H, Y, W, B, **options)
    features, labels = H[samples].double(), Y[samples]
    places = torch.searchsorted(classes, labels)
    expected = naive.measure(H[samples], places, W[classes], B[classes])
    for key in set(m) - DECIDED:
        if not key.startswith("sqi"):
            assert m[key] == pytest.approx(expected[key], rel=1e-6, abs=1e-9), key
    f = features @ W.double().T + B.double()
    own = f.gather(1, labels[:, None]).squeeze(1)
    others = f.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    means = torch.stack([features[places == c].mean(dim=0) for c in range(len(classes))])
    nearest = classes[torch.cdist(features, means).argmin(dim=1)]
    assert m["nc4"] == pytest.approx((f.argmax(dim=1) != nearest).double().mean().item())
    assert m["accuracy"] == pytest.approx((own > others).double().mean().item())
    assert m["margin_min"] == pytest.approx((own - others).min().item())
    assert m["sqi_off"] == pytest.approx((f.sum(dim=1) - own).mean().item(), rel=1e-6)
    assert m["sqi_sum"] == pytest.approx(f.sum(dim=1).mean().item(), rel=1e-6)
    targets = nn.functional.one_hot(labels, C)
    assert m["loss_data"] == pytest.approx((f - targets).square().sum(dim=1).mean().item() / 2, rel=1e-6)


def test_what_is_left_out_is_reported():
    m = measure(H, Y, W, B, **FEW)
    samples, classes = chosen(4, 6)
    assert m.class_counts == tuple(torch.bincount(Y[samples], minlength=C).tolist())
    assert m.left_out == tuple(sorted(set(range(C)) - set(classes.tolist())))
    assert m.num_classes == len(classes) == len(m.measured_counts) == len(m.mean_counts)
    assert f"{len(classes)} of 30 classes (4 to 6 each)" in str(m)
    assert f"{30 - len(classes)} classes left out" in str(m)
    assert m.to_dict()["class_counts"] == list(m.class_counts)
    assert measure(H, torch.arange(N) % 3).left_out == ()


def test_models_and_layers_leave_out_the_same():
    expected = dict(measure(H, Y, W, B, **FEW))
    assert dict(measure_model(MODEL, batches(), **FEW)) == expected
    assert measure_layers(MODEL, batches(), **FEW)["0"].items() >= expected.items()
    every = measure(H, Y, W, B, absent="leave_out")
    for strategy in ("stream", "twice"):
        m = measure_model(MODEL, batches(), absent="leave_out", strategy=strategy)
        assert dict(m) == pytest.approx({key: every[key] for key in m}, rel=1e-6, abs=1e-9)
        assert m.class_counts == every.class_counts


def test_held_out_samples_of_some_classes():
    means, some = measure(H, Y, W, B, absent="leave_out").means, slice(40)
    m = measure(H[some], Y[some], W, B, absent="leave_out", means=means)
    assert set(Y[some].tolist()) == {label for label, count in enumerate(m.class_counts) if count}
    assert dict(m) == dict(measure_model(MODEL, batches(H[some], Y[some]), absent="leave_out", means=means))
    both = torch.tensor(sorted(set(Y[some].tolist())))
    kept = torch.isin(Y, both)
    train = measure(H[kept], torch.searchsorted(both, Y[kept]), W[both], B[both])
    expected = measure(H[some], torch.searchsorted(both, Y[some]), W[both], B[both], means=train.means)
    for key in ("nc1", "nc1_cdnv", "nc2_etf", "nc3", "nc2_cosine"):
        assert m[key] == pytest.approx(expected[key], rel=1e-6), key


def test_a_vocabulary_without_a_classifier_takes_no_memory():
    labels = Y.clone()
    labels[0] = 10**12
    m = measure(H, labels[labels < 10**12].new_tensor([0, 10**5] * 60), absent="leave_out")
    assert (m.num_classes, len(m.class_counts)) == (2, 10**5 + 1)


def test_the_table_has_the_classes_that_are_left():
    counts = torch.bincount(Y, minlength=C)
    table = class_table(H, Y, W, absent="leave_out", min_per_class=5)
    assert table.index.tolist() == (counts >= 5).nonzero().flatten().tolist()
    for label, row in table.iterrows():
        samples = H[label == Y].double()
        assert row["count"] == counts[label]
        assert row["variance"] == pytest.approx(samples.var(dim=0, correction=0).sum().item(), rel=1e-5)
        assert row["weight_norm"] == pytest.approx(W[label].norm().item(), rel=1e-6)


REFUSED = {
    "none": ({"min_per_class": 0}, "min_per_class must be an integer of at least 1, got 0"),
    "too few": ({"min_per_class": 3}, r"classes have fewer than 3 samples, as class 0 with 0; .*absent='leave_out'"),
    "most below least": ({"min_per_class": 3, "max_per_class": 2}, "max_per_class is 2, and min_per_class 3"),
    "one left": ({"absent": "leave_out", "min_per_class": 100}, "0 classes have 100 samples or more; two are needed"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_leaves_no_classes_is_refused(options, message):
    for call in (lambda: measure(H, Y, W, B, **options), lambda: measure_model(MODEL, batches(), **options)):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("strategy", "options", "message"),
    [("twice", {"max_per_class": 3}, "two passes may differ"), ("stream", FEW | {"max_per_class": None}, "take back")],
)
def test_strategies_that_cannot_choose(strategy, options, message):
    with pytest.raises(ValueError, match=message):
        measure_model(MODEL, batches(), strategy=strategy, **options)


def test_a_message_about_many_absent_classes_is_short():
    means = measure(torch.randn(2000, 3), torch.arange(2000) % 1000).means
    with pytest.raises(ValueError, match=r"classes 10, 11, 12, 13, 14, … have no samples in the second") as error:
        measure(torch.randn(1000, 3), torch.arange(1000) % 10, means=means)
    assert len(str(error.value)) < 300


def test_what_to_do_with_absent_classes_is_one_of_two_words():
    with pytest.raises(ValueError, match="absent must be 'error' or 'leave_out', got 'drop'"):
        check_choice("drop", 1, None)


def test_classes_that_are_one_point_are_left_out_of_pairs():
    """Tokens seen once, after the same words: 0/0 in CDNV. With spread, equal means are infinitely far from apart."""
    features = torch.cat([H[:9], H[:1]])
    labels = torch.tensor([0, 1, 2, 2, 2, 3, 3, 3, 3, 4])
    m, without = measure(features, labels), measure(features[:9], labels[:9])
    v = [H[:9][labels[:9] == c].var(dim=0, correction=0).sum().item() for c in range(4)] + [0.0]
    mu = torch.stack([features[labels == c].mean(dim=0) for c in range(5)])
    pairs = [(c, d) for c in range(5) for d in range(c) if (c, d) != (4, 0)]
    ratios = [(v[c] + v[d]) / 2 / (mu[c] - mu[d]).square().sum().item() for c, d in pairs]
    units = nn.functional.normalize(mu - mu.mean(dim=0))
    logs = torch.tensor([-(units[c] - units[d]).norm().log().item() for c, d in pairs])
    assert (m.one_point, without.one_point) == (1, 0)
    assert m["nc1_cdnv"] == pytest.approx(sum(ratios) / 9, rel=1e-5)
    assert m["nc2_uniformity"] == pytest.approx(logs.mean().item(), rel=1e-4)
    assert m["nc2_uniformity_spread"] == pytest.approx(logs.std(correction=0).item(), rel=1e-4)
    assert "; 1 pairs of classes are one point each" in str(m)
    spread = torch.cat([features, H[:1] + 1, H[:1] - 1])
    m = measure(spread, torch.cat([labels, torch.tensor([4, 4])]))
    assert (m["nc1_cdnv"], m["nc2_uniformity"], m.one_point) == (float("inf"), float("inf"), 0)
