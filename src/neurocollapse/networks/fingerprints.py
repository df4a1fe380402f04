"""What a network is known by, so that an edited one is not taken for the one it was."""

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .heads import tensors_of

#: Images that a network is shown, and numbers of its output that are kept.
_IMAGES, _OUTPUTS = 4, 16


@dataclass(frozen=True)
class Fingerprint:
    """The text of a network's modules and shapes, hashed, and some of its outputs.

    The outputs are kept as numbers, for a hash would tell the rounding of one machine from that of the next.
    """

    sha256: str
    outputs: tuple[float, ...]
    """Of the network as it starts; empty where not finite, or others each time, as with random numbers of NumPy's."""

    def matches(self, other: "Fingerprint") -> bool:
        """Whether both are of the same network, to the rounding of float32."""
        if self.sha256 != other.sha256 or len(self.outputs) != len(other.outputs):
            return False
        scale = max(map(abs, self.outputs), default=0.0)
        return all(
            math.isclose(mine, its, rel_tol=0, abs_tol=1e-4 * scale)
            for mine, its in zip(self.outputs, other.outputs, strict=True)
        )


@torch.no_grad()
def fingerprint_of(build: Callable[[], nn.Module], images: Float[Tensor, "samples *shape"]) -> Fingerprint:
    """The fingerprint of what `build` returns, which is called twice and should return the same."""
    model, again = (build().eval() for _ in range(2))
    outputs, repeated = (_outputs(network, images[:_IMAGES]) for network in (model, again))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    text = re.sub("0x[0-9a-f]+", "", f"{shapes}\n{model}")  # an address differs in every process
    places = torch.linspace(0, len(outputs) - 1, min(_OUTPUTS, len(outputs))).long()
    known = torch.equal(outputs, repeated) and outputs.isfinite().all()
    return Fingerprint(hashlib.sha256(text.encode()).hexdigest(), tuple(outputs[places].tolist()) if known else ())


def _outputs(network: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([torch.empty(0), *(tensor.flatten() for tensor in tensors_of(network(images)))])
