"""Reads data sets of Hugging Face, by hf:ID, through the library `datasets`."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .._errors import DatasetError, did_you_mean
from .._files import in_one_line, path_of
from .._imports import import_extra
from .arrays import ARRAYS, source_of
from .dataset import Source
from .stacking import stacked

#: What may follow the ID: hf:ID,config=NAME,image=COLUMN,label=COLUMN,streaming.
OPTIONS = ("config", "image", "label", "streaming")
#: What the columns are called where several may be meant.
USUAL = {"image": ("image", "img"), "label": ("label", "labels")}
#: What the held-out split may be called.
TESTS = ("test", "validation", "valid", "val")


def read_hub(name: str, per_class: int | None) -> Source:
    """Reads the training split and, if there is one with labels, the held-out split. Raises `DatasetError`.

    The ID may be a folder that `save_to_disk` wrote, or one of data files. With `streaming` nothing is kept on the
    disk, and reading ends once there are `per_class` samples of each class.
    """
    where, options = _parsed(name)
    splits = _opened(name, where, options)
    train = splits["train"] if "train" in splits else next(iter(splits.values()))
    held_out = next((splits[each] for each in TESTS if each in splits and splits[each] is not train), None)
    features = dict(train.features or {})
    image = options.get("image") or _column(name, "image", _images(features), features)
    label = options.get("label") or _column(name, "label", _labels(features), features)
    for column in (image, label):
        if features and column not in features:  # what is streamed may not know its columns
            raise DatasetError(
                f"{name} has no column {column!r}{did_you_mean(column, features)}; there are {', '.join(features)}"
            )
    classes = getattr(features[label], "num_classes", None)
    arrays = list(stacked(_rows(train, image, label, classes, per_class), name, None if per_class else _length(train)))
    notes: tuple[str, ...] = ()
    if train is not splits.get("train"):
        there = next(each for each in splits if splits[each] is train)
        notes = (f"{name} has no split train, so that its split {there} is the training split",)
    if held_out is not None:
        test = stacked(_rows(held_out, image, label), name, _length(held_out))
        if (test[1] == -1).all():  # as benchmarks hide them
            notes += (f"the held-out split of {name} has no labels, so it is left out",)
        else:
            arrays += test
    source = source_of(name, name, dict(zip(ARRAYS, arrays, strict=False)))
    return source._replace(num_classes=max(classes or 0, source.num_classes), notes=notes + source.notes)


def _parsed(name: str) -> tuple[str, dict[str, str]]:
    where, *words = name.removeprefix("hf:").split(",")
    options = {}
    for word in words:
        key, _, value = word.partition("=")
        if key not in OPTIONS or bool(value) == (key == "streaming"):
            raise DatasetError(
                f"{name}: {word!r} is no option{did_you_mean(key, OPTIONS)}; write "
                f"hf:ID,config=NAME,image=COLUMN,label=COLUMN,streaming, or some of these"
            )
        options[key] = value or "yes"
    if not where:
        raise DatasetError(f"{name} names no data set; write hf:ID, such as hf:ylecun/mnist")
    return where, options


def _opened(name: str, where: str, options: Mapping[str, str]) -> Mapping[str, Any]:
    """Returns the splits by name."""
    hub = import_extra("datasets", "hub", name, DatasetError)
    folder: Path = path_of(where, DatasetError)
    try:
        if any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):
            splits = hub.load_from_disk(str(folder))
        else:
            place = str(folder) if folder.is_dir() else where
            splits = hub.load_dataset(place, options.get("config"), streaming="streaming" in options)
    except Exception as error:  # of the library, the network and the disk
        raise DatasetError(
            f"{name} cannot be loaded ({type(error).__name__}: {in_one_line(error)}); check the ID and the connection"
        ) from error
    return splits if isinstance(splits, Mapping) else {"train": splits}


def _images(features: Mapping[str, Any]) -> list[str]:
    """Returns the columns that may be samples: images, or else what is no single number or text."""
    images = [name for name, kind in features.items() if type(kind).__name__ == "Image"]
    return images or [name for name, kind in features.items() if type(kind).__name__ not in ("Value", "ClassLabel")]


def _labels(features: Mapping[str, Any]) -> list[str]:
    """Returns the columns that may be labels: of classes, or else of usual names, or else of integers."""
    kinds = {name: kind.dtype for name, kind in features.items() if type(kind).__name__ == "Value"}
    classes = [name for name, kind in features.items() if type(kind).__name__ == "ClassLabel"]
    usual = [name for name in USUAL["label"] if kinds.get(name, "").startswith(("int", "uint", "string", "large_s"))]
    return classes or usual or [name for name, kind in kinds.items() if kind.startswith(("int", "uint"))]


def _column(name: str, what: str, candidates: list[str], features: Mapping[str, Any]) -> str:
    found = candidates if len(candidates) == 1 else [each for each in candidates if each in USUAL[what]]
    if len(found) != 1:
        among = f"may be any of {', '.join(candidates)}" if candidates else f"is of no column ({', '.join(features)})"
        raise DatasetError(f"{name}: the {what} {among}; name the column, as in {name},{what}=COLUMN")
    return found[0]


def _length(split: Any) -> int | None:
    return len(split) if hasattr(split, "__len__") else None


def _rows(
    split: Any, image: str, label: str, classes: int | None = None, per_class: int | None = None
) -> Iterator[tuple[Any, Any]]:
    """Yields the samples with their labels: of each class the first `per_class`, until all classes have so many."""
    counts: Counter[Any] = Counter()
    kind = (split.features or {}).get(image)
    has_bytes = getattr(kind, "dtype", None) == "uint8"  # of an array, which comes as a list of integers
    for row in split.select_columns([image, label]):
        counts[row[label]] += 1
        if per_class is None or counts[row[label]] <= per_class:
            yield (np.asarray(row[image], np.uint8) if has_bytes else row[image]), row[label]
        if per_class is not None and classes and len(counts) == classes and min(counts.values()) >= per_class:
            return
