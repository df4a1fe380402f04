"""Writes the same arrays in each format of feature files."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

Arrays = dict[str, np.ndarray]


def write_npz(folder: Path, arrays: Arrays) -> Path:
    np.savez(folder / "features.npz", **arrays)
    return folder / "features.npz"


def write_safetensors(folder: Path, arrays: Arrays) -> Path:
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    safetensors.torch.save_file(tensors, folder / "features.safetensors")
    return folder / "features.safetensors"


def write_pt(folder: Path, arrays: Arrays) -> Path:
    torch.save({name: torch.tensor(array) for name, array in arrays.items()}, folder / "features.pt")
    return folder / "features.pt"


def write_npy(folder: Path, arrays: Arrays) -> Path:
    for name, array in arrays.items():
        np.save(folder / f"train_{name}.npy", array)
    return folder / "train_features.npy"


def table(arrays: Arrays):
    arrow = pytest.importorskip("pyarrow")
    return arrow.table({name: list(arrays[name]) for name in ("features", "labels") if name in arrays})


def write_parquet(folder: Path, arrays: Arrays) -> Path:
    columns = table(arrays)
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(columns, folder / "features.parquet", row_group_size=7)
    return folder / "features.parquet"


def write_arrow(folder: Path, arrays: Arrays) -> Path:
    columns = table(arrays)
    arrow = pytest.importorskip("pyarrow")
    with arrow.ipc.new_file(folder / "features.arrow", columns.schema) as writer:
        writer.write_table(columns, max_chunksize=7)
    return folder / "features.arrow"


def write_saved_dataset(folder: Path, arrays: Arrays) -> Path:
    """As `datasets.Dataset.save_to_disk` does: streams of Arrow, and their names in state.json."""
    columns, folder = table(arrays), folder / "saved"
    arrow = pytest.importorskip("pyarrow")
    folder.mkdir()
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    for name, part in zip(names, (columns.slice(0, 5), columns.slice(5)), strict=True):
        with arrow.ipc.new_stream(folder / name, columns.schema) as writer:
            writer.write_table(part)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def write_zarr(folder: Path, arrays: Arrays, version: int = 3) -> Path:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(folder / "features.zarr", mode="w", zarr_format=version)
    for name, array in arrays.items():
        chunks = tuple(max(1, min(7, length)) for length in array.shape)
        options = {"shape": array.shape, "dtype": array.dtype, "config": {"write_empty_chunks": True}}
        group.create_array(name, chunks=chunks, **options)[...] = array
    return folder / "features.zarr"


def write_zarr_2(folder: Path, arrays: Arrays) -> Path:
    return write_zarr(folder, arrays, 2)


#: Of tables, the writers leave out all but features and labels.
OF_TABLES = [write_parquet, write_arrow, write_saved_dataset]
WRITERS: list[Callable[[Path, Arrays], Path]] = [
    write_npz, write_safetensors, write_pt, write_npy, *OF_TABLES, write_zarr, write_zarr_2,
]  # fmt: skip
