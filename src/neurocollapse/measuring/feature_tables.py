"""Reads features from tables with a row for each sample: Parquet, Arrow and Hugging Face's folders, with pyarrow."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._errors import FeatureFileError, InputError
from .._files import check_opens, check_unpacked, read_bytes
from .._schema import typed
from .features import as_tensor
from .reading import reading
from .streamed import StreamedFeatures, rows_at_once

#: What a stream of Arrow ends with, in its present format and that before version 0.15.
_ENDS_OF_STREAM = (b"\xff\xff\xff\xff\0\0\0\0", b"\0\0\0\0")

#: Yields the values of a column, in arrays of so many rows or fewer; None stands for any number.
Batches = Callable[[str, int | None], Iterator[Any]]


def read_parquet(path: Path) -> dict[str, Any]:
    """Reads columns of a Parquet file: a list of numbers for `features` and an integer for `labels` in each row."""

    def opened() -> Any:
        from pyarrow import parquet

        check_opens(path)
        return parquet.ParquetFile(path, buffer_size=2**22, pre_buffer=False)  # not whole groups of rows

    def batches(column: str, rows: int | None) -> Iterator[Any]:
        with opened() as file:
            for batch in file.iter_batches(rows or 2**16, columns=[column]):
                yield batch.column(0)

    with reading(path, "Parquet file", "arrow"), opened() as file:
        check_unpacked(path, 8 * file.metadata.num_rows, FeatureFileError)  # of the labels
        return _columns(path, file.schema_arrow.names, batches)


def read_arrow(path: Path) -> dict[str, Any]:
    """Reads the same columns of an Arrow file, in the format of files or of streams."""
    with reading(path, "Arrow file", "arrow"):
        return _of_record_batches(path, [path])


def read_saved_dataset(folder: Path) -> dict[str, Any]:
    """Reads the Arrow files of a data set that Hugging Face's `save_to_disk` wrote."""
    with reading(folder, "data set of Hugging Face", "arrow"):
        if splits := saved_splits(folder):
            raise FeatureFileError(f"{folder} holds the splits {', '.join(splits)}; name one, as {folder / splits[0]}")
        if not (folder / "state.json").is_file():
            raise FeatureFileError(f"{folder} is a folder without state.json, so save_to_disk did not write it")
        state = typed({"_data_files": list[dict[str, Any]]}, json.loads(read_bytes(folder / "state.json")))
        names = [typed({"filename": str}, each, "_data_files")["filename"] for each in state["_data_files"]]
        if outside := [name for name in names if Path(name).name != name]:
            raise InputError(f"its state.json names {outside[0]!r}, which is no file in it")
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(f"its state.json names {twice[0]!r} more than once")
        return _of_record_batches(folder, [folder / name for name in names])


def saved_splits(folder: Path) -> list[str]:
    """Returns the splits of a data set that `save_to_disk` wrote into this folder; none if it wrote no several."""
    if not (folder / "dataset_dict.json").is_file():
        return []
    with reading(folder, "data set of Hugging Face", "arrow"):
        return typed({"splits": list[str]}, json.loads(read_bytes(folder / "dataset_dict.json")))["splits"]


def _of_record_batches(path: Path, files: Sequence[Path]) -> dict[str, Any]:
    def batches(column: str, rows: int | None) -> Iterator[Any]:
        for file in files:
            for batch in _record_batches(file):
                values = batch.column(column)
                step = rows or max(1, len(values))
                for start in range(0, len(values), step):
                    yield values.slice(start, step)

    first = next((batch for file in files for batch in _record_batches(file)), None)
    return _columns(path, [] if first is None else first.schema.names, batches)


def _record_batches(path: Path) -> Iterator[Any]:
    import pyarrow
    from pyarrow import ipc

    check_opens(path)
    with pyarrow.memory_map(str(path)) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        if is_file:
            file = ipc.open_file(source)
            yield from (file.get_batch(number) for number in range(file.num_record_batches))
        else:
            stream = ipc.open_stream(source)
            end = source.tell()
            for batch in stream:
                end = source.tell()
                yield batch
            source.seek(end)  # PyArrow takes the end of the file for that of the stream
            if source.read(9) not in _ENDS_OF_STREAM:
                raise InputError(f"{path.name} does not end with the mark of the end of a stream")


def _columns(path: Path, names: Sequence[str], batches: Batches) -> dict[str, Any]:
    """Returns the columns by name: labels, features to be read in each sweep, and None for the others.

    Where there are no `labels`, a column `label` has them, as Hugging Face's data sets call it.
    """
    labelled = "labels" if "labels" in names else "label"
    if twice := [name for name in ("features", labelled) if names.count(name) > 1]:
        raise FeatureFileError(f"{path} has {names.count(twice[0])} columns that are called {twice[0]!r}; write one")
    columns: dict[str, Any] = dict.fromkeys(name for name in names if name != labelled)
    if labelled in names:
        labels = [_labels(path, array) for array in batches(labelled, None)]
        columns["labels"] = torch.cat(labels) if labels else torch.empty(0, dtype=torch.int64)
    if "features" in names:
        rows_read = (_matrix(path, array) for array in batches("features", 1) if len(array))
        first = next(rows_read, torch.empty(0, 0))
        width = first.shape[1]
        rows = rows_at_once(first.nbytes)

        def blocks() -> Iterator[Tensor]:
            with reading(path, "table", "arrow"):
                yield from (_matrix(path, array, width) for array in batches("features", rows))

        columns["features"] = StreamedFeatures((len(columns.get("labels", ())), width), blocks)
    return columns


def _labels(path: Path, array: Any) -> Tensor:
    from pyarrow import types

    array.validate(full=True)
    if not types.is_integer(array.type) or array.null_count:
        fault = f"{array.null_count} null" if array.null_count else str(array.type)
        raise FeatureFileError(f"{path}: labels must be integers, got {fault}; write them as such")
    return as_tensor("labels", array.to_numpy(zero_copy_only=False))


def _matrix(path: Path, array: Any, width: int | None = None) -> Tensor:
    """Returns the lists in an array of Arrow as rows."""
    from pyarrow import ExtensionArray, compute, types

    array.validate(full=True)
    if len(shape := getattr(array.type, "shape", None) or ()) > 1:
        raise FeatureFileError(
            f"{path}: features are tensors of shape {tuple(shape)}; flatten them to lists of numbers"
        )
    if isinstance(array, ExtensionArray):
        array = array.storage
    kind = getattr(array.type, "value_type", None)
    if kind is None or not types.is_floating(kind):
        raise FeatureFileError(f"{path}: features must be lists of float16, float32 or float64, got {array.type}")
    values = array.flatten()
    if array.null_count or values.null_count:
        fault = array.null_count or values.null_count
        raise FeatureFileError(f"{path}: features must be numbers, got {fault} null; leave out those samples")
    lengths: set[int] = {*compute.unique(compute.list_value_length(array)).to_pylist()}
    lengths |= set() if width is None else {width}
    if len(lengths) > 1:
        raise FeatureFileError(f"{path}: features must be lists of one length, got {min(lengths)} and {max(lengths)}")
    return as_tensor("features", values.to_numpy(zero_copy_only=False)).view(len(array), max(lengths, default=0))
