"""Measures the checkpoints of one model in turn: the trajectory that was not recorded while it trained."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .._errors import CheckpointError
from .._files import in_one_line, irregular, json_lines, matching, write_json_lines
from .._schema import typed, typed_line
from ..datasets import Split, load_dataset
from ..metrics import DEFINITIONS_VERSION, Measurement
from ..networks import Fingerprint, build_network, call_builder, fingerprint_of, plain_name, unwrap
from .models import measure_model
from .saved import load_saved

#: The keys under which training scripts keep the weights beside the optimiser's state.
WEIGHT_KEYS = ("state_dict", "model_state_dict", "model")
#: The parts of a prefix that wrappers and this package's own checkpoints give to parameter names.
PREFIXES = {"", "module", "model"}


def find_checkpoints(*patterns: str) -> list[Path]:
    """Returns the files that match patterns such as `epoch_*.safetensors`, with numbers in names sorted as numbers.

    Raises `CheckpointError` if nothing matches one of them.
    """
    return matching(patterns, CheckpointError, "name files of weights, or a pattern for several")


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads weights from a .safetensors file, or from one that `torch.save` wrote, without running code in it.

    A prefix that all names have is left out, as are the parts that wrappers add. PyTorch judges what is left, and names
    that share memory with one that is there may be absent. Raises `CheckpointError` if the file is damaged, holds
    something else, or belongs to another model.
    """
    weights = _read(path)
    model = unwrap(model)
    state = model.state_dict()
    fitting = _under_own_names(path, weights, state)
    on_meta = any(isinstance(value, Tensor) and value.is_meta for value in state.values())
    try:
        missing, unknown = model.load_state_dict(fitting, strict=False, assign=on_meta)
    except Exception as error:  # shapes that differ, or what a module of its own makes of its entries
        fault = (str(error) or type(error).__name__).splitlines()[-1].strip()
        raise CheckpointError(f"{path} is of another model than {type(model).__name__}: {fault}") from error
    shared = {_memory(state[name]) for name in state if name in fitting} - {None}
    missing = sorted(name for name in missing if _memory(state.get(name)) not in shared)
    if missing or unknown:
        faults = [f"{w} {', '.join(names[:3])}" for w, names in (("lacks", missing), ("has", sorted(unknown))) if names]
        raise CheckpointError(f"{path} is of another model: it {' and '.join(faults)}, unlike {type(model).__name__}")


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


def _read(path: Path) -> Mapping[str, Any]:
    if kind := irregular(path):
        raise CheckpointError(f"{path} is {kind}, not a file; name a file of weights")
    saved = load_saved(path, CheckpointError, "weight", "save a state_dict")
    for key in WEIGHT_KEYS:
        if isinstance(saved, Mapping) and isinstance(saved.get(key), Mapping):
            saved = saved[key]
    if not isinstance(saved, Mapping) or not all(
        isinstance(name, str) and (isinstance(value, Tensor) or name.endswith("_extra_state"))
        for name, value in saved.items()
    ):
        raise CheckpointError(f"{path} holds {type(saved).__name__}, not a state_dict; save model.state_dict()")
    return saved


@dataclass(frozen=True)
class Subject:
    """A model, and the samples on which it is measured."""

    model: nn.Module
    split: Split
    conditions: dict[str, Any]
    #: which classes and samples are measured, as `absent=` of `measure_model`
    classes: dict[str, Any] = field(default_factory=dict)

    def measure(self, vci: bool | None = None) -> Measurement:
        """Measures the model with its present weights; `vci` as in `measure`."""
        return measure_model(self.model, self.split, vci=vci, **self.classes)


def subject(
    model: str,
    dataset: str,
    *,
    build: Callable[[str, tuple[int, ...], int], nn.Module] = build_network,
    data_dir: Path | None = None,
    split: str = "train",
    per_class: int | None = None,
    classes: Mapping[str, Any] | None = None,
) -> Subject:
    """Builds the untrained model that `convnet`, `mlp` or `module:function` gives for a data set.

    `build` builds the first two; `classes` says which are measured, as `absent=` of `measure_model`. Raises
    `NetworkError`, `DatasetError`.
    """
    data = load_dataset(dataset, data_dir=data_dir, per_class=per_class)
    chosen = data.train if split == "train" else data.test
    if chosen is None:
        raise CheckpointError(f"{data.name} has no test split; measure the training split")
    build = call_builder if ":" in model else build

    def untrained() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the untrained model, and so its fingerprint, is the same each time
            return build(model, data.input_shape, data.num_classes)

    conditions = {"model": model, "network": asdict(fingerprint_of(untrained, chosen.images))}
    conditions |= {"dataset": data.name, "split": split, "data_sha256": data.sha256}
    classes = dict(classes or {})
    return Subject(untrained(), chosen, {**conditions, **classes, "definitions": DEFINITIONS_VERSION}, classes)


#: The keys by which a line of a trajectory is found.
_LINE = {"checkpoint": str, "sha256": str}


class Trajectory:
    """The measurements of checkpoints in a .jsonl file, one on each line; the file is rewritten after each.

    A line counts for a checkpoint with the same path, as it was given, and content, measured under the same
    `conditions`, one of which, `network`, is a `Fingerprint`. So a replay that was killed resumes, and a checkpoint
    that was overwritten is measured again. A line of earlier versions has the file's name alone.
    """

    def __init__(self, path: Path, conditions: Mapping[str, Any]):
        self.path, self.conditions = path, dict(conditions)
        self.lines: list[dict[str, Any]] = []
        try:
            for number, content in json_lines(path):
                line = typed_line(_LINE, content, number)
                typed(Fingerprint | str | None, line.get("network"), f"line {number}: network")
                self.lines.append(line)
        except PermissionError as error:
            raise CheckpointError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
        except Exception as error:
            raise CheckpointError(
                f"{path} is no trajectory ({in_one_line(error)}); mend it, or name another file"
            ) from error

    def missing(self, checkpoints: list[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yields the checkpoints that are not measured yet, each with the first keys of its line."""
        for checkpoint in checkpoints:
            start = {"checkpoint": str(checkpoint), "sha256": _sha256(checkpoint), **self.conditions}
            if self._line(start, checkpoint) is None:
                yield checkpoint, start

    def of(self, checkpoints: list[Path]) -> list[dict[str, Any]]:
        """Returns the lines of these checkpoints, in their order."""
        found = [(checkpoint, self._line(self.conditions, checkpoint)) for checkpoint in checkpoints]
        return [{**line, "checkpoint": str(checkpoint)} for checkpoint, line in found if line is not None]

    def _line(self, start: Mapping[str, Any], checkpoint: Path) -> dict[str, Any] | None:
        """Returns the checkpoint's line that agrees with `start`, by its path or else, as before, by its name."""
        for name in (str(checkpoint), checkpoint.name):
            for line in self.lines:
                if _agrees({**start, "checkpoint": name}, line):
                    return line
        return None

    def add(self, line: dict[str, Any]) -> None:
        """Adds a line, in place of an earlier one for the same checkpoint and conditions, and writes the file."""
        same = {"checkpoint": line["checkpoint"], **self.conditions}
        self.lines = [known for known in self.lines if not _agrees(same, known)] + [line]
        write_json_lines(self.path, self.lines)


def _agrees(conditions: Mapping[str, Any], line: Mapping[str, Any]) -> bool:
    """Whether a line has all these conditions; networks are compared up to rounding."""
    conditions, then = dict(conditions), line.get("network")
    now = conditions.pop("network", None)
    if not conditions.items() <= line.items():
        return False
    if now is None or isinstance(then, str):  # earlier versions kept a hash of rounded outputs, which proves nothing
        return True
    return then is not None and typed(Fingerprint, then).matches(Fingerprint(now["sha256"], tuple(now["outputs"])))


def replay(
    subject: Subject, trajectory: Trajectory, todo: Iterable[tuple[Path, dict[str, Any]]]
) -> Iterator[str | None]:
    """Measures the checkpoints that a trajectory lacks, as its `missing` yields them.

    Yields, after each checkpoint, None once its line is on disk, or the reason why it could not be measured; the others
    are still measured.
    """
    for checkpoint, start in todo:
        try:
            load_weights(subject.model, checkpoint)
            trajectory.add({**start, **subject.measure(vci=False).to_dict()})
            yield None
        except CheckpointError as error:
            yield str(error)
        except ValueError as error:  # for example, the model has diverged
            yield f"{checkpoint}: {error}"


def _sha256(path: Path) -> str:
    """Returns the digest of a file; empty if it cannot be read, which `load_weights` then says."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""
