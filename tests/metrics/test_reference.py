"""What a measurement is held against: structureless features, and collapse, as they are measured."""

import math

import pytest
import torch

from neurocollapse import measure, reference_values
from neurocollapse.metrics.variability import structureless_nc1
from tests.problems import Decay, dual_simplex, orthogonal_frame, polygon, random_problem, rotation


def structureless(counts: list[int], num_features: int, seeds: int = 50) -> dict[str, float]:
    """The twin: features that know nothing of their labels, drawn and measured, and averaged over seeds."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    draws = []
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(100 + seed)
        features = torch.randn(len(labels), num_features, generator=generator, dtype=torch.float64)
        weight = torch.randn(len(counts), num_features, generator=generator, dtype=torch.float64)
        draws.append(measure(features, labels, weight, vci=False))
    return {key: sum(draw[key] for draw in draws) / seeds for key in draws[0]}


@pytest.mark.parametrize(
    ("counts", "num_features"), [([20] * 5, 40), ([200] * 10, 64), ([5] * 30, 12), ([10, 40, 90], 25)]
)
def test_structureless_features_as_measured(counts, num_features):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    m = measure(torch.randn(len(labels), num_features), labels, torch.randn(len(counts), num_features))
    table, twin = reference_values(m)["structureless"], structureless(counts, num_features)
    for key in table.dropna().index:
        assert table[key] == pytest.approx(twin[key], rel=0.15, abs=0.05), key
    assert {"nc1", "nc1_cdnv", "nc2_etf", "nc3", "nc4", "accuracy", "nc2_uniformity"} <= set(table.dropna().index)


@pytest.mark.parametrize(("counts", "num_features"), [([50] * 10, 200), ([8, 40, 20, 15], 60), ([6] * 40, 9)])
def test_the_formula_for_nc1_of_structureless_features(counts, num_features):
    assert structureless_nc1(counts, num_features) == pytest.approx(structureless(counts, num_features)["nc1"], rel=0.1)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    m = measure(torch.randn(len(labels), num_features), labels)
    expected = f"; without structure nc1 would be about {structureless_nc1(counts, num_features):.2g}"
    assert repr(m).splitlines()[0].endswith(expected)


def test_structureless_samples_held_out_against_the_means_of_others():
    """Few samples against the means of many: what their own number of samples would give is far from it."""
    many, few, p = [400] * 4, [15, 20, 25, 30], 30
    labels = [torch.repeat_interleave(torch.arange(4), torch.tensor(counts)) for counts in (many, few)]
    generator = torch.Generator().manual_seed(0)
    found: list[dict[str, float]] = []
    for _ in range(60):
        train, test = (torch.randn(len(y), p, generator=generator, dtype=torch.float64) for y in labels)
        m = measure(test, labels[1], means=measure(train, labels[0]).means)
        found.append(dict(m))
    table = reference_values(m)["structureless"]
    for key in ("nc1", "nc1_trace_ratio", "nc1_cdnv"):
        mean = sum(values[key] for values in found) / len(found)
        assert table[key] == pytest.approx(mean, rel=0.15), key
    assert structureless_nc1(many, p, held_out=True) == pytest.approx(table["nc1"], rel=0.15)
    assert structureless_nc1(few, p) < 0.2 * table["nc1"]


def test_there_is_no_formula_where_nc1_has_no_expectation():
    for num_classes, num_features in ((10, 10), (10, 9), (10, 8)):
        assert math.isnan(structureless_nc1([5] * num_classes, num_features))
    assert "without structure" not in repr(measure(torch.randn(50, 9), torch.arange(50) % 10))


@pytest.mark.parametrize(
    ("problem", "column"),
    [
        (dual_simplex(4, 9), "simplex_etf"),
        (dual_simplex(10, 16), "simplex_etf"),
        (orthogonal_frame(Decay(10, 3)), "no_bias"),
    ],
)
def test_collapse_as_measured_on_exact_problems(problem, column):
    table = reference_values(measure(problem.features, problem.labels, problem.weight, problem.bias))
    known = table[column].dropna()
    assert len(known) >= 22
    for key, value in known.items():
        assert table.loc[key, "value"] == pytest.approx(value, abs=1e-9), key


def test_where_no_simplex_fits():
    problem = polygon(8)  # eight means in the plane
    table = reference_values(measure(problem.features, problem.labels, problem.weight, problem.bias))
    bound = math.sqrt(2 - 2 * math.sqrt(2 / 7))
    for key in ("nc2_etf", "nc2_etf_weight", "nc3_duality"):
        assert table.loc[key, "simplex_etf"] == pytest.approx(bound)
        assert table.loc[key, "value"] >= bound - 1e-12
    assert table.loc[["nc2_cosine", "nc2_uniformity"], "simplex_etf"].isna().all()
    assert table["no_bias"].isna().all()


def test_beside_the_untrained_network():
    problem = random_problem(0, [5, 6, 7], 8)
    first, last = (measure(problem.features @ rotation(8, k) * s, problem.labels) for k, s in ((0, 1.0), (1, 3.0)))
    table = reference_values(last, initial=first)
    assert list(table) == ["value", "initial", "structureless", "simplex_etf", "no_bias"]
    assert table["initial"].to_dict() == dict(first)
    assert "initial" not in reference_values(last)
