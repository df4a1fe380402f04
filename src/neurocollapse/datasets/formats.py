"""Reads published files into arrays: idx, CIFAR's records, SVHN's .mat. A wrong structure is an error."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .._errors import DatasetError
from .._files import in_one_line
from .dataset import Samples, Source
from .publications import PUBLICATIONS, Publication
from .published import Content, compare_with_published, find

# idx: two zero bytes, the type (8: unsigned bytes), the number of axes; then their lengths and the bytes.
IDX_MAGIC = {"labels": 0x0801, "images": 0x0803}
#: The bytes of an image of CIFAR, and the images in a batch.
IMAGE_BYTES, RECORDS = 3 * 32 * 32, 10_000


def read_published(name: str, data_dir: Path | None) -> Source:
    """Reads a published data set, from `data_dir`, the cache, or its address."""
    publication = PUBLICATIONS[name]
    files = find(publication, data_dir)
    notes = compare_with_published(files, publication)
    first = next(iter(files))
    if first.endswith("-ubyte"):
        images, labels, test_images, test_labels = files.values()
        train, test = (idx_samples(*pair, publication) for pair in ((images, labels), (test_images, test_labels)))
    elif first.endswith(".mat"):
        train, test = (svhn_samples(file) for file in files.values())
    else:
        *batches, test = (cifar_samples(file, publication) for file in files.values())
        train = Samples(*map(np.concatenate, zip(*batches, strict=True))) if len(batches) > 1 else batches[0]
    return Source(name, train, test, publication.num_classes, notes)


def idx_samples(images_file: Content, labels_file: Content, publication: Publication) -> Samples:
    """Returns images (N, 1, 28, 28) of bytes and their labels."""
    images, labels = parse_idx(images_file, "images"), parse_idx(labels_file, "labels")
    if images.shape[1:] != (28, 28):
        raise DatasetError(
            f"{images_file.origin} holds images of {images.shape[1:]} pixels, not {publication.title}'s (28, 28); "
            "fetch it again"
        )
    if len(images) != len(labels):
        raise DatasetError(
            f"{images_file.origin} holds {len(images)} images but {labels_file.origin} {len(labels)} labels; "
            "fetch both again"
        )
    return Samples(images[:, None], _checked_labels(labels, labels_file, publication))


def parse_idx(file: Content, kind: str) -> NDArray[np.uint8]:
    """Returns the array in an idx file that must hold `kind`, "images" (three axes) or "labels" (one)."""
    origin, data = file.origin, file.data
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


def cifar_samples(file: Content, publication: Publication) -> Samples:
    """Reads records of the label and 3072 pixel bytes: the red, green and blue planes, row by row.

    CIFAR-100 has two bytes of label, the superclass before the class, and five batches of records in its training file.
    """
    is_fine = publication.num_classes > 10
    labels = 2 if is_fine else 1
    records = RECORDS * (5 if is_fine and "train.bin" in file.origin else 1)
    size = labels + IMAGE_BYTES
    if len(file.data) != records * size:
        raise DatasetError(
            f"{file.origin} is {len(file.data)} bytes long, not {records * size} ({records} records of {size}); fetch "
            f"the binary version of {publication.title} again"
        )
    table = np.frombuffer(file.data, np.uint8).reshape(records, size)
    return Samples(table[:, labels:].reshape(-1, 3, 32, 32), _checked_labels(table[:, labels - 1], file, publication))


def svhn_samples(file: Content) -> Samples:
    """Reads a .mat file with X (32, 32, 3, N) of bytes, and y (N, 1), in which the digit 0 is called 10."""
    from scipy.io import loadmat, whosmat

    try:
        stream = io.BytesIO(file.data)
        found = {name: (shape, kind) for name, shape, kind in whosmat(stream)}  # before anything is allocated
        shape, kind = found.get("X", ((), ""))
        if kind != "uint8" or len(shape) != 4 or shape[:3] != (32, 32, 3) or not shape[3]:
            raise DatasetError(f"{file.origin} has no X of shape (32, 32, 3, N) and type uint8, only {found}")
        if found.get("y") not in [((shape[3], 1), kind) for kind in ("uint8", "double")]:
            raise DatasetError(f"{file.origin} has no y of shape ({shape[3]}, 1), only {found}")
        images, labels = (loadmat(stream, variable_names=[name])[name] for name in ("X", "y"))
    except DatasetError as error:
        raise DatasetError(f"{error}; fetch it again") from None
    except Exception as error:  # scipy has many ways to say that a file is not whole
        raise DatasetError(f"{file.origin} is no whole .mat file ({in_one_line(error)}); fetch it again") from error
    labels = labels[:, 0]
    if not np.isin(labels, np.arange(1, 11)).all():
        index = int(np.isin(labels, np.arange(1, 11), invert=True).argmax())
        raise DatasetError(
            f"{file.origin}: label {labels[index]} at index {index}, but those of SVHN are 1 to 10; fetch it again"
        )
    return Samples(np.ascontiguousarray(images.transpose(3, 2, 0, 1)), labels.astype(np.int64) % 10)


def _checked_labels(labels: NDArray[np.uint8], file: Content, publication: Publication) -> NDArray[np.int64]:
    first, end = publication.first_label, publication.first_label + publication.num_classes
    wrong = (labels < first) | (labels >= end)
    if wrong.any():
        index = int(wrong.argmax())
        raise DatasetError(
            f"{file.origin}: label {labels[index]} at index {index}, but classes are {first} to {end - 1}; "
            "fetch it again"
        )
    return labels.astype(np.int64) - first
