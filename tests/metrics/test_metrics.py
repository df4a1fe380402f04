"""Every metric: right on exact problems, equal to its naive twin on random ones, and obedient to its laws."""

import math
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neurocollapse import METRICS, InputError, Measurement, measure
from neurocollapse.geometry import leading_directions
from neurocollapse.measuring import gather
from neurocollapse.statistics import ClassMeans, ClassMoments, Objective, Projections
from tests import naive
from tests.problems import (
    GEOMETRIES,
    PROBLEMS,
    Problem,
    collapsed,
    quasi_interpolating,
    random_problem,
    random_problems,
    rotation,
    simplex_rows,
    zeros,
)

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def layer_of(problem: Problem) -> Tensor | None:
    """The problem's own layer, or its classifier."""
    return problem.weight if problem.layer is None else problem.layer


def measured(problem: Problem) -> Measurement:
    statistics, means = gather(
        *(problem.features, problem.labels, problem.weight, problem.bias),
        ood_mean=None if problem.ood is None else problem.ood.mean(dim=0),
        objective=problem.objective,
        nearest_means=layer_of(problem) is not None,
    )
    if (layer := layer_of(problem)) is not None:
        weight = leading_directions(layer, problem.num_classes)
        statistics = replace(statistics, layer_weight=weight, input_span=statistics.span)
    return Measurement(statistics, means)


def assert_equals_twin(problem: Problem, rel: float = 1e-9) -> None:
    arguments = problem.features, problem.labels, problem.weight, problem.bias
    expected = naive.measure(*arguments, ood=problem.ood, layer=layer_of(problem))
    naive.assert_agree(measured(problem), expected, problem.features, *arguments[2:], rel=rel)


# ---- nothing is left out


def test_every_key_has_a_twin():
    assert set(naive.TWINS) == set(METRICS)


def test_every_key_is_known_on_some_exact_problem():
    assert {key for problem in PROBLEMS for key in problem.expected} == set(METRICS)


def test_every_key_has_a_perturbation():
    assert set(PERTURBED) == set(METRICS)


# ---- exact problems


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_exact_problem(problem):
    values = measured(problem)
    for key, value in problem.expected.items():
        assert values[key] == pytest.approx(value, rel=1e-12, abs=1e-12, nan_ok=True), key


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p.num_classes <= 5], ids=str)
def test_twin_agrees_on_exact_problem(problem):
    arguments = problem.features, problem.labels, problem.weight, problem.bias
    values = naive.measure(*arguments, ood=problem.ood, layer=layer_of(problem))
    for key in values.keys() & problem.expected.keys():
        assert values[key] == pytest.approx(problem.expected[key], rel=1e-12, abs=1e-12, nan_ok=True), key


_ORTHOGONAL = math.sqrt(2 - 2 * math.sqrt(0.9))  # 0.3203645
_S = 10 * math.sqrt(3 * 5e-3 * 2e-3)
_ZERO = zeros("nc1", "nc1_per_class", "nc1_vci", "nc2_norm_variance", "nc2_equinorm", "nc2_cosine", "nc2_cosine_max")
_ZERO |= zeros("nc2_etf", "nc2_equinorm_weight", "nc3_centered", "nc3_duality", "nc4", "sqi_gap_spread")
_ZERO |= zeros("sqi_off_spread") | {"accuracy": 1.0}
_NO_SPREAD = zeros("nc1_trace_ratio", "nc1_cdnv")
_DUAL = zeros("nc0", "nc3", "nc2_etf_weight", "nc2_cosine_weight")


def _interpolating(gap: float) -> dict[str, float]:
    return {"sqi_gap": gap, "sqi_off": gap, "sqi_sum": 1.0}


#: C = 10: what every key is at collapse, in each of the geometries that collapse can end in.
AT_COLLAPSE = {
    "simplex ETF, μ_G = 0": _ZERO | _NO_SPREAD | _DUAL | zeros("nc3_uncentered") | _interpolating(_S * 0.9),
    "orthogonal frame, no bias": _ZERO
    | _NO_SPREAD
    | {"nc0": math.sqrt(0.1)}
    | {"nc3": _ORTHOGONAL, "nc2_etf_weight": _ORTHOGONAL, "nc2_cosine_weight": 1 / 9, "nc3_uncentered": 0.0}
    | {"sqi_gap": _S, "sqi_off": 0.0, "sqi_sum": 1 - _S},
    "ReLU features, free bias": _ZERO
    | _NO_SPREAD
    | _DUAL
    | {"nc3_uncentered": _ORTHOGONAL}
    | _interpolating(0.05196152422706632),
    "quasi-interpolation, any μ_G": _ZERO | _DUAL | _interpolating(0.05),
}


@pytest.mark.parametrize("geometry", AT_COLLAPSE)
def test_what_every_key_is_at_collapse(geometry):
    values = measured(GEOMETRIES[geometry]())
    for key, value in AT_COLLAPSE[geometry].items():
        assert values[key] == pytest.approx(value, rel=1e-12, abs=1e-12), key


def test_quasi_interpolation_does_not_imply_all_of_nc1_nor_uncentred_duality():
    values = measured(GEOMETRIES["quasi-interpolation, any μ_G"]())
    assert min(values["nc1_trace_ratio"], values["nc1_cdnv"], values["nc3_uncentered"]) > 1e-3


@pytest.mark.parametrize(
    ("num_classes", "distance"), [(2, 0.7653669), (4, 0.5176381), (10, 0.3203645), (100, 0.1001256)]
)
def test_nc3_of_an_orthogonal_frame(num_classes, distance):
    Q = rotation(num_classes)
    assert measure(Q, range(num_classes), Q)["nc3"] == pytest.approx(distance, abs=5e-8)


@pytest.mark.parametrize(
    ("weight", "value"), [(torch.ones(7, 3), 1.0), (torch.eye(4)[:, [1, 3, 0, 2]], 0.5), (torch.zeros(2, 3), math.nan)]
)
def test_nc0_goes_from_no_sum_of_rows_to_rows_that_are_equal(weight, value):
    features = torch.eye(len(weight), weight.shape[1]) + torch.arange(len(weight))[:, None]
    found = measure(features, range(len(weight)), weight)["nc0"]
    assert found == pytest.approx(value, nan_ok=True)


@pytest.mark.parametrize("num_features", [1, 2, 3, 5])
def test_no_means_in_few_dimensions_come_closer_to_a_simplex_than_the_bound(num_features):
    bound = math.sqrt(2 - 2 * math.sqrt(num_features / 8))
    for seed in range(20):
        values = measured(random_problem(seed, [2] * 9, num_features))
        assert min(values["nc2_etf"], values["nc3_duality"], values["nc2_etf_weight"]) >= bound - 1e-12


# ---- every key moves when what it measures is spoilt

_BASE = quasi_interpolating(5, 7, zero_mean=True)
_LAYERS = (2.0, 3.0)
_OBJECTIVE = Objective(0.01, _LAYERS)


def _spread(direction: torch.Tensor) -> Problem:
    signs = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64).repeat(5)  # three samples a class
    return replace(_BASE, features=_BASE.features + 0.5 * signs[:, None] * direction)


def _with_rows(weight: torch.Tensor) -> Problem:
    return replace(_BASE, weight=weight)


def _of_first_class(factor: torch.Tensor) -> Problem:
    return replace(_BASE, features=torch.where(_BASE.labels[:, None] == 0, _BASE.features @ factor, _BASE.features))


_ALONG = _BASE.features[0] / _BASE.features[0].norm()
_OFF = torch.linalg.svd(_BASE.weight).Vh[-1]  # a unit vector orthogonal to all means
_PLANE = torch.outer(_ALONG, _OFF) - torch.outer(_OFF, _ALONG)
_TURN = torch.linalg.matrix_exp(1.5 * _PLANE)  # by 1.5 radians
_FIRST_ROW = torch.eye(5, dtype=torch.float64)[:1].T

ALONG_THE_MEANS = _spread(_ALONG)
OFF_THE_MEANS = _spread(_OFF)
LONGER_MEAN = _of_first_class(2.0 * torch.eye(7, dtype=torch.float64))
TURNED_MEAN = _of_first_class(_TURN)
LONGER_ROW = _with_rows(_BASE.weight + _FIRST_ROW * _BASE.weight)
TURNED_ROW = _with_rows(torch.where(_FIRST_ROW > 0, _BASE.weight @ _TURN, _BASE.weight))
MEAN_ROW = _with_rows(_BASE.weight + _OFF)
OFFSET = replace(_BASE, features=_BASE.features + _OFF)
SWAPPED_ROWS = _with_rows(_BASE.weight[[1, 0, 2, 3, 4]])
_OTHERS = torch.stack([_OFF + 0.1 * _ALONG, _OFF - 0.1 * _ALONG])  # their mean is orthogonal to all means
MISPLACED = replace(_BASE, features=torch.cat([_BASE.features[-1:] - 0.1 * _OFF, _BASE.features[1:]]))
MORE_ROWS = replace(_BASE, layer=torch.cat([_BASE.weight, _BASE.weight.norm() * torch.eye(7)[:3]]))
LARGER_BIAS = replace(_BASE, bias=_BASE.bias + 0.1)

PERTURBED: dict[str, list[Problem]] = {
    "nc1": [ALONG_THE_MEANS],
    "nc1_per_class": [ALONG_THE_MEANS],
    "nc1_trace_ratio": [ALONG_THE_MEANS, OFF_THE_MEANS],
    "nc1_cdnv": [ALONG_THE_MEANS, OFF_THE_MEANS],
    "nc1_vci": [ALONG_THE_MEANS],
    "nc2_norm_variance": [LONGER_MEAN],
    "nc2_equinorm": [LONGER_MEAN],
    "nc2_equinorm_weight": [LONGER_ROW],
    "nc2_cosine": [TURNED_MEAN],
    "nc2_cosine_max": [TURNED_MEAN],
    "nc2_cosine_weight": [TURNED_ROW],
    "nc2_etf": [LONGER_MEAN, TURNED_MEAN],
    "nc2_etf_weight": [LONGER_ROW, TURNED_ROW, MEAN_ROW],
    "nc2_uniformity": [_of_first_class(-torch.eye(7, dtype=torch.float64))],
    "nc2_uniformity_spread": [TURNED_MEAN],
    "nc5": [replace(_BASE, ood=_OTHERS + _BASE.features[:1])],
    "nc0": [LONGER_ROW, TURNED_ROW, MEAN_ROW],
    "nc3": [LONGER_MEAN, TURNED_MEAN, LONGER_ROW, TURNED_ROW, MEAN_ROW, SWAPPED_ROWS],
    "nc3_centered": [LONGER_MEAN, TURNED_MEAN, LONGER_ROW, TURNED_ROW, SWAPPED_ROWS],
    "nc3_uncentered": [LONGER_MEAN, TURNED_MEAN, LONGER_ROW, TURNED_ROW, MEAN_ROW, SWAPPED_ROWS, OFFSET],
    "nc3_duality": [LONGER_MEAN, TURNED_MEAN, LONGER_ROW, TURNED_ROW, SWAPPED_ROWS],
    "nc4": [SWAPPED_ROWS],
    "sqi_gap": [LONGER_MEAN, LONGER_ROW, LARGER_BIAS],
    "sqi_gap_spread": [ALONG_THE_MEANS, LONGER_ROW],
    "sqi_off": [LONGER_MEAN, LONGER_ROW, LARGER_BIAS],
    "sqi_off_spread": [ALONG_THE_MEANS, LONGER_ROW],
    "sqi_sum": [LARGER_BIAS],
    "accuracy": [SWAPPED_ROWS],
    "margin_min": [SWAPPED_ROWS, ALONG_THE_MEANS],
    "margin_mean": [SWAPPED_ROWS, LONGER_MEAN],
    "loss_data": [SWAPPED_ROWS, LARGER_BIAS, ALONG_THE_MEANS],
    "loss": [
        replace(_BASE, objective=Objective(0.02, _LAYERS)),
        replace(_BASE, objective=Objective(0.01, (2.0, 4.0))),
        SWAPPED_ROWS,
    ],
    "nearest_mean_error": [MISPLACED],
    "weight_stable_rank": [LONGER_ROW, MEAN_ROW, MORE_ROWS],
    "weight_share_simplex": [MORE_ROWS],
    "weight_share_frame": [MORE_ROWS],
    "weight_alignment_simplex": [TURNED_MEAN, MORE_ROWS],
    "weight_alignment_frame": [TURNED_MEAN, MORE_ROWS],
    "weight_norms": [replace(_BASE, objective=Objective(0.01, (2.0, 4.0)))],
}


@pytest.mark.parametrize(("key", "number"), [(key, i) for key, cases in PERTURBED.items() for i in range(len(cases))])
def test_perturbed_collapse_moves_the_key(key, number):
    problem = PERTURBED[key][number]
    before = measured(replace(_BASE, objective=_OBJECTIVE, ood=_OTHERS))[key]
    ood = _OTHERS if problem.ood is None else problem.ood
    after = measured(replace(problem, objective=problem.objective or _OBJECTIVE, ood=ood))[key]
    assert after != pytest.approx(before, abs=1e-3)


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("nc1", OFF_THE_MEANS),
        ("nc1_vci", OFF_THE_MEANS),
        ("nc2_etf", OFFSET),
        ("nc3", OFFSET),
        ("nc0", SWAPPED_ROWS),
        ("nc3_centered", MEAN_ROW),
        ("nc3_duality", MEAN_ROW),
        ("nc4", ALONG_THE_MEANS),
        ("nearest_mean_error", SWAPPED_ROWS),
    ],
)
def test_what_a_key_is_blind_to_leaves_it(key, problem):
    assert measured(problem)[key] == pytest.approx(0.0, abs=1e-12)


# ---- random problems


@given(random_problems(), st.sampled_from(DTYPES))
def test_every_key_equals_its_twin(problem, dtype):
    """Unequal classes, p < C − 1 and p ≥ N, offsets up to 1e4, collapsed or not; on the numbers as stored."""
    assume(naive.is_supported(problem.features.to(dtype), problem.labels))
    assert_equals_twin(replace(problem, features=problem.features.to(dtype)), rel=1e-8)


@settings(max_examples=25)
@given(random_problems(lattice=True, spread=1.0, offset=0.0, scale=1.0))
def test_every_key_equals_its_twin_where_samples_and_means_coincide(problem):
    """On a small lattice: ties, equal class means, zero means and rows, means of lower rank."""
    assert_equals_twin(problem)


@settings(max_examples=25)
@given(random_problems(max_classes=4), st.floats(0, 1), st.integers(1, 4))
def test_the_objective_equals_its_twin(problem, weight_decay, num_layers):
    layers = [rotation(3, seed)[: seed + 1] * 2.0 for seed in range(num_layers)]
    objective = Objective(weight_decay, tuple(layer.square().sum().item() for layer in layers))
    arguments = problem.features, problem.labels, problem.weight, problem.bias
    expected = naive.measure(*arguments, weight_decay=weight_decay, layers=layers)
    values = measured(replace(problem, objective=objective, ood=problem.features))
    assert set(values) == set(METRICS)
    for key in naive.OBJECTIVE_KEYS:
        assert values[key] == pytest.approx(expected[key], rel=1e-10)


# ---- offsets and collapse


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-3])
@pytest.mark.parametrize("seed", range(4))
def test_float32_features_with_a_common_offset(spread, seed):
    """An offset of 1e4 leaves float32 three decimals: at a spread of 1e-3 most samples sit on one or two numbers."""
    problem = random_problem(seed, [6, 6, 6, 3], 5, spread=spread, offset=1e4)
    problem = replace(problem, features=problem.features.float())
    assert_equals_twin(problem, rel=1e-9)


@pytest.mark.parametrize("spread", [1e-5, 1e-8, 1e-10])
@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("seed", range(4))
def test_float64_features_near_collapse(spread, offset, seed):
    """NC1 from 1e-10 to 1e-20, where stored features have six digits of spread left, or two beside the offset."""
    problem = random_problem(seed, [7, 5, 6, 8], 6, spread=spread, offset=offset)
    assert measured(problem)["nc1"] < 1e3 * spread**2
    assert_equals_twin(problem, rel=1e-9 if spread > 1e-10 else 1e-7)


@pytest.mark.parametrize("distance", [1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("seed", range(3))
def test_geometry_near_collapse(distance, seed):
    """Means and rows at this distance from dual simplex ETFs: the distances themselves are right to six digits."""
    frame = simplex_rows(4, 5) @ rotation(5, seed)
    noise = random_problem(seed, [1] * 4, 5)
    features, labels = collapsed(frame + distance * noise.weight, 2)
    problem = Problem("near", features, labels, frame + distance * noise.features)
    expected = naive.measure(features, labels, problem.weight)
    values = measured(problem)
    for key in [key for key in METRICS if key.startswith(("nc2", "nc3"))]:
        assert expected[key] < 10 * distance
        assert values[key] == pytest.approx(expected[key], rel=1e-6, abs=0.0), key


@pytest.mark.parametrize("scale", [1e-37, 1e-20, 1e20, 1e37])
def test_any_scale_that_float32_holds(scale):
    problem = random_problem(0, [3, 4, 5], 4)
    problem = replace(problem, features=(scale * problem.features).float(), weight=problem.weight / scale)
    assert_equals_twin(problem, rel=1e-6)


@pytest.mark.parametrize(("features", "weight", "bias"), [(1e120, 1e120, 0.0), (1e80, 1e80, 0.0), (1.0, 1.0, 1e300)])
def test_outputs_whose_squares_overflow_are_named(features, weight, bias):
    problem = random_problem(0, [3, 4, 5], 4)
    arguments = (
        problem.features * features,
        problem.labels,
        problem.weight * weight,
        torch.full((3,), bias, dtype=torch.float64),
    )
    with pytest.raises(
        InputError, match=r"^(outputs|entries of bias) reach .*, and squares of that are beyond float64; multiply"
    ):
        measure(*arguments)


# ---- laws


def times_bias(problem: Problem, factor: float) -> torch.Tensor | None:
    return None if problem.bias is None else factor * problem.bias


def permuted_classes(problem: Problem) -> Problem:
    order = torch.arange(problem.num_classes).roll(1)  # new class k was class order[k]
    bias = None if problem.bias is None else problem.bias[order]
    return replace(problem, labels=order.argsort()[problem.labels], weight=problem.weight[order], bias=bias)


def rotated(problem: Problem) -> Problem:
    Q = rotation(problem.features.shape[1], seed=7)
    return replace(problem, features=problem.features @ Q, weight=problem.weight @ Q, layer=problem.layer @ Q)


def padded(problem: Problem) -> Problem:
    """With two more features that are constant, and columns of W that do not see them."""
    more = torch.full((len(problem.features), 2), 0.7, dtype=torch.float64)
    unseen = torch.zeros(problem.num_classes, 2, dtype=torch.float64)
    features, weight = torch.cat([problem.features, more], dim=1), torch.cat([problem.weight, unseen], dim=1)
    return replace(problem, features=features, weight=weight, layer=nn.functional.pad(problem.layer, (0, 2)))


def shifted(problem: Problem) -> Problem:
    offset = torch.linspace(-1, 2, problem.features.shape[1], dtype=torch.float64)
    bias = torch.zeros(problem.num_classes, dtype=torch.float64) if problem.bias is None else problem.bias
    return replace(problem, features=problem.features + offset, bias=bias - problem.weight @ offset)


def reordered(problem: Problem) -> Problem:
    order = torch.randperm(len(problem.labels), generator=torch.Generator().manual_seed(0))
    return replace(problem, features=problem.features[order], labels=problem.labels[order])


def repeated(problem: Problem) -> Problem:
    return replace(problem, features=problem.features.repeat(2, 1), labels=problem.labels.repeat(2))


def scaled_against(problem: Problem) -> Problem:
    return replace(problem, features=3.0 * problem.features, weight=problem.weight / 3)


def remixed_outputs(problem: Problem) -> Problem:
    """Of the layer: its outputs rotated and all made larger."""
    return replace(problem, layer=3.0 * rotation(len(problem.layer), seed=8) @ problem.layer)


def scaled_features(problem: Problem) -> Problem:
    return replace(problem, features=3.0 * problem.features, bias=times_bias(problem, 3.0))


def scaled_classifier(problem: Problem) -> Problem:
    return replace(problem, weight=3.0 * problem.weight, bias=times_bias(problem, 3.0))


def raised_bias(problem: Problem) -> Problem:
    bias = torch.zeros(problem.num_classes, dtype=torch.float64) if problem.bias is None else problem.bias
    return replace(problem, bias=bias + 2)


VALUES_OF_OUTPUTS = {key for key in METRICS if key.startswith("sqi")} | {"loss_data"}
MARGINS = {"margin_min", "margin_mean"}

#: law -> (transformation, keys that it multiplies and by what, keys that may change); all others stay.
LAWS: dict[str, tuple[Callable[[Problem], Problem], dict[str, float], set[str]]] = {
    "joint rotation of features and W": (rotated, {}, set()),
    "more features, all constant": (padded, {}, {"nc3_uncentered"}),
    "permutation of classes": (permuted_classes, {}, set()),
    "order of samples": (reordered, {}, set()),
    "every sample twice": (repeated, {}, set()),
    "outputs of the layer rotated and up": (remixed_outputs, {}, set()),
    "features up, W down": (scaled_against, {"nc2_norm_variance": 9.0}, set()),
    "features and bias up": (
        scaled_features,
        {"nc2_norm_variance": 9.0} | dict.fromkeys(MARGINS, 3.0),
        VALUES_OF_OUTPUTS,
    ),
    "W and bias up": (scaled_classifier, dict.fromkeys(MARGINS, 3.0), VALUES_OF_OUTPUTS),
    "common offset, taken back by the bias": (shifted, {}, {"nc3_uncentered"}),
    "one number added to every bias": (raised_bias, {}, VALUES_OF_OUTPUTS),
}


@pytest.mark.parametrize("law", LAWS)
@settings(max_examples=12)
@given(problem=random_problems(spread=1.0, offset=0.5, scale=1.0))
def test_law(law, problem):
    transform, factors, free = LAWS[law]
    before, after = measured(problem), measured(transform(problem))
    assert set(before) == set(after)
    naive.assert_agree(
        {key: value for key, value in after.items() if key not in free},
        {key: factors.get(key, 1.0) * value for key, value in before.items() if key not in free},
        10 * problem.features,
        problem.weight,
        problem.bias,
    )


@pytest.mark.parametrize("law", [law for law, (_, _, free) in LAWS.items() if free])
def test_what_a_law_leaves_free_does_change(law):
    transform, _, free = LAWS[law]
    problem = random_problem(0, [3, 4, 5], 4)
    before, after = measured(problem), measured(transform(problem))
    kept = {key for key in free if after[key] == pytest.approx(before[key], rel=1e-6)}
    assert kept <= {"sqi_gap_spread", "sqi_off_spread"}  # a common bias moves outputs without spreading them


@given(random_problems(max_classes=2))
def test_two_class_means_are_a_simplex_whatever_the_features(problem):
    values = measured(problem)
    size = problem.features.abs().max().item()
    assert values["nc2_norm_variance"] <= 1e-24 * size**2
    assert max(values[key] for key in ("nc2_equinorm", "nc2_cosine", "nc2_cosine_max", "nc2_etf")) < 1e-12


@given(random_problems())
def test_bounds(problem):
    values = measured(problem)
    assert 0 <= values["nc1_vci"] <= 1
    assert all(0 <= values[key] <= 2 for key in METRICS if key.startswith("nc3") or "etf" in key)
    assert all(0 <= values[key] <= 1 for key in ("nc4", "accuracy"))
    assert values["nc2_cosine"] <= values["nc2_cosine_max"] <= 2
    assert values["margin_min"] <= values["margin_mean"]


def test_vci_is_zero_for_any_features_of_high_dimension():
    assert measured(random_problem(0, [2, 2, 2], 6))["nc1_vci"] == pytest.approx(0, abs=1e-12)
    assert measured(random_problem(0, [2, 2, 2], 4))["nc1_vci"] > 1e-3


# ---- the precision that features were stored in


def normalized(dtype: torch.dtype, num_classes=100, num_features=64, per_class=20, spread=0.5) -> tuple[Tensor, Tensor]:
    """Features of a layer normalisation with C > p: along (1, …, 1) they hold nothing but rounding."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num_classes).repeat_interleave(per_class)
    means = torch.randn(num_classes, num_features, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(labels), num_features, generator=generator, dtype=torch.float64)
    features = torch.nn.functional.layer_norm(means[labels] + spread * noise, (num_features,))
    return features.to(dtype), labels


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("spread", [0.5, 1e-3, 0.0])
def test_rank_and_metrics_follow_the_precision_that_features_were_stored_in(dtype, spread):
    exact = measure(*normalized(torch.float64, spread=spread))
    stored = measure(*normalized(dtype, spread=spread))
    assert exact.rank == stored.rank == 63
    assert stored.rank_tolerance > 1e3 * exact.rank_tolerance
    coarse = torch.finfo(dtype).eps
    for key in ("nc1", "nc1_trace_ratio", "nc1_cdnv", "nc2_cosine", "nc2_equinorm", "nc1_vci"):
        assert stored[key] == pytest.approx(exact[key], rel=0.05 if spread else None, abs=2 * coarse), key
    assert f"above {stored.rank_tolerance:.1e}, as {str(dtype).removeprefix('torch.')} is rounded)" in repr(stored)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("wider", [torch.float32, torch.float64])
def test_rounded_values_keep_their_precision_in_a_wider_type(dtype, wider):
    features, labels = normalized(dtype)
    stored, again = measure(features, labels), measure(features.to(wider), labels)
    assert again.rank == 63
    assert again.rank_tolerance == pytest.approx(stored.rank_tolerance)
    assert again["nc1"] == pytest.approx(stored["nc1"], rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1, 2.0**-20])
def test_numbers_that_a_narrow_type_holds_without_rounding_are_exact(dtype, scale):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (60, 20), generator=generator).to(dtype) * scale
    labels = torch.arange(60) % 3
    pixels[:, :2] = pixels[:, :1] * torch.tensor([1.0, 0.5])
    pixels[:, 2] = scale / 2 * (labels == 0)  # a difference below the rounding of eight digits
    means = ClassMeans(3)
    means.update(pixels, labels)
    assert means.precision == torch.finfo(dtype).eps
    means.update(pixels + scale / 1024 * torch.rand(60, 20, generator=generator, dtype=dtype), labels)
    assert means.precision == torch.finfo(dtype).eps


def test_the_precision_survives_merging_and_one_pass():
    features, labels = normalized(torch.float32)
    features = features.double()
    means = ClassMeans(100)
    for part in (labels < 50, labels >= 50):
        half = ClassMeans(100)
        half.update(features[part], labels[part])
        means.merge(half)
    moments = ClassMoments(100)
    moments.update(features, labels)
    restored = ClassMoments.of_state(moments.state())
    assert Projections(means).centered.span.rank == 63
    assert moments.statistics().span.rank == restored.statistics().span.rank == 63


@pytest.mark.parametrize("size", [1.0, 1e6, 1e9, 1e12])
def test_the_rounding_of_one_large_feature_hides_no_direction_of_the_others(size):
    """A feature that tells nothing, 1e9 times the others, is rounded by more than these are apart: they are not."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    features = torch.randn(400, 6, generator=generator) + torch.randn(4, 6, generator=generator)[labels]
    features[:, 0] = size * torch.randn(400, generator=generator)
    exact = features.double()
    exact[0, 0] += size / 2**30  # so that float32 does not hold it, and nothing counts as rounded
    assert measure(exact, labels)["nc1"] == pytest.approx(measure(features, labels)["nc1"], rel=1e-6)
    assert measure(features, labels).rank == measure(exact, labels).rank == 3
    moments = [ClassMoments(4) for _ in range(2)]
    for each, part in zip(moments, (slice(0, 150), slice(150, 400)), strict=True):
        each.update(features[part], labels[part])
    merged = ClassMoments.of_state(moments[0].state()).merge(moments[1])
    assert merged.statistics().span.rank == 3


def test_a_large_feature_of_nothing_but_rounding_is_no_direction():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    features = torch.randn(400, 6, generator=generator) + torch.randn(4, 6, generator=generator)[labels]
    features[:, 0] = 1e9 + 64 * torch.randint(-1, 2, (400,), generator=generator)
    assert measure(features, labels).rank == 0


def test_directions_of_means_that_differ_are_told_apart_however_few_digits_were_stored():
    problem = random_problem(0, [2, 1, 1, 2], 2, offset=3, scale=1e-5)
    stored = problem.features.float()
    expected = naive.measure(stored.double(), problem.labels)["nc2_uniformity"]
    assert measure(stored, problem.labels)["nc2_uniformity"] == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1.0, 1e7, 1e9, 1e12, 1e15])
@pytest.mark.parametrize("seed", [0, 3])
def test_a_sample_far_out_leaves_decisions_right_and_vci_right_or_unknown(seed, size, dtype):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(4).repeat_interleave(8)
    features = 2 * torch.randn(4, 5, generator=generator)[labels] + torch.randn(32, 5, generator=generator)
    weight, features = torch.randn(4, 5, generator=generator).double(), features.to(dtype)
    features[0] *= size
    means = torch.stack([features[labels == c].double().mean(dim=0) for c in range(4)])
    nearest = (features.double()[:, None] - means).norm(dim=2).argmin(dim=1)
    m = measure(features, labels, weight)
    assert m["nc4"] == pytest.approx(((features.double() @ weight.T).argmax(dim=1) != nearest).double().mean().item())
    # a factor on one sample turns the index little, once it is large: it then has the direction of its class alone
    exact = features.double().where(torch.arange(32)[:, None] > 0, features.double() * min(1.0, 1e4 / size))
    assert math.isnan(m["nc1_vci"]) or m["nc1_vci"] == pytest.approx(measure(exact, labels)["nc1_vci"], rel=1e-2)


def test_what_all_classes_share_makes_no_ties():
    """Large terms that decide nothing: features that no row sees, a bias that all have, and a row that all have."""
    features = torch.tensor([(0, 0.4), (0, 0.3), (0.4, 0), (0.3, 0)], dtype=torch.float64)
    labels, weight = torch.tensor([1, 1, 0, 0]), torch.eye(2, dtype=torch.float64)
    large = torch.full((4, 1), 1e12, dtype=torch.float64)
    unseen = torch.cat([features, large], dim=1), torch.cat([weight, 0 * weight[:, :1]], dim=1), None
    biased = features, weight, torch.full((2,), 1e12, dtype=torch.float64)
    shared = torch.cat([features, large], dim=1), torch.cat([weight, 0 * weight[:, :1] + 1], dim=1), None
    for values, rows, bias in (unseen, biased, shared):
        m = measure(values, labels, rows, bias)
        assert (m["accuracy"], m["nc4"]) == (1, 0)


@pytest.mark.parametrize("far", [1e7, 1e13])
def test_a_class_far_away_makes_no_ties_of_the_others(far):
    """Here every sample is nearest to the mean of the class that the classifier chooses, by 0.005 at least."""
    features = torch.tensor([(far, 0), (0, 0), (0, 0), (0, 1), (0, 1), (0, -0.1), (0, -0.1)], dtype=torch.float64)
    weight = torch.tensor([(1.0, 0), (0, 1), (0, -1)], dtype=torch.float64)
    labels, bias = torch.tensor([0, 0, 0, 1, 1, 2, 2]), torch.tensor([0, 0, 0.5], dtype=torch.float64)
    for order in ([0, 1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 0]):
        for dtype in (torch.float32, torch.float64):
            assert measure(features[order].to(dtype), labels[order], weight, bias)["nc4"] == 0


def test_a_long_row_of_the_classifier_makes_no_ties_of_the_others():
    features = torch.tensor([(0, 1), (0, 1), (0, -1), (0, -1), (1, 1e-3), (1, 1e-3)], dtype=torch.float64)
    weight = torch.tensor([(0.0, 1.0), (0.0, -1e13), (1.0, 0.0)], dtype=torch.float64)
    assert measure(features, torch.tensor([0, 0, 1, 1, 2, 2]), weight)["accuracy"] == 1


# ---- features, and samples, of very different sizes


@pytest.mark.parametrize("counts", [[8] * 4, [3] * 4, [2] * 4, [5, 2, 9, 1, 4, 3, 6]], ids=str)
@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-6])
@pytest.mark.parametrize("dependent", [False, True])
def test_vci_does_not_depend_on_the_sizes_of_features(counts, spread, dependent):
    """From 1e-10 to 1e10, in powers of two, so that the features of both are exactly alike; with p < C, p > N − C."""
    problem = random_problem(0, counts, 6, spread=spread)
    features = problem.features.clone()
    if dependent:
        features[:, 5] = features[:, 0]
    exact = naive.measure(features, problem.labels)["nc1_vci"]
    sizes = torch.exp2(torch.linspace(-33, 33, 6).round()).double()
    assert measure(features * sizes, problem.labels)["nc1_vci"] == pytest.approx(exact, rel=1e-8, abs=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_vci_of_stored_features_does_not_depend_on_their_sizes(dtype):
    problem = random_problem(0, [8] * 4, 6)
    features, sizes = problem.features.to(dtype), torch.exp2(torch.linspace(-9, 9, 6).round()).to(dtype)
    exact = naive.measure(features, problem.labels)["nc1_vci"]
    assert measure(features * sizes, problem.labels)["nc1_vci"] == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(("counts", "num_features"), [([8] * 3, 5), ([40] * 3, 30), ([9] * 7, 5)], ids=str)
def test_vci_does_not_depend_on_a_large_direction_along_no_feature(counts, num_features):
    problem = random_problem(0, counts, num_features)
    turned = rotation(num_features)
    exact = naive.measure(problem.features, problem.labels)["nc1_vci"]
    for factor, error in ((1e4, 1e-7), (1e6, 1e-8), (1e9, 1e-6), (1e11, 1e-4)):
        features = torch.cat([problem.features[:, :-1], factor * problem.features[:, -1:]], dim=1) @ turned
        assert measure(features, problem.labels)["nc1_vci"] == pytest.approx(exact, rel=error), factor
        halves = [slice(0, None, 2), slice(1, None, 2)]
        means, classes = ClassMeans(len(counts)), problem.labels
        means.update(features, classes)
        parts = [Projections(means, held_out=False) for _ in halves]
        for part, half in zip(parts, halves, strict=True):
            part.update(features[half], classes[half])
        merged = Measurement(parts[0].merge(parts[1]).statistics())
        assert merged["nc1_vci"] == pytest.approx(exact, rel=error), factor


def test_vci_is_nan_where_rounding_hides_it():
    """A direction along no feature, so much larger than the others that these vary by little more than its rounding."""
    problem = random_problem(0, [8] * 3, 5)
    far, farther = (problem.features * torch.tensor([1.0, 1, 1, 1, size]) @ rotation(5) for size in (1e9, 3e14))
    assert math.isnan(measure(farther, problem.labels)["nc1_vci"])
    moments = ClassMoments(3)  # one pass keeps the features' own basis
    moments.update(far, problem.labels)
    assert math.isnan(Measurement(moments.statistics())["nc1_vci"])


@pytest.mark.parametrize("distance", [1e4, 1e6, 1e8, 1e10])
@pytest.mark.parametrize("place", [0, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_far_out_costs_no_key_its_digits(dtype, place, distance):
    """In every direction, or in one that W and the other means do not see, with or without the whole of Σ_W."""
    for direction in (torch.ones(5), torch.eye(5)[4]):
        problem = random_problem(1, [8, 7, 9], 5, spread=0.3)
        features = torch.cat([problem.features[:, :4], 0.1 * problem.features[:, 4:]], dim=1)
        weight = problem.weight * torch.tensor([1.0, 1, 1, 1, 0])
        features[place] += distance * direction
        problem = replace(problem, features=features.to(dtype), weight=weight)
        expected = naive.measure(problem.features, problem.labels, problem.weight, problem.bias)
        values = measure(problem.features, problem.labels, problem.weight, problem.bias, vci=False)
        far = {"loss_data", "margin_min", "margin_mean"} | {key for key in expected if key.startswith("sqi")}
        for key in values:
            size = distance**2 if key == "loss_data" else distance if key in far and direction.sum() > 1 else 1.0
            assert values[key] == pytest.approx(expected[key], rel=1e-5, abs=1e-7 * size), (key, direction)


@pytest.mark.parametrize("sizes", [(1.0, 1.0), (1e-6, 1e6)], ids=["alike", "of very different sizes"])
@pytest.mark.parametrize(("num_features", "rank"), [(14, 4), (10, 4), (14, 14)])
def test_vci_of_fewer_samples_than_features_is_that_of_the_whole_covariance(num_features, rank, sizes):
    """By the space that 9 samples span, with p < N + C too."""
    generator = torch.Generator().manual_seed(0)
    factors, of_samples = (torch.randint(-4, 5, s, generator=generator) for s in ((rank, num_features), (9, rank)))
    features = (of_samples @ factors).double()  # exact, so that their rank is too
    features *= torch.logspace(*(math.log10(size) for size in sizes), num_features).double().log2().round().exp2()
    labels = torch.arange(9) % 3
    one, _ = gather(features, labels, vci=True)
    rows = one.within_class_rows
    whole = replace(one, within_class_rows=None, within_class_covariance=rows.T @ rows)
    value, expected = Measurement(one)["nc1_vci"], naive.measure(features, labels)["nc1_vci"]
    assert value == pytest.approx(expected, rel=1e-8, abs=1e-9)
    assert value == pytest.approx(Measurement(whole)["nc1_vci"], rel=1e-8, abs=1e-9)
    assert (value > 0.1) == (rank < 14)


def test_vci_is_left_out_unasked_where_it_would_take_more_than_the_rest():
    few, many = torch.randn(100, 4096), torch.randn(2000, 2000)
    labels = torch.arange(2000) % 10
    start = time.perf_counter()
    assert "nc1_vci" in measure(few, labels[:100])
    assert "nc1_vci" not in measure(many, labels)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vci_of_features_on_a_subspace_is_that_of_their_coordinates_or_is_given_up(seed, dtype):
    """Those of a linear layer that widens: what float32 rounds off the subspace is no variance, also stored wider."""
    generator = torch.Generator().manual_seed(seed)
    coordinates, labels = torch.randn(12, 4, generator=generator), torch.arange(12) % 3
    widened = (coordinates @ torch.randn(4, 6, generator=generator) + torch.randn(6, generator=generator)).to(dtype)
    index = measure(widened, labels)["nc1_vci"]
    assert math.isnan(index) or index == pytest.approx(measure(coordinates, labels)["nc1_vci"], rel=1e-5)
