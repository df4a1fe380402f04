"""Data sets by name, in their true formats from a server on loopback; folders, Hugging Face, functions; bytes."""

import gzip
import io
import math
import re
import sys
import tracemalloc
import types
import zipfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import neurocollapse as nc
from neurocollapse.datasets import DATASETS, PUBLICATIONS, load_dataset
from neurocollapse.datasets.dataset import ByteSplit, Split, Standardisation
from tests.datasets.publishing import archive_of, error_of, files_under, idx, know, use

GENERATOR = np.random.default_rng(6)
PUBLISHED = dict(PUBLICATIONS)  # which the tests change


def pixels(*shape: int) -> np.ndarray:
    return GENERATOR.integers(0, 256, shape, dtype=np.uint8)


def labels_of(name: str, samples: int) -> np.ndarray:
    publication = PUBLICATIONS[name]
    return np.arange(samples) % publication.num_classes + publication.first_label


# --- Published files ---


def idx_files(name: str) -> dict[str, bytes]:
    """Two training samples of each class, and one for testing."""
    classes = PUBLICATIONS[name].num_classes
    arrays = [array for n in (2 * classes, classes) for array in (pixels(n, 28, 28), labels_of(name, n))]
    return {file: idx(array) for file, array in zip(PUBLICATIONS[name].contents, arrays, strict=True)}


def cifar100_files(records: int) -> dict[str, bytes]:
    def file(n):
        fine = labels_of("cifar100", n)
        return np.column_stack([fine // 5, fine, pixels(n, 3072)]).astype(np.uint8).tobytes()

    return {"train.bin": file(5 * records), "test.bin": file(records)}


def mat(images: np.ndarray, labels: np.ndarray, **options) -> bytes:
    from scipy.io import savemat

    buffer = io.BytesIO()
    savemat(buffer, {"X": images, "y": labels}, do_compression=True, **options)
    return buffer.getvalue()


def svhn_files() -> dict[str, bytes]:
    digits = {name: np.arange(n, dtype=np.uint8)[:, None] % 10 + 1 for name, n in (("train", 20), ("test", 10))}
    return {f"{name}_32x32.mat": mat(pixels(32, 32, 3, len(y)), y) for name, y in digits.items()}


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"gzip/{name}.gz", gzip.compress(content, 1, mtime=0))
    return buffer.getvalue()


def publish(monkeypatch, server, name: str) -> dict[str, bytes]:
    """Puts small files of a data set, in its true format, on the server, and declares them to be the published ones."""
    if "svhn" in name:
        contents = served = svhn_files()
    elif name == "cifar100":
        monkeypatch.setattr("neurocollapse.datasets.formats.RECORDS", 100)
        contents = cifar100_files(100)
        served = {"cifar-100-binary.tar.gz": archive_of(contents, "cifar-100-binary/")}
    elif name.startswith("emnist"):
        contents = idx_files(name)
        served = {"gzip.zip": zip_of(contents)}
    else:
        contents = idx_files(name)
        served = {f"{file}.gz": gzip.compress(content, 1, mtime=0) for file, content in contents.items()}
    server.files = dict(served)
    know(monkeypatch, name, contents if contents is served else {}, served)
    use(
        monkeypatch,
        name,
        mirrors=(server.address,),
        contents=PUBLICATIONS[name].contents or dict.fromkeys(contents, ""),
    )
    return contents


NEW = [name for name in PUBLICATIONS if name not in ("mnist", "cifar10")]


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("given_folder", [True, False])
def test_data_set_is_downloaded_once_and_read(tmp_path, monkeypatch, server, cache, name, given_folder, capfd):
    contents = publish(monkeypatch, server, name)
    (tmp_path / "data").mkdir()
    folder = tmp_path / "data" if given_folder else None
    data = load_dataset(name, data_dir=folder)
    again = load_dataset(name, data_dir=folder and str(folder))
    assert "100%" in capfd.readouterr().err
    publication = PUBLICATIONS[name]
    assert files_under(folder or cache) == sorted(f"{publication.folder}/{file}" for file in publication.downloads)
    assert sorted(server.requests) == sorted(publication.downloads)
    assert again.sha256 == data.sha256
    classes = {"emnist_byclass": 62, "emnist_letters": 26, "cifar100": 100}.get(name, 47 if "emnist" in name else 10)
    classes = 10 if name in ("fashion_mnist", "kmnist", "emnist_digits", "emnist_mnist") else classes
    assert (data.name, data.num_classes, len(data.class_counts), data.notes) == (name, classes, classes, ())
    assert data.input_shape == ((3, 32, 32) if name in ("cifar100", "svhn") else (1, 28, 28))
    assert isinstance(data.train, ByteSplit)
    assert {*data.train.labels.tolist()} == {*data.test.labels.tolist()} == {*range(classes)}
    if name == "svhn":
        from scipy.io import loadmat

        of_file = loadmat(io.BytesIO(contents["test_32x32.mat"]))
        assert data.test.labels.tolist() == [*range(1, 10), 0]  # the digit 0 is called 10
        assert np.array_equal(data.test.pixels, of_file["X"].transpose(3, 2, 0, 1))
    elif name == "cifar100":
        records = np.frombuffer(contents["test.bin"], np.uint8).reshape(-1, 3074)
        assert data.test.labels.tolist() == records[:, 1].tolist()
        assert np.array_equal(data.test.pixels.flatten(1), records[:, 2:])
    else:
        images = list(contents.values())[2]
        assert data.test.pixels.numpy().tobytes() == images[16:]


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("fashion_mnist", "FashionMNIST/raw"), ("fashion_mnist", "fashion-mnist/data/fashion"), ("svhn", ""),
        ("kmnist", "KMNIST/raw"), ("emnist_letters", "EMNIST/raw"), ("emnist", "emnist/gzip"),
        ("cifar100", "cifar-100-binary"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("packed", [True, False])
def test_files_are_found_where_other_tools_put_them(tmp_path, monkeypatch, server, name, folder, packed):
    contents = publish(monkeypatch, server, name)
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    packs = packed and name not in ("cifar100", "svhn")
    for file, content in contents.items():
        path = tmp_path / folder / (f"{file}.gz" if packs else file)
        path.write_bytes(gzip.compress(content, 1, mtime=0) if packs else content)
    if packs and name.startswith("emnist"):  # only the checksum of the whole archive is known
        with pytest.warns(UserWarning, match="the file of emnist-.* is not the published one"):
            load_dataset(name, data_dir=tmp_path)
    else:
        assert load_dataset(name, data_dir=tmp_path).notes == ()
    assert server.requests == []


def test_one_data_set_in_the_place_of_another_is_an_error(tmp_path, monkeypatch, server):
    publish(monkeypatch, server, "kmnist")
    publish(monkeypatch, server, "fashion_mnist")
    (tmp_path / "kmnist").mkdir()
    for name, content in server.files.items():
        (tmp_path / "kmnist" / name).write_bytes(content)
    assert error_of(load_dataset, "kmnist", data_dir=tmp_path).endswith(
        "is the published train-images-idx3-ubyte of Fashion-MNIST under another name; keep Fashion-MNIST in a folder "
        "of its own"
    )


GOOD_X, GOOD_Y = pixels(32, 32, 3, 20), np.arange(20, dtype=np.uint8)[:, None] % 10 + 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is no whole \.mat file"),
        (b"MATLAB 5.0 MAT-file" + bytes(300), r"is no whole \.mat file|has no X"),
        (mat(GOOD_X, GOOD_Y)[:9000], r"is no whole \.mat file|has no y"),
        (mat(GOOD_X[:, :, 0], GOOD_Y), r"has no X of shape \(32, 32, 3, N\) and type uint8, only .*; fetch it again"),
        (mat(GOOD_X.astype(float), GOOD_Y), r"has no X of shape"),
        (mat(GOOD_X, GOOD_Y[:7]), r"has no y of shape \(20, 1\), only"),
        (mat(GOOD_X, GOOD_Y - 1), r"label 0 at index 0, but those of SVHN are 1 to 10"),
    ],
)
def test_wrong_mat_file(tmp_path, content, message):
    (tmp_path / "test_32x32.mat").write_bytes(mat(GOOD_X, GOOD_Y))
    (tmp_path / "train_32x32.mat").write_bytes(content)
    found = error_of(load_dataset, "svhn", data_dir=tmp_path)
    assert re.search(message, found)
    assert "train_32x32.mat" in found


def test_damaged_archive_of_emnist_is_an_error(tmp_path, monkeypatch, server):
    publish(monkeypatch, server, "emnist_letters")
    for content, message in (
        (server.files["gzip.zip"][:-30], "is truncated or damaged, or no zip file (File is not a zip file)"),
        (zip_of(idx_files("emnist_digits")), "has no emnist-letters-test-images-idx3-ubyte, "),
    ):
        (tmp_path / "gzip.zip").write_bytes(content)
        assert message in error_of(load_dataset, "emnist_letters", data_dir=tmp_path)
    files = idx_files("emnist_letters") | {"emnist-letters-test-labels-idx1-ubyte": idx(np.arange(26))}
    (tmp_path / "gzip.zip").write_bytes(zip_of(files))
    assert "label 0 at index 0, but classes are 1 to 26" in error_of(load_dataset, "emnist_letters", data_dir=tmp_path)


# --- A folder of images ---


def save_images(folder, images: np.ndarray, suffix: str = ".png") -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index}{suffix}")


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("train", "val"), ("", None)])
def test_folder_of_images(tmp_path, train, test):
    each = {(part, name): pixels(3, 6, 5, 3) for part in (train, test) if part is not None for name in ("dog", "cat")}
    for (part, name), images in each.items():
        save_images(tmp_path / "pets" / part / name, images)
    data = load_dataset(str(tmp_path / "pets"))
    assert (data.name, data.num_classes, data.input_shape) == ("pets", 2, (3, 6, 5))
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]  # cat before dog
    expected = np.concatenate([each[train, "cat"], each[train, "dog"]]).transpose(0, 3, 1, 2)
    assert np.array_equal(data.train.pixels, expected)
    assert (data.test is None) == (test is None)


def test_grey_images_among_coloured_ones_become_coloured(tmp_path):
    save_images(tmp_path / "a", pixels(2, 4, 4))
    save_images(tmp_path / "b", pixels(2, 4, 4, 3))
    grey, colour = load_dataset(tmp_path).train.pixels.split(2)
    assert (grey == grey[:, :1]).all()
    assert not (colour == colour[:, :1]).all()


def _is_of_two_sizes(folder):
    save_images(folder / "c", pixels(1, 5, 4, 3))


def _is_damaged(folder):
    (folder / "b" / "0.png").write_bytes((folder / "b" / "0.png").read_bytes()[:40])


def _is_linked(folder):
    (folder / "c").symlink_to(folder / "a")


def _is_of_splits(folder):
    for name in ("a", "b"):
        save_images(folder / "training" / name, pixels(2, 4, 4, 3))


def _is_deep(folder):
    save_images(folder / "c", GENERATOR.integers(0, 2**16, (1, 4, 4), dtype=np.uint16))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_is_of_two_sizes, "sample 4 is of shape (3, 5, 4) and sample 0 of (3, 4, 4); resize them to one size"),
        (_is_damaged, "b/0.png cannot be read ("),
        (_is_deep, "has pixels of more than eight bits (mode I"),
        (_is_linked, "are one file, by a link; remove one of them"),
        (_is_of_splits, "training has images in several folders, as a split has; call the splits train and test"),
        (lambda folder: (folder / "c").mkdir(), "c has no images in it (.png, "),
        (lambda folder: save_images(folder / "train/x", pixels(1, 4, 4)), "train has 1 folder(s) in it, and classif"),
    ],
)
def test_wrong_folder_of_images(tmp_path, change, message):
    for name in ("a", "b"):
        save_images(tmp_path / name, pixels(2, 4, 4, 3))
    change(tmp_path)
    assert message in error_of(load_dataset, tmp_path)


# --- Hugging Face ---

IMAGES, LABELS = pixels(6, 4, 4), np.array([0, 1, 2, 0, 1, 2])
HIDDEN = {"train": {}, "test": {"label": [-1] * 6}}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A data set of two columns of classes, as `save_to_disk` and as Parquet files write it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    images = pixels(12, 8, 8, 3)
    columns = {
        "img": datasets.Image(),
        "fine_label": datasets.ClassLabel(names=list("abc")),
        "coarse_label": datasets.ClassLabel(names=list("ab")),
        "id": datasets.Value("string"),
        "none": datasets.Value("string"),
    }
    rows = {"img": list(images), "fine_label": [i % 3 for i in range(12)], "coarse_label": [i % 2 for i in range(12)]}
    whole = datasets.Dataset.from_dict(rows | {"id": list("x" * 12), "none": [None] * 12}, datasets.Features(columns))
    datasets.DatasetDict(train=whole, test=whole.select(range(6))).save_to_disk(tmp_path / "saved")
    (tmp_path / "files").mkdir()
    datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}).save_to_disk(tmp_path / "texts")
    whole.to_parquet(tmp_path / "files" / "train-0.parquet")
    whole.select(range(6)).to_parquet(tmp_path / "files" / "validation-0.parquet")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hub")
    return images


@pytest.mark.parametrize("words", ["saved", "files", "files,streaming"])
def test_data_set_of_hugging_face(tmp_path, hub, words):
    name = f"hf:{tmp_path}/{words},label=fine_label"
    data = load_dataset(name)
    assert (data.num_classes, data.class_counts, data.input_shape) == (3, (4, 4, 4), (3, 8, 8))
    assert np.array_equal(data.train.pixels, hub.transpose(0, 3, 1, 2))
    assert data.test.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert load_dataset(name, per_class=1).train.labels.tolist() == [0, 1, 2]


def test_streaming_ends_once_every_class_has_enough():
    from neurocollapse.datasets.hub import _rows

    class Split:
        features = None

        def select_columns(self, names):
            yield from ({"image": i, "label": label} for i, label in enumerate([0, 0, 0, 1, 2, 1]))
            pytest.fail("it reads on")

    assert list(_rows(Split(), "image", "label", 3, per_class=1)) == [(0, 0), (3, 1), (4, 2)]


@pytest.mark.parametrize("hidden", [True, False])
def test_arrays_and_hidden_labels_of_hugging_face(tmp_path, hub, hidden):
    import datasets

    kind = datasets.Value("int64" if hidden else "uint8")
    columns = datasets.Features({"x": datasets.Array2D((4, 4), "uint8"), "label": kind})
    rows = {"x": list(IMAGES), "label": LABELS.tolist()}
    wanted = HIDDEN if hidden else {"train": {}}
    parts = {name: datasets.Dataset.from_dict(rows | more, columns) for name, more in wanted.items()}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "arrays")
    said = pytest.warns(UserWarning, match="the held-out split of .* has no labels, so it is left out")
    with said if hidden else nullcontext():
        data = load_dataset(f"hf:{tmp_path}/arrays")
    assert np.array_equal(data.train.pixels[:, 0], IMAGES)
    assert data.test is None


@pytest.mark.parametrize("column", ["label", "kind"])
def test_labels_of_text_are_classes_in_the_order_of_their_names(tmp_path, hub, column):
    import datasets

    rows = {"x": list(IMAGES), column: np.array(["b", "a", "long"])[LABELS].tolist()}
    features = datasets.Features({"x": datasets.Array2D((4, 4), "uint8"), column: datasets.Value("string")})
    if column == "label":  # and not the column of integers beside it
        rows["id"], features["id"] = list(range(6)), datasets.Value("int64")
    datasets.DatasetDict(test=datasets.Dataset.from_dict(rows, features)).save_to_disk(tmp_path / "arrays")
    with pytest.warns(UserWarning, match="no split|are text") as said:
        data = load_dataset(f"hf:{tmp_path}/arrays" + (",label=kind" if column == "kind" else ""))
    assert data.train.labels.tolist() == [1, 0, 2, 1, 0, 2]
    assert re.search("has no split train, so that its split test is the training split", data.notes[0])
    assert re.search("are text, so its .* order of their names: a is 0, and long is 2$", data.notes[1])
    assert tuple(str(each.message) for each in said) == data.notes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("texts", "the image is of no column (text, label); name the column, as in "),
        ("saved", "the label may be any of fine_label, coarse_label; name the column, as in "),
        (
            "saved,label=fine",
            "has no column 'fine'; there are img, fine_label, coarse_label, id, none",
        ),
        ("saved,lable=x", "'lable=x' is no option (did you mean 'label'?); write hf:ID,config=NAME"),
        ("saved,label=none", "the label of sample 0 is None, not an integer from 0 to C-1"),
        ("nowhere", "cannot be loaded ("),
    ],
)
def test_wrong_data_set_of_hugging_face(tmp_path, hub, words, message):
    assert message in error_of(load_dataset, f"hf:{tmp_path}/{words}")


def test_what_an_extra_would_bring_is_said(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = error_of(load_dataset, "hf:ylecun/mnist")
    assert message.startswith("hf:ylecun/mnist needs datasets, which cannot be imported (ModuleNotFoundError: ")
    assert message.endswith("install it with pip install 'neurocollapse[hub]'")
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert "needs PIL, which" in error_of(load_dataset, tmp_path)


# --- A function ---

PAIRS = TensorDataset(torch.from_numpy(IMAGES), torch.from_numpy(LABELS))


@pytest.mark.parametrize(
    ("given", "has_test"),
    [
        ((IMAGES, LABELS), False),
        ((torch.from_numpy(IMAGES), torch.from_numpy(LABELS), IMAGES[:3], LABELS[:3]), True),
        ({"images": IMAGES, "labels": LABELS}, False),
        (PAIRS, False),
        ([PAIRS, PAIRS], True),
        (((IMAGES, LABELS), (IMAGES[:3], LABELS[:3])), True),
        (list(zip(IMAGES, LABELS, strict=True)), False),
        ((IMAGES.tolist(), LABELS.tolist()), False),
        (tuple([[list(pair) for pair in zip(IMAGES, LABELS, strict=True)]] * 2), True),
        (((IMAGES, LABELS[:, None]), (IMAGES[:3], LABELS[:3, None])), True),
        (list(zip(IMAGES, LABELS[:, None], strict=True)), False),
    ],
)
def test_function_of_the_users_own(monkeypatch, given, has_test):
    module = types.SimpleNamespace(load=lambda: given, bytes=lambda: (IMAGES, LABELS))
    monkeypatch.setitem(sys.modules, "data_of_mine", module)
    data = load_dataset("data_of_mine:load")
    assert data.train.labels.tolist() == LABELS.tolist()
    torch.testing.assert_close(data.train.images, load_dataset("data_of_mine:bytes").train.images)
    assert (data.num_classes, data.test is not None) == (3, has_test)


class Records:
    """A data set whose samples are mappings."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return {"image": IMAGES[index], "label": int(LABELS[index])}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (7, "data_of_mine:load returned int; it must return images and labels, "),
        ({"images": IMAGES, "label": LABELS}, "returned 'label' (did you mean 'labels'?); it must"),
        ({"images": IMAGES}, "returned no labels; it must"),
        (
            (IMAGES, np.array([*"abcab", None], object)),
            "labels holds None, which is no text; give text alone, or numbers",
        ),
        ((IMAGES, [*"abcab", math.nan]), "labels holds nan, which is no text"),
        (
            (IMAGES, np.array(list("abcabc")), IMAGES, np.array(list("abcabd"))),
            "test_labels[5] is d, which is no class of",
        ),
        ((IMAGES, LABELS, IMAGES, np.array(list("abcabd"))), "test_labels are text, and labels are numbers"),
        ([{"image": image, "label": 0} for image in IMAGES], "load returned list; it must return images"),
        (types.MappingProxyType({}), "load returned no images; it must"),
        (Records(), "load: sample 0 is dict, no pair; it must return images and labels, "),
        ([(image, image.tolist()) for image in IMAGES], "sample 0 is [["),
        ((IMAGES, LABELS[:4]), "do not fit"),
        ((np.ma.masked_equal(IMAGES, IMAGES[0, 0, 0]), LABELS), "load: images has masked values; leave those"),
        ([[1, 2], [3]], "sample 0 is no pair of an image and a label ("),
        (ZeroDivisionError("no"), "raised ZeroDivisionError: no; it is called as function()"),
    ],
)
def test_wrong_function(monkeypatch, given, message):
    def load():
        if isinstance(given, Exception):
            raise given
        return given

    module = type(sys)("data_of_mine")
    module.load = load
    monkeypatch.setitem(sys.modules, "data_of_mine", module)
    assert message in error_of(load_dataset, "data_of_mine:load")


X, Y = torch.eye(4).repeat(2, 1), torch.arange(8) % 4
UNREADABLE = {
    "sparse": (X.to_sparse(), Y),
    "without data": (X.to("meta"), Y),
    "labels that are sparse": (X, Y.to_sparse()),
    "complex": (X * 1j, Y),
    "samples that are sparse": [(x.to_sparse(), 0) for x in X],
    "labels without data": [(x, torch.tensor(0, device="meta")) for x in X],
}  # fmt: skip


@pytest.mark.parametrize("given", UNREADABLE.values(), ids=UNREADABLE)
def test_a_tensor_that_is_no_array_is_named(monkeypatch, given):
    monkeypatch.setitem(sys.modules, "data_of_mine", types.SimpleNamespace(load=lambda: given))
    said = error_of(load_dataset, "data_of_mine:load")
    assert re.match(r"data_of_mine:load: .*(images|labels|sample 0) is (no dense tensor of|Tensor, not) real", said)


@pytest.mark.parametrize(
    ("images", "test", "place"), [(1.0, 1e100, "test_images[1, 2]"), (1e-200, 0.0, "images[0, 0]")]
)
def test_numbers_that_float32_cannot_hold_are_named(tmp_path, images, test, place):
    held_out = np.zeros((2, 4))
    held_out[1, 2] = test
    np.savez(
        tmp_path / "x.npz", images=X.numpy() * np.float64(images), labels=Y, test_images=held_out, test_labels=[0, 1]
    )
    said = error_of(load_dataset, tmp_path / "x.npz")
    assert f"x.npz: {place} is {test or images:g}, which float32 cannot hold once" in said


@pytest.mark.parametrize(
    "name", ["nowhere_to_be_found:load", "json:lod", "x" * 5000, "a/b:c", "hf:", "./nothing", "\0:"]
)
def test_no_name_is_another_error(name):
    assert error_of(load_dataset, name)


# --- Bytes in memory ---


@pytest.fixture
def digits(tmp_path) -> str:
    path = tmp_path / "digits.npz"
    arrays = {"images": pixels(600, 28, 28), "labels": np.arange(600) % 10}
    np.savez(path, **arrays, test_images=pixels(20, 28, 28), test_labels=np.arange(20) % 10)
    return str(path)


def test_bytes_become_the_same_images_wherever_they_are_asked_for(digits):
    split = load_dataset(digits).train
    raw = split.pixels.numpy()
    expected = Standardisation(raw)(raw)
    some = torch.tensor([5, 3, 599])
    assert torch.equal(split.images, expected)
    assert torch.equal(split.images_at(some), expected[some])
    assert torch.equal(split.taken(some).images, expected[some])
    assert torch.equal(split.to("cpu")[7][0], expected[7])
    assert torch.equal(next(iter(DataLoader(split, batch_size=9)))[0], expected[:9])
    assert repr(split) == "Split(images=bytes(600, 1, 28, 28), labels=Tensor(600,))"
    floats = Split(expected, split.labels)
    assert torch.equal(floats.taken(some).images_at(slice(2)), expected[some[:2]])


def test_training_and_measuring_never_need_all_images_at_once(digits, monkeypatch):
    data = load_dataset(digits)
    monkeypatch.setattr(ByteSplit, "images", property(lambda self: pytest.fail("all images at once")))
    small = {"network": "mlp", "depth": 2, "width": 4, "epochs": 1, "learning_rate": 1e-3}
    config = nc.RunConfig(dataset=digits, augmentation="shift_flip", batch_size=200, **small)
    *_, state = nc.epochs(config, data)
    assert state.record["train.accuracy"] >= 0
    model = nc.build_network("mlp", data.input_shape, 10, depth=2, width=4)
    assert nc.measure_model(model, data.test)["accuracy"] >= 0


def test_loading_bytes_takes_little_more_than_their_own_memory(tmp_path):
    images = np.zeros((4000, 3, 32, 32), np.uint8)
    images[::2] = 255
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(4000) % 10)
    tracemalloc.start()
    try:
        load_dataset(str(tmp_path / "data.npz"))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # float64 blocks of 2,048 images are 50 MB, whatever the number of images
    assert most < images.nbytes + 3 * 2048 * 3072 * 8


# --- The list of names ---


def test_names_are_those_of_the_help_and_the_page():
    root = Path(__file__).parents[2]
    places = (
        "docs/data.md",
        "README.md",
        "src/neurocollapse/training/config.py",
        "src/neurocollapse/cli/measurements.py",
    )
    page, *_ = texts = [(root / place).read_text(encoding="utf-8") for place in places]
    for name in DATASETS:
        assert all(name in text for text in [load_dataset.__doc__, *texts]), name
    for publication in PUBLISHED.values():
        megabytes = sum(size for size, _ in publication.downloads.values()) / 1e6
        assert f"{megabytes:.3g} MB" in page
        assert publication.mirrors[0] in page
