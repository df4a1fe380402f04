"""Convolutions as matrix products, for runs that are stacked.

Stacked, the convolutions of R runs are one convolution with R groups, for which libraries have no fast code. As matrix
products of patches, one patch for each place of the output, they are a single batched product.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class ConvolutionsAsProducts(TorchFunctionMode):
    """Within the context, computes `torch.conv2d` as a matrix product if it has one group and no dilation."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv2d:
            convolution = _Convolution(*args, **(kwargs or {}))
            if convolution.is_plain():
                return convolution.as_product()
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class _Convolution:
    """The arguments of `torch.conv2d`."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None = None
    stride: int | Sequence[int] = 1
    padding: int | str | Sequence[int] = 0
    dilation: int | Sequence[int] = 1
    groups: int = 1

    def is_plain(self) -> bool:
        return (
            self.groups == 1
            and self.input.ndim == 4
            and not isinstance(self.padding, str)
            and _pair(self.dilation) == (1, 1)
        )

    def as_product(self) -> Tensor:
        """The output, with the channels last in memory, as the next convolution needs them."""
        assert not isinstance(self.padding, str)
        channels, _, *size = self.weight.shape
        patches = _Patches.apply(self.input.permute(0, 2, 3, 1), tuple(size), _pair(self.stride), _pair(self.padding))
        output = _Product.apply(patches.flatten(3).flatten(0, 2), self.weight.flatten(1))
        if self.bias is not None:
            output = output + self.bias
        return output.view(*patches.shape[:3], channels).permute(0, 3, 1, 2)


def _pair(value: int | Sequence[int]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value) * (2 // len(value))


class _Patches(torch.autograd.Function):
    """Extracts from images (samples, height, width, channels) the patch under each place of the output.

    The patches are (samples, rows, columns, channels, *size), contiguous. PyTorch's own `unfold` computes the same
    forward, but backward it takes two passes over all patches.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(images: Tensor, size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        padded = nn.functional.pad(images, (0, 0, padding[1], padding[1], padding[0], padding[0]))
        return padded.unfold(1, size[0], stride[0]).unfold(2, size[1], stride[1]).contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        images, ctx.size, ctx.stride, ctx.padding = inputs
        ctx.height, ctx.width = images.shape[1:3]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        samples, rows, columns, channels = gradient.shape[:4]
        (down, right), (below, beside) = ctx.padding, ctx.stride
        # Split pixels into blocks of a stride: each block of a patch is added to one block of the images.
        deep, wide = -(-ctx.size[0] // below), -(-ctx.size[1] // beside)
        high = max(-(-(ctx.height + down) // below), rows + deep - 1)
        long = max(-(-(ctx.width + right) // beside), columns + wide - 1)
        images = gradient.new_zeros(samples, high, below, long, beside, channels)
        for i in range(deep):
            for j in range(wide):
                part = gradient[..., i * below : (i + 1) * below, j * beside : (j + 1) * beside]
                place = images[:, i : i + rows, : part.shape[-2], j : j + columns, : part.shape[-1]]
                place += part.permute(0, 1, 4, 2, 5, 3)
        images = images.view(samples, high * below, long * beside, channels)
        return images[:, down : down + ctx.height, right : right + ctx.width], None, None, None


#: The least number of products that a piece of the weights' gradient sums.
_PIECE = 256


class _Product(torch.autograd.Function):
    """Multiplies patches (places, inputs) by the transpose of filters (outputs, inputs)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(patches: Tensor, filters: Tensor) -> Tensor:
        return patches @ filters.T

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        patches, filters = ctx.saved_tensors
        of_patches = None
        if ctx.needs_input_grad[0]:
            of_patches = (gradient @ filters.to(gradient.dtype)).to(patches.dtype)
        # Few outputs, each a sum over very many places: split into pieces, so that a GPU can work on more at a time.
        places = len(gradient)
        pieces = next((n for n in (16, 8, 4, 2) if places % n == 0 and places // n >= _PIECE), 1)
        gradient, patches = (rows.reshape(pieces, places // pieces, -1) for rows in (gradient, patches))
        of_filters = gradient.mT @ patches.to(gradient.dtype)
        return of_patches, (of_filters.sum(0) if pieces > 1 else of_filters[0]).to(filters.dtype)
