"""The table of classes, against loops over samples and singular values of each class on its own."""

import math
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch

from neurocollapse import InputError, class_table, measure, pair_table
from neurocollapse.measuring.classes import effective_rank
from tests.problems import random_problem


def cosine(one, other):
    return one @ other / np.linalg.norm(one) / np.linalg.norm(other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_features", [3, 12])
def test_every_column_equals_its_twin(num_features, dtype):
    problem = random_problem(2, [2, 5, 9], num_features, offset=10.0)
    features = problem.features.to(dtype)
    table = class_table(features, problem.labels, problem.weight)
    H, y = features.double().numpy(), problem.labels.numpy()
    means = np.array([H[y == c].mean(axis=0) for c in range(3)])
    for c in range(3):
        deviations = H[y == c] - means[c]
        shares = np.linalg.svd(deviations, compute_uv=False)
        shares = shares[shares > 1e-7 * shares[0]] / shares[shares > 1e-7 * shares[0]].sum()
        expected = {
            "count": (y == c).sum(),
            "mean_norm": np.linalg.norm(means[c] - means.mean(axis=0)),
            "variance": np.mean([row @ row for row in deviations]),
            "effective_rank": math.exp(-sum(share * math.log(share) for share in shares)),
            "weight_norm": problem.weight[c].norm().item(),
            "alignment": cosine(problem.weight[c].numpy(), means[c] - means.mean(axis=0)),
        }
        assert table.loc[c].to_dict() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_effective_rank_of_equal_singular_values_is_the_rank(rank):
    directions = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    assert effective_rank(directions[:, :rank] @ torch.eye(rank, 9).double()) == pytest.approx(rank)
    unequal = directions[:, :2] @ torch.diag(torch.tensor([1.0, 0.01])).double()
    assert 1 < effective_rank(unequal) < 1.1


def test_without_spread_and_without_a_weight():
    table = class_table(torch.eye(3).repeat(2, 1), [0, 1, 2] * 2)
    assert list(table) == ["count", "mean_norm", "variance", "effective_rank"]
    assert table["effective_rank"].isna().all()
    assert (table["variance"] == 0).all()


def test_weighting_moves_the_global_mean():
    features, labels = torch.tensor([[0.0], [0.0], [0.0], [4.0]]), [0, 0, 0, 1]
    assert class_table(features, labels)["mean_norm"].tolist() == [2.0, 2.0]
    assert class_table(features, labels, weighting="samples")["mean_norm"].tolist() == [1.0, 3.0]


def test_a_class_on_one_point_has_no_effective_rank():
    """Whatever the point: the mean of equal numbers may differ from them by rounding."""
    features = torch.cat([torch.full((7, 3), 0.1), torch.tensor([[1.0, 0.0, 0.3], [2.0, 0.0, 0.3]])]).double()
    table = class_table(features, [0] * 7 + [1] * 2)
    assert math.isnan(table["effective_rank"][0])
    assert table["effective_rank"][1] == pytest.approx(1.0)


@pytest.mark.parametrize("pairs", [3, 10, 100])
def test_every_pair_that_is_drawn_equals_its_twin(pairs):
    problem = random_problem(3, [2, 5, 4, 3, 2], 4, offset=10.0)
    table = pair_table(problem.features, problem.labels, problem.weight, pairs=pairs)
    assert len(table) == len(set(table.index)) == min(pairs, 10)
    H, y, W = problem.features.numpy(), problem.labels.numpy(), problem.weight.numpy()
    means = np.array([H[y == c].mean(axis=0) for c in range(5)])
    for (c, other), row in table.iterrows():
        assert c < other
        variances = [((H[y == k] - means[k]) ** 2).sum(axis=1).mean() for k in (c, other)]
        distance = np.linalg.norm(means[c] - means[other])
        expected = {
            "distance": distance,
            "cosine": cosine(means[c] - means.mean(axis=0), means[other] - means.mean(axis=0)),
            "cdnv": sum(variances) / (2 * distance**2),
            "weight_cosine": cosine(W[c], W[other]),
        }
        assert row.to_dict() == pytest.approx(expected, rel=1e-9)


def test_the_mean_over_all_pairs_is_the_metric_and_a_sample_estimates_it():
    problem = random_problem(4, [3] * 40, 6)
    measured, table = measure(problem.features, problem.labels), pair_table(problem.features, problem.labels)
    assert table["cdnv"].mean() == pytest.approx(measured["nc1_cdnv"], rel=1e-12)
    drawn = [pair_table(problem.features, problem.labels, pairs=200, seed=seed)["cdnv"] for seed in range(20)]
    assert len({tuple(sample.index) for sample in drawn}) == 20
    off = np.array([(sample.mean() - measured["nc1_cdnv"]) / sample.sem() for sample in drawn])
    assert abs(off.mean()) < 1
    assert off.std() < 2


def test_pairs_that_coincide_and_classes_that_are_left_out():
    features = torch.tensor([[0.1, 0.2], [0.1, 0.2], [0.1, 0.2], [0.0, 0.2], [0.2, 0.2], [5.0, 1.0]]).double()
    table = pair_table(features, [0, 0, 1, 2, 2, 4], absent="leave_out")
    assert [*table.index] == [(0, 1), (0, 2), (1, 2), (0, 4), (1, 4), (2, 4)]
    assert table["cdnv"].map(str).tolist()[:3] == ["nan", "inf", "inf"]
    assert table["distance"].tolist()[:3] == [0, 0, 0]
    for wrong in ({"pairs": 0}, {"seed": -1}):
        with pytest.raises(InputError, match=r"(pairs|seed) must be at least [01], got "):
            pair_table(features, [0, 0, 1, 2, 2, 4], **wrong)


def test_pairs_of_a_vocabulary_are_not_listed(monkeypatch):
    """1.3 billion of them would take 10 GB, and a table decides nothing."""
    monkeypatch.setattr("neurocollapse.statistics.Projections._add_decisions", lambda *_: pytest.fail("it decides"))
    labels = torch.arange(50_257).repeat(2)
    features = torch.randn(len(labels), 2, generator=torch.Generator().manual_seed(0))
    tracemalloc.start()
    try:
        assert len(pair_table(features, labels, features[:50_257], pairs=10)) == 10
        assert tracemalloc.get_traced_memory()[1] < 2**28
    finally:
        tracemalloc.stop()


def test_tables_of_the_first_samples_of_each_class():
    problem = random_problem(5, [4, 7, 3], 6)
    taken = torch.cat([(problem.labels == c).nonzero().flatten()[:3] for c in range(3)])
    given = (problem.features, problem.labels, problem.weight)
    for each in (class_table, pair_table):
        expected = each(*(part[taken] for part in given[:2]), problem.weight)
        pd.testing.assert_frame_equal(each(*given, max_per_class=3), expected, rtol=1e-9)
