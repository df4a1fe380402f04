"""Builds models by name, of timm, torchvision and Hugging Face's Transformers, and shows them images as they expect."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from .._errors import NetworkError, did_you_mean
from .._imports import import_extra
from .names import LIBRARIES, PRETRAINED


@dataclass(frozen=True)
class Preprocessing:
    """What a model expects of images: (x − mean) / deviation of pixels from 0 to 1 in each channel, and their size."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    size: tuple[int, int] | None


def is_by_name(name: str) -> bool:
    """Whether a model is one of a library's, such as timm:resnet18."""
    return name.partition(":")[0] in LIBRARIES


def has_own_weights(name: str) -> bool:
    """Whether a model of a library comes with trained weights."""
    return is_by_name(name) and (name.startswith("hf:") or name.endswith(f",{PRETRAINED}"))


def build_by_name(name: str, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Builds a model that a library knows by name.

    Untrained it takes images of this shape and has so many classes; with its own weights it keeps the classes that it
    was trained on, and resizes images to the size that it was trained on. Raises `NetworkError`.
    """
    library, _, model = name.partition(":")
    model, comma, option = model.partition(",") if library != "hf" else (model, "", "")
    if not model or (comma and option != PRETRAINED):
        raise NetworkError(f"{name} is no model{did_you_mean(option, [PRETRAINED])}; write {LIBRARIES[library]}")
    if len(input_shape) != 3:
        raise NetworkError(f"{name} takes images, and these samples are of shape {input_shape}; choose images, or mlp")
    with _in_our_words(name):
        network = _BUILDERS[library](name, model, bool(comma), input_shape, num_classes)
        expected = preprocessing_of(name, network)
    if expected is not None and expected.size is not None:
        _resize_inputs(network, expected.size)
    return network


def preprocessing_of(name: str, model: nn.Module) -> Preprocessing | None:
    """Returns what a model with its own weights expects of images; None where it is not known, or for any other."""
    if not has_own_weights(name):
        return None
    with _in_our_words(name):
        library, _, rest = name.partition(":")
        return _PREPROCESSINGS[library](rest.removesuffix(f",{PRETRAINED}"), model)


def _resize_inputs(model: nn.Module, size: tuple[int, int]) -> None:
    """Lets a model resize the images that it is called with, as its own preprocessing would."""

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


def _of_timm(_: str, model: Any) -> Preprocessing:
    config = model.pretrained_cfg
    return Preprocessing(tuple(config["mean"]), tuple(config["std"]), tuple(config["input_size"][1:]))


def _of_torchvision(name: str, _: nn.Module) -> Preprocessing:
    models = import_extra("torchvision.models", "timm", name, NetworkError)
    transforms = models.get_model_weights(name)["DEFAULT"].transforms()
    return Preprocessing(tuple(transforms.mean), tuple(transforms.std), tuple(transforms.crop_size * 2))


def _of_hf(name: str, _: nn.Module) -> Preprocessing | None:
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        settings: Mapping[str, Any] = ImageProcessingMixin.get_image_processor_dict(name)[0]
    except OSError:  # saved without it
        return None
    size = settings.get("crop_size") or settings.get("size") or {}
    size = {"height": size, "width": size} if isinstance(size, int) else size
    height, width = (size.get(side, size.get("shortest_edge")) for side in ("height", "width"))
    channels = len(settings.get("image_mean") or (0, 0, 0))
    mean = (
        tuple(settings["image_mean"]) if settings.get("do_normalize", "image_mean" in settings) else (0.0,) * channels
    )
    deviation = (
        tuple(settings["image_std"]) if settings.get("do_normalize", "image_std" in settings) else (1.0,) * channels
    )
    return Preprocessing(mean, deviation, (height, width) if height and width else None)


_BUILDERS: dict[str, Callable[..., nn.Module]] = {"timm": _timm, "torchvision": _torchvision, "hf": _hf}
_PREPROCESSINGS: dict[str, Callable[[str, Any], Preprocessing | None]] = {
    "timm": _of_timm,
    "torchvision": _of_torchvision,
    "hf": _of_hf,
}
