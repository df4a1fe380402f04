"""Finds files and folders of weights, and loads them into a model without running code in them."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .._errors import CheckpointError
from .._files import in_one_line, irregular, matching
from ..networks import plain_name, unwrap
from .saved import load_saved

#: The keys under which training scripts keep the weights beside the optimiser's state.
WEIGHT_KEYS = ("state_dict", "model_state_dict", "model")

#: The parts of a prefix that wrappers and this package's own checkpoints give to parameter names.
PREFIXES = {"", "module", "model"}
#: What Transformers tells of weights that it read.
_FAULTS = {"lacks": "missing_keys", "has": "unexpected_keys"}
#: Where a folder of Hugging Face has its weights, in one file or in those that an index lists.
FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def find_checkpoints(*patterns: str) -> list[Path]:
    """Returns the files that match patterns such as `epoch_*.safetensors`, with numbers in names sorted as numbers.

    A folder in which Hugging Face keeps weights counts as one. Raises `CheckpointError` if nothing matches a pattern.
    """
    remedy = "name files of weights, or a pattern for several"
    return matching(patterns, CheckpointError, remedy, "weights", _weight_files)


def _weight_files(path: Path) -> list[Path]:
    """Returns the file that a path leads to, or those in which a folder of Hugging Face has its weights."""
    if not path.is_dir():
        return [path] if path.is_file() else []
    found = next((path / name for name in FOLDER_FILES if (path / name).is_file()), None)
    if found is None or found.suffix != ".json":
        return [found] if found else []
    try:
        return sorted({path / Path(name).name for name in json.loads(found.read_bytes())["weight_map"].values()})
    except Exception as error:  # whatever the file holds
        raise CheckpointError(f"{found} is no index of weights ({in_one_line(error)}); fetch it again") from error


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads weights from a .safetensors file, or from one that `torch.save` wrote, without running code in it.

    A folder of Hugging Face, such as a checkpoint of its Trainer, has them in such files. A prefix that all names have
    is left out, as are the parts that wrappers add. PyTorch judges what is left, and names that share memory with one
    that is there may be absent. Raises `CheckpointError` if the file is damaged, holds something else, numbers that are
    not finite, or weights of another model.
    """
    model = unwrap(model)
    state = model.state_dict()
    weights = _read_all(model, path, state)
    fitting = _under_own_names(path, weights, state)
    kinds = {name: kind for name, value in fitting.items() if (kind := _kind_of(value))}
    if wrong := [f"{name} is {kind}" for name, kind in kinds.items() if kind != _kind_of(state.get(name))]:
        raise CheckpointError(f"{path} cannot be loaded: {', '.join(wrong[:3])}; save dense tensors of real numbers")
    on_meta = any(isinstance(value, Tensor) and value.is_meta for value in state.values())
    try:
        missing, unknown = model.load_state_dict(fitting, strict=False, assign=on_meta)
    except Exception as error:  # shapes that differ, or what a module of its own makes of its entries
        fault = _shapes_that_differ(fitting, state) or (str(error) or type(error).__name__).splitlines()[-1].strip()
        raise CheckpointError(f"{path} is of another model than {type(model).__name__}: {fault}") from error
    shared = {_memory(state[name]) for name in state if name in fitting} - {None}
    missing = sorted(name for name in missing if _memory(state.get(name)) not in shared)
    if missing or unknown:
        faults = [f"{w} {', '.join(names[:3])}" for w, names in (("lacks", missing), ("has", sorted(unknown))) if names]
        raise CheckpointError(f"{path} is of another model: it {' and '.join(faults)}, unlike {type(model).__name__}")
    if wrong_name := _not_finite(model):
        raise CheckpointError(f"{path}: {wrong_name} is not finite; the model diverged, so take an earlier checkpoint")


def _not_finite(model: nn.Module) -> str | None:
    """Returns the name of a tensor that is not finite, if any. A buffer may be infinite, as masks are."""
    buffers = {name for name, _ in model.named_buffers()}
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor) and value.dtype.itemsize > 1:  # eight bits have no test for it
            finite = ~value.isnan() if name in buffers else value.isfinite()
            if not finite.all():
                return name
    return None


def _shapes_that_differ(weights: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    both = [(name, weights[name], state[name]) for name in state if name in weights]
    shapes = [(name, *(tuple(getattr(value, "shape", ())) for value in values)) for name, *values in both]
    return "; ".join([f"{name} is {one}, and here {other}" for name, one, other in shapes if one != other][:3])


def _read_all(model: nn.Module, path: Path, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the weights in a file or a folder, under the names that they have there."""
    folder = path.parent if path.name in FOLDER_FILES else path
    if hasattr(model, "from_pretrained") and (folder / "config.json").is_file():
        return _of_hugging_face(model, folder)
    first, *others = _weight_files(path) or [path]
    weights = _read(first, state)
    if not others:
        return weights
    return {**weights, **{name: value for file in others for name, value in _read(file, state).items()}}


def _of_hugging_face(model: Any, folder: Path) -> Mapping[str, Any]:
    """Returns the weights as Transformers reads them, which keeps other names on disk than in memory."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what it would warn of is an error here
    try:
        loaded, loading_info = type(model).from_pretrained(
            folder, config=model.config, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except Exception as error:  # of the library, for a damaged file as for other shapes
        raise CheckpointError(
            f"{folder} is damaged or of another model than {type(model).__name__}: {in_one_line(error)}"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    differ = [_as_shapes(each) for each in sorted(loading_info["mismatched_keys"])]
    if differ:
        raise CheckpointError(f"{folder} is of another model than {type(model).__name__}: {'; '.join(differ[:3])}")
    faults = [
        f"{verb} {', '.join(sorted(map(str, loading_info[key]))[:3])}"
        for verb, key in _FAULTS.items()
        if loading_info[key]
    ]
    if faults:
        raise CheckpointError(f"{folder} is of another model: it {' and '.join(faults)}, unlike {type(model).__name__}")
    return loaded.state_dict()


def _as_shapes(mismatched: str | tuple[str, Sequence[int], Sequence[int]]) -> str:
    """Says which shapes differ; Transformers tells of them in some versions, and in others of the name alone."""
    if isinstance(mismatched, str):
        return f"{mismatched} is of another shape"
    name, there, own = mismatched
    return f"{name} is {tuple(there)}, and here {tuple(own)}"


def _under_own_names(path: Path, weights: Mapping[str, Any], state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the weights under the names that the model gives them: those under the prefix that fits most of them."""
    own = {plain_name(name): name for name in state}
    plain = {plain_name(name): value for name, value in weights.items()}
    fits: Counter[str] = Counter()
    for name in plain:
        parts = name.split(".")
        fits.update(".".join(parts[:i]) for i in range(len(parts)) if ".".join(parts[i:]) in own)
    most = max(fits.values(), default=0)
    prefixes = sorted((prefix for prefix, number in fits.items() if number == most), key=len)
    prefixes = [prefix for prefix in prefixes if set(prefix.split(".")) <= PREFIXES] or prefixes or [""]
    if len(prefixes) > 1 and most == len(own):
        found = ", ".join(prefixes)
        raise CheckpointError(f"{path} holds several such models, under {found}; save the state_dict of one alone")
    if not prefixes[0] and plain.keys() == weights.keys() and own.keys() == state.keys():
        return weights  # with the versions of modules that torch.save keeps beside them
    start = prefixes[0] and f"{prefixes[0]}."
    inner = {name.removeprefix(start): value for name, value in plain.items() if name.startswith(start)}
    return {own.get(name, name): value for name, value in inner.items()}


def _memory(value: object) -> tuple[int, int] | None:
    """Returns where a tensor lies in memory, and its size; None for what shares its place with nothing."""
    if not isinstance(value, Tensor) or value.is_meta or is_lazy(value):
        return None
    return (value.data_ptr(), value.numel()) if value.numel() else None


def _read(path: Path, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the state_dict in a .safetensors file, or in one that `torch.save` wrote. Raises `CheckpointError`.

    It may be under a key, beside other things: the one that fits best or, of several, that under `WEIGHT_KEYS`.
    """
    if kind := irregular(path):
        raise CheckpointError(f"{path} is {kind}, not a file; name a file of weights")
    whole = saved = load_saved(path, CheckpointError, "weight", "save a state_dict")
    for key in WEIGHT_KEYS:
        if isinstance(saved, Mapping) and isinstance(saved.get(key), Mapping):
            saved = saved[key]
    usual = not _no_weights(saved)
    if usual and saved is whole:
        return saved
    found = {key: mapping for key, mapping in _mappings(whole) if mapping and not _no_weights(mapping)}
    fit = {key: _number_that_fit(path, mapping, state) for key, mapping in found.items()}
    best = [key for key, number in fit.items() if number == max(fit.values())]
    if usual and (not best or any(found[key] is saved for key in best)):
        return saved
    if len(best) == 1:
        return found[best[0]]
    if best and fit[best[0]]:
        raise CheckpointError(
            f"{path} holds several such models, under {', '.join(best)}; save the state_dict of one alone"
        )
    raise CheckpointError(f"{path} {_no_weights(saved)}; save model.state_dict()")


def _no_weights(saved: Any) -> str:
    """Says why a value is no state_dict; an empty string for one."""
    if not isinstance(saved, Mapping) or not all(isinstance(name, str) for name in saved):
        return f"holds {type(saved).__name__}, not a state_dict"
    others = (name for name, value in saved.items() if not (isinstance(value, Tensor) or name.endswith("_extra_state")))
    wrong = next(others, None)
    return "" if wrong is None else f"is no state_dict: its {wrong!r} is {type(saved[wrong]).__name__}, no tensor"


def _mappings(saved: Any, within: str = "") -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yields the mappings in a mapping, and those in these, each with its keys, which are joined by points."""
    for key, value in saved.items() if isinstance(saved, Mapping) else ():
        if isinstance(value, Mapping):
            yield f"{within}{key}", value
            yield from _mappings(value, f"{within}{key}.")


def _number_that_fit(path: Path, weights: Mapping[str, Any], state: Mapping[str, Any]) -> int:
    """Returns how many of the weights have the name and the shape of one of the model's."""
    try:
        named = _under_own_names(path, weights, state)
    except CheckpointError:  # of several models itself
        return 0
    pairs = [(value, state[name]) for name, value in named.items() if name in state]
    return sum(
        is_lazy(own) or value.shape == own.shape
        for value, own in pairs
        if isinstance(value, Tensor) and isinstance(own, Tensor)
    )


def _kind_of(value: object) -> str:
    """Says in words why a tensor could be no weight; an empty string for one of real numbers."""
    if not isinstance(value, Tensor) or is_lazy(value):
        return ""
    if value.is_meta:
        return "a tensor without data"
    if value.is_quantized:
        return "a quantized tensor"
    if value.is_nested:
        return "a nested tensor"
    if value.layout != torch.strided:
        return "a sparse tensor"
    return "a tensor of complex numbers" if value.is_complex() else ""


def digest_of(path: Path) -> str:
    """Returns the digest of a file; empty if it cannot be read, which `load_weights` then says."""
    try:
        digests = []
        for file in _weight_files(path):
            with file.open("rb") as stream:
                digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    except (OSError, CheckpointError):
        return ""
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
