"""Reads MNIST's idx files and CIFAR-10's binary batches into arrays. A wrong structure is an error."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .._errors import DatasetError
from .dataset import Samples, Source
from .published import CIFAR10, MNIST, Content, compare_with_published, find_cifar10, find_mnist

NUM_CLASSES = 10
# idx: two zero bytes, the type (8: unsigned bytes), the number of axes; then their lengths and the bytes.
IDX_MAGIC = {"labels": 0x0801, "images": 0x0803}
RECORD_BYTES = 1 + 3 * 32 * 32
RECORDS = 10_000


def read_mnist(data_dir: Path | None) -> Source:
    """Reads MNIST from its four idx files."""
    files = find_mnist(data_dir)
    notes = compare_with_published(files, MNIST)
    train = mnist_samples(files["train-images-idx3-ubyte"], files["train-labels-idx1-ubyte"])
    test = mnist_samples(files["t10k-images-idx3-ubyte"], files["t10k-labels-idx1-ubyte"])
    return Source("mnist", train, test, NUM_CLASSES, notes)


def read_cifar10(data_dir: Path | None) -> Source:
    """Reads CIFAR-10 from its six binary batches."""
    files = find_cifar10(data_dir)
    notes = compare_with_published(files, CIFAR10)
    test = cifar10_samples(files.pop("test_batch.bin"))
    batches = [cifar10_samples(files[name]) for name in sorted(files)]
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return Source("cifar10", Samples(images, labels), test, NUM_CLASSES, notes)


def mnist_samples(images_file: Content, labels_file: Content) -> Samples:
    """Returns images (N, 1, 28, 28) of bytes and their labels."""
    images, labels = parse_idx(images_file, "images"), parse_idx(labels_file, "labels")
    if images.shape[1:] != (28, 28):
        raise DatasetError(
            f"{images_file.origin} holds images of {images.shape[1:]} pixels, not MNIST's (28, 28); fetch it again"
        )
    if len(images) != len(labels):
        raise DatasetError(
            f"{images_file.origin} holds {len(images)} images but {labels_file.origin} {len(labels)} labels; "
            "fetch both again"
        )
    return Samples(images[:, None], _checked_labels(labels, labels_file))


def parse_idx(file: Content, kind: str) -> NDArray[np.uint8]:
    """Returns the array in an idx file that must hold `kind`, "images" (three axes) or "labels" (one)."""
    origin, data = file
    if not data:
        raise DatasetError(f"{origin} is empty; fetch it again")
    magic = int.from_bytes(data[:4], "big")
    if magic != IDX_MAGIC[kind]:
        other = next((other for other, number in IDX_MAGIC.items() if number == magic), None)
        found = f"it holds {other}; were files swapped" if other else "is it a web page or another format"
        raise DatasetError(
            f"{origin} does not hold idx {kind}: it starts with the bytes '{data[:4].hex()}', "
            f"not '{IDX_MAGIC[kind]:08x}' ({found}?); fetch it again"
        )
    axes = IDX_MAGIC[kind] & 0xFF
    header = 4 + 4 * axes
    shape = [int.from_bytes(data[start : start + 4], "big") for start in range(4, header, 4)]
    expected = header + int(np.prod(shape, dtype=object))
    if len(data) != expected or 0 in shape:
        found = f"at least {len(data)}" if len(data) > expected else str(len(data))
        raise DatasetError(
            f"{origin} is truncated or damaged: for {kind} of shape {tuple(shape)} it must be {expected} bytes "
            f"unpacked, and it is {found}; fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def cifar10_samples(file: Content) -> Samples:
    """Reads 10,000 records of a label byte and 3072 pixel bytes: the red, green and blue planes, row by row."""
    if len(file.data) != RECORDS * RECORD_BYTES:
        raise DatasetError(
            f"{file.origin} is {len(file.data)} bytes long, not {RECORDS * RECORD_BYTES} ({RECORDS} records of "
            f"{RECORD_BYTES}); fetch the binary version of CIFAR-10 again"
        )
    records = np.frombuffer(file.data, np.uint8).reshape(RECORDS, RECORD_BYTES)
    return Samples(records[:, 1:].reshape(-1, 3, 32, 32), _checked_labels(records[:, 0], file))


def _checked_labels(labels: NDArray[np.uint8], file: Content) -> NDArray[np.int64]:
    if labels.max() >= NUM_CLASSES:
        index = int((labels >= NUM_CLASSES).argmax())
        raise DatasetError(
            f"{file.origin}: label {labels[index]} at index {index}, but classes are 0 to {NUM_CLASSES - 1}; "
            "fetch it again"
        )
    return labels.astype(np.int64)
