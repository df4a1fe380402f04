"""Random shifts and mirrorings of images, drawn once for an epoch."""

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
    """For every sample in the order of an epoch: where its image is moved to, and whether it is mirrored."""

    margins: tuple[int, int]
    corners: Int[Tensor, "*runs samples 2"]
    """Where the image that is cut out begins in the one with zero margins: (row, column)."""
    mirrored: Bool[Tensor, "*runs samples"]

    @property
    def tensors(self) -> list[Tensor]:
        return [self.corners, self.mirrored]

    def __call__(
        self, images: Float[Tensor, "*runs batch channels height width"], places: slice | Int[Tensor, " batch"]
    ) -> Float[Tensor, "*runs batch channels height width"]:
        """The images of the samples at these places of the epoch, augmented."""
        corners, mirrored = self.corners[..., places, :].flatten(0, -2), self.mirrored[..., places].flatten()
        height, width = images.shape[-2:]
        down, right = self.margins
        padded = nn.functional.pad(images.flatten(0, -4), (right, right, down, down))
        rows = corners[:, :1] + torch.arange(height, device=images.device)
        columns = torch.arange(width, device=images.device)
        columns = corners[:, 1:] + torch.where(mirrored[:, None], columns.flip(0), columns)
        samples = torch.arange(len(padded), device=images.device)
        # The indices stand apart from the channels, which indexing therefore puts last.
        cut = padded[samples[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        return cut.reshape(images.shape)


def stacked(each: Sequence[Augmentation | None]) -> Augmentation | None:
    """Those of several runs side by side, which are all of one kind."""
    known = [one for one in each if one is not None]
    if not known:
        return None
    corners = torch.stack([one.corners for one in known])
    return Augmentation(known[0].margins, corners, torch.stack([one.mirrored for one in known]))


def draw_augmentation(kind: str, images: Tensor) -> Augmentation | None:
    """For one epoch over `images` (samples, channels, height, width), from torch's global generator; None for none.

    Raises `ValueError` where the samples are not images.
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
