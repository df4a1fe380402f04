"""Files of features: what is read, and that whatever is wrong with one is said in one line."""

import io
import os
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

import neurocollapse as nc
from neurocollapse import FeatureFileError
from neurocollapse.measuring import read_features


def arrays(weight=True, bias=True, dtype=np.float32):
    generator = np.random.default_rng(0)
    labels = np.arange(12) % 3
    features = generator.normal(size=(12, 5)) + 3 * np.eye(3, 5)[labels]
    contents = {"features": features.astype(dtype), "labels": labels}
    if weight:
        contents["weight"] = generator.normal(size=(3, 5)).astype(dtype)
    if bias:
        contents["bias"] = generator.normal(size=3).astype(dtype)
    return contents


def write_npz(path, contents):
    np.savez(path, **contents)


def write_compressed(path, contents):
    np.savez_compressed(path, **contents)


def write_safetensors(path, contents):
    safetensors.torch.save_file({name: torch.tensor(np.asarray(array)) for name, array in contents.items()}, path)


WRITERS = [(".npz", write_npz), (".npz", write_compressed), (".safetensors", write_safetensors)]


@pytest.mark.parametrize(("suffix", "write"), WRITERS)
@pytest.mark.parametrize("parts", [{}, {"bias": False}, {"weight": False, "bias": False}], ids=str)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_what_was_written_is_read(tmp_path, suffix, write, parts, dtype):
    contents = arrays(**parts, dtype=dtype)
    path = tmp_path / f"features{suffix}"
    write(path, contents)
    read = read_features(path)
    assert list(read) == list(contents)
    for name, array in contents.items():
        assert read[name].numpy().dtype == array.dtype
        assert np.array_equal(read[name].numpy(), array)
    assert nc.measure(**read).to_dict() == nc.measure(**contents).to_dict()


@pytest.mark.parametrize(
    ("renamed", "ignored"),
    [
        ({"weights": "weight"}, r"weights \(did you mean weight\?\)"),
        ({"Bias": "bias"}, r"Bias \(did you mean bias\?\)"),
        ({"something_else": "bias"}, "something_else"),
    ],
    ids=str,
)
@pytest.mark.parametrize(("suffix", "write"), WRITERS)
def test_arrays_of_other_names_are_told_of(tmp_path, suffix, write, renamed, ignored):
    contents = arrays()
    kept = {name: array for name, array in contents.items() if name not in renamed.values()}
    path = tmp_path / f"features{suffix}"
    write(path, {**kept, **{new: contents[old] for new, old in renamed.items()}})
    with pytest.warns(UserWarning, match=f"{path}: ignored: {ignored}$"):
        assert list(read_features(path)) == list(kept)


def test_a_name_like_one_that_is_there_is_not_taken_for_it(tmp_path):
    write_npz(tmp_path / "features.npz", {**arrays(), "weights": np.zeros(2)})
    with pytest.warns(UserWarning, match="ignored: weights$"):
        read_features(tmp_path / "features.npz")


@pytest.mark.parametrize("name", ["features.NPZ", "features.SafeTensors"])
def test_a_suffix_may_have_capitals(tmp_path, name):
    (tmp_path / name).write_bytes(of_npz() if name.endswith("NPZ") else of_safetensors())
    assert list(read_features(tmp_path / name)) == ["features", "labels", "weight", "bias"]


@pytest.mark.parametrize("kind", [">f4", ">f8", "longdouble", "fortran", "reversed"])
def test_arrays_of_any_layout_are_read(tmp_path, kind):
    plain = arrays()
    layouts = {"fortran": np.asfortranarray, "reversed": lambda array: array[::-1][::-1]}
    contents = {name: layouts.get(kind, lambda a: a.astype(kind))(plain[name]) for name in ("features", "weight")}
    write_npz(tmp_path / "features.npz", {**plain, **contents})
    read = read_features(tmp_path / "features.npz")
    assert np.array_equal(read["features"].double().numpy(), plain["features"].astype(np.float64))
    assert nc.measure(**read)["nc1"] == pytest.approx(nc.measure(**plain)["nc1"], rel=1e-12)


def test_low_precision_safetensors_are_read(tmp_path):
    contents = {name: torch.tensor(array) for name, array in arrays().items()}
    contents["features"] = contents["features"].bfloat16()
    safetensors.torch.save_file(contents, tmp_path / "features.safetensors")
    read = read_features(tmp_path / "features.safetensors")
    assert read["features"].dtype == torch.bfloat16
    assert nc.measure(**read)["nc1"] == nc.measure(**contents)["nc1"]


# What is wrong


def of_zip(**members):
    """The bytes of a zip archive of these members."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def of_npz(**changes):
    """The bytes of an .npz of good arrays with these changes; None leaves one out."""
    stream = io.BytesIO()
    np.savez(stream, **{name: array for name, array in {**arrays(), **changes}.items() if array is not None})
    return stream.getvalue()


def of_npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def of_safetensors(**changes):
    return safetensors.torch.save({name: torch.tensor(a) for name, a in {**arrays(), **changes}.items()})


def crc_broken(data):
    """One bit of the first array changed."""
    place = data.index(b"NUMPY") + 200
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


# The header of an array of 200 TB.
HUGE = (
    b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999, 5)}".ljust(117)
    + b"\n"
)


def damaged_lzma():
    """The features' bytes replaced within an archive that LZMA has compressed."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays().items():
            archive.writestr(f"{name}.npy", of_npy(array))
    place = data.getvalue().index(b"features.npy") + 30
    return data.getvalue()[:place] + b"\xff" * 30 + data.getvalue()[place + 30 :]


def bomb():
    """A tenth of a megabyte that would take 150."""
    data = io.BytesIO()
    np.savez_compressed(data, **{**arrays(), "features": np.zeros((150_000, 125))})
    return data.getvalue()


#: A header that Python's tokenizer does not come to the end of.
UNENDED = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4', 'shape': (((((((((((((".ljust(117) + b"\n"

FILES = [
    ("lzma.npz", damaged_lzma(), r"cannot be read \(array 'features'"),
    ("unended.npz", of_zip(features=UNENDED, labels=of_npy(arrays()["labels"])), r"cannot be read \(array 'features'"),
    ("bomb.npz", bomb(), r"bytes and would unpack to 150\d{6}, which is beyond reason; if it is meant, save it uncomp"),
    ("empty.npz", b"", "is empty; write it again"),
    ("garbage.npz", bytes(range(256)) * 9, r"is not an \.npz file"),
    ("text.npz", b"features, labels\n1, 2\n", r"is not an \.npz file \(it starts with the bytes b'feat'"),
    ("truncated.npz", of_npz()[:-100], "is truncated or damaged"),
    ("half.npz", of_npz()[:300], "is truncated or damaged"),
    ("flipped.npz", crc_broken(of_npz()), r"cannot be read \(array 'features': Bad CRC"),
    ("bare.npz", of_npy(np.zeros((3, 4))), "holds a bare array"),
    ("no_labels.npz", of_npz(labels=None), r"has no labels \(it has: features, weight, bias\)"),
    ("neither.npz", of_zip(), r"is truncated|has no features and no labels \(it has: nothing\)"),
    ("renamed.npz", of_npz(features=None, h=np.zeros((12, 5))), r"has no features \(it has: labels, weight, bias, h\)"),
    ("objects.npz", of_npz(features=np.array([{}] * 12)), "'features': it holds Python objects, not numbers"),
    ("twice.npz", of_zip(**{"features": of_npy(np.zeros((12, 5))), "features.npy": of_npy(np.ones((12, 5)))}),
     "has 2 arrays that are called 'features'; save plain numeric arrays"),
    ("object_labels.npz", of_npz(labels=np.array([0, "a", None] * 4, dtype=object)),
     "'labels': it holds Python objects, not numbers"),
    ("strings.npz", of_npz(labels=np.array(["cat", "dog", "owl"] * 4)), "array 'labels'.* real numbers but <U3"),
    ("complex.npz", of_npz(features=np.zeros((12, 5), complex)), "array 'features'.* real numbers but complex128"),
    ("truths.npz", of_npz(labels=np.arange(12) % 2 == 0), "labels in .* is an array of bool"),
    ("no_arrays.npz", of_zip(features=b"abc", labels=b"def"), "array 'features' does not hold real numbers"),
    ("huge.npz", of_zip(**{"features.npy": HUGE, "labels.npy": HUGE}),
     r"array 'features': its header promises 199999999999980 bytes, shape \(9999999999999, 5\) of float32, and 0 f"),
    ("negative.npz", of_zip(**{"features.npy": HUGE.replace(b"9999999999999", b"-9           "), "labels.npy": HUGE}),
     "array 'features': .*negative"),
    ("folder.npz", None, "is a folder; name a feature file"),
    ("empty.safetensors", b"", "is empty; write it again"),
    ("garbage.safetensors", bytes(range(256)) * 9, "is not a whole safetensors file"),
    ("truncated.safetensors", of_safetensors()[:-10], "is not a whole safetensors file"),
    ("an_npz.safetensors", of_npz(), "is not a whole safetensors file"),
    ("no_features.safetensors", safetensors.torch.save({"labels": torch.zeros(3)}), "has no features"),
    ("features.csv", b"1,2,3\n", r"must end in \.npz, \.safetensors, .*, to say which of these it is, or be a folder"),
    ("features.npy", of_npy(np.zeros((3, 4))), r"there is no .*labels\.npy beside .*; save the labels there"),
    ("x.npy", of_npy(np.zeros((3, 4))), r"call them features\.npy and labels\.npy, or anything with these"),
    ("features", of_npz(), r"must end in \.npz, \.safetensors"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), FILES, ids=[name for name, _, _ in FILES])
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(FeatureFileError, match=message) as caught:
        read_features(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_pipe_is_no_feature_file(tmp_path, suffix):
    os.mkfifo(tmp_path / f"x{suffix}")
    with pytest.raises(FeatureFileError, match="is a pipe; name a feature file"):
        read_features(tmp_path / f"x{suffix}")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FeatureFileError, match=r"absent\.npz is not there; name a feature file"):
        read_features(tmp_path / "absent.npz")


GOOD = {".npz": of_npz(), ".safetensors": of_safetensors()}


@given(
    suffix=st.sampled_from(sorted(GOOD)),
    changes=st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), max_size=4),
    end=st.integers(0, 10**4),
)
def test_a_damaged_file_is_an_error_of_its_own_or_still_readable(tmp_path_factory, suffix, changes, end):
    data = bytearray(GOOD[suffix])
    for place, value in changes:
        data[place % len(data)] = value
    path = tmp_path_factory.mktemp("damaged") / f"features{suffix}"
    path.write_bytes(data[: max(end, 1)])
    try:
        read = read_features(path)
    except FeatureFileError:
        return
    assert {"features", "labels"} <= set(read)
