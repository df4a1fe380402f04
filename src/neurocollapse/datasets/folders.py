"""Reads a folder of images with a folder for each class."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .._errors import DatasetError
from .._files import in_one_line
from .._imports import import_extra
from .arrays import ARRAYS, source_of
from .dataset import Source
from .stacking import stacked

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")
#: What the folder of held-out images may be called, beside `train`.
TESTS = ("test", "val", "valid", "validation")


def read_folder(folder: Path) -> Source:
    """Reads `train/CLASS/*.png` and, if it is there, `test/CLASS/*.png`; or `CLASS/*.png` alone.

    Classes are numbered in the order of their names. All images must have one size. Raises `DatasetError`.
    """
    import_extra("PIL", "images", f"the folder of images {folder}", DatasetError)
    parts = [folder / "train", *(folder / name for name in TESTS if (folder / name).is_dir())][:2]
    if not parts[0].is_dir():
        parts = [folder]
    classes = {path.name: label for label, path in enumerate(_subfolders(parts[0]))}
    if len(classes) < 2:
        raise DatasetError(
            f"{parts[0]} has {len(classes)} folder(s) in it, and classification needs one for each of two classes or "
            f"more; put images into CLASS/, or train/CLASS/ and test/CLASS/"
        )
    arrays = [array for part in parts for array in stacked(_images(part, classes), str(part), _number(part))]
    return source_of(folder.resolve().name, folder, dict(zip(ARRAYS, arrays, strict=False)))


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())


def _number(part: Path) -> int:
    return sum(len(_files(folder)) for folder in _subfolders(part))


def _images(part: Path, classes: Mapping[str, int]) -> Iterator[tuple[Any, int]]:
    from PIL import Image

    seen: dict[Path, Path] = {}
    for folder in _subfolders(part):
        if folder.name not in classes:
            raise DatasetError(f"{folder} is of a class without training images; drop it, or add some")
        files = _files(folder)
        if len({path.relative_to(folder).parts[0] for path in files} & {path.name for path in _subfolders(folder)}) > 1:
            raise DatasetError(
                f"{folder} has images in several folders, as a split has; call the splits train and test (or val)"
            )
        if not files:
            raise DatasetError(f"{folder} has no images in it ({', '.join(ENDINGS)}); add some, or remove the folder")
        for path in files:
            if (other := seen.setdefault(path.resolve(), path)) != path:
                raise DatasetError(f"{path} and {other} are one file, by a link; remove one of them")
            try:
                with Image.open(path) as image:
                    image.load()
                    yield image, classes[folder.name]
            except DatasetError:
                raise
            except Exception as error:  # each format has its own ways to say that a file is not whole
                raise DatasetError(f"{path} cannot be read ({in_one_line(error)}); replace or remove it") from error
