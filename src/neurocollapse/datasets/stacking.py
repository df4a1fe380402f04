"""Stacks samples that come one by one, as images of PIL, tensors or arrays, into arrays of one shape."""

import reprlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .._errors import DatasetError
from .._files import in_one_line

#: PIL's modes of one channel of bytes, and those of more than eight bits, which bytes would cut off.
GRAY, DEEP = ("1", "L", "LA"), ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def stacked(
    pairs: Iterable[tuple[Any, Any]], origin: str, total: int | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns the samples and the labels of pairs as two arrays, with a bar if that takes long. Raises `DatasetError`.

    Labels are numbers, or all are text. Grey images among coloured ones become coloured.
    """
    from tqdm import tqdm

    images, labels = [], []
    for index, (image, label) in enumerate(tqdm(pairs, origin, total, delay=2, disable=None)):
        images.append(array_of(image, f"{origin}: sample {index}"))
        place = f"{origin}: the label of sample {index}"
        label = array_of(label, place) if isinstance(label, torch.Tensor) else np.asarray(label)
        labels.append(label.reshape(()) if label.shape == (1,) else label)
    if not images:
        raise DatasetError(f"{origin} has no samples; check that it is the data set that is meant")
    if {image.shape[:-2] for image in images} == {(), (3,)}:
        images = [image if image.ndim == 3 else np.broadcast_to(image, (3, *image.shape)) for image in images]
    shape = images[0].shape
    for index, image in enumerate(images):
        if image.shape != shape:
            raise DatasetError(
                f"{origin}: sample {index} is of shape {image.shape} and sample 0 of {shape}; resize them to one size"
            )
    kinds = {label.dtype.kind if not label.ndim else "O" for label in labels}
    if not (kinds <= set("biuf") or kinds == {"U"}):
        index = next(i for i, label in enumerate(labels) if label.ndim or label.dtype.kind not in "biuf")
        raise DatasetError(
            f"{origin}: the label of sample {index} is {reprlib.repr(labels[index].tolist())}, not an integer from 0 "
            f"to C-1"
        )
    return np.stack(images), np.array(labels)


def array_of(value: Any, place: str, *, or_text: bool = False) -> NDArray[Any]:
    """Returns an image of PIL, a tensor, or what NumPy makes an array of, as an array of real numbers.

    Colours of PIL's images come first. With `or_text` an array of text is returned too.
    """
    mode = getattr(value, "mode", None)
    if isinstance(mode, str):
        if mode in DEEP:
            raise DatasetError(f"{place} has pixels of more than eight bits (mode {mode}); convert it to eight")
        return np.asarray(value.convert("L")) if mode in GRAY else np.asarray(value.convert("RGB")).transpose(2, 0, 1)
    given = type(value).__name__
    if isinstance(value, torch.Tensor):
        try:
            value = value.detach().cpu().resolve_conj()
            value = value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
        except Exception as error:  # of tensors that are sparse, quantized or without data
            raise DatasetError(f"{place} is no dense tensor of real numbers ({in_one_line(error)})") from error
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise DatasetError(f"{place} has masked values; leave those samples out, or fill them")
    array = np.asarray(value)
    if or_text and array.dtype.kind in "OTU":
        items = np.asarray(value, dtype=object)  # in which a number among text is still one
        if others := [item for item in items.flat if not isinstance(item, str)]:
            raise DatasetError(f"{place} holds {others[0]!r}, which is no text; give text alone, or numbers alone")
        return items.astype(str)
    if array.dtype.kind not in "biuf":
        raise DatasetError(f"{place} is {given}, not real numbers; give images, arrays or tensors")
    return array
