"""Reads features from a group of Zarr arrays, with zarr."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from .._errors import FeatureFileError, InputError
from .._files import check_unpacked
from .features import as_tensor
from .reading import reading
from .streamed import StreamedFeatures, rows_at_once


def read_zarr(folder: Path) -> dict[str, Any]:
    """Reads the arrays of a group: features in each sweep, as many whole chunks of rows at a time as fit a block."""
    with reading(folder, "Zarr group", "zarr"):
        import zarr

        group = zarr.open_group(folder, mode="r", use_consolidated=False)
        arrays: dict[str, Any] = {path.name: None for path in sorted(folder.iterdir()) if path.is_dir()}
        for name in arrays:
            if name in ("features", "labels", "weight", "bias", "ood"):
                array = group[name]
                _check(folder / name, array)
                arrays[name] = _streamed(folder, array) if name == "features" else as_tensor(name, array[...])
        return arrays


def _check(path: Path, array: Any) -> None:
    """Raises an error for an array that would be unpickled, that is no array of numbers or that fills the memory."""
    codecs = [*(getattr(array.metadata, "filters", None) or ()), getattr(array.metadata, "compressor", None)]
    if any(getattr(codec, "codec_id", None) == "pickle" for codec in codecs):
        raise InputError(f"{path.name} is pickled")
    if getattr(array, "dtype", None) is None or array.dtype.kind not in "uif":
        raise FeatureFileError(f"{path} holds {getattr(array, 'dtype', 'a group')}; it must hold numbers")
    chunk = math.prod(getattr(array, "shards", None) or array.chunks) * array.dtype.itemsize
    check_unpacked(path, max(array.nbytes, chunk), FeatureFileError)


def _streamed(folder: Path, array: Any) -> StreamedFeatures:
    if array.nchunks_initialized < array.nchunks:  # Zarr would read them as the value that fills them
        absent = array.nchunks - array.nchunks_initialized
        raise InputError(f"{absent} of {array.nchunks} chunks of features are absent")

    def blocks() -> Iterator[Tensor]:
        chunk = max(1, (getattr(array, "shards", None) or array.chunks)[0])
        rows = max(1, rows_at_once(array.nbytes // len(features)) // chunk) * chunk
        with reading(folder, "Zarr group", "zarr"):
            for start in range(0, len(features), rows):
                yield as_tensor("features", array[start : start + rows])

    features = StreamedFeatures(tuple(array.shape), blocks)
    return features
