"""`measure`: any type and layout of array, bad input named, and what a `Measurement` is."""

import html
import inspect
import json
import math
import re
import tracemalloc
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import neurocollapse.measuring.features
from neurocollapse import METRICS, Measurement, measure
from neurocollapse.geometry import leading_directions
from neurocollapse.measuring import gather
from neurocollapse.statistics import Classifier, ClassMoments, Objective
from tests import naive
from tests.problems import PROBLEMS, dual_simplex, random_problem, random_problems, tensor

PROBLEM = random_problem(0, [4, 5, 6], 5, offset=2.0)
H, Y, W, B = PROBLEM.features, PROBLEM.labels, PROBLEM.weight, PROBLEM.bias
WHOLE = measure(H, Y, W, B)


# ---- types and layouts


def memory_mapped(array: np.ndarray, path, mode: str = "r") -> np.ndarray:
    np.save(path / "array.npy", array)
    return np.load(path / "array.npy", mmap_mode=mode)


LAYOUTS: dict[str, Callable] = {
    "NumPy": lambda a, path: a,
    "torch": lambda a, path: torch.from_numpy(a.copy()),
    "big-endian": lambda a, path: a.astype(a.dtype.newbyteorder(">")),
    "little-endian": lambda a, path: a.astype(a.dtype.newbyteorder("<")),
    "read-only": lambda a, path: [c := a.copy(), c.setflags(write=False)][0],
    "memory-mapped": memory_mapped,
    "memory-mapped, copy on write": lambda a, path: memory_mapped(a, path, "c"),
    "memory-mapped, big-endian": lambda a, path: memory_mapped(a.astype(a.dtype.newbyteorder(">")), path),
    "Fortran order": lambda a, path: np.asfortranarray(a),
    "reversed twice": lambda a, path: a[::-1].copy()[::-1],
    "every second row": lambda a, path: np.repeat(a, 2, axis=0)[::2],
    "every second column": lambda a, path: np.repeat(a, 2, axis=-1)[..., ::2],
    "unaligned": lambda a, path: np.frombuffer(b"x" + a.tobytes(), dtype=a.dtype, offset=1).reshape(a.shape),
    "transposed torch": lambda a, path: torch.from_numpy(a.T.copy()).permute(*reversed(range(a.ndim))),
    "strided torch": lambda a, path: torch.from_numpy(np.repeat(a, 3, axis=0))[::3],
    "requires grad": lambda a, path: torch.from_numpy(a.copy()).requires_grad_(a.dtype.kind == "f"),
    "lists": lambda a, path: a.tolist(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_layout_in_memory_does_not_matter(layout, dtype, tmp_path):
    if dtype is np.longdouble and ("torch" in layout or layout == "requires grad"):
        pytest.skip("PyTorch has no such type")
    stored = [array.numpy().astype(dtype) for array in (H, W, B)]
    plain = measure(*(torch.from_numpy(stored[0].astype(np.float64)), Y), *(a.astype(np.float64) for a in stored[1:]))
    before = [array.tobytes() for array in stored]
    lay_out = LAYOUTS[layout]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folders = [tmp_path / name for name in "hywb"]
        for folder in folders:
            folder.mkdir()
        arrays = [stored[0], Y.numpy(), *stored[1:]]
        values = measure(*(lay_out(array, folder) for array, folder in zip(arrays, folders, strict=True)))
    assert dict(values) == pytest.approx(dict(plain), rel=1e-12, abs=1e-12)
    assert [array.tobytes() for array in stored] == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn])
def test_floating_types_of_torch(dtype):
    features = H.to(dtype)
    assert dict(measure(features, Y, W, B)) == pytest.approx(dict(measure(features.double(), Y, W, B)), rel=1e-12)


@settings(max_examples=15)
@given(random_problems(max_classes=4, max_features=3), st.sampled_from(["f2", "f4", "f8", ">f2", ">f4", ">f8"]))
def test_arrays_equal_the_twin_on_the_numbers_as_stored(problem, dtype):
    features = problem.features.numpy().astype(dtype)
    assume(naive.is_supported(features, problem.labels))
    arguments = problem.weight.numpy(), None if problem.bias is None else problem.bias.numpy()
    values = measure(features, problem.labels.numpy(), *arguments)
    stored = features.astype("=f8")
    naive.assert_agree(values, naive.measure(stored, problem.labels, *arguments), stored, *arguments, rel=1e-8)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i4", ">u8"])
def test_labels_of_any_integer_type(dtype):
    assert dict(measure(H, Y.numpy().astype(dtype), W, B)) == dict(WHOLE)
    if dtype[0] != ">":
        assert dict(measure(H, torch.from_numpy(Y.numpy().astype(dtype)), W, B)) == dict(WHOLE)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_narrow_labels_of_more_classes_than_fit_a_byte(dtype):
    """num_classes may exceed what the labels' own type can hold."""
    labels = torch.arange(120).repeat(3).to(dtype)
    with pytest.raises(ValueError, match="classes 120, 121, 122, 123, 124, … have no samples"):
        measure(torch.randn(360, 3), labels, num_classes=300)


def test_nothing_given_is_changed():
    arrays = [H.clone(), Y.clone(), W.clone(), B.clone()]
    measure(*arrays)
    assert all(torch.equal(a, b) for a, b in zip(arrays, (H, Y, W, B), strict=True))


def test_without_a_weight():
    values = measure(H, Y)
    assert set(values) == naive.MEANS_KEYS
    assert dict(values) == pytest.approx({key: WHOLE[key] for key in values}, rel=1e-12, abs=1e-14)
    assert dict(measure(H, Y, num_classes=3)) == dict(values)


def test_the_default_number_type_and_threads_do_not_matter():
    torch.set_default_dtype(torch.float16)
    try:
        assert dict(measure(H, Y, W, B)) == dict(WHOLE)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_gradient_modes_do_not_matter(mode):
    with mode():
        assert dict(measure(H, Y, W.clone().requires_grad_(), B)) == dict(WHOLE)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_features_on_a_gpu(dtype):
    features = H.to(dtype)
    values = measure(features.cuda(), Y, W, B.cuda())
    assert dict(values) == pytest.approx(dict(measure(features, Y, W, B)), rel=1e-9, abs=1e-12)


# ---- bad input


def changed(values: torch.Tensor, index, value) -> torch.Tensor:
    values = values.clone()
    values[index] = value
    return values


BAD: dict[str, tuple[tuple, dict, str]] = {
    "class without samples": ((H, torch.where(Y == 1, 0, Y)), {}, r"class 1 has no samples, .*\(counts: \[9, 0, 6\]\)"),
    "last classes without samples": ((H, Y), {"num_classes": 5}, r"classes 3, 4 have no samples"),
    "weight with more rows than classes": ((H, Y, torch.ones(4, 5)), {}, r"class 3 has no samples"),
    "one class": ((H, 0 * Y), {}, "at least two classes, got 1"),
    "one class, said so": ((H, 0 * Y), {"num_classes": 1}, "at least two classes, got 1"),
    "label too large": ((H, Y, W[:2]), {}, r"label 2 of sample \d+ is out of range: with 2 classes .* from 0 to 1"),
    "label too large, first": ((H, changed(Y, 7, 3)), {"num_classes": 3}, "label 3 of sample 7 is out of range"),
    "negative label": ((H, changed(Y, 4, -1)), {}, "label -1 of sample 4 is out of range"),
    "label of billions": ((H, changed(Y, 0, 10**12)), {}, r"class 3 has no samples.* \(15 samples for 1000000000001"),
    "label beyond int64": ((H, Y.numpy().astype("u8") + np.uint64(2**63)), {}, "is out of range|at least two classes"),
    "float labels": ((H, Y.float()), {}, "labels must be integers, got torch.float32; cast them first"),
    "float NumPy labels": ((H, Y.numpy().astype("f8")), {}, "labels must be integers, got torch.float64"),
    "boolean labels": ((H, Y > 0), {}, "labels must be integers, got torch.bool"),
    "complex labels": ((H, Y + 0j), {}, "labels must be real numbers, got torch.complex64"),
    "words for labels": ((H, ["a"] * 15), {}, "labels must be numbers, got an array of <U1"),
    "one-hot labels": ((H, torch.eye(3).long()[Y]), {}, r"same length, got \(15, 5\) and \(15, 3\)"),
    "nan": ((changed(H, (3, 2), math.nan), Y), {}, "feature 2 of sample 3 is nan; every feature must be finite"),
    "infinity": ((changed(H, (14, 0), math.inf), Y), {}, "feature 0 of sample 14 is inf"),
    "minus infinity in half": ((changed(H, (0, 4), -math.inf).half(), Y), {}, "feature 4 of sample 0 is -inf"),
    "more labels": ((H, torch.cat([Y, Y])), {}, r"same length, got \(15, 5\) and \(30,\)"),
    "flat features": ((H.flatten(), Y), {}, r"features must be \(samples, features\).*got \(75,\) and \(15,\)"),
    "images": ((H.reshape(15, 5, 1, 1), Y), {}, r"got \(15, 5, 1, 1\) and \(15,\)"),
    "no samples": ((H[:0], Y[:0]), {}, r"there is nothing to measure: features have shape \(0, 5\)"),
    "no features": ((H[:, :0], Y), {}, r"there is nothing to measure: features have shape \(15, 0\)"),
    "integer features": ((H.long(), Y), {}, "features must be floating point, got torch.int64; cast them first"),
    "boolean features": (((H > 0).numpy(), Y), {}, "features must be floating point, got torch.bool"),
    "complex features": ((H + 0j, Y), {}, "features must be real numbers, got torch.complex128"),
    "complex NumPy features": ((H.numpy() + 0j, Y), {}, "features must be numbers, got an array of complex128"),
    "weight of other width": ((H, Y, W[:, :4]), {}, r"weight must be \(classes, features\) with 5 .*; got \(3, 4\)"),
    "weight transposed": ((H, Y, W.T), {}, r"weight must be \(classes, features\) with 5 features.*; got \(5, 3\)"),
    "flat weight": ((H, Y, W.flatten()), {}, r"weight must be .*; got \(15,\)"),
    "complex weight": ((H, Y, W + 0j), {}, "weight must be real numbers, got torch.complex128"),
    "nan in weight": ((H, Y, changed(W, (1, 2), math.nan)), {}, r"weight\[1, 2\] is nan; every entry must be finite"),
    "bias too long": ((H, Y, W, torch.ones(4)), {}, r"bias must be \(3,\), one number per row of weight; got \(4,\)"),
    "bias in a column": ((H, Y, W, B[:, None]), {}, r"bias must be \(3,\).*got \(3, 1\)"),
    "infinity in bias": ((H, Y, W, changed(B, 1, math.inf)), {}, r"bias\[1\] is inf; every entry must be finite"),
    "bias without weight": ((H, Y, None, B), {}, "bias was given without weight; give both, or neither"),
    "contradiction": ((H, Y, W), {"num_classes": 4}, "num_classes is 4, but weight has 3 rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    arguments, options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        measure(*arguments, **options)


@pytest.mark.parametrize("case", [case for case in BAD if case.startswith(("nan", "label too", "class without"))])
def test_bad_arrays_are_named_as_bad_tensors_are(case):
    arguments, options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        measure(*(np.asarray(argument) for argument in arguments), **options)


@pytest.mark.parametrize("scale", [1e-150, 1e-120, 1e100, 1e120, 1e160, 1e300])
def test_scales_whose_squares_float64_holds_and_does_not(scale):
    if 1e-130 < scale < 1e140:
        values = measure(H * scale, Y, W * min(1 / scale, 1e120), B)
        for key in set(WHOLE) - {"nc2_norm_variance"}:
            assert values[key] == pytest.approx(WHOLE[key], rel=1e-9, abs=1e-12), key
    else:
        with pytest.raises(ValueError, match=r"differences of features reach .*beyond float64; multiply them by"):
            measure(H * scale, Y)
        with pytest.raises(ValueError, match=r"entries of weight reach .*beyond float64; multiply them by"):
            measure(H, Y, W * scale)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (H.to_sparse(), "features must be a dense tensor with data, got torch.sparse_coo on cpu"),
        (H.to("meta"), "features must be a dense tensor with data, got torch.strided on meta"),
        (np.ma.masked_greater(H.numpy(), 1.0), "features is a masked array.*leave out those samples"),
    ],
    ids=["sparse", "meta", "masked"],
)
def test_arrays_without_all_their_numbers(bad, message):
    with pytest.raises(ValueError, match=message):
        measure(bad, Y)


def test_a_number_of_classes_is_an_integer():
    with pytest.raises(ValueError, match="num_classes must be an integer, got True"):
        measure(H, Y, num_classes=True)


# ---- which keys, and against which means


def test_the_variability_collapse_index_is_there_where_it_is_cheap_or_asked_for(monkeypatch):
    without = dict(WHOLE)
    del without["nc1_vci"]
    assert set(measure(H, Y, W, B, vci=False)) == set(without)
    monkeypatch.setattr(neurocollapse.measuring.features, "_CHEAP_COVARIANCE", H.numel() * H.shape[1] - 1)
    assert set(measure(H, Y, W, B)) == set(without)
    with pytest.raises(KeyError, match=r"nc1_vci is not here: it needs the whole of Σ_W, at N p² operations; pass vci"):
        _ = measure(H, Y, W, B)["nc1_vci"]
    assert dict(measure(H, Y, W, B, vci=True)) == dict(WHOLE)


def test_held_out_samples_against_the_means_of_the_training_set():
    problem = random_problem(5, [9, 8, 7], 5)
    train, test = (problem.features[:, :], problem.labels), (problem.features + 0.3, problem.labels)
    means = measure(*train, problem.weight).means
    values = measure(*test, problem.weight, means=means)
    # what depends on the means alone is the training set's
    for key in ("nc2_cosine", "nc2_etf", "nc3", "nc3_duality"):
        assert values[key] == measure(*train, problem.weight)[key]
    mu = torch.stack([train[0][train[1] == c].mean(dim=0) for c in range(3)])
    R, M = test[0] - mu[test[1]], mu - mu.mean(dim=0)
    expected = torch.trace(R.T @ R / 24 @ torch.linalg.pinv(M.T @ M / 3, hermitian=True)).item()
    assert values["nc1"] == pytest.approx(expected)
    assert measure(*test, problem.weight)["nc1"] != pytest.approx(expected, rel=1e-3)
    nearest = torch.cdist(test[0], mu).argmin(dim=1)
    decided = (test[0] @ problem.weight.T).argmax(dim=1)
    assert values["nc4"] == pytest.approx((nearest != decided).double().mean().item())
    assert values["accuracy"] == pytest.approx((decided == test[1]).double().mean().item())


def test_other_classes_than_those_of_the_means_are_refused():
    means = measure(H, Y).means
    with pytest.raises(ValueError, match="num_classes is 3, but weight has 2 rows"):
        measure(H, Y, W[:2], means=means)
    with pytest.raises(ValueError, match="label 3 of sample 0 is out of range"):
        measure(H, torch.full_like(Y, 3), means=means)
    with pytest.raises(ValueError, match="earlier batches had 5 features, this one has 4"):
        measure(H[:, :4], Y, means=means)


def test_samples_of_no_class():
    others = torch.ones(7, 5) * torch.arange(1, 8)[:, None]
    mu = torch.stack([H[c == Y].double().mean(dim=0) for c in range(3)])
    expected = torch.nn.functional.cosine_similarity(mu, torch.ones(3, 5).double()).abs().mean().item()
    assert measure(H, Y, ood=others)["nc5"] == pytest.approx(expected)
    assert measure(H, Y, ood=others.numpy())["nc5"] == pytest.approx(expected)
    for bad, message in (
        (torch.ones(3, 4), "ood must have 5 features like the classes' samples, got 4"),
        (torch.ones(3, 5).long(), "ood must be floating point, got torch.int64; cast it first"),
        (torch.ones(3, 0), r"ood must be \(others, features\), with features; got \(3, 0\)"),
        (torch.ones(0, 5), "there is nothing to average: no samples were given"),
        (torch.tensor([[1.0] * 4 + [float("nan")]]), "ood: feature 4 of sample 0 is nan"),
    ):
        with pytest.raises(ValueError, match=message):
            measure(H, Y, ood=bad)


# ---- a Measurement


def complete() -> Measurement:
    options = {"ood_mean": H[0].double(), "objective": Objective(0.1, (1.0, 2.5)), "nearest_means": True}
    statistics, means = gather(H, Y, W, B, **options)
    layer = {"layer_weight": leading_directions(W, len(W)), "input_span": statistics.span}
    return Measurement(replace(statistics, **layer), means)


def test_a_mapping_from_the_keys_to_numbers():
    values = complete()
    assert isinstance(values, Mapping)
    assert list(values) == list(METRICS)
    assert len(values) == len(METRICS)
    assert dict(values.items()) == {key: values[key] for key in METRICS}
    assert "nc1" in values
    assert "nc7" not in values
    assert values.get("nc7", 1) == 1
    assert all(type(value) is float for key, value in values.items() if key != "weight_norms")
    assert values["weight_norms"] == (1.0, 2.5)
    with pytest.raises(TypeError, match="item assignment"):
        values["nc1"] = 0.0


def test_class_counts_and_rank():
    assert WHOLE.class_counts == (4, 5, 6)
    assert (WHOLE.rank, WHOLE.num_classes, WHOLE.num_features) == (2, 3, 5)
    assert all(type(count) is int for count in WHOLE.class_counts)


def test_what_is_missing_says_what_it_needs():
    values = measure(H, Y)
    assert set(values.missing) == set(METRICS) - set(values)
    assert "nc3" not in values
    for key, need in {"nc3": "weight", "sqi_gap": "weight", "weight_norms": "the weight decay and every layer"}.items():
        with pytest.raises(KeyError, match=f"{key} is not here: it needs .*{need}"):
            _ = values[key]
    with pytest.raises(KeyError, match="loss is not here: it needs the weight decay and every layer's norm"):
        _ = values["loss"]
    with pytest.raises(KeyError, match=r"there is no key 'nc7' \(did you mean 'nc.'\?\)"):
        _ = values["nc7"]
    with pytest.raises(AttributeError, match=r"no attribute 'nc1'; a measurement is a mapping, so write \['nc1'\]"):
        _ = values.nc1
    with pytest.raises(AttributeError, match=r"no attribute 'rnk' \(did you mean 'rank'\?\)"):
        _ = values.rnk


def test_what_one_pass_misses_says_what_it_needs():
    moments = ClassMoments(3, Classifier(W, B))
    moments.update(H, Y)
    with pytest.raises(KeyError, match=r"nc4 is not here: it needs a second sweep"):
        _ = Measurement(moments.statistics())["nc4"]


def test_to_dict_is_json():
    values = complete()
    restored = json.loads(json.dumps(values.to_dict()))
    assert restored.pop("class_counts") == [4, 5, 6]
    assert restored.pop("rank") == 2
    assert restored.pop("weight_norms") == [1.0, 2.5]
    assert restored == {key: value for key, value in values.items() if key != "weight_norms"}


@pytest.mark.parametrize("problem", [PROBLEMS[0], PROBLEMS[-1]], ids=str)
def test_to_dict_of_exact_and_degenerate_problems(problem):
    values = measure(problem.features, problem.labels, problem.weight, problem.bias)
    restored = json.loads(json.dumps(values.to_dict()))
    assert {key: restored[key] for key in values} == pytest.approx(dict(values), rel=0, abs=0, nan_ok=True)


def test_help_names_the_types_as_they_are_written():
    assert "features: 'Tensor | ArrayLike | StreamedFeatures', labels: 'Tensor | ArrayLike'," in str(
        inspect.signature(measure)
    )


def test_repr_is_a_table_with_every_key():
    values = complete()
    first, *rows = repr(values).splitlines()
    assert first.startswith(
        "Measurement: 15 samples, 3 classes (4 to 6 each), 5 features, rank 2 (singular values above "
    )
    assert [row.split()[0] for row in rows] == list(METRICS)
    for row, (key, value) in zip(rows, values.items(), strict=True):
        assert METRICS[key].definition.rstrip(".") in row
        if key != "weight_norms":
            assert float(row.split()[1]) == pytest.approx(value, rel=1e-5)
    assert re.search(r"weight_norms\s+1 2.5 ", rows[-1])
    assert len({row.index("  " + METRICS[row.split()[0]].definition[:9]) for row in rows}) == 1  # columns line up


def test_repr_of_balanced_classes_and_of_numbers_that_are_not():
    assert "(3 each)" in repr(measure(*[getattr(dual_simplex(4, 3), name) for name in ("features", "labels")]))
    degenerate = measure(torch.ones(4, 2), [0, 0, 1, 1])
    assert re.search(r"nc1\s+nan", repr(degenerate))
    assert re.search(r"nc1_trace_ratio\s+inf", repr(measure(tensor([[1], [-1], [1], [-1]]).double(), [0, 0, 1, 1])))


def test_html_is_a_table_with_every_key_and_escapes():
    values = complete()
    table = values._repr_html_()
    assert table.count("<tr>") == len(METRICS)
    text = re.sub(r"<[^>]*>", "\n", table)
    assert not set(text) & set("<>")
    assert "&#x27;" in table  # the paper's
    for key in METRICS:
        assert f">{key}<" in table
        assert METRICS[key].definition.rstrip(".") in html.unescape(text)


def test_html_escapes_what_a_definition_holds(monkeypatch):
    def nc1(statistics):
        """Less than <b>two</b> & more."""
        return 0.0

    monkeypatch.setitem(METRICS, "nc1", replace(METRICS["nc1"], function=nc1))
    table = WHOLE._repr_html_()
    assert "&lt;b&gt;two&lt;/b&gt; &amp; more" in table
    assert "<b>" not in table


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.key)
def test_every_metric_says_what_it_is_and_where_it_is_from(metric):
    assert METRICS[metric.key] is metric
    assert len(metric.definition) > 10
    assert "\n" not in metric.definition
    assert metric.reference.strip()


def test_a_mapped_file_is_measured_where_it_lies(tmp_path):
    features = memory_mapped(torch.randn(50_000, 20, generator=torch.Generator().manual_seed(0)).numpy(), tmp_path)
    labels = np.arange(50_000) % 4
    measure(features[:100], labels[:100])
    tracemalloc.start()
    measure(features, labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < features.nbytes / 10  # a copy by NumPy would be all of it


@pytest.mark.parametrize("constant", [1e3, 1e8, 1e12])
def test_a_large_constant_feature_changes_nothing_in_float32(constant):
    features = torch.cat([H.float(), torch.full((len(H), 1), constant)], dim=1)
    assert measure(features, Y)["nc1"] == pytest.approx(measure(H.float(), Y)["nc1"], rel=1e-6)
