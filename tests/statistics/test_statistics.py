"""Sufficient statistics: batches in any split and order, merged in any tree, equal the whole; bad batches are named."""

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import neurocollapse.statistics
from neurocollapse import METRICS, ClassMeans, Measurement, Projections, Statistics, measure
from neurocollapse.statistics import Classifier, ClassMoments, torch_threads
from tests import naive
from tests.problems import (
    Problem,
    collapsed,
    known_spread,
    random_problem,
    random_problems,
    rotation,
    simplex_rows,
    tensor,
)

Batch = tuple[torch.Tensor, torch.Tensor]


def classifier_of(problem: Problem) -> Classifier:
    return Classifier(problem.weight, problem.bias)


def cut(problem: Problem, points: Sequence[int]) -> list[Batch]:
    """The samples in consecutive batches, some of them perhaps empty."""
    edges = [0, *sorted(point % (len(problem.labels) + 1) for point in points), len(problem.labels)]
    return [(problem.features[a:b], problem.labels[a:b]) for a, b in pairwise(edges)]


def merged_tree(parts: list, order: Sequence[int]):
    """Merges two neighbours at a time, which two being up to `order`."""
    parts = list(parts)
    for number in (*order, *[0] * len(parts)):
        if len(parts) == 1:
            break
        k = number % (len(parts) - 1)
        parts[k : k + 2] = [parts[k].merge(parts[k + 1])]
    return parts[0]


def gather(gathered, batches: list[Batch]):
    for batch in batches:
        gathered.update(*batch)
    return gathered


def means_of(batches: list[Batch], num_classes: int) -> ClassMeans:
    return gather(ClassMeans(num_classes), batches)


def projections_of(batches: list[Batch], means: ClassMeans, classifier: Classifier | None = None) -> Projections:
    return gather(Projections(means, classifier), batches)


def moments_of(batches: list[Batch], num_classes: int, classifier: Classifier | None = None) -> ClassMoments:
    return gather(ClassMoments(num_classes, classifier), batches)


def batch_of(problem: Problem) -> Batch:
    return problem.features, problem.labels


def two_sweeps(problem: Problem) -> Statistics:
    batch = [batch_of(problem)]
    return projections_of(batch, means_of(batch, problem.num_classes), classifier_of(problem)).statistics()


def assert_same(statistics: Statistics, problem: Problem, rel: float = 1e-10) -> None:
    """The metrics of `statistics` are those of the problem as a whole."""
    whole, measured = Measurement(two_sweeps(problem)), Measurement(statistics)
    expected = {key: whole[key] for key in measured}
    naive.assert_agree(measured, expected, problem.features, problem.weight, problem.bias, rel)


def cut_into_blocks(monkeypatch, rows: int) -> None:
    monkeypatch.setattr(neurocollapse.statistics.batches, "_BLOCK_ELEMENTS", {False: 1})
    monkeypatch.setattr(neurocollapse.statistics.batches, "_LEAST_ROWS", rows)
    monkeypatch.setattr(neurocollapse.statistics.projections, "_PRODUCTS", 1)


cuts = st.lists(st.integers(0, 30), max_size=6)
problems = random_problems(offset=3.0, spread=0.5, scale=1.0)


# ---- splits and merges


@given(problems, cuts)
def test_batches_of_any_split_equal_the_whole(problem, points):
    batches = cut(problem, points)
    means = means_of(batches, problem.num_classes)
    assert_same(projections_of(reversed(batches), means, classifier_of(problem)).statistics(), problem)


@given(problems, cuts, cuts)
def test_merging_in_any_tree_equals_the_whole(problem, points, order):
    batches, C = cut(problem, points), problem.num_classes
    means = merged_tree([means_of([batch], C) for batch in batches], order)
    parts = [projections_of([batch], means, classifier_of(problem)) for batch in batches]
    assert_same(merged_tree(parts, order[::-1]).statistics(), problem)


@settings(max_examples=15)
@given(problems, cuts, cuts)
def test_one_pass_equals_two_sweeps(problem, points, order):
    """Without NC4, which needs the final means while the samples are there."""
    C, batches = problem.num_classes, cut(problem, points)
    streamed = moments_of(batches, C, classifier_of(problem)).statistics()
    merged = merged_tree([moments_of([batch], C, classifier_of(problem)) for batch in batches], order).statistics()
    for statistics in (streamed, merged):
        assert set(Measurement(statistics)) == set(Measurement(two_sweeps(problem))) - {"nc4"}
        assert_same(statistics, problem, rel=1e-9)


@given(problems, cuts)
def test_moments_made_again_of_their_state_go_on_as_if_nothing_had_happened(problem, points):
    classifier, batches = classifier_of(problem), cut(problem, points)
    moments = ClassMoments(problem.num_classes, classifier)
    for batch in batches:
        moments = ClassMoments.of_state(moments.state(), classifier)
        moments.update(*batch)
    state, expected = moments.state(), moments_of(batches, problem.num_classes, classifier).state()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert ClassMoments.of_state(state, classifier).outputs == moments.outputs


def test_states_have_as_many_dimensions_with_samples_as_without():
    """So that processes can gather them."""
    moments = moments_of([(torch.ones(2, 3), torch.tensor([0, 1]))], 2)
    types = [{name: (value.ndim, value.dtype) for name, value in m.state().items()} for m in (ClassMoments(2), moments)]
    assert types[0] == types[1]


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_one_pass_is_right_near_collapse(offset):
    problem = random_problem(1, [9, 7, 8], 5, spread=1e-8, offset=offset)
    if offset:
        problem = random_problem(1, [9, 7, 8], 5, spread=1e-2, offset=offset)
        problem = replace(problem, features=problem.features.float())
    moments = moments_of(cut(problem, [5, 11, 12]), 3, classifier_of(problem))
    expected = naive.measure(problem.features, problem.labels, problem.weight, problem.bias)
    del expected["nc4"]
    naive.assert_agree(
        Measurement(moments.statistics()), expected, problem.features, problem.weight, problem.bias, rel=1e-6
    )


def test_merging_leaves_the_other_as_it_was():
    problem = random_problem(0, [3, 4, 5], 4)
    first, second = cut(problem, [6])
    for build in (lambda b: means_of([b], 3), lambda b: moments_of([b], 3, classifier_of(problem))):
        other, alone = build(second), build(second)
        empty = type(other)(3) if isinstance(other, ClassMeans) else ClassMoments(3, other.classifier)
        merged = empty.merge(other).merge(build(first))
        merged.update(*first)
        means, unharmed = (x if isinstance(x, ClassMeans) else x.means for x in (other, alone))
        assert torch.equal(means.sums, unharmed.sums)
        assert torch.equal(means.counts, unharmed.counts)


def test_blocks_within_a_batch_do_not_matter(monkeypatch):
    problem = random_problem(0, [10, 20, 30], 4, offset=3.0)
    whole = two_sweeps(problem)
    cut_into_blocks(monkeypatch, rows=7)
    batch = [batch_of(problem)]
    for statistics in (two_sweeps(problem), moments_of(batch, 3, classifier_of(problem)).statistics()):
        values = Measurement(statistics)
        assert dict(values) == pytest.approx({key: Measurement(whole)[key] for key in values}, rel=1e-10, abs=1e-12)


def test_statistics_do_not_change_with_what_comes_after():
    problem = random_problem(0, [3, 4, 5], 4)
    batch, classifier = batch_of(problem), classifier_of(problem)
    for gathered in (projections_of([batch], means_of([batch], 3), classifier), moments_of([batch], 3, classifier)):
        statistics = gathered.statistics()
        before = Measurement(statistics)
        gathered.update(*batch)
        after = Measurement(statistics)
        assert after.class_counts == before.class_counts
        assert dict(after) == dict(before)


def test_the_memory_of_a_batch_may_be_used_again():
    """A loader that fills one buffer again and again: nothing keeps a view into it."""
    problem = random_problem(0, [4, 4, 4], 3, offset=5.0)
    buffer = torch.empty(6, 3, dtype=torch.float64)

    def refilled(gathered):
        for features, labels in cut(problem, [6]):
            buffer.copy_(features)
            gathered.update(buffer, labels)
        buffer.fill_(float("nan"))
        return gathered

    means = refilled(ClassMeans(3))
    assert_same(refilled(Projections(means, classifier_of(problem))).statistics(), problem)
    assert_same(refilled(ClassMoments(3, classifier_of(problem))).statistics(), problem)


def test_features_that_require_gradients_leave_no_graph():
    problem = random_problem(0, [3, 3], 4)
    batch = [(problem.features.clone().requires_grad_(), problem.labels)]
    means = means_of(batch, 2)
    projections, moments = projections_of(batch, means), moments_of(batch, 2)
    kept = means.reference, means.sums, projections.class_scatter, projections.scatter, moments.scatter
    assert not any(values.requires_grad for values in kept)


# ---- what the statistics are


@pytest.mark.parametrize("seed", range(5))
def test_total_covariance_is_the_sum_where_classes_are_balanced(seed):
    """Σ_T = Σ_W + Σ_B; with unequal classes only under sample weighting."""
    for counts, balanced in (([4] * 5, True), ([1, 2, 3, 4, 9], False)):
        problem = random_problem(seed, counts, 6)
        statistics = two_sweeps(problem)
        means = statistics.centered_class_means
        total = statistics.within_class_covariance + means.T @ means / 5
        same = torch.allclose(total, torch.cov(problem.features.T, correction=0), rtol=1e-11, atol=1e-13)
        assert same == balanced


def test_fields_are_what_they_say():
    problem = random_problem(0, [2, 3, 4], 5, offset=2.0)
    statistics = two_sweeps(problem)
    data = naive.Data(naive.numbers(problem.features), problem.labels.tolist(), 3)
    sizes = (problem.labels == torch.arange(3)[:, None]).sum(dim=1)
    V = statistics.span.directions
    Sigma_W = tensor(data.Sigma_W.astype(float))
    assert statistics.num_classes == 3
    assert torch.equal(statistics.class_counts, sizes)
    torch.testing.assert_close(statistics.class_means, tensor(data.mu.astype(float)))
    torch.testing.assert_close(statistics.centered_class_means, tensor(data.mu_dot.astype(float)))
    torch.testing.assert_close(statistics.global_mean, statistics.class_means.mean(dim=0))
    torch.testing.assert_close(statistics.within_class_covariance, Sigma_W)
    torch.testing.assert_close(statistics.within_class_covariance_on_span, V @ Sigma_W @ V.T)
    assert statistics.within_class_trace == pytest.approx(Sigma_W.trace().item())
    assert statistics.between_class_trace == pytest.approx(float(naive.trace(data.Sigma_B)))


def test_everything_is_float64_whatever_the_features():
    problem = random_problem(0, [3, 3], 4)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        batch = [(problem.features.to(dtype), problem.labels.to(torch.int32))]
        statistics = projections_of(batch, means_of(batch, 2)).statistics()
        tensors = [getattr(statistics, field.name) for field in fields(Statistics)]
        dtypes = {values.dtype for values in tensors if isinstance(values, torch.Tensor)}
        assert dtypes == {torch.float64, torch.int64}


def test_other_samples_on_given_means():
    """Held-out samples: the spread is around the given means, so it has their error too."""
    frame = 2.0 * simplex_rows(3, 4) @ rotation(4)
    means = means_of([collapsed(frame, 2)], 3)
    moved = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    features, labels = collapsed(frame + moved, [1, 2, 3])
    statistics = projections_of([(features, labels)], means).statistics()
    torch.testing.assert_close(statistics.within_class_covariance, torch.outer(moved, moved))
    assert Measurement(statistics)["nc1_trace_ratio"] == pytest.approx(moved.square().sum().item() / 4)
    assert Measurement(statistics).class_counts == (1, 2, 3)


def test_nearest_means_of_other_samples_are_the_given_ones():
    means = means_of([(tensor([[1.0], [-1.0]]), torch.tensor([0, 1]))], 2)
    away = (tensor([[0.5], [3.0], [-0.5]]), torch.tensor([1, 1, 0]))  # all nearest to the other class's mean
    statistics = projections_of([away], means, Classifier(tensor([[1.0], [-1.0]]))).statistics()
    assert statistics.nearest_mean_disagreement == 0
    assert statistics.outputs.accuracy == 0


def test_without_the_whole_covariance():
    problem = known_spread(3, [0.3] * 5)
    batch = [batch_of(problem)]
    means = means_of(batch, 3)
    for both in ((False, False), (False, True), (True, False)):
        one, other = (gather(Projections(means, covariance=covariance), batch) for covariance in both)
        statistics = one.merge(other).statistics()
        measured = Measurement(statistics)
        assert statistics.within_class_covariance is None
        assert set(naive.MEANS_KEYS) - set(measured) == {"nc1_vci"}
        assert measured["nc1"] == pytest.approx(problem.expected["nc1"])


def test_one_pass_over_many_features_is_refused(monkeypatch):
    monkeypatch.setattr(neurocollapse.statistics.one_pass, "FULL_COVARIANCE_LIMIT", 4)
    with pytest.raises(ValueError, match=r"one pass keeps a 5 × 5 matrix.* 4 features; take two passes"):
        moments_of([batch_of(known_spread(3, [0.3] * 5))], 3)


# ---- float32


def in_float32(problem: Problem) -> Measurement:
    return measure(problem.features, problem.labels, problem.weight, problem.bias, vci=False)


def twin_of(problem: Problem) -> dict[str, object]:
    expected = naive.measure(problem.features, problem.labels, problem.weight, problem.bias)
    del expected["nc1_vci"]
    return expected


def assert_equals_twin(problem: Problem, rel: float) -> None:
    naive.assert_agree(in_float32(problem), twin_of(problem), problem.features, problem.weight, problem.bias, rel)


@given(random_problems(offset=0.0, scale=1.0), st.sampled_from([torch.float16, torch.bfloat16, torch.float32]))
def test_products_in_float32_equal_the_twin(problem, dtype):
    problem = replace(problem, features=problem.features.to(dtype))
    assume(naive.is_supported(problem.features, problem.labels))
    spread = (problem.features.double() - problem.features.double()[0]).abs().max()
    measured, size = in_float32(problem), float(1 + spread * problem.weight.norm())
    for key, value in twin_of(problem).items():
        # outputs are good to float32 of what was summed, ‖W‖ ‖h − μ_c‖, and the loss is a square of them
        outputs = size**2 if key == "loss_data" else size
        exactly = key in ("nc4", "accuracy") or key.startswith(("nc2", "nc3"))
        absolute = 1e-12 if exactly else 1e-6 * outputs
        assert measured[key] == pytest.approx(value, rel=2e-6, abs=absolute, nan_ok=True), key


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("spread", [1e-2, 1e-6])
@pytest.mark.parametrize("seed", range(3))
def test_products_in_float32_are_right_at_collapse(seed, spread, offset):
    problem = random_problem(seed, [5, 9, 7, 8], 6, spread=spread, offset=offset)
    assert_equals_twin(replace(problem, features=problem.features.float()), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-37, 1e-20, 1e-5, 1e5, 1e20, 1e37])
def test_products_in_float32_at_any_scale_that_it_holds(scale):
    problem = random_problem(0, [3, 4, 5], 4, spread=1e-3)
    problem = replace(problem, features=(scale * problem.features).float(), weight=problem.weight / scale)
    assert_equals_twin(problem, rel=2e-6)


def test_mean_outputs_are_exact_in_float32_too():
    """They follow from the class means: near zero a sum of float32 outputs has no digit left."""
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.rand(3000, 256, generator=generator), torch.arange(3000) % 5
    weight = torch.randn(5, 256, generator=generator, dtype=torch.float64) / 16
    weight -= weight.mean(dim=0)
    single, double = (measure(f, labels, weight, vci=False) for f in (features, features.double()))
    for key in ("sqi_sum", "sqi_gap", "sqi_off"):
        assert single[key] == pytest.approx(double[key], rel=1e-9, abs=1e-13), key


@pytest.mark.parametrize("gap", [0.0, 1e-9, -1e-9])
def test_decisions_that_float32_cannot_make(gap):
    """Samples half-way between two means, or beyond by less than float32 sees; W decides by another such hair."""
    means = 300.0 * torch.eye(3, 40, dtype=torch.float64) + torch.linspace(0.1, 7, 40).double()
    features = torch.cat([means, means, means[:1], means[1:2]])
    half_way = means[:2].mean(dim=0)
    features = torch.cat([features, torch.stack([half_way, half_way])]).float()
    labels = torch.tensor([0, 1, 2] * 2 + [0, 1] + [0, 1])
    weight = torch.stack([means[0] - means[1], gap * means[0], -means[2]])
    problem = Problem("", features, labels, weight, -(weight @ half_way))
    expected = naive.measure(features, labels, weight, problem.bias)
    measured = in_float32(problem)
    assert (measured["nc4"], measured["accuracy"]) == (expected["nc4"], expected["accuracy"])


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_the_precision_that_a_caller_trains_with_does_not_matter(precision):
    problem = random_problem(0, [40, 50], 64, spread=1e-3)
    problem = replace(problem, features=problem.features.float())
    alone = in_float32(problem).to_dict()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert in_float32(problem).to_dict() == alone
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


# ---- weights of classes


def test_weighting_by_samples_decomposes_the_total_covariance():
    """Σ_W + Σ_B = Σ_T, the covariance of all samples around their mean, whatever the class sizes."""
    problem = random_problem(3, [2, 9, 5], 4)
    batch = batch_of(problem)
    means = means_of([batch], 3)
    by_class, by_sample = (Projections(means, weighting=w) for w in ("classes", "samples"))
    for projections in (by_class, by_sample):
        projections.update(*batch)
    total = (problem.features - problem.features.mean(dim=0)).square().sum().item() / 16
    statistics = by_sample.statistics()
    torch.testing.assert_close(statistics.global_mean, problem.features.mean(dim=0))
    assert statistics.within_class_trace + statistics.between_class_trace == pytest.approx(total)
    of_classes = by_class.statistics()
    assert of_classes.within_class_trace + of_classes.between_class_trace != pytest.approx(total, rel=1e-3)
    # nc1 against Σ_B written out
    M = means.class_means - problem.features.mean(dim=0)
    Sigma_B = M.T @ (torch.tensor([2, 9, 5]) / 16)[:, None].double().mul(M)
    R = problem.features - means.class_means[problem.labels]
    nc1 = torch.trace(R.T @ R / 16 @ torch.linalg.pinv(Sigma_B, hermitian=True)).item()
    assert Measurement(statistics)["nc1"] == pytest.approx(nc1)
    assert Measurement(of_classes)["nc1"] != pytest.approx(nc1, rel=1e-3)


def test_weighting_does_not_matter_for_classes_of_one_size():
    problem = random_problem(3, [4, 4, 4], 5)
    by_class, by_sample = (
        measure(problem.features, problem.labels, problem.weight, weighting=w) for w in ("classes", "samples")
    )
    for key, value in by_class.items():
        assert by_sample[key] == pytest.approx(value, rel=1e-12, abs=1e-12), key


def test_an_unknown_weighting_is_named():
    with pytest.raises(ValueError, match="weighting must be one of classes, samples, got 'counts'"):
        Projections(means_of([good_batch()], 2), weighting="counts")


# ---- degenerate geometry


def rank_of(features: torch.Tensor, labels: torch.Tensor) -> int:
    return Projections(means_of([(features, labels)], int(labels.max()) + 1)).centered.span.rank


@pytest.mark.parametrize("num_features", [1, 3, 4, 9])
def test_rank_of_means_in_general_position(num_features):
    for seed in range(20):
        problem = random_problem(seed, [3] * 5, num_features, spread=1e-3, offset=1e3)
        assert rank_of(problem.features, problem.labels) == min(num_features, 4)


def test_two_equal_class_means_lower_the_rank_by_one():
    """The same three samples in another order: their means differ by rounding alone."""
    for seed in range(20):
        samples = random_problem(seed, [3] * 4, 6, offset=1 / 3).features[:9]
        batch = torch.cat([samples, samples[[8, 6, 7]]]), torch.arange(4).repeat_interleave(3)
        assert rank_of(*batch) == 2
        values = Measurement(projections_of([batch], means_of([batch], 4)).statistics())
        assert math.isinf(values["nc1_cdnv"])  # a pair of classes at distance zero that do spread
        assert math.isfinite(values["nc1"])


def test_minority_collapse_lowers_the_rank():
    """Two of five classes shrunk onto one point: C − 2."""
    frame = 2.0 * simplex_rows(5, 6) @ rotation(6)
    frame[4] = frame[3]
    features, labels = collapsed(frame, [3, 7, 6, 1, 2])
    assert rank_of(features, labels) == 3


def test_centred_means_sum_to_zero_even_where_the_first_sample_lies_far_off():
    problem = random_problem(0, [5] * 7, 3)
    features = problem.features.clone()
    of_first_class = (problem.labels == problem.labels[0]).nonzero().flatten()
    features[of_first_class[:2]] = 1e9 * tensor([[1.0], [-1.0]])  # its mean lies near the others
    means = Projections(means_of([(features, problem.labels)], 7)).centered.class_means
    assert means.sum(dim=0).abs().max() < 1e-14 * means.abs().max()


def around_one_point() -> Problem:
    """Every class spreads around the same point, by 1e3; in float64 its mean is off by 1e-13."""
    deviations = 1e3 * random_problem(0, [1] * 5, 4).weight
    point = tensor([1 / 3, 0.1, 1e3 / 7, -2 / 3])
    features = torch.cat([torch.cat([point + deviations[[k]], point - deviations[[k]]]) for k in range(5)])
    labels = torch.arange(5).repeat_interleave(2)
    return Problem("", features, labels, torch.ones(5, 4, dtype=torch.float64))


@pytest.mark.parametrize("order", [[], [1, 1, 1], [5, 3, 1, 2]])
def test_merged_means_know_how_far_their_samples_reached(order):
    problem = around_one_point()
    means = merged_tree([means_of([batch], 5) for batch in cut(problem, range(10))], order)
    assert Projections(means).centered.span.rank == 0


def test_class_means_that_differ_by_rounding_alone_span_nothing():
    values = Measurement(two_sweeps(around_one_point()))
    assert values.rank == 0
    assert [values[key] for key in ("nc1", "nc1_per_class", "nc1_trace_ratio", "nc1_cdnv")] == [math.inf] * 4
    assert math.isnan(values["nc1_vci"])
    assert values["nc2_norm_variance"] == 0
    for key in ("nc2_equinorm", "nc2_cosine", "nc2_cosine_max", "nc2_etf", "nc3", "nc3_centered", "nc3_duality"):
        assert math.isnan(values[key]), key
    assert values["nc4"] == 0  # all means are equally near, and all outputs equal: the lowest class, twice


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 / 3])
def test_no_spread_between_or_within_classes(value):
    features = torch.full((7, 3), value, dtype=torch.float64)
    labels, weight = torch.tensor([0, 0, 0, 1, 1, 2, 2]), torch.ones(3, 3, dtype=torch.float64)
    values = Measurement(two_sweeps(Problem("", features, labels, weight)))
    assert values.rank == 0
    for key in ("nc1", "nc1_per_class", "nc1_trace_ratio", "nc1_cdnv", "nc1_vci"):
        assert math.isnan(values[key]), key


def test_a_centred_mean_of_zero_has_no_cosines():
    """The third mean is the centre up to rounding: 2.7e-17 of it would have some direction, and no meaning."""
    centre = tensor([0.1, 0.7, 1 / 3])
    direction = tensor([0.2, 0.2, 0.5])
    for order in ([0, 1, 2], [1, 2, 0], [2, 0, 1]):
        means = torch.stack([centre + direction, centre - direction, centre])[order]
        values = Measurement(two_sweeps(Problem("", *collapsed(means, 3), torch.ones(3, 3).double())))
        assert math.isnan(values["nc2_cosine"])
        assert math.isnan(values["nc2_cosine_max"])
        assert values["nc2_equinorm"] == pytest.approx(math.sqrt(0.5))
        assert values.rank == 1


def test_one_sample_a_class():
    problem = random_problem(0, [1] * 4, 6, offset=100.0)
    values = Measurement(two_sweeps(problem))
    expected = naive.measure(problem.features, problem.labels, problem.weight, problem.bias)
    assert all(abs(values[key]) < 1e-24 for key in METRICS if key.startswith("nc1"))
    naive.assert_agree(values, expected, problem.features, problem.weight, problem.bias)


# ---- ties of NC4


def nc4_and_accuracy(features: torch.Tensor, labels: list[int], weight: torch.Tensor) -> tuple[float, float]:
    values = Measurement(two_sweeps(Problem("", features, torch.tensor(labels), weight)))
    return values["nc4"], values["accuracy"]


def test_exact_ties_go_to_the_lowest_class():
    """Means (2, 0), (−2, 0), (0, 0): samples at ±1 on the axis lie half-way, and W makes ties of its own."""
    features = tensor([[2, 0], [2, 0], [-1, 0], [-3, 0], [1, 0], [-1, 0]])
    labels = [0, 0, 1, 1, 2, 2]
    # nearest means: 0, 0, 1 (tied with 2), 1, 0 (tied with 2), 1 (tied with 2)
    for weight, choices in (
        ([[1, 0], [-1, 0], [0, 0]], [0, 0, 1, 1, 0, 1]),
        ([[1, 0], [-1, 0], [-1, 0]], [0, 0, 1, 1, 0, 1]),  # rows 1 and 2 tie
        ([[-1, 0], [1, 0], [1, 0]], [1, 1, 0, 0, 1, 0]),
        ([[0, 1], [0, 1], [0, -1]], [0, 0, 0, 0, 0, 0]),  # all tie
    ):
        nc4, accuracy = nc4_and_accuracy(features, labels, tensor(weight).double())
        assert nc4 == pytest.approx(sum(a != b for a, b in zip(choices, [0, 0, 1, 1, 0, 1], strict=True)) / 6)
        assert accuracy == pytest.approx(sum(a == b for a, b in zip(choices, labels, strict=True)) / 6)


@pytest.mark.parametrize("offset", [0.0, 3.0])
@pytest.mark.parametrize("seed", range(10))
def test_ties_by_symmetry_up_to_rounding(seed, offset):
    """Classes 0 and 1 are mirror images at irrational coordinates, and W is dual: samples on the mirror are tied.

    Rounding tells the two apart, one way for distances and another for outputs. Each tied sample is in both classes.
    """
    Q = rotation(5, seed)
    normal, mirror = Q[0], random_problem(seed, [1] * 9, 4).weight @ Q[1:]
    beside = normal * tensor([[0.3], [1.7], [2.2]])
    tied, centre = mirror[3:], offset * Q[1]
    features = torch.cat([mirror[:3] + beside, tied, mirror[:3] - beside, tied]) + centre
    weight = torch.stack([Q[1] + normal, Q[1] - normal])
    nc4, accuracy = nc4_and_accuracy(features, [0] * 9 + [1] * 9, weight)
    assert nc4 == 0
    assert accuracy == pytest.approx(12 / 18)  # all of class 0, and of class 1 what is beside the mirror


def test_ties_of_a_simplex_with_a_sample_at_its_centre():
    """All ten means equally far, in a rotated frame: class 0, whichever order the sums are taken in."""
    frame = 7 / 3 * simplex_rows(10, 12) @ rotation(12)
    centre = torch.linspace(-1, 1, 12).double() / 3
    features, labels = collapsed(frame + centre, 2)
    features = torch.cat([features, centre.repeat(10, 1)])  # one more a class, at the centre: the simplex shrinks
    problem = Problem("", features, torch.cat([labels, torch.arange(10)]), frame, -frame @ centre)
    values = Measurement(two_sweeps(problem))
    assert (values["nc4"], values["accuracy"]) == pytest.approx((0.0, 21 / 30))


def test_a_classifier_of_zeros_chooses_class_zero():
    problem = random_problem(0, [2, 3, 5], 4, spread=1e-3)
    for weight in (torch.zeros(3, 4).double(), torch.ones(3, 4).double() / 3):
        nc4, accuracy = nc4_and_accuracy(problem.features, problem.labels.tolist(), weight)
        assert (nc4, accuracy) == pytest.approx((8 / 10, 2 / 10))


# ---- bad batches


def good_batch() -> Batch:
    return torch.arange(12.0).reshape(4, 3), torch.tensor([0, 1, 0, 1])


def gatherers() -> dict[str, object]:
    means = means_of([good_batch()], 2)
    return {"ClassMeans": ClassMeans(2), "Projections": Projections(means), "ClassMoments": ClassMoments(2)}


def counts_of(gathered: object) -> list[int]:
    return (gathered.means if isinstance(gathered, ClassMoments) else gathered).counts.tolist()


BAD_BATCHES = {
    "more labels than features": (torch.zeros(4, 3), torch.tensor([0, 1, 0, 1, 0]), r"got \(4, 3\) and \(5,\)"),
    "flat features": (torch.zeros(4), torch.tensor([0, 1, 0, 1]), r"got \(4,\) and \(4,\)"),
    "one-hot labels": (torch.zeros(2, 3), torch.eye(2).long(), r"got \(2, 3\) and \(2, 2\)"),
    "integer features": (torch.zeros(2, 3).long(), torch.tensor([0, 1]), r"floating point, got torch.int64; cast"),
    "float labels": (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), r"labels must be integers, got torch.float32"),
    "boolean labels": (torch.zeros(2, 3), torch.tensor([True, False]), r"labels must be integers, got torch.bool"),
    "label too large": (torch.zeros(3, 3), torch.tensor([0, 1, 2]), r"label 2 of sample 6 .* go from 0 to 1"),
    "negative label": (torch.zeros(3, 3), torch.tensor([0, -1, 1]), r"label -1 of sample 5 is out of range"),
    "nan": (tensor([[0, 0, 0], [0, 0, math.nan]]), torch.tensor([0, 1]), r"feature 2 of sample 5 is nan"),
    "infinity": (tensor([[0, -math.inf, 0], [0, 0, 0]]), torch.tensor([0, 1]), r"feature 1 of sample 4 is -inf"),
    "other width": (torch.zeros(2, 4), torch.tensor([0, 1]), r"earlier batches had 3 features, this one has 4"),
    "width one": (torch.zeros(2, 1), torch.tensor([0, 1]), r"earlier batches had 3 features, this one has 1"),
}
GATHERERS = pytest.mark.parametrize("name", ["ClassMeans", "Projections", "ClassMoments"])


@GATHERERS
@pytest.mark.parametrize("bad", BAD_BATCHES)
def test_bad_batch_is_named_by_its_place_among_all_samples(name, bad):
    features, labels, message = BAD_BATCHES[bad]
    gathered = gather(gatherers()[name], [good_batch()])
    with pytest.raises(ValueError, match=message):
        gathered.update(features, labels)


@GATHERERS
def test_bad_sample_in_a_later_block_is_named(name, monkeypatch):
    cut_into_blocks(monkeypatch, rows=2)
    features, labels = torch.zeros(7, 3), torch.tensor([0, 1, 0, 1, 0, 1, 0])
    features[5, 1] = math.inf
    with pytest.raises(ValueError, match="feature 1 of sample 5 is inf; every feature must be finite"):
        gatherers()[name].update(features, labels)
    # one label too many, which cutting both into blocks of two would lose
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(3,\)"):
        gatherers()[name].update(features[:2], labels[:3])


@GATHERERS
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.int64])
def test_integer_labels_of_any_width(name, dtype):
    features, labels = good_batch()
    assert counts_of(gather(gatherers()[name], [(features, labels.to(dtype))])) == [2, 2]


def test_narrow_labels_of_many_classes():
    """In eight bits 1000 is 232 and 200 is −56: comparing there would refuse good labels."""
    means = ClassMeans(1000)
    means.update(torch.zeros(2, 1), torch.tensor([240, 255], dtype=torch.uint8))
    means.update(torch.zeros(1, 1), torch.tensor([100], dtype=torch.int8))
    assert means.counts.nonzero().flatten().tolist() == [100, 240, 255]


@pytest.mark.parametrize("num_classes", [-1, 0, 1])
@pytest.mark.parametrize("kind", [ClassMeans, ClassMoments])
def test_fewer_than_two_classes(kind, num_classes):
    with pytest.raises(ValueError, match=f"neural collapse needs at least two classes, got {num_classes}"):
        kind(num_classes)


def test_a_class_without_samples_is_named():
    batch = [(torch.zeros(3, 2), torch.tensor([0, 2, 2]))]
    means, moments = means_of(batch, 4), moments_of(batch, 4)
    message = r"classes 1, 3 have no samples, so their means are undefined \(counts: \[1, 0, 2, 0\]\); pass more data"
    for call in (lambda: means.class_means, lambda: Projections(means), moments.statistics):
        with pytest.raises(ValueError, match=message):
            call()


def test_of_many_empty_classes_the_first_are_named():
    means = means_of([(torch.zeros(2, 2), torch.tensor([1, 999]))], 1000)
    with pytest.raises(ValueError, match=r"classes 0, 2, 3, 4, 5, … have no samples.*998 of 1000 are zero"):
        _ = means.class_means


@pytest.mark.parametrize("call", [lambda: ClassMeans(2).class_means, lambda: Projections(ClassMeans(2))])
def test_nothing_seen_at_all(call):
    with pytest.raises(ValueError, match=r"classes 0, 1 have no samples.*counts: \[0, 0\]"):
        call()


def test_a_class_missing_from_the_second_sweep_is_named():
    projections = projections_of([(torch.zeros(2, 3), torch.tensor([0, 0]))], means_of([good_batch()], 2))
    message = r"class 1 has no samples in the second sweep.* \(counts: \[2, 0\]\); pass samples of every class"
    with pytest.raises(ValueError, match=message):
        projections.statistics()


def test_an_empty_batch_changes_nothing():
    for gathered in gatherers().values():
        gather(gathered, [good_batch(), (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))])
        assert counts_of(gathered) == [2, 2]


# ---- what does not fit together


def test_merging_other_numbers_of_classes_or_features_is_refused():
    for kind in (ClassMeans, ClassMoments):
        mine, classes = gather(kind(2), [good_batch()]), gather(kind(3), [good_batch()])
        narrow = gather(kind(2), [(torch.zeros(2, 1), torch.tensor([0, 1]))])
        with pytest.raises(ValueError, match="cannot merge means of 2 and of 3 classes"):
            mine.merge(classes)
        with pytest.raises(ValueError, match="cannot merge means of 3 and of 1 features"):
            mine.merge(narrow)
        assert counts_of(mine) == [2, 2]


def test_merging_projections_on_other_means_is_refused():
    features, labels = good_batch()
    mine = projections_of([(features, labels)], means_of([(features, labels)], 2))
    for other in (features * tensor([[2.0], [1.0], [1.0], [1.0]]), features + 1):
        theirs = projections_of([(other, labels)], means_of([(other, labels)], 2))
        with pytest.raises(ValueError, match="cannot merge projections on different class means"):
            mine.merge(theirs)


@pytest.mark.parametrize(
    "other",
    [None, Classifier(torch.ones(2, 3).double()), Classifier(torch.eye(2, 3).double(), torch.ones(2).double())],
    ids=["none", "other weight", "other bias"],
)
def test_merging_what_was_gathered_with_another_classifier_is_refused(other):
    batch, mine = good_batch(), Classifier(torch.eye(2, 3).double())
    means = means_of([batch], 2)
    for a, b in ((mine, other), (other, mine)):
        with pytest.raises(ValueError, match="cannot merge what was gathered with different classifiers"):
            projections_of([batch], means, a).merge(projections_of([batch], means, b))
        with pytest.raises(ValueError, match="cannot merge what was gathered with different classifiers"):
            moments_of([batch], 2, a).merge(moments_of([batch], 2, b))


def test_an_equal_classifier_merges():
    batch, means = good_batch(), means_of([good_batch()], 2)
    first, second = (Classifier(torch.eye(2, 3).double(), torch.ones(2).double()) for _ in range(2))
    merged = projections_of([batch], means, first).merge(projections_of([batch], means, second))
    assert merged.counts.tolist() == [4, 4]


@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (2, 1)])
def test_a_classifier_of_another_shape_is_refused(shape):
    batch, classifier = good_batch(), Classifier(torch.zeros(shape).double())
    message = rf"weight must be \(2, 3\) for 2 classes and 3 features, got \({shape[0]}, {shape[1]}\)"
    with pytest.raises(ValueError, match=message):
        Projections(means_of([batch], 2), classifier)
    with pytest.raises(ValueError, match=message):
        moments_of([batch], 2, classifier)


def test_threads_gather_together_what_one_gathers_alone(monkeypatch):
    problem = random_problem(0, [10, 20, 30], 4, offset=3.0)
    alone = in_float32(problem)
    monkeypatch.setattr(neurocollapse.statistics.threads, "_LEAST_NUMBERS", 1)
    with torch_threads(3):
        for mode in (torch.no_grad(), torch.inference_mode()):
            with mode:
                assert dict(in_float32(problem)) == pytest.approx(dict(alone), rel=1e-10)
        problem.features[50, 1] = math.nan  # of the last thread, which must name it by its place among all
        with pytest.raises(ValueError, match=r"feature 1 of sample 50 is nan; .* \(1 of 60 samples are not\)"):
            in_float32(problem)
        assert torch.get_num_threads() == 3
