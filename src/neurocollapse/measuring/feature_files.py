"""Reads files of `features`, `labels` and, optionally, `weight`, `bias`, `ood`; one table says what reads which."""

import difflib
import itertools
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from .._errors import FeatureFileError, InputError
from .._files import atomic_path, check_opens, irregular, matching, path_of, read_npz
from ..statistics import int64_labels
from .feature_tables import read_arrow, read_parquet, read_saved_dataset, saved_splits
from .features import as_tensor
from .reading import reading
from .saved import load_saved
from .streamed import StreamedFeatures
from .zarr_groups import read_zarr

REQUIRED = ("features", "labels")
OPTIONAL = ("weight", "bias", "ood")
NAMES = REQUIRED + OPTIONAL


def read_features(path: Path | str, *others: Path | str) -> dict[str, Any]:
    """Returns what a file of features holds by name, as arguments of `measure`. Nothing is unpickled.

    `.npz`, `.safetensors` and `.pt` files hold an array for each name; `features.npy` has `labels.npy` beside it, and
    `train_features.npy` has `train_labels.npy`; `.parquet` and `.arrow` files, and folders that Hugging Face's
    `save_to_disk` wrote, have a row for each sample; a `.zarr` folder is a group of arrays. Several files, or a pattern
    such as `features-*.safetensors`, are parts of one: their samples follow one another, numbers in names sorted as
    numbers, and `weight`, `bias` and `ood` are in one of them, or the same in all.

    Features are tensors, mapped into memory where the format allows it; or `StreamedFeatures`, of which a block is in
    memory, for several files and for formats of rows or chunks. A warning names the arrays that are ignored.

    Raises:
        FeatureFileError: a file is absent, damaged, incomplete, of another format, or does not fit the others, or the
            package that reads it is not installed; the message names it.
    """
    given = [path_of(each, FeatureFileError) for each in (path, *others)]
    names: dict[object, Path] = {}
    for file in (file for each in given for file in _matched(each)):
        names.setdefault(_identity(file), file)
    found = list(names.values())
    if found != given or others:  # whoever names a single file wants that alone
        _check_complete(found)
    parts = {file: _read(file) if len(found) == 1 else _part(file) for file in found}
    ignored = {_with_hint(name, arrays): file for file, arrays in parts.items() for name in arrays if name not in NAMES}
    if ignored:
        warnings.warn(f"{next(iter(ignored.values()))}: ignored: {', '.join(ignored)}", stacklevel=2)
    whole = parts[found[0]] if len(found) == 1 else _joined(parts)
    return {name: whole[name] for name in NAMES if name in whole}


def _identity(path: Path) -> object:
    """Returns what is the same for all names of a file."""
    try:
        there = path_of(path, FeatureFileError).stat()
    except (FileNotFoundError, NotADirectoryError):
        return path
    except OSError as error:
        raise FeatureFileError(f"{path} cannot be read ({error.strerror}); check the path") from error
    return there.st_dev, there.st_ino


def _matched(path: Path) -> list[Path]:
    """Returns the path, or if it is a pattern and no path, what matches it."""
    if _identity(path) != path or not re.search(r"[*?[]", str(path)):
        return [path]
    remedy = "name a feature file, or a pattern for several"
    return matching([path], FeatureFileError, remedy, "features", os.path.lexists)


def _check_complete(paths: Iterable[Path]) -> None:
    """Raises `FeatureFileError` if names such as x-00001-of-00004.parquet show that a file of a set is not there.

    Where only a gap in the numbers of x-7.npz, x-9.npz, … shows it, this warns.
    """
    sets: dict[tuple[str, int], set[int]] = {}
    for path in paths:
        whole = os.path.join(os.path.realpath(path.parent), path.name)
        if numbered := re.fullmatch(r"(.*?)(\d+)((?:-of-(\d+))?\D*)", whole):
            sets.setdefault((numbered[1] + "*" + numbered[3], int(numbered[4] or 0)), set()).add(int(numbered[2]))
    for (pattern, number), there in sets.items():
        if number and len(there) < number:
            raise FeatureFileError(f"{len(there)} of the {number} files {pattern} were given; give all of them")
        gaps = set(range(min(there), max(there))) - there
        if not number and 0 < len(gaps) < len(there):  # more gaps than files are other numbers, such as epochs
            warnings.warn(
                f"of the files {pattern} number {min(gaps)} was not given, and {min(there)} to {max(there)} were, "
                f"{len(there)} in all; give all of a set",
                stacklevel=3,
            )


def _read(path: Path) -> dict[str, Any]:
    read, wanted = _reader_of(path)
    kind = irregular(path) or ("a file" if path.exists() else "not there")
    if kind != wanted:
        raise FeatureFileError(f"{path} is {kind}; name a feature {wanted.removeprefix('a ')}")
    if kind == "a file" and not path.stat().st_size:
        raise FeatureFileError(f"{path} is empty; write it again")
    arrays = read(path)
    missing = [name for name in REQUIRED if name not in arrays]
    if missing:
        raise FeatureFileError(
            f"{path} has no {' and no '.join(missing)} (it has: {', '.join(arrays) or 'nothing'}); "
            f"it needs features (samples, features) and labels (samples,)"
        )
    return arrays


def _reader_of(path: Path) -> tuple[Callable[[Path], dict[str, Any]], str]:
    """Returns what reads this file or folder, and which of these it is to be."""
    suffix = path.suffix.lower()
    if suffix in READERS:
        return READERS[suffix], "a folder" if suffix == ".zarr" else "a file"
    if path.is_dir():
        return read_saved_dataset, "a folder"
    if splits := saved_splits(path.parent):
        raise FeatureFileError(f"{path.parent} has no split {path.name!r}, but {', '.join(splits)}; name one of these")
    raise FeatureFileError(
        f"{path} must end in {', '.join(READERS)}, to say which of these it is, or be a folder that save_to_disk wrote"
    )


def _part(path: Path) -> dict[str, Any]:
    """Returns the arrays of a file that is one of several; its features are read in each sweep."""
    arrays = _read(path)
    features, labels = arrays["features"], arrays["labels"]
    if len(features.shape) != 2 or tuple(labels.shape) != (features.shape[0],):
        raise FeatureFileError(
            f"{path}: features must be (samples, features) and labels (samples,) of the same length, "
            f"got {tuple(features.shape)} and {tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise FeatureFileError(f"{path}: labels must be integers, got {labels.dtype}; cast them first")
    if isinstance(features, Tensor):  # which may be in memory, and is not kept
        arrays["features"] = StreamedFeatures(tuple(features.shape), lambda: [_read(path)["features"]])
    return arrays


def _joined(parts: Mapping[Path, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the arrays of several files as one."""
    first, features = next(iter(parts)), [arrays["features"] for arrays in parts.values()]
    for path, arrays in parts.items():
        if arrays["features"].shape[1] != features[0].shape[1]:
            raise FeatureFileError(
                f"{path} has {arrays['features'].shape[1]} features a sample, and {first} has {features[0].shape[1]}; "
                f"name files of the same features"
            )
    shape = (sum(map(len, features)), features[0].shape[1])
    whole: dict[str, Any] = {
        "features": StreamedFeatures(shape, lambda: itertools.chain.from_iterable(part.blocks() for part in features)),
        "labels": torch.cat([_labels(path, arrays["labels"]) for path, arrays in parts.items()]),
    }
    for name in OPTIONAL:
        there = {path: arrays[name] for path, arrays in parts.items() if name in arrays}
        for path, array in there.items():
            if not _equal(array, whole.setdefault(name, array)):
                raise FeatureFileError(f"{name} in {path} is not that in {next(iter(there))}; keep it in one of them")
    return whole


def _labels(path: Path, labels: Tensor) -> Tensor:
    try:
        return int64_labels(labels)
    except InputError as error:
        raise FeatureFileError(f"{path}: {error}") from error


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two arrays hold the same numbers, nan in the same places too."""
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def _with_hint(name: str, there: Iterable[str]) -> str:
    close = difflib.get_close_matches(name.lower(), set(OPTIONAL) - set(there), n=1)
    return f"{name} (did you mean {close[0]}?)" if close else name


def _read_npz(path: Path) -> dict[str, Tensor]:
    arrays, there = read_npz(path, REQUIRED + OPTIONAL, FeatureFileError)
    # Other arrays matter only by name, for the message.
    return {name: _as_tensor(path, name, arrays[name]) if name in arrays else torch.empty(0) for name in there}


def _read_npy(path: Path) -> dict[str, Tensor]:
    """Reads the file with "features" in its name, and those with the other names in its place."""
    start, named, end = path.name.rpartition("features")
    if not named:
        raise FeatureFileError(
            f"{path} holds one array, and labels are in another file; call them features.npy and labels.npy, or "
            f"anything with these words in place of one another"
        )
    files = {name: path.with_name(f"{start}{name}{end}") for name in NAMES}
    if not files["labels"].is_file():
        raise FeatureFileError(f"there is no {files['labels']} beside {path}; save the labels there")
    arrays = {}
    for name, file in files.items():
        if os.path.lexists(file):
            arrays[name] = _as_tensor(file, name, _mapped(file))
    return arrays


def _mapped(path: Path) -> np.ndarray:
    if kind := irregular(path):
        raise FeatureFileError(f"{path} is {kind}; name a feature file")
    if not path.exists():
        raise FeatureFileError(f"{path} is a link to a file that is not there; mend or remove the link")
    with reading(path, ".npy file"):
        array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.memmap) or array.dtype.kind not in "buif":
        raise FeatureFileError(f"{path} holds {getattr(array, 'dtype', 'several arrays')}; it must hold numbers")
    if extra := path.stat().st_size - array.offset - array.nbytes:
        raise FeatureFileError(f"{path} has {extra} bytes after its array; write it again")
    return array


def _as_tensor(path: Path, name: str, array: np.ndarray) -> Tensor:
    if array.dtype.kind == "b":
        raise FeatureFileError(f"{name} in {path} is an array of bool; it must be numbers")
    return as_tensor(name, array)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with reading(path, "safetensors file"):
        check_opens(path)
        return safetensors.torch.load_file(path)


def _read_pt(path: Path) -> dict[str, Tensor]:
    remedy = "write it with torch.save({'features': ..., 'labels': ...}, path)"
    saved = load_saved(path, FeatureFileError, "tensor", remedy, mapped=True)
    if not isinstance(saved, Mapping):
        raise FeatureFileError(f"{path} holds {type(saved).__name__}, and no tensors by name; {remedy}")
    for name in NAMES:
        if name in saved and not isinstance(saved[name], Tensor):
            raise FeatureFileError(f"{name} in {path} is {type(saved[name]).__name__}, and no tensor; {remedy}")
        if name in saved:
            with reading(path, "file of dense tensors"):
                as_tensor(name, saved[name])
    return {str(name): value.detach() if isinstance(value, Tensor) else value for name, value in saved.items()}


#: What reads a file with this suffix.
READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".npy": _read_npy,
    ".pt": _read_pt,
    ".pth": _read_pt,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".zarr": read_zarr,
}


#: What is in the header of a file that `write_features` wrote.
SAVED_MARK = b'"features":{"dtype"'


def write_features(path: Path, features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Writes a .safetensors file that `read_features` reads."""
    arrays = {"features": features, "labels": labels, "weight": weight, "bias": bias}
    with atomic_path(path, SAVED_MARK) as temporary:
        try:
            safetensors.torch.save_file(
                {name: a.cpu().contiguous() for name, a in arrays.items() if a is not None}, temporary
            )
        except safetensors.SafetensorError as error:  # for example, of a full disk, which it names in words alone
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else None, str(error)) from error
