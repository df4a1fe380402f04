"""Checks the user's own arrays of samples and labels, and reads them from an .npz file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._errors import DatasetError
from .._files import read_npz
from .dataset import Samples, Source

# They are float64 scalars, so that comparing widens the stored arrays' types, float16 too. Squares of larger pixels
# would overflow, and larger labels are not exact in float64; NaN and infinity are below neither.
LARGEST_PIXEL, LARGEST_LABEL = np.float64(1e150), np.float64(2**53)

#: A data set's arrays by name.
Arrays = Mapping[str, NDArray[Any]]
#: The names of a data set's arrays; the last two may be absent.
ARRAYS = ("images", "labels", "test_images", "test_labels")


def read_user_file(path: Path) -> Source:
    """Reads an .npz file with `images` and `labels` and, optionally, `test_images` and `test_labels`."""
    return source_of(path.name, path, read_arrays(path, ARRAYS[:2], ARRAYS[2:]))


def source_of(name: str, origin: Path | str, arrays: Arrays) -> Source:
    """Returns the data set of these arrays; messages name `origin`. Raises `DatasetError`.

    Labels may be (N, 1), and text: then the classes are numbered in the order of their names, as those of folders.
    """
    arrays = {
        key: array[:, 0] if "labels" in key and array.shape[1:] == (1,) else array for key, array in arrays.items()
    }
    arrays, notes = _numbered(origin, arrays)
    train = _samples(origin, arrays, "")
    num_classes = int(train.labels.max()) + 1
    if "test_images" not in arrays and "test_labels" not in arrays:
        return Source(name, train, None, num_classes, notes)
    if "test_images" not in arrays or "test_labels" not in arrays:
        there, absent = sorted(["test_images", "test_labels"], key=lambda key: key not in arrays)
        raise DatasetError(f"{origin} has {there} but no {absent}; add {absent}, or leave both out")
    test = _samples(origin, arrays, "test_")
    if test.images.shape[1:] != train.images.shape[1:]:
        raise DatasetError(
            f"{origin}: test_images are of shape {arrays['test_images'].shape} and images of {arrays['images'].shape}; "
            "apart from the first axis, the number of samples, they must agree"
        )
    if test.labels.max() >= num_classes:
        raise DatasetError(
            f"{origin}: test_labels[{test.labels.argmax()}] is {test.labels.max()}, but the training classes are "
            f"0 to {num_classes - 1}; drop such test samples, or train on that class"
        )
    return Source(name, train, test, num_classes, notes)


def _numbered(origin: Path | str, arrays: Arrays) -> tuple[Arrays, tuple[str, ...]]:
    """Returns the arrays with numbers for labels that are text, and a note that says which."""
    if arrays["labels"].dtype.kind != "U":
        if arrays.get("test_labels", arrays["labels"]).dtype.kind == "U":
            raise DatasetError(f"{origin}: test_labels are text, and labels are numbers; give both as numbers")
        return arrays, ()
    classes = np.unique(arrays["labels"])
    for key in ("labels", "test_labels"):
        labels = arrays.get(key, classes).astype(str)
        if not (known := np.isin(labels, classes)).all():
            raise DatasetError(
                f"{origin}: {key}[{known.argmin()}] is {labels.flat[known.argmin()]}, which is no class of the "
                f"training samples; drop such test samples, or train on that class"
            )
        arrays = {**arrays, key: np.searchsorted(classes, labels)} if key in arrays else arrays
    return arrays, (
        f"the labels of {origin} are text, so its classes are numbered in the order of their names: {classes[0]} is 0, "
        f"and {classes[-1]} is {len(classes) - 1}",
    )


def read_arrays(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """Returns arrays of an .npz file by name: see `read_npz`. Raises `DatasetError`, also if one is missing."""
    arrays, there = read_npz(path, [*required, *optional], DatasetError)
    if absent := [name for name in required if name not in arrays]:
        raise DatasetError(
            f"{path} has no array {absent[0]!r}, only {there}; save plain numeric arrays with "
            f"numpy.savez(path, images=..., labels=...)"
        )
    return arrays


def _samples(path: Path | str, arrays: Arrays, prefix: str) -> Samples:
    images, labels = arrays[f"{prefix}images"], arrays[f"{prefix}labels"]
    if labels.ndim != 1 or images.ndim not in (2, 3, 4) or len(images) != len(labels) or 0 in images.shape:
        raise DatasetError(
            f"{path}: {prefix}images of shape {images.shape} and {prefix}labels of shape {labels.shape} do not fit; "
            "they must be (N, height, width), (N, height, width, channels), (N, channels, height, width) or "
            "(N, features), and (N,), none of these zero"
        )
    if images.dtype.kind == "f":
        _check(path, f"{prefix}images", images, np.abs(images) < LARGEST_PIXEL, "remove or repair such samples")
    are_integers = (labels >= 0) & (labels < LARGEST_LABEL) & (np.rint(labels) == labels)
    _check(path, f"{prefix}labels", labels, are_integers, "labels are integers from 0 to C-1")
    return Samples(_channels_first(images), labels.astype(np.int64))


def _check(path: Path | str, name: str, array: NDArray[Any], good: NDArray[np.bool_], remedy: str) -> None:
    if not good.all():
        index = tuple(np.argwhere(~good)[0].tolist())
        raise DatasetError(f"{path}: {name}[{', '.join(map(str, index))}] is {array[index]!s}; {remedy}")


def _channels_first(images: NDArray[Any]) -> NDArray[Any]:
    if images.ndim == 3:
        return images[:, None]
    # (N, 3, 32, 3) could be either; PyTorch's order, channels first, then decides.
    if images.ndim == 4 and images.shape[3] in (1, 3, 4) and images.shape[1] not in (1, 3, 4):
        return images.transpose(0, 3, 1, 2)
    return images
