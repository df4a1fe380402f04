"""The type `Dataset`, and how it is made from arrays as they were read."""

import hashlib
import reprlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from .._errors import DatasetError, InputTypeError
from .._html import Brief

# Samples converted to float64 at a time: all 50,000 images of CIFAR-10 at once would take 1.2 GB.
BLOCK = 2048


#: What names a sample of a split, or several.
_INDICES = (int, np.integer, slice, list, np.ndarray, Tensor)


@dataclass(frozen=True, eq=False, repr=False)
class Split(Brief):
    """One split: standardised `images` (samples, channels, height, width) or (samples, features), and `labels`."""

    images: Float32[Tensor, "samples *shape"]
    labels: Int64[Tensor, " samples"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        """Returns a sample and its label, so that a split is a data set for `torch.utils.data.DataLoader`.

        Slices and lists of indices give several. Raises `IndexError` for a sample that is not there.
        """
        if isinstance(index, bool) or not isinstance(index, _INDICES):
            raise InputTypeError(f"a split is indexed by the number of a sample, got {reprlib.repr(index)}")
        try:
            return self.images_at(index), self.labels[index]
        except IndexError:
            raise IndexError(
                f"there is no sample {reprlib.repr(index)}: the split has {len(self)}, counted from 0"
            ) from None

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Returns several samples and their labels at once, as a `DataLoader` asks for a batch."""
        places = torch.as_tensor(indices)
        return list(zip(self.images_at(places), self.labels[places], strict=True))

    @property
    def stored(self) -> Tensor:
        """The samples as they are in memory, (samples, ...): for their shape, their device and their size."""
        return self.images

    def images_at(self, places: Any) -> Tensor:
        """Returns the standardised images at these places, float32."""
        return self.images[places]

    def taken(self, places: slice | Tensor) -> Self:
        """Returns the split of the samples at these places."""
        return type(self)(self.images[places], self.labels[places])

    def to(self, device: torch.device | str) -> Self:
        """Copies the split to a device."""
        return type(self)(self.images.to(device), self.labels.to(device))


class ByteSplit(Split):
    """A split whose `pixels` stay bytes in memory, a quarter of its images, and are standardised when they are needed.

    `images` are all of them at once. They are kept once somebody has asked for them; `images_at` keeps nothing.
    """

    pixels: UInt8[Tensor, "samples *shape"]
    mean: Float64[Tensor, "..."]
    deviation: Float64[Tensor, "..."]

    def __init__(
        self,
        pixels: UInt8[Tensor, "samples *shape"],
        labels: Int64[Tensor, " samples"],
        mean: Float64[Tensor, "..."],
        deviation: Float64[Tensor, "..."],
    ):
        vars(self).update(pixels=pixels, labels=labels, mean=mean, deviation=deviation)  # as the base is frozen

    def __repr__(self) -> str:
        return f"Split(images=bytes{tuple(self.pixels.shape)}, labels=Tensor{tuple(self.labels.shape)})"

    @cached_property
    def images(self) -> Float32[Tensor, "samples *shape"]:
        return torch.cat([self.images_at(slice(i, i + BLOCK)) for i in range(0, len(self), BLOCK)])

    @property
    def stored(self) -> Tensor:
        return self.pixels

    def images_at(self, places: Any) -> Tensor:
        return standardised(self.pixels[places], self.mean, self.deviation)

    def taken(self, places: slice | Tensor) -> Self:
        return type(self)(self.pixels[places], self.labels[places], self.mean, self.deviation)

    def processed_by(self, process: Callable[[Tensor], Tensor]) -> "ProcessedSplit":
        """Returns the split whose images are what `process` makes of batches of pixels."""
        return ProcessedSplit(self.pixels, self.labels, process)

    def to(self, device: torch.device | str) -> Self:
        return type(self)(*(part.to(device) for part in (self.pixels, self.labels, self.mean, self.deviation)))


class ProcessedSplit(ByteSplit):
    """A split of bytes whose images a function makes of them when they are needed."""

    process: Callable[[Tensor], Tensor]

    def __init__(self, pixels: Tensor, labels: Tensor, process: Callable[[Tensor], Tensor]):
        vars(self).update(pixels=pixels, labels=labels, process=process)

    def images_at(self, places: Any) -> Tensor:
        pixels = self.pixels[places]
        one = pixels.ndim == self.pixels.ndim - 1
        return self.process(pixels[None])[0] if one else self.process(pixels)

    def taken(self, places: slice | Tensor) -> Self:
        return type(self)(self.pixels[places], self.labels[places], self.process)

    def to(self, device: torch.device | str) -> Self:
        return type(self)(self.pixels.to(device), self.labels.to(device), self.process)


def standardised(
    images: Tensor, mean: Float64[Tensor, "..."], deviation: Float64[Tensor, "..."]
) -> Float32[Tensor, "..."]:
    """Returns (x − mean) / deviation, computed in float64."""
    return images.double().sub_(mean).div_(deviation).float()  # in place, which takes half the time


@dataclass(frozen=True, eq=False, repr=False)
class Dataset(Brief):
    """Training and test samples of classes 0 to C−1, standardised by the training split.

    Every class has training samples. `test` is None if there is no test split, which only a user's own file may leave
    out. `sha256` identifies the samples used: both splits, as they were before standardisation. `notes` are sentences
    to show beside any result, for example that the classes are not balanced.
    """

    name: str
    train: Split
    test: Split | None
    num_classes: int
    sha256: str
    notes: tuple[str, ...]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample: (channels, height, width), or (features,)."""
        return tuple(self.train.stored.shape[1:])

    @property
    def class_counts(self) -> tuple[int, ...]:
        """The number of training samples of each class."""
        return tuple(torch.bincount(self.train.labels, minlength=self.num_classes).tolist())


class Samples(NamedTuple):
    """Samples as read: images (N, channels, height, width) or (N, features) of any real dtype, labels int64 (N,)."""

    images: NDArray[Any]
    labels: NDArray[np.int64]


class Source(NamedTuple):
    """A data set as read: at least one training sample, and labels from 0 to C−1."""

    name: str
    train: Samples
    test: Samples | None
    num_classes: int
    notes: tuple[str, ...] = ()


def assemble(source: Source) -> Dataset:
    """Makes a `Dataset` from a source that `select` returned, standardised by its training samples.

    Bytes stay bytes until they are needed.
    """
    name, train, test, num_classes, notes = source
    standardise = Standardisation(train.images)
    return Dataset(
        name=name,
        train=_finite(f"{name}: images", train, standardise.split(train)),
        test=test and _finite(f"{name}: test_images", test, standardise.split(test)),
        num_classes=num_classes,
        sha256=digest(*train, *(test or ())),
        notes=notes,
    )


def _finite(what: str, samples: Samples, split: Split) -> Split:
    """Returns the split. Raises `DatasetError` for a number that float32 cannot hold once it is standardised."""
    if not isinstance(split, ByteSplit) and not (finite := torch.isfinite(split.images)).all():
        place = tuple((~finite).nonzero()[0].tolist())
        raise DatasetError(
            f"{what}[{', '.join(map(str, place))}] is {samples.images[place]:g}, which float32 cannot hold once it is "
            f"standardised by the training samples; remove or repair such samples, or scale all"
        )
    return split


class Standardisation:
    """Maps x to (x − mean) / deviation in each channel, with the mean and population deviation of `images` in float64.

    The entries of vectors (samples, features) share one mean and one deviation, since scaling each on its own would
    distort the geometry of the classes. A channel of a single value is only centred.
    """

    def __init__(self, images: NDArray[Any]) -> None:
        axes = (0, 1) if images.ndim == 2 else (0, *range(2, images.ndim))
        self.mean = images.mean(axis=axes, keepdims=True, dtype=np.float64)
        squares = sum(((block - self.mean) ** 2).sum(axis=axes, keepdims=True) for block in _blocks(images))
        self.deviation = np.sqrt(squares * (self.mean.size / images.size))
        # Decided by the values: rounding in the mean can leave a constant channel a deviation of 1e-17, not zero.
        constant = images.min(axis=axes, keepdims=True) == images.max(axis=axes, keepdims=True)
        self.deviation[constant] = 1

    def __call__(self, images: NDArray[Any]) -> Float32[Tensor, "..."]:
        whole = torch.empty(images.shape, dtype=torch.float32)
        for target, block in zip(whole.split(BLOCK), _blocks(images), strict=True):
            with np.errstate(all="ignore"):  # what is not finite afterwards is refused
                target.copy_(torch.from_numpy((block - self.mean) / self.deviation))
        return whole

    def split(self, samples: Samples) -> Split:
        """Returns the samples as a split, which is of bytes if they are."""
        labels = torch.from_numpy(samples.labels)
        if samples.images.dtype != np.uint8:
            return Split(self(samples.images), labels)
        scale = (torch.from_numpy(part[0]) for part in (self.mean, self.deviation))
        pixels = torch.from_numpy(np.require(samples.images, requirements=["C", "W"]))
        return ByteSplit(pixels, labels, *scale)


def digest(*arrays: NDArray[Any]) -> str:
    """Returns the SHA-256 of the arrays' types, shapes and bytes."""
    sha256 = hashlib.sha256()
    for array in arrays:
        sha256.update(f"{array.dtype.str}{array.shape}".encode())
        sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()


def rank_within_class(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns, for each sample, how many samples of its own class come before it."""
    counts = np.bincount(labels)
    ranks = np.empty_like(labels)
    ranks[np.argsort(labels, kind="stable")] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return ranks


def _blocks(images: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    for start in range(0, len(images), BLOCK):
        yield images[start : start + BLOCK].astype(np.float64)
