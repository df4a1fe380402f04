"""One training run as a value: the command line, the JSON beside the run and, hashed, the run's id."""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .._errors import InputError, InputTypeError


@dataclass(frozen=True)
class RunConfig:
    """One training run. The same configuration on the same machine gives the same numbers, bit for bit."""

    dataset: str = "mnist5k"
    """mnist5k, mnist, cifar10, gaussian, or a .npz file with images, labels (N,) from 0 to C-1 and, optionally,
    test_images and test_labels. Images are (N, height, width), (N, height, width, channels), (N, channels, height,
    width), or vectors (N, features)."""
    per_class: int | None = None
    """Train on this many samples of each class (the theory is for balanced classes)."""
    imbalance: Literal["none", "step", "exponential"] = "none"
    """Of the training classes: step leaves the last half of them 1/imbalance_ratio of their samples, exponential takes
    the share imbalance_ratio^(-c/(C-1)) of class c."""
    imbalance_ratio: float = 10.0
    """Samples of the largest class for one of the smallest, with imbalance step or exponential."""
    label_noise: float = 0.0
    """Share of each class's training samples whose labels are shuffled among all those chosen, so that the classes keep
    their sizes. 1 is random labels. The draw depends on the seed."""
    augmentation: Literal["none", "shift", "shift_flip"] = "none"
    """Of the training images at every step: shifted by up to an eighth of their size, the edge filled with zeros; and
    mirrored left to right half of the time."""
    network: str = "convnet"
    """convnet, mlp, or your own as module:function, called with (input_shape, num_classes)."""
    depth: int = 5
    """Layers of the mlp, the classifier included."""
    width: int = 512
    """Units in a hidden layer of the mlp."""
    bias: Literal["none", "free", "decayed", "all"] = "none"
    """none, as in the paper; of the classifier, free, one that does not decay, with which the theorem's equations can
    hold exactly, or decayed; or all, a decayed one in every layer. Your own network must have the bias that is asked
    for."""
    normalization: Literal["none", "batch"] = "none"
    """batch puts batch normalisation before every ReLU of the convnet and the mlp, which then are not homogeneous."""
    loss: Literal["square", "cross_entropy"] = "square"
    """The data term. The theory is about the square loss."""
    weight_decay: float = 5e-4
    """λ of Eq. 1. With nn.MSELoss, a weight_decay of w is λ = w·C/2."""
    decay_start: float = 1.0
    """λ begins at so many times its value and comes down to it geometrically over the first 60% of the steps: once the
    data are fitted, the layers' norms relax sooner."""
    initialization: Literal["default", "kaiming", "norm"] = "norm"
    """PyTorch's, Kaiming's, or PyTorch's directions with a fixed Frobenius norm in every layer."""
    initial_norm: float = 4.0
    """That Frobenius norm."""
    optimizer: Literal["sgd", "muon", "adam", "adamw"] = "sgd"
    """sgd, muon and adam with coupled decay, so that their end points are critical points of Eq. 1. muon takes steps of
    one length for every layer, orthogonalised: the fastest way down. Adam divides the decay of a channel that is
    momentarily dead by its own size, so that it stays dead: watch the objective. The decoupled decay of adamw ends
    elsewhere, where the theory does not speak."""
    learning_rate: float = 0.1
    """At the start. The default suits the convnet and the mlp of the default size; where it diverges, take less."""
    momentum: float = 0.9
    """Of sgd and muon; the first moment of adam and adamw uses it too."""
    schedule: Literal["constant", "steps", "cosine", "linear"] = "linear"
    """Of the learning rate: steps is ×0.1 at one and two thirds, cosine and linear anneal to zero."""
    batch_size: int = 32
    """Samples in a step."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Of the products in a step; tf32 is of GPUs, bfloat16 of processors that have it. Measuring is in float32, and its
    sums in float64."""
    balancing: Literal["none", "epoch"] = "none"
    """epoch rescales the channels after every epoch so that the norms of the layers are the least that give the same
    outputs: weight decay gets there too, later. The features are rescaled with them. For layers that follow one another
    through ReLUs."""
    epochs: int = 80
    """Passes over the training data; the run is measured at two epochs to an octave."""
    gradient_tolerance: float = 0.0
    """Stop at a recorded epoch where ‖∇L‖ is below this."""
    seed: int = 0
    """Of the first weights, the order of the samples and all else that is drawn."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(RunConfig).items():
            object.__setattr__(self, name, _as_hinted(name, getattr(self, name), hint))
        for name, lowest in _LOWEST.items():
            if getattr(self, name) is not None and getattr(self, name) < lowest:
                raise InputError(f"{name} must be at least {lowest}, got {getattr(self, name)}")
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum must be in [0, 1), got {self.momentum}")
        if self.normalization == "batch" and self.batch_size == 1:
            raise InputError("normalization batch needs a batch_size of at least 2, got 1")
        if self.normalization == "batch" and self.balancing != "none":
            raise InputError(
                "balancing epoch needs normalization none, since normalised channels have no scale; got batch"
            )
        for name, bound in _BELOW.items():
            if getattr(self, name) >= bound:
                raise InputError(f"{name} must be below {bound}, got {getattr(self, name)}")
        for name, highest in _HIGHEST.items():
            if getattr(self, name) > highest:
                raise InputError(f"{name} must be at most {highest}, got {getattr(self, name)}")

    @property
    def changed(self) -> dict[str, Any]:
        """The fields that are not at their defaults.

        >>> RunConfig(seed=1, network="mlp").changed
        {'network': 'mlp', 'seed': 1}
        """
        defaults = RunConfig()
        return {name: value for name, value in vars(self).items() if value != getattr(defaults, name)}


#: The fields by subject, for forms that ask for them. What few change comes last.
GROUPS = {
    "data": ("dataset", "per_class"),
    "network": ("network", "depth", "width", "bias"),
    "objective": ("loss", "weight_decay"),
    "optimiser": ("optimizer", "learning_rate", "momentum", "schedule", "batch_size"),
    "length": ("epochs", "seed"),
    "seldom_changed": (
        "imbalance",
        "imbalance_ratio",
        "label_noise",
        "augmentation",
        "normalization",
        "initialization",
        "initial_norm",
        "decay_start",
        "precision",
        "balancing",
        "gradient_tolerance",
    ),
}


def _as_hinted(name: str, value: Any, hint: Any) -> Any:
    """The value as Python's own int, float or str, which the run's id and its JSON are made of."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise InputError(f"{name} must be {' or '.join(get_args(hint))}, got {value!r}")
        return value
    if value is None and type(None) in get_args(hint):
        return None
    kind = (*get_args(hint), hint)[0]
    expected, convert = _KINDS[kind]
    try:
        if isinstance(value, bool) or isinstance(value, str) != (kind is str):
            raise TypeError  # float() would read a string, and to Python True is 1
        converted = convert(value)
    except (TypeError, ValueError):
        raise InputTypeError(f"{name} must be {expected}, got {value!r} of type {type(value).__name__}") from None
    except OverflowError:  # an integer beyond any float
        converted = math.inf
    if kind is float and not math.isfinite(converted):
        raise InputError(f"{name} must be finite, got {value}")
    return converted


_KINDS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    int: ("an integer", operator.index),
    float: ("a number", float),
    str: ("a string", str),
}
_LOWEST = {
    "per_class": 1,
    "imbalance_ratio": 1,
    "label_noise": 0,
    "depth": 2,
    "width": 1,
    "weight_decay": 0,
    "batch_size": 1,
    "epochs": 0,
    "gradient_tolerance": 0,
    "seed": 0,
}
_POSITIVE = ("initial_norm", "learning_rate", "decay_start")

#: Epochs that a seed has random numbers for, and seeds that fit beside them in 64 bits.
EPOCHS = 2**20
_BELOW = {"epochs": EPOCHS, "seed": 2**43}

#: Far beyond what is of use, and before what Python and PyTorch cannot count.
_HIGHEST = {"label_noise": 1, "decay_start": 1_000_000, "depth": 1000, "width": 1_000_000, "batch_size": 1_000_000_000}
