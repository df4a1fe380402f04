"""Identifies a network, so that an edited one is not mistaken for the original."""

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .calls import tensors_of

#: The number of images that a network is shown, and the number of its outputs that are kept.
_IMAGES, _OUTPUTS = 4, 16


@dataclass(frozen=True)
class Fingerprint:
    """The text of a network's modules and shapes, hashed, and some of its outputs.

    The outputs are kept as numbers, since a hash would differ between machines that round differently.
    """

    sha256: str
    outputs: tuple[float, ...]
    """Outputs of the untrained network; empty if they are not finite, or vary, as with NumPy's random numbers."""

    def matches(self, other: "Fingerprint") -> bool:
        """Whether both belong to the same network, up to rounding in float32."""
        if self.sha256 != other.sha256 or len(self.outputs) != len(other.outputs):
            return False
        scale = max(map(abs, self.outputs), default=0.0)
        return all(
            math.isclose(mine, its, rel_tol=0, abs_tol=1e-4 * scale)
            for mine, its in zip(self.outputs, other.outputs, strict=True)
        )


@torch.no_grad()
def fingerprint_of(build: Callable[[], nn.Module], images: Float[Tensor, "samples *shape"]) -> Fingerprint:
    """Returns the fingerprint of the network that `build` returns; it is called twice and should return the same."""
    model, again = (build().eval() for _ in range(2))
    outputs, repeated = (_outputs(network, images[:_IMAGES]) for network in (model, again))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    text = re.sub("0x[0-9a-f]+", "", f"{shapes}\n{model}")  # an address differs in every process
    places = torch.linspace(0, len(outputs) - 1, min(_OUTPUTS, len(outputs))).long()
    known = torch.equal(outputs, repeated) and outputs.isfinite().all()
    return Fingerprint(hashlib.sha256(text.encode()).hexdigest(), tuple(outputs[places].tolist()) if known else ())


def _outputs(network: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([torch.empty(0), *(tensor.flatten() for tensor in tensors_of(network(images)))])
