"""Takes data from a function of the user's own, named as module:function."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._errors import DatasetError, did_you_mean
from .._files import in_one_line
from .._imports import call_users, users_function
from .arrays import ARRAYS, source_of
from .dataset import Source
from .stacking import array_of, stacked

_RETURNS = (
    "it must return images and labels, images, labels, test_images and test_labels (or two pairs of these), a dict of "
    "them, or one or two data sets of (image, label)"
)


def read_function(name: str) -> Source:
    """Calls `module:function` without arguments and reads what it returns. Raises `DatasetError`.

    That is arrays or tensors: (images, labels), (images, labels, test_images, test_labels), two pairs as Keras has
    them, or a mapping with these keys; or data sets as PyTorch has them, of (image, label): the training split, or a
    tuple of it and the test split.
    """
    given = call_users(users_function(name, "data set", DatasetError), name, (), DatasetError)
    try:
        arrays = _arrays(name, given)
    except DatasetError:
        raise
    except Exception as error:  # of values of no use that the user's code made
        raise DatasetError(f"{name} returned what cannot be read ({in_one_line(error)}); {_RETURNS}") from error
    return source_of(name, name, arrays)


def _arrays(name: str, given: Any) -> dict[str, NDArray[Any]]:
    is_data_set = isinstance(given, list) and bool(given) and isinstance(given[0], tuple)  # of pairs
    parts = tuple(given) if isinstance(given, list | tuple) and not is_data_set else (given,)
    if len(parts) == 2 and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in parts):
        flat = (*parts[0], *parts[1])
        parts = flat if all(hasattr(part, "shape") and part.shape for part in flat) else parts
    if isinstance(given, Mapping):
        for key in given:
            if key not in ARRAYS:
                raise DatasetError(f"{name} returned {key!r}{did_you_mean(str(key), ARRAYS)}; {_RETURNS}")
        named = dict(given)
    elif len(parts) in (2, 4) and (_are_lists(*parts) or all(hasattr(part, "shape") for part in parts)):
        named = dict(zip(ARRAYS, parts, strict=False))
    elif len(parts) in (1, 2) and all(hasattr(part, "__getitem__") and hasattr(part, "__len__") for part in parts):
        pairs = (stacked(_pairs(name, part), name, len(part)) for part in parts)
        named = dict(zip(ARRAYS, (array for pair in pairs for array in pair), strict=False))
    else:
        raise DatasetError(f"{name} returned {type(given).__name__}; {_RETURNS}")
    if absent := [key for key in ARRAYS[:2] if key not in named]:
        raise DatasetError(f"{name} returned no {absent[0]}; {_RETURNS}")
    return {key: array_of(value, f"{name}: {key}", or_text="labels" in key) for key, value in named.items()}


def _are_lists(images: Any, labels: Any, *_: Any) -> bool:
    """Whether labels are a list of numbers or text, and images are neither."""
    one = int | np.integer | str
    return isinstance(labels, list) and isinstance(next(iter(labels), None), one) and not isinstance(images[0], one)


def _pairs(name: str, data: Any) -> Iterator[tuple[Any, Any]]:
    for index in range(len(data)):
        try:
            pair = data[index]
            image, label = (None, None) if isinstance(pair, Mapping) else pair[:2]
        except Exception as error:  # the user's own code
            raise DatasetError(
                f"{name}: sample {index} is no pair of an image and a label ({in_one_line(error)}); {_RETURNS}"
            ) from error
        if isinstance(pair, Mapping):
            raise DatasetError(f"{name}: sample {index} is {type(pair).__name__}, no pair; {_RETURNS}")
        yield image, label
