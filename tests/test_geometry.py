"""Simplex frames, distances from them, and the tolerances that decide rank and ties."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import neurocollapse.geometry
from neurocollapse import simplex_etf
from neurocollapse.geometry import (
    EPSILON,
    Gram,
    centered_span,
    centering,
    first_largest,
    half_distance_to_nearest,
    normalized_distance,
    pairs,
    pseudo_inverse_root,
    shifted,
    simplex_distance,
    tied_for_largest,
)
from neurocollapse.statistics.pairs import mean_pairs
from tests.problems import random_problem, rotation, simplex_rows, tensor

GRAM_TILES = ("products", "cosines", "squared_distances", "squared_distances_of_directions")


@pytest.mark.parametrize("num_classes", [2, 3, 10, 100])
def test_simplex_etf_has_unit_rows_at_equal_angles_around_zero(num_classes):
    K = simplex_etf(num_classes)
    gram = torch.full((num_classes, num_classes), -1 / (num_classes - 1), dtype=torch.float64).fill_diagonal_(1.0)
    torch.testing.assert_close(K @ K.T, gram, rtol=0, atol=1e-13)
    torch.testing.assert_close(K.sum(dim=0), torch.zeros(num_classes).double(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("num_classes", [-1, 0, 1])
def test_no_simplex_of_fewer_than_two(num_classes):
    with pytest.raises(ValueError, match=f"a simplex needs at least two classes, got {num_classes}"):
        simplex_etf(num_classes)


def test_the_exact_problems_frame_is_a_simplex_in_few_dimensions():
    rows = simplex_rows(5, 4)
    torch.testing.assert_close(rows @ rows.T, simplex_etf(5) @ simplex_etf(5).T)


def test_centering_removes_the_mean_over_classes():
    A = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(centering(4) @ A, A - A.mean(dim=0))


# ---- distances


def test_normalized_distance_knows_direction_and_no_scale():
    A = tensor([[3.0, 0.0], [0.0, 4.0]])
    assert normalized_distance(A, 7 * A) == pytest.approx(0, abs=1e-15)
    assert normalized_distance(A, -A) == pytest.approx(2)
    assert normalized_distance(A, tensor([[0.0, 1.0], [0.0, 0.0]])) == pytest.approx(math.sqrt(2))


def test_distance_from_what_vanishes_is_nan():
    A = tensor([[1.0, 2.0]])
    assert math.isnan(normalized_distance(0 * A, A))
    assert math.isnan(normalized_distance(A, 0 * A))
    assert math.isnan(normalized_distance(1e-17 * A, A, scale=1.0))
    assert normalized_distance(1e-15 * A, A, scale=1.0) == pytest.approx(0, abs=1e-15)


def test_simplex_distance():
    assert simplex_distance(Gram(5 * centering(4), torch.eye(4).double())) == pytest.approx(0, abs=1e-15)
    assert simplex_distance(Gram(torch.eye(4, dtype=torch.float64))) == pytest.approx(
        math.sqrt(2 - 2 * math.sqrt(3 / 4))
    )
    assert simplex_distance(Gram(torch.ones(4, 1, dtype=torch.float64))) == pytest.approx(math.sqrt(2))


def test_shifted_cosines_of_every_pair_in_order():
    vectors = tensor([[1.0, 0.0], [2.0, 2.0], [0.0, -3.0]])
    expected = tensor([abs(math.sqrt(0.5) + 0.5), 0.5, abs(-math.sqrt(0.5) + 0.5)])
    torch.testing.assert_close(shifted(pairs(Gram(vectors).cosines()), 3), expected)


def test_a_zero_vector_has_no_cosine():
    cosines = pairs(Gram(tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]])).cosines())
    assert cosines.isnan().tolist() == [True, False, True]


# ---- many rows


@pytest.mark.parametrize("ratio", [1.0, 30.0, 1e3])
def test_the_span_of_many_rows_is_that_of_the_singular_value_decomposition(ratio):
    """By the eigenvalues of A Aᵀ for a ratio of singular values up to 100, which is asked beyond it too."""
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(300, 400, generator=generator, dtype=torch.float64)
    A = A * torch.linspace(1, ratio, 400).double()
    A = A - A.mean(dim=0)
    span = centered_span(A, scale=1.0)
    _, expected, V = torch.linalg.svd(A, full_matrices=False)
    assert span.rank == 299
    torch.testing.assert_close(span.singular_values, expected[:299], rtol=1e-11, atol=0)
    eye = torch.eye(299, dtype=torch.float64)
    torch.testing.assert_close(span.directions @ span.directions.T, eye, rtol=0, atol=1e-11)
    torch.testing.assert_close(span.directions.T @ (span.directions @ A.T), A.T, rtol=0, atol=1e-9 * ratio)
    assert (span.directions @ V[:299].T).abs().diagonal().min() > 1 - 1e-6


def whole(gram: Gram, name: str) -> torch.Tensor:
    """What the tiles hold for pairs c < c', as one matrix with zeros elsewhere."""
    matrix = torch.zeros(len(gram.A), len(gram.A), dtype=torch.float64)
    for tile in gram.tiles():
        matrix[tile.rows, tile.columns] = tile.products if name == "products" else getattr(tile, name)()
    return matrix.triu(1)


def test_tiles_are_those_of_the_matrix(monkeypatch):
    vectors = torch.randn(11, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    vectors[3] = vectors[7] * (1 + 1e-9)  # nearly the same direction, and nearly the same point
    vectors[5] = vectors[2]
    one, crossed = Gram(vectors), Gram(vectors[:, :2], vectors[:, 2:])
    spread, noise = vectors[:, 0].abs(), 1e-12 * vectors[:, 1].abs()
    expected = {name: whole(one, name) for name in GRAM_TILES}
    distance, sums = half_distance_to_nearest(one), mean_pairs(one, spread, noise, 1e-12)
    squares = torch.cdist(vectors, vectors).square()
    torch.testing.assert_close(expected["squared_distances"], squares.triu(1), atol=1e-13, rtol=0)
    assert expected["squared_distances"][3, 7].item() == pytest.approx((vectors[3] - vectors[7]).square().sum().item())
    assert expected["squared_distances_of_directions"][2, 5] == 0
    monkeypatch.setattr(neurocollapse.geometry, "_distance_in_few_dimensions", lambda _: None)
    simplex = [simplex_distance(gram) for gram in (one, crossed)]
    monkeypatch.setattr(neurocollapse.geometry, "_TILE", 9)
    gram = Gram(vectors)
    assert len(list(gram.tiles())) == 10
    for name in GRAM_TILES:
        torch.testing.assert_close(whole(gram, name), expected[name], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(pairs(gram.cosines()).sort().values, pairs(one.cosines()).sort().values)
    torch.testing.assert_close(half_distance_to_nearest(gram), distance)
    tiled = [simplex_distance(each) for each in (gram, Gram(crossed.A, crossed.B))]
    assert tiled == pytest.approx(simplex, rel=1e-12)
    tiled = mean_pairs(gram, spread, noise, 1e-12)
    for name in ("cdnv", "cosine", "cosine_max", "log_inverse_distance"):
        assert getattr(tiled, name) == pytest.approx(getattr(sums, name), rel=1e-12, nan_ok=True), name


@pytest.mark.parametrize("scale", [1.0, 1e60, 1e-60])
def test_the_distance_by_small_products_is_that_by_tiles(scale, monkeypatch):
    """For C > 2p, and not where the products of A and B all but cancel."""
    A, B = torch.randn(2, 30, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    crossed = A * tensor([1.0, 1, 1, 0, 0, 0]), B * tensor([1e-9, 0, 0, 1, 1, 1])
    grams = [(A * scale,), (A * scale, A + 0.1 * B), (A, B), crossed]
    quick = [simplex_distance(Gram(*each)) for each in grams]
    monkeypatch.setattr(neurocollapse.geometry, "_distance_in_few_dimensions", lambda _: None)
    assert quick == pytest.approx([simplex_distance(Gram(*each)) for each in grams], rel=1e-12)


# ---- rank


def centred(rows: torch.Tensor) -> torch.Tensor:
    return rows - rows.mean(dim=0)


@given(st.integers(2, 7), st.integers(1, 7), st.integers(0, 2**32))
def test_span_is_orthonormal_and_rebuilds_the_means(num_classes, num_features, seed):
    means = centred(random_problem(seed, [1] * num_classes, num_features).weight)
    span = centered_span(means, scale=1.0)
    V = span.directions
    assert span.rank == min(num_features, num_classes - 1)
    torch.testing.assert_close(V @ V.T, torch.eye(span.rank, dtype=torch.float64), rtol=0, atol=1e-13)
    torch.testing.assert_close(means @ V.T @ V, means, rtol=0, atol=1e-12)
    torch.testing.assert_close((means @ V.T).square().sum(dim=0).sqrt(), span.singular_values, rtol=1e-9, atol=0)


@pytest.mark.parametrize("num_features", [2, 3, 4, 9])
def test_rank_is_at_most_one_less_than_the_classes(num_features):
    """Rows that sum to zero only up to rounding have a last singular value of that size: it never counts."""
    for seed in range(30):
        means = centred(1e3 * random_problem(seed, [1] * 4, num_features).weight)
        assert centered_span(means, scale=0.0).rank == min(num_features, 3)


def test_rank_is_at_most_one_less_than_the_classes_even_if_the_mean_was_left_in():
    assert centered_span(torch.eye(3, 5, dtype=torch.float64), scale=0.0).rank == 2


@pytest.mark.parametrize(("factor", "rank"), [(0.5, 1), (2.0, 2)])
def test_a_singular_value_counts_above_the_stated_tolerance(factor, rank):
    """max(C, p) · 2.2e-16 · max(σ₁, scale): here 5 features, and once σ₁, once the scale is the larger."""
    for largest, scale in ((3.0, 1.0), (3.0, 70.0)):
        tolerance = 5 * EPSILON * max(largest, scale)
        frame = rotation(5)[:2]
        left = torch.linalg.qr(tensor([[1.0, 1.0], [-1.0, 1.0], [0.0, -2.0]])).Q
        span = centered_span(left @ torch.diag(tensor([largest, factor * tolerance])) @ frame, scale)
        assert span.tolerance == pytest.approx(tolerance)
        assert span.rank == rank


# ---- pseudo-inverse


@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**32))
def test_pseudo_inverse_root_squares_to_the_pseudo_inverse(size, rank, seed):
    factor = random_problem(seed, [1] * size, rank).weight if size > 1 else tensor([[2.0] * rank])
    covariance = factor @ factor.T
    root = pseudo_inverse_root(covariance)
    assert root.shape == (size, min(size, rank))
    expected = np.linalg.pinv(covariance.numpy(), rcond=1e-13, hermitian=True)
    np.testing.assert_allclose((root @ root.T).numpy(), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def test_pseudo_inverse_root_drops_what_is_rounding_beside_the_scale():
    covariance = torch.diag(tensor([1.0, 1e-13, 1e-17, 0.0]))
    assert pseudo_inverse_root(covariance).shape == (4, 2)
    assert pseudo_inverse_root(covariance, scale=1e4).shape == (4, 1)
    assert pseudo_inverse_root(0 * covariance).shape == (4, 0)


# ---- ties


def test_ties_go_to_the_lowest_class():
    scores = tensor([[1.0, 3.0, 3.0], [0.0, 0.0, 0.0], [-2.0, -2.0, -5.0], [1.0, 2.0, 3.0]])
    assert first_largest(scores, torch.zeros_like(scores)).tolist() == [1, 0, 0, 2]
    assert tied_for_largest(scores, torch.zeros_like(scores)).sum(dim=1).tolist() == [2, 3, 2, 1]


def test_scores_equal_up_to_rounding_are_a_tie():
    scores = tensor([[0.3, 0.1 + 0.2], [1e9 / 3, 1e9 / 3 + 1e-7], [1.0, 1.0 + 1e-11], [-5.0, -5.0 + 1e-14]])
    assert scores[0, 1] > scores[0, 0]
    assert scores[1, 1] > scores[1, 0]
    assert first_largest(scores, scores.abs().amax(dim=1, keepdim=True).expand_as(scores)).tolist() == [0, 0, 1, 0]


def test_what_counts_as_a_tie_is_up_to_the_size_of_the_summands():
    """Outputs of 1e-17 where terms of size one cancel are all zero."""
    scores = tensor([[1e-17, 3e-17], [1e-17, 3e-17]])
    assert first_largest(scores, tensor([[1.0], [1e-17]]).expand_as(scores)).tolist() == [0, 1]
