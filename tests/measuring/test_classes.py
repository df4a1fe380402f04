"""The table of classes, against loops over samples and singular values of each class on its own."""

import math

import numpy as np
import pytest
import torch

from neurocollapse import class_table
from neurocollapse.measuring.classes import effective_rank
from tests.problems import random_problem


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
