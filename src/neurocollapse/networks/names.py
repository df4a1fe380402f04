"""The names of networks, for what loads no PyTorch."""

from .._errors import NetworkError, did_you_mean

#: The names of the networks that `build_network` knows.
BUILT_IN = ("convnet", "mlp", "resnet18", "vgg11")

#: The least that each size of a network may be; its depth counts the classifier too.
LEAST_SIZES = {"depth": 2, "width": 1, "linear_tail": 0}

#: What follows the name of a model with the weights that it was trained to have.
PRETRAINED = "pretrained"

#: How models of each library are named.
LIBRARIES = {
    "timm": f"timm:NAME[,{PRETRAINED}]",
    "torchvision": f"torchvision:NAME[,{PRETRAINED}]",
    "hf": "hf:ID",
}


def check_network_name(name: str, *, untrained: bool = False) -> None:
    """Raises `NetworkError` for a name that can be no network: it is not built in, and names no library or module.

    What is to be trained must be `untrained`.
    """
    if name not in BUILT_IN and ":" not in name:
        others = ("timm:NAME", "torchvision:NAME") if untrained else LIBRARIES.values()
        raise NetworkError(
            f"there is no network {name!r}; choose {', '.join((*BUILT_IN, *others))}, or your own as "
            f"module:function{did_you_mean(name, BUILT_IN)}"
        )
