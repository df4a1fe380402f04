"""Classifiers without biases or normalisation, so that f is positively homogeneous of degree one in every layer."""

import itertools
import math
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from .._errors import NetworkError, checks_arguments
from .by_name import has_own_weights
from .heads import possible_classifiers
from .users_own import call_builder


class ConvNet(nn.Module):
    """The paper's network of five layers: four 3×3 convolutions of stride 2 with ReLU, then the linear classifier.

    Input (samples, channels, height, width); 28×28 and 32×32 images both give p = 1024 features. `linear_tail` puts so
    many square linear layers without ReLU and bias before the classifier.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        bias: bool = False,
        hidden_bias: bool = False,
        batch_norm: bool = False,
        linear_tail: int = 0,
    ):
        super().__init__()
        if len(input_shape) != 3:
            raise NetworkError(f"convnet needs images (channels, height, width), got samples of shape {input_shape}")
        channels, height, width = input_shape
        widths = (channels, 32, 64, 128, 256)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers.append(nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1, bias=hidden_bias))
            layers += [*_normalization(nn.BatchNorm2d, after, batch_norm), nn.ReLU()]
        num_features = widths[-1] * math.ceil(height / 16) * math.ceil(width / 16)
        tail = [nn.Linear(num_features, num_features, bias=False) for _ in range(linear_tail)]
        self.features = nn.Sequential(*layers, nn.Flatten(), *tail)
        self.classifier = nn.Linear(num_features, num_classes, bias=bias)

    def forward(self, images: Float[Tensor, "samples channels height width"]) -> Float[Tensor, "samples classes"]:
        """Returns the outputs f of the classifier."""
        return self.classifier(self.features(images))


class MLP(nn.Module):
    """A network of `depth` linear layers, the classifier included, with ReLU between and hidden layers of `width`.

    The last `linear_tail` of the hidden layers have no ReLU and no bias.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        depth: int,
        width: int,
        bias: bool = False,
        hidden_bias: bool = False,
        batch_norm: bool = False,
        linear_tail: int = 0,
    ):
        super().__init__()
        if depth < 2:
            raise NetworkError(f"depth counts the classifier too, so it is at least 2; got {depth}")
        if linear_tail >= depth:
            raise NetworkError(
                f"an mlp of depth {depth} has {depth - 1} hidden layers, so linear_tail is at most that; got "
                f"{linear_tail}"
            )
        widths = [math.prod(input_shape)] + [width] * (depth - 1)
        layers: list[nn.Module] = [nn.Flatten()]
        for index, (before, after) in enumerate(itertools.pairwise(widths), start=1):
            is_linear = index >= depth - linear_tail
            try:
                layers.append(nn.Linear(before, after, bias=hidden_bias and not is_linear))
            except RuntimeError as error:  # PyTorch raises it if memory does not suffice
                raise NetworkError(
                    f"a layer of {after}×{before} weights ({4e-9 * after * before:.3g} GB) does not fit in memory "
                    f"beside those before it; choose a smaller width"
                ) from error
            if not is_linear:
                layers += [*_normalization(nn.BatchNorm1d, after, batch_norm), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, num_classes, bias=bias)

    def forward(self, inputs: Float[Tensor, "samples *shape"]) -> Float[Tensor, "samples classes"]:
        """Returns the outputs f of the classifier."""
        return self.classifier(self.features(inputs))


def _normalization(kind: type[nn.Module], width: int, wanted: bool) -> list[nn.Module]:
    return [kind(width)] if wanted else []


@checks_arguments
def build_network(
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    depth: int = 5,
    width: int = 512,
    bias: bool = False,
    hidden_bias: bool = False,
    batch_norm: bool = False,
    linear_tail: int = 0,
) -> nn.Module:
    """Builds `convnet`, `mlp` (with `depth` and `width`), a model of timm or torchvision, or the user's own network.

    Models of libraries are named `timm:resnet18` or `torchvision:resnet18`, the user's own `module:function`.

    For the first two, `bias` gives the classifier a bias, `hidden_bias` the other layers, and `batch_norm` puts batch
    normalisation before every ReLU; the last two break homogeneity. `linear_tail` hidden layers before the classifier
    have no ReLU and no bias. The user's function returns a module whose last linear layer has `num_classes` outputs:
    see `call_builder`. Raises `NetworkError`.
    """
    asked: dict[str, Any] = {"hidden_bias": hidden_bias, "batch_norm": batch_norm, "linear_tail": linear_tail}
    if name == "convnet":
        return ConvNet(input_shape, num_classes, bias=bias, **asked)
    if name == "mlp":
        return MLP(input_shape, num_classes, depth=depth, width=width, bias=bias, **asked)
    if wanted := [_IN_WORDS[field] for field, value in asked.items() if value]:
        raise NetworkError(f"{wanted[0]} can be asked of convnet and mlp; build {name} with what it is to have")
    if has_own_weights(name):
        raise NetworkError(
            f"{name} comes with its weights, and a run starts from weights of its own; measure the model, or name one "
            f"without them, such as timm:resnet18"
        )
    network = call_builder(name, input_shape, num_classes)
    possible_classifiers(network, num_classes)
    return network


_IN_WORDS = {
    "hidden_bias": "biases in every layer",
    "batch_norm": "batch normalisation",
    "linear_tail": "a linear tail",
}
