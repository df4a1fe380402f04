"""Builds models by name, of timm, torchvision and Hugging Face's Transformers, and shows them images as they expect."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from .._errors import NetworkError, did_you_mean
from .._imports import import_extra
from .names import LIBRARIES, PRETRAINED

#: Makes of bytes what a model expects, floats of the size that it was trained on; grey images get as many channels.
Preprocessing = Callable[[UInt8[Tensor, "samples channels height width"]], Float[Tensor, "samples more_channels h w"]]


def is_by_name(name: str) -> bool:
    """Whether a model is one of a library's, such as timm:resnet18."""
    return name.partition(":")[0] in LIBRARIES


def has_own_weights(name: str) -> bool:
    """Whether a model of a library comes with trained weights."""
    return is_by_name(name) and (name.startswith("hf:") or name.endswith(f",{PRETRAINED}"))


def build_by_name(name: str, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Builds a model that a library knows by name.

    Untrained it takes images of this shape and has so many classes; with its own weights it keeps the classes that it
    was trained on, and resizes images to the size that its preprocessing gives. Raises `NetworkError`.
    """
    library, _, model = name.partition(":")
    model, comma, option = model.partition(",") if library != "hf" else (model, "", "")
    if not model or (comma and option != PRETRAINED):
        raise NetworkError(f"{name} is no model{did_you_mean(option, [PRETRAINED])}; write {LIBRARIES[library]}")
    if len(input_shape) != 3:
        raise NetworkError(f"{name} takes images, and these samples are of shape {input_shape}; choose images, or mlp")
    with _in_our_words(name):
        network = _BUILDERS[library](name, model, bool(comma), input_shape, num_classes)
        if (process := preprocessing_of(name, network)) is not None:
            _resize_inputs(network, process(torch.zeros(1, *input_shape, dtype=torch.uint8)).shape[-2:])
    return network


def preprocessing_of(name: str, model: nn.Module) -> Preprocessing | None:
    """Returns the library's own preprocessing for a model with its own weights; None without one, or for any other."""
    if not has_own_weights(name):
        return None
    with _in_our_words(name):
        library, _, rest = name.partition(":")
        process = _PREPROCESSINGS[library](rest.removesuffix(f",{PRETRAINED}"), model)
    if process is None:
        return None
    channels = getattr(getattr(model, "config", None), "num_channels", 3)
    return lambda pixels: process(pixels.expand(-1, channels if pixels.shape[1] == 1 else -1, -1, -1)).float()


def _resize_inputs(model: nn.Module, size: torch.Size) -> None:
    """Lets a model resize images of floats that it is called with, which no preprocessing has seen."""

    def resized(_: nn.Module, args: tuple[Float[Tensor, "samples channels height width"]]) -> tuple[Tensor]:
        if args[0].shape[-2:] == size:
            return args
        return (nn.functional.interpolate(args[0], size, mode="bicubic", antialias=True),)

    model.register_forward_pre_hook(resized)  # of the model itself, so that no name of a weight changes


@contextmanager
def _in_our_words(name: str) -> Iterator[None]:
    """Turns whatever a library raises into one `NetworkError`."""
    try:
        yield
    except NetworkError:
        raise
    except Exception as error:
        lines = (str(error) or type(error).__name__).splitlines()
        raise NetworkError(
            f"{name} cannot be built ({type(error).__name__}: {lines[0].strip()}); check the name, the size of the "
            f"images, and for trained weights the connection"
        ) from error


def _timm(name: str, model: str, pretrained: bool, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    timm = import_extra("timm", "timm", name, NetworkError)
    _check_known(name, model.partition(".")[0], timm.list_models())
    if pretrained:
        return timm.create_model(model, pretrained=True)
    options = {"num_classes": num_classes, "in_chans": input_shape[0]}
    config = timm.get_pretrained_cfg(model)
    if config is not None and config.fixed_input_size:
        try:
            return timm.create_model(model, img_size=input_shape[1:], **options)
        except TypeError:  # it takes no size: the model itself says which images it takes
            pass
    return timm.create_model(model, **options)


def _torchvision(name: str, model: str, pretrained: bool, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    models = import_extra("torchvision.models", "timm", name, NetworkError)
    _check_known(name, model, models.list_models(module=models))
    if pretrained:
        return models.get_model(model, weights="DEFAULT")
    if input_shape[0] != 3:
        raise NetworkError(
            f"{name} takes images of 3 channels, and these have {input_shape[0]}; choose a model of timm"
        )
    return models.get_model(model, num_classes=num_classes)


def _hf(name: str, model: str, *_: object) -> nn.Module:
    transformers = import_extra("transformers", "transformers", name, NetworkError)
    found, loading_info = transformers.AutoModelForImageClassification.from_pretrained(model, output_loading_info=True)
    if absent := sorted(loading_info["missing_keys"]):
        raise NetworkError(
            f"{name} has no trained {', '.join(absent[:3])}, so its head would be random; name a model that was "
            f"trained to classify"
        )
    return found


def _check_known(name: str, model: str, known: list[str]) -> None:
    if model not in known:
        raise NetworkError(f"{name}: there is no such model{did_you_mean(model, known)}, of {len(known)}")


def _of_timm(name: str, model: Any) -> Preprocessing:
    from PIL import Image

    data = import_extra("timm.data", "timm", name, NetworkError)
    transform = data.create_transform(**data.resolve_model_data_config(model))
    return lambda pixels: torch.stack([transform(Image.fromarray(image)) for image in pixels.movedim(1, -1).numpy()])


def _of_torchvision(name: str, _: nn.Module) -> Preprocessing:
    models = import_extra("torchvision.models", "timm", name, NetworkError)
    return models.get_model_weights(name)["DEFAULT"].transforms()


def _of_hf(name: str, _: nn.Module) -> Preprocessing | None:
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(name)
    except OSError:  # saved without it
        return None
    options = {"input_data_format": "channels_first", "return_tensors": "pt"}
    return lambda pixels: processor(list(pixels.numpy()), **options)["pixel_values"]


_BUILDERS: dict[str, Callable[..., nn.Module]] = {"timm": _timm, "torchvision": _torchvision, "hf": _hf}
_PREPROCESSINGS: dict[str, Callable[[str, Any], Preprocessing | None]] = {
    "timm": _of_timm,
    "torchvision": _of_torchvision,
    "hf": _of_hf,
}
