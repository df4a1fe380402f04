"""Every format of feature files: a round trip, what is in memory meanwhile, and what is wrong with a file."""

import json
import os
import pickle
import shutil
import sys
import warnings
import weakref
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet

import neurocollapse as nc
from neurocollapse import FeatureFileError
from neurocollapse.measuring import StreamedFeatures, read_features, streamed

from ..feature_formats import (
    OF_TABLES,
    WRITERS,
    table,
    write_arrow,
    write_npy,
    write_parquet,
    write_pt,
    write_saved_dataset,
    write_zarr,
    write_zarr_2,
)

STREAMED = [*OF_TABLES, write_zarr, write_zarr_2]


def arrays(samples=24, dtype=np.float32):
    generator = np.random.default_rng(0)
    labels = np.arange(samples) % 3
    features = generator.normal(size=(samples, 5)) + 3 * np.eye(3, 5)[labels]
    head = {"weight": generator.normal(size=(3, 5)), "bias": generator.normal(size=3)}
    return {"labels": labels, **{name: a.astype(dtype) for name, a in {"features": features, **head}.items()}}


def held_by(write, contents):
    return {name: array for name, array in contents.items() if write not in OF_TABLES or name in ("features", "labels")}


def whole(features):
    return torch.cat(list(features.blocks())) if isinstance(features, StreamedFeatures) else features


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("write", WRITERS)
def test_what_was_written_is_read(tmp_path, write, dtype):
    contents = held_by(write, arrays(dtype=dtype))
    read = read_features(write(tmp_path, contents))
    assert isinstance(read["features"], StreamedFeatures) is (write in STREAMED)
    assert read["features"].shape == (24, 5)
    for name, array in contents.items():
        assert np.array_equal(whole(read[name]).numpy(), array)
        assert whole(read[name]).numpy().dtype == array.dtype
    assert dict(nc.measure(**read)) == pytest.approx(dict(nc.measure(**contents)), rel=1e-12)


def parts(folder, write, contents, number=3):
    """Writes the samples in several files, the head beside those of one, and returns a pattern for the files."""
    for place, rows in enumerate(np.array_split(np.arange(len(contents["labels"])), number)):
        (folder / "part").mkdir()
        chosen = {name: a[rows] if name in ("features", "labels") else a for name, a in contents.items()}
        head = place == 1
        path = write(folder / "part", {name: a for name, a in chosen.items() if head or len(a) == len(rows)})
        for file in (folder / "part").iterdir():
            name = f"{file.stem}-{9 + place}{file.suffix}"
            shutil.move(file, folder / name)
        shutil.rmtree(folder / "part")
    return folder / f"{path.stem}-*{path.suffix}"


@pytest.mark.parametrize("write", WRITERS)
def test_several_files_are_one(tmp_path, write):
    contents = held_by(write, arrays())
    others = {"features": contents["features"] ** 2, "labels": contents["labels"]}
    read = read_features(parts(tmp_path, write, contents))
    assert np.array_equal(whole(read["features"]), contents["features"])
    for options in ({}, {"max_per_class": 5}, {"means": nc.measure(**others).means, "min_per_class": 2}):
        measured, expected = nc.measure(**read, **options), nc.measure(**contents, **options)
        assert dict(measured) == pytest.approx(dict(expected), rel=1e-12)


@pytest.mark.parametrize(
    ("write", "several"), [*((write, True) for write in WRITERS), *((write, False) for write in STREAMED)]
)
def test_no_more_than_a_block_is_in_memory(tmp_path, monkeypatch, write, several):
    monkeypatch.setattr(streamed, "READ_BYTES", 8 * 5 * 4)
    contents = held_by(write, arrays(48))
    read = read_features(parts(tmp_path, write, contents, 6) if several else write(tmp_path, contents))
    blocks, alive, rows = read["features"].blocks, [], []

    def watched():
        for block in blocks():
            assert not [other for other in alive if other() is not None]
            alive.append(weakref.ref(block))
            rows.append(len(block))
            yield block
            del block

    nc.measure(**{**read, "features": StreamedFeatures((48, 5), watched)})
    assert sum(rows) == 2 * 48  # two sweeps
    assert max(rows) <= 8


# What is wrong


def renamed(old, new):
    def rename(contents):
        contents[new] = contents.pop(old)

    return rename


def with_values(name, values):
    return lambda contents: contents.update({name: values})


def damaged(place, *, of=""):
    """Turns over the bits of a byte, or cuts the file that ends so, or whose folder does."""

    def damage(path):
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        file = next(file for file in files if str(file).endswith(of))
        data = bytearray(file.read_bytes())
        if place < 0:
            data = data[:place]
        else:
            data[place] ^= 255
        file.write_bytes(data)

    return damage


def state(values):
    return lambda path: (path / "state.json").write_text(json.dumps(values))


def removed(name):
    return lambda path: (path / name).unlink()


def hole(name):
    """Removes the chunks of an array of Zarr."""
    return lambda path: shutil.rmtree(path / name / "c")


def stream(change):
    """Writes a stream of Arrow in place of the file, with its bytes changed."""

    def write(path):
        arrow = pytest.importorskip("pyarrow")
        columns = table(arrays())
        with arrow.ipc.new_stream(path, columns.schema) as writer:
            writer.write_table(columns, max_chunksize=7)
        path.write_bytes(change(path.read_bytes()))

    return write


def twice_labels(path):
    columns = table(arrays())
    pytest.importorskip("pyarrow.parquet").write_table(columns.append_column("labels", columns["labels"]), path)


def saved(**changes):
    tensors = {name: torch.tensor(array) for name, array in arrays().items()}

    def save(path):
        with warnings.catch_warnings():  # of a prototype, and that its first use is slow
            warnings.simplefilter("ignore")
            torch.save({**tensors, **{name: made() for name, made in changes.items()}}, path)

    return save


LISTS = [[1.0, 2.0]] * 23 + [[1.0]]
CONTENTS = [
    (write_pt, renamed("labels", "y"), r"has no labels \(it has: features, weight, bias, y\)"),
    (write_npy, renamed("labels", "y"), r"there is no .*train_labels\.npy beside .*; save the labels there"),
    (write_npy, with_values("weight", np.array(["a"])), r"train_weight\.npy holds <U1; it must hold numbers"),
    (write_npy, with_values("labels", np.array([{}])), r"train_labels\.npy is not a whole \.npy file \(.*; write it"),
    (write_npy, with_values("labels", np.array([True])), "labels in .* is an array of bool"),
    (write_parquet, renamed("features", "x"), r"has no features \(it has: labels\)"),
    (write_parquet, with_values("features", LISTS), "features must be lists of one length, got 1 and 2"),
    (write_parquet, with_values("features", [[1.0, None]] * 24), "must be numbers, got 1 null; leave out those"),
    (write_parquet, with_values("features", [None, *[[1.0]] * 23]), "must be numbers, got 1 null"),
    (write_parquet, with_values("features", [["a"]] * 24), r"must be lists of float16, .*, got list<\w+: string>"),
    (write_parquet, with_values("features", [1.0] * 24), "must be lists of float16, float32 or float64, got double"),
    (write_parquet, with_values("labels", ["cat"] * 24), "labels must be integers, got string; write them as such"),
    (write_arrow, with_values("labels", [None, *[1] * 23]), "labels must be integers, got 1 null"),
    (write_arrow, with_values("labels", [0.5] * 24), "labels must be integers, got double"),
    (write_zarr, renamed("labels", "y"), r"has no labels \(it has: bias, features, weight, y\)"),
    (write_zarr, with_values("labels", np.array([True])), "labels holds bool; it must hold numbers"),
    (write_zarr, with_values("features", np.ones(24)), r"features must be \(samples, features\), got \(24,\)"),
]  # fmt: skip


@pytest.mark.parametrize(("write", "change", "message"), CONTENTS)
def test_what_is_wrong_with_an_array_is_said_in_one_line(tmp_path, write, change, message):
    contents = arrays()
    change(contents)
    path = write(tmp_path, contents)
    with pytest.raises(FeatureFileError, match=message) as caught:
        list(read_features(path)["features"].blocks())
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


FILES = [
    (write_pt, damaged(-100), "is damaged or holds more than tensors .*; write it with torch.save"),
    (write_pt, lambda path: torch.save([1, 2], path), "holds list, and no tensors by name; write it with"),
    (write_pt, lambda path: torch.save({"features": [1.0], "labels": 3}, path), "features in .* is list, and no tens"),
    (write_pt, lambda path: torch.save(arrays(), path), "holds values of NumPy, for which PyTorch"),
    (write_pt, saved(features=lambda: torch.nested.nested_tensor([torch.ones(11, 5), torch.ones(13, 5)])),
     "features must be a dense tensor with data, got a nested tensor on cpu"),
    (write_pt, saved(weight=torch.eye(3, 5).to_sparse), "weight must be a dense tensor with data, got torch.sparse"),
    (write_npy, lambda path: path.write_bytes(path.read_bytes() + bytes(4000)), "has 4000 bytes after its array; wri"),
    (write_npy, damaged(-1), r"features\.npy is not a whole \.npy file"),
    (write_parquet, damaged(-1), "is not a whole Parquet file"),
    (write_parquet, damaged(12), "is not a whole (Parquet file|table)"),
    (write_parquet, twice_labels, "has 2 columns that are called 'labels'; write one"),
    (write_arrow, stream(lambda data: data[:-8]), "does not end with the mark of the end of a stream"),
    (write_arrow, stream(lambda data: data[:-4]), "is not a whole Arrow file"),
    (write_arrow, stream(lambda data: data + bytes(8)), "does not end with the mark of the end of a stream"),
    (write_arrow, damaged(-9), "is not a whole Arrow file"),
    (write_arrow, lambda path: path.write_bytes(b"features, labels"), "is not a whole Arrow file"),
    (write_saved_dataset, damaged(-90, of="00001-of-00002.arrow"), "saved is not a whole data set of Hugging Face"),
    (write_saved_dataset, state({"_data_files": [{"filename": "../x.arrow"}]}), "'../x.arrow', which is no file in it"),
    (write_saved_dataset, state({"_data_files": [{"filename": "data-00000-of-00002.arrow"}] * 2}), "more than once"),
    (write_saved_dataset, damaged(-8, of="00001-of-00002.arrow"), "does not end with the mark of the end of a stream"),
    (write_saved_dataset, state({}), "it has no '_data_files'"),
    (write_saved_dataset, removed("data-00001-of-00002.arrow"), "No such file"),
    (write_saved_dataset, removed("state.json"), "is a folder without state.json, so save_to_disk did not write it"),
    (write_saved_dataset, lambda path: (path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}'),
     "holds the splits train, test; name one, as .*saved/train"),
    (write_zarr, removed("zarr.json"), "is not a whole Zarr group"),
    (write_zarr, damaged(3, of="features/zarr.json"), "is not a whole Zarr group"),
    (write_zarr, damaged(5, of="features/c/1/0"), "is not a whole Zarr group"),
    (write_zarr, removed("features/c/1/0"), "1 of 4 chunks of features are absent"),
    *((write_zarr, hole(name), rf"\d of \d chunks of {name} are absent; .* with write_empty_chunks=True where")
      for name in ("labels", "weight", "bias")),
    (write_zarr_2, removed("features/1.0"), "1 of 4 chunks of features are absent"),
]  # fmt: skip


def test_a_split_that_is_not_there_names_those_that_are(tmp_path):
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(FeatureFileError, match=r"has no split 'val', but train, test; name one of these$"):
        read_features(tmp_path / "val")


@pytest.mark.parametrize(("write", "change", "message"), FILES)
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path, write, change, message):
    path = write(tmp_path, arrays())
    change(path)
    with pytest.raises(FeatureFileError, match=message) as caught:
        list(read_features(path)["features"].blocks())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["start", "end"])
@pytest.mark.parametrize(("shard", "chunk", "absent"), [((14, 10), (7, 5), "1 of 4"), ((12, 6), (4, 2), "3 of 18")])
def test_a_chunk_that_its_shard_lacks_is_absent(tmp_path, place, shard, chunk, absent):
    path, contents = write_zarr(tmp_path, arrays()), arrays()["features"]
    zarr = pytest.importorskip("zarr")
    shards = {"shape": shard, "index_location": place}
    options = {"shape": (24, 5), "chunks": chunk, "shards": shards, "dtype": "float32", "overwrite": True}
    array = zarr.open_group(path).create_array("features", **options)
    array[...] = contents
    assert np.array_equal(whole(read_features(path)["features"]), contents)
    array[chunk[0] : 2 * chunk[0]] = 0.0
    with pytest.raises(FeatureFileError, match=f"{absent} chunks of features are absent"):
        read_features(path)


def of(rows=6, width=5, **others):
    return {"features": np.ones((rows, width)), "labels": np.arange(rows) % 3, **others}


SETS = [
    ([of(), of(width=4)], r"features-1.npz has 4 features a sample, and .*-0.npz has 5; name files of the same"),
    ([of(), of(labels=np.zeros(5, int))], r"-1.npz: features must be .* of the same length, got \(6, 5\) and \(5,\)"),
    ([of(), of(labels=np.zeros(6))], "-1.npz: labels must be integers, got torch.float64; cast them first"),
    ([of(weight=np.ones((3, 5))), of(weight=np.zeros((3, 5)))], "weight in .*-1.npz is not that in .*-0.npz; keep it"),
    ([of(), {"features": np.ones((6, 5))}], "-1.npz has no labels"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "message"), SETS)
def test_files_that_are_not_of_one_set(tmp_path, files, message):
    for number, contents in enumerate(files):
        np.savez(tmp_path / f"features-{number}.npz", **contents)
    with pytest.raises(FeatureFileError, match=message):
        read_features(tmp_path / "features-*.npz")


def test_a_set_that_is_not_complete_or_has_no_file(tmp_path):
    np.savez(tmp_path / "x-00001-of-00003.npz", **of())
    with pytest.raises(FeatureFileError, match=r"1 of the 3 files .*x-\*-of-00003.npz were given; give all of them"):
        read_features(tmp_path / "x-*.npz")
    assert list(read_features(tmp_path / "x-00001-of-00003.npz")) == ["features", "labels"]
    with pytest.raises(FeatureFileError, match=r"no file matches .*y-.*; name a feature file, or a pattern"):
        read_features(tmp_path / "y-*.npz")


@pytest.mark.parametrize(
    ("numbers", "gap"), [((0, 1, 3, 4), "number 2 was not given"), ((0, 8, 16), None), ((7, 8), None)]
)
def test_a_gap_in_the_numbers_of_a_set(tmp_path, numbers, gap):
    for number in numbers:
        np.savez(tmp_path / f"x-{number}.npz", **of())
    with pytest.warns(UserWarning, match=gap) if gap else nullcontext():
        assert len(read_features(tmp_path / "x-*.npz")["labels"]) == 6 * len(numbers)


@pytest.mark.parametrize("write", [write_parquet, write_arrow, write_saved_dataset])
def test_labels_of_a_table_may_be_called_label(tmp_path, monkeypatch, write):
    written, expected = table(arrays()).rename_columns(["features", "label"]), arrays()["labels"]
    monkeypatch.setattr("tests.feature_formats.table", lambda _: written)
    assert read_features(write(tmp_path, arrays()))["labels"].tolist() == expected.tolist()


def test_a_file_of_several_names_is_read_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        np.savez(f"x-{number}-of-2.npz", **of())
    os.link("x-0-of-2.npz", "hard.npz")
    os.symlink("x-0-of-2.npz", "link.npz")
    names = ["x-0-of-2.npz", "link.npz", "hard.npz", tmp_path / "x-0-of-2.npz", f"../{tmp_path.name}/x-1-of-2.npz"]
    read = read_features(*names)
    assert len(read["labels"]) == len(read["features"]) == 12
    expected = nc.class_table(whole(read["features"]), read["labels"], absent="leave_out")
    assert nc.class_table(**read, absent="leave_out").equals(expected)
    os.symlink("nothing", "x-2.npz")
    with pytest.raises(FeatureFileError, match=r"x-2\.npz is not there; name a feature file"):
        read_features("x-*.npz")


@pytest.mark.parametrize("name", ["a" * 300 + ".npz", "a" * 300 + "*.npz", "a\0.npz", "\0*.npz", "loop.npz", "lo*.npz"])
def test_a_name_that_no_file_can_have(tmp_path, name):
    os.symlink("loop.npz", tmp_path / "loop.npz")
    with pytest.raises(FeatureFileError, match=r"^'.*' cannot be opened \(.*\); check the path$"):
        read_features(tmp_path / name)


@pytest.mark.parametrize("shape", [(5,), (1, 5)])
def test_tensors_of_arrow_are_vectors_or_refused(tmp_path, shape):
    contents = arrays()
    lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(contents["features"].ravel()), 5)
    tensors = pyarrow.ExtensionArray.from_storage(pyarrow.fixed_shape_tensor(pyarrow.float32(), shape), lists)
    parquet.write_table(pyarrow.table({"features": tensors, "labels": contents["labels"]}), tmp_path / "x.parquet")
    if len(shape) == 1:
        assert np.array_equal(whole(read_features(tmp_path / "x.parquet")["features"]).numpy(), contents["features"])
    else:
        with pytest.raises(FeatureFileError, match=r"x\.parquet: features are tensors of shape \(1, 5\); flatten them"):
            read_features(tmp_path / "x.parquet")


def test_features_of_another_shape_in_a_group_are_named(tmp_path):
    path = write_zarr(tmp_path, {**arrays(), "features": np.ones(24, np.float32)})
    with pytest.raises(FeatureFileError, match=r"features must be \(samples, features\), got \(24,\)$"):
        read_features(path)


@pytest.mark.parametrize("files", [1, 2])
@pytest.mark.parametrize("write", [write_npy, write_parquet, write_zarr])
def test_a_label_beyond_int64_is_shown_as_it_is(tmp_path, write, files):
    for place in range(files):
        contents = {**arrays(), "labels": np.array([0] * 23 + [2**64 - 1], np.uint64)}
        (tmp_path / str(place)).mkdir()
        path = write(tmp_path / str(place), contents)
    with pytest.raises(nc.NeurocollapseError, match="label 18446744073709551615 of sample 23 is out of range"):
        nc.measure(**read_features(path if files == 1 else tmp_path / "*" / path.name))


def test_weights_of_nan_in_two_files_are_the_same(tmp_path):
    for place in range(2):
        np.savez(tmp_path / f"{place}.npz", **{**arrays(), "weight": np.full((3, 5), np.nan)})
    with pytest.raises(nc.InputError, match=r"weight\[0, 0\] is nan"):
        nc.measure(**read_features(tmp_path / "*.npz"))


def test_a_sample_of_several_files_is_named_by_its_place_in_all(tmp_path):
    for number, last in enumerate((1.0, np.nan)):
        contents = of()
        contents["features"][-1, 2] = last
        np.savez(tmp_path / f"features-{number}.npz", **contents)
    with pytest.raises(nc.InputError, match="feature 2 of sample 11 is nan"):
        nc.measure(**read_features(tmp_path / "*-0.npz", tmp_path / "*-1.npz"))


def test_files_that_change_while_they_are_read(tmp_path):
    for number in range(2):
        np.savez(tmp_path / f"features-{number}.npz", **of())
    read = read_features(tmp_path / "features-*.npz")
    np.savez(tmp_path / "features-1.npz", **of(5))
    with pytest.raises(nc.InputError, match="11 samples were read, and there are 12 labels for 12; leave the files"):
        nc.measure(**read)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("x.parquet", "pyarrow", "arrow"), ("x.arrow", "pyarrow", "arrow"), ("x.zarr", "zarr", "zarr")],
)
def test_a_package_that_is_not_installed_is_named(tmp_path, monkeypatch, name, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    if name == "x.zarr":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(b"PAR1")
    with pytest.raises(FeatureFileError, match=rf"x\.\w+ needs a package .*: pip install 'neurocollapse\[{extra}\]'$"):
        read_features(tmp_path / name)


def test_a_link_to_nothing_is_not_taken_for_no_file(tmp_path):
    path = write_npy(tmp_path, arrays())
    (tmp_path / "train_weight.npy").rename(tmp_path / "moved.npy")
    (tmp_path / "train_weight.npy").symlink_to("nothing")
    with pytest.raises(FeatureFileError, match=r"train_weight\.npy is a link to a file that is not there; mend or"):
        read_features(path)


class Runs:
    def __reduce__(self):
        return os.mkdir, (str(Path(os.environ["TRAP"])),)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAP", str(tmp_path / "trap"))
    torch.save({"features": Runs()}, tmp_path / "x.pt")
    with pytest.raises(FeatureFileError, match=r"it holds posix\.mkdir, which is no tensor"):
        read_features(tmp_path / "x.pt")
    path = write_zarr_2(tmp_path, arrays())
    about = json.loads((path / "features" / ".zarray").read_text())
    (path / "features" / ".zarray").write_text(json.dumps({**about, "compressor": {"id": "pickle"}}))
    for chunk in range(4):
        (path / "features" / f"{chunk}.0").write_bytes(pickle.dumps(Runs()))
    with pytest.raises(FeatureFileError, match="pickle"):
        read_features(path)
    assert not (tmp_path / "trap").exists()


def test_a_size_beyond_reason_is_refused(tmp_path):
    path = write_zarr(tmp_path, arrays())
    about = json.loads((path / "features" / "zarr.json").read_text())
    (path / "features" / "zarr.json").write_text(json.dumps({**about, "shape": [10**12, 5]}))
    with pytest.raises(FeatureFileError, match="would unpack to 20000000000000, which is beyond reason"):
        read_features(path)
