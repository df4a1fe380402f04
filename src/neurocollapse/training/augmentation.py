"""Random shifts and reflections of images, drawn once for each epoch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .._errors import InputError

#: Images are shifted by up to this share of their size: 4 of the 32 pixels of CIFAR-10.
_SHARE = 8


@dataclass(frozen=True)
class Augmentation:
    """The shift of each image, and whether it is reflected, for all samples in the order of an epoch."""

    margins: tuple[int, int]
    corners: Int[Tensor, "*runs samples 2"]
    """The corner (row, column) of the crop in the image padded with zeros."""
    mirrored: Bool[Tensor, "*runs samples"]

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors that an epoch draws."""
        return [self.corners, self.mirrored]

    def __call__(
        self, images: Float[Tensor, "*runs batch channels height width"], places: slice | Int[Tensor, " batch"]
    ) -> Float[Tensor, "*runs batch channels height width"]:
        """Augments the images of the samples at these places of the epoch."""
        corners, mirrored = self.corners[..., places, :].flatten(0, -2), self.mirrored[..., places].flatten()
        height, width = images.shape[-2:]
        down, right = self.margins
        padded = nn.functional.pad(images.flatten(0, -4), (right, right, down, down))
        rows = corners[:, :1] + torch.arange(height, device=images.device)
        columns = torch.arange(width, device=images.device)
        columns = corners[:, 1:] + torch.where(mirrored[:, None], columns.flip(0), columns)
        samples = torch.arange(len(padded), device=images.device)
        # The slice of the channels separates the indices, so indexing puts the channels last.
        cut = padded[samples[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        return cut.reshape(images.shape)


def stacked(each: Sequence[Augmentation | None]) -> Augmentation | None:
    """Stacks the augmentations of several runs, all of one kind; None if they have none."""
    known = [one for one in each if one is not None]
    if not known:
        return None
    corners = torch.stack([one.corners for one in known])
    return Augmentation(known[0].margins, corners, torch.stack([one.mirrored for one in known]))


def draw_augmentation(kind: str, images: Tensor) -> Augmentation | None:
    """Draws an epoch's augmentation of `images` (samples, channels, height, width) from torch's global generator.

    Returns None for the kind "none". Raises `ValueError` if the samples are not images.
    """
    if kind == "none":
        return None
    if images.ndim != 4:
        raise InputError(
            f"augmentation {kind} shifts images, got samples of shape {tuple(images.shape[1:])}; choose augmentation "
            f"none"
        )
    samples, _, height, width = images.shape
    margins = height // _SHARE, width // _SHARE
    corners = torch.stack([torch.randint(2 * margin + 1, (samples,)) for margin in margins], dim=1)
    mirrored = torch.rand(samples) < (0.5 if kind == "shift_flip" else 0.0)
    return Augmentation(margins, corners.to(images.device), mirrored.to(images.device))
