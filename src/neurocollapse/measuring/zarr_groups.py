"""Reads features from a group of Zarr arrays, with zarr."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
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
                if name == "features" and array.ndim != 2:
                    raise FeatureFileError(f"{folder / name} must be (samples, features), got {array.shape}")
                _check_whole(folder / name, array)
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


def _check_whole(path: Path, array: Any) -> None:
    """Raises an error for an array with chunks that are absent: Zarr would read them as the value that fills them."""
    sharded = getattr(array, "shards", None)
    if absent := _absent_in_shards(path, array) if sharded else array.nchunks - array.nchunks_initialized:
        raise FeatureFileError(
            f"{path}: {absent} of {array.nchunks} chunks of {path.name} are absent; write it again, with "
            f"write_empty_chunks=True where Zarr left out chunks that hold nothing but {array.fill_value}"
        )


def _absent_in_shards(path: Path, array: Any) -> int:
    """Returns how many chunks the shards lack, by the index at the start or the end of each.

    The format is that of the codec `sharding_indexed` of Zarr 3: the offset and length of each chunk in uint64, 2⁶⁴ − 1
    for both if the chunk is absent, and possibly a checksum of 4 bytes.
    """
    sharding, absent = array.metadata.codecs[0], 0
    in_shard = tuple(shard // chunk for shard, chunk in zip(array.shards, array.chunks, strict=True))
    entries = 16 * math.prod(in_shard)
    size = entries + 4 * any(type(codec).__name__ == "Crc32cCodec" for codec in sharding.index_codecs)
    at_start = getattr(sharding.index_location, "value", sharding.index_location) == "start"
    shards = [range(math.ceil(length / shard)) for length, shard in zip(array.shape, array.shards, strict=True)]
    for place in itertools.product(*shards):
        index = np.full((*in_shard, 2), 2**64 - 1, np.uint64)
        file = path / array.metadata.encode_chunk_key(place)
        if file.exists():
            with file.open("rb") as opened:
                opened.seek(*((0, 0) if at_start else (-size, 2)))
                index = np.frombuffer(opened.read(entries), np.uint64).reshape(index.shape)
        grid = zip(place, array.shape, array.shards, array.chunks, strict=True)
        inside = tuple(slice(math.ceil((length - at * shard) / chunk)) for at, length, shard, chunk in grid)
        absent += int((index[inside] == 2**64 - 1).all(axis=-1).sum())
    return absent


def _streamed(folder: Path, array: Any) -> StreamedFeatures:
    def blocks() -> Iterator[Tensor]:
        chunk = max(1, (getattr(array, "shards", None) or array.chunks)[0])
        rows = max(1, rows_at_once(array.nbytes // len(features)) // chunk) * chunk
        with reading(folder, "Zarr group", "zarr"):
            for start in range(0, len(features), rows):
                yield as_tensor("features", array[start : start + rows])

    features = StreamedFeatures(tuple(array.shape), blocks)
    return features
