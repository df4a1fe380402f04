"""Measures the checkpoints of one model in turn: the trajectory that was not recorded while it trained."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .._errors import CaptureWarning, CheckpointError, NetworkError, NeurocollapseError
from .._files import in_one_line, json_lines, write_json_lines
from .._schema import typed, typed_line
from ..datasets import ByteSplit, Split, load_dataset
from ..metrics import DEFINITIONS_VERSION, METRICS, Measurement
from ..networks import Fingerprint, build_network, call_builder, fingerprint_of, has_own_weights, preprocessing_of
from .models import measure_model
from .trajectory_lines import numbers_of
from .weights import digest_of, load_weights


@dataclass(frozen=True)
class Subject:
    """A model, and the samples on which it is measured."""

    model: nn.Module
    split: Split
    conditions: dict[str, Any]
    #: which classes and samples are measured, as `absent=` of `measure_model`
    classes: dict[str, Any] = field(default_factory=dict)
    head: str | None = None

    def measure(self, vci: bool | None = None) -> Measurement:
        """Measures the model with its present weights; `vci` as in `measure`."""
        return measure_model(self.model, self.split, vci=vci, head=self.head, **self.classes)


def subject(
    model: str,
    dataset: str,
    *,
    build: Callable[[str, tuple[int, ...], int], nn.Module] = build_network,
    data_dir: Path | None = None,
    split: str = "train",
    per_class: int | None = None,
    classes: Mapping[str, Any] | None = None,
    head: str | None = None,
) -> Subject:
    """Builds the model that `convnet`, `timm:NAME`, `hf:ID`, `module:function` or another name gives for a data set.

    `build` builds those of the package; `classes` says which are measured, as `absent=` of `measure_model`, and `head`
    names the head. A model with its own weights sees images of bytes as its library's own preprocessing shows them.
    Raises `NetworkError`, `DatasetError`.
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

    chosen = _as_it_expects(model, measured := untrained(), chosen)
    again = (lambda: measured) if has_own_weights(model) else untrained  # its weights are read once
    conditions: dict[str, Any] = {"model": model, "head": head} if head else {"model": model}
    images = chosen.images_at(slice(16))
    try:
        conditions |= {"network": asdict(fingerprint_of(again, images))}
    except NeurocollapseError:
        raise
    except Exception as error:  # the model's own code
        raise NetworkError(
            f"{model} raised {type(error).__name__}: {in_one_line(error)} on images of shape {tuple(images.shape)}; "
            f"name a model that takes them, or other data"
        ) from error
    conditions |= {"dataset": data.name, "split": split, "data_sha256": data.sha256}
    classes = dict(classes or {})
    return Subject(measured, chosen, {**conditions, **classes, "definitions": DEFINITIONS_VERSION}, classes, head)


def _as_it_expects(name: str, model: nn.Module, split: Split) -> Split:
    """Returns the images as a model with its own weights expects them. Warns where they are standardised otherwise."""
    if not has_own_weights(name):
        return split
    expected = preprocessing_of(name, model)
    if expected is not None and isinstance(split, ByteSplit):
        return split.processed_by(expected)
    reason = "nothing says how it expects them" if expected is None else "pixels are no whole bytes"
    warnings.warn(
        f"{name} is shown images that are standardised by the data, not as in its training, since {reason}",
        CaptureWarning,
        stacklevel=4,
    )
    return split


#: The keys by which a line of a trajectory is found.
_LINE = {"checkpoint": str, "sha256": str}
#: Conditions that are in a line only where they are not the usual ones.
_OPTIONAL = ("head", "absent", "min_per_class", "max_per_class")


class Trajectory:
    """The measurements of checkpoints in a .jsonl file, one on each line; the file is rewritten after each.

    A line counts for a checkpoint of the same place on disk and content, measured under the same `conditions`, one of
    which, `network`, is a `Fingerprint`. So a replay that was killed resumes, and a checkpoint that was overwritten is
    measured again. A line of earlier versions has the path as it was given, or the file's name, alone.
    """

    def __init__(self, path: Path, conditions: Mapping[str, Any]):
        self.path, self.conditions = path, dict(conditions)
        self.lines: list[dict[str, Any]] = []
        try:
            for number, content in json_lines(path):
                line = typed_line(_LINE, content, number)
                typed(Fingerprint | str | None, line.get("network"), f"line {number}: network")
                typed(str | None, line.get("path"), f"line {number}: path")
                numbers_of(line, number, METRICS)
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
            start = self._start(checkpoint)
            if self._line(start) is None:
                yield checkpoint, start

    def of(self, checkpoints: list[Path]) -> list[dict[str, Any]]:
        """Returns the lines of these checkpoints as they are on disk now, in their order."""
        found = [(checkpoint, self._line(self._start(checkpoint))) for checkpoint in checkpoints]
        return [{**line, "checkpoint": str(checkpoint)} for checkpoint, line in found if line is not None]

    def _start(self, checkpoint: Path) -> dict[str, Any]:
        # A link is a checkpoint of its own: the files that the links of a cache point to have no telling names.
        path = checkpoint.parent.resolve() / checkpoint.name
        known = {"checkpoint": str(checkpoint), "path": str(path), "sha256": digest_of(checkpoint)}
        return {**known, **self.conditions}

    def _line(self, start: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the line of the same checkpoint, content and conditions."""
        wanted = {"sha256": start["sha256"], **self.conditions}
        return next((line for line in self.lines if _is_of(start, line) and _agrees(wanted, line)), None)

    def add(self, line: dict[str, Any]) -> None:
        """Adds a line, in place of an earlier one for the same checkpoint and conditions, and writes the file."""
        self._replace(line, [line])

    def drop(self, start: Mapping[str, Any]) -> None:
        """Removes the line of a checkpoint that has another content by now, and writes the file."""
        self._replace(start, [])

    def _replace(self, start: Mapping[str, Any], lines: list[dict[str, Any]]) -> None:
        # What was measured of earlier content on the other split goes too, or a record would be of two contents.
        either = {name: value for name, value in self.conditions.items() if name != "split"}
        same = [
            _is_of(start, known) and _agrees(self.conditions if known["sha256"] == start["sha256"] else either, known)
            for known in self.lines
        ]
        place = same.index(True) if True in same else len(same)
        kept = [known for known, replaced in zip(self.lines, same, strict=True) if not replaced]
        if len(kept) < len(same) or lines:
            self.lines = kept[:place] + lines + kept[place:]
            write_json_lines(self.path, self.lines)


def _is_of(start: Mapping[str, Any], line: Mapping[str, Any]) -> bool:
    """Whether a line is of the checkpoint whose line begins so."""
    if (path := line.get("path", line["checkpoint"])) == start["path"]:
        return True
    # Earlier versions kept a path as it was given, which says the file only together with the content.
    given = (start["checkpoint"], Path(start["checkpoint"]).name)
    return "path" not in line and path in given and line["sha256"] == start["sha256"]


def _agrees(conditions: Mapping[str, Any], line: Mapping[str, Any]) -> bool:
    """Whether a line has all these conditions; networks are compared up to rounding."""
    conditions, then = dict(conditions), line.get("network")
    now = conditions.pop("network", None)
    if not conditions.items() <= line.items() or any(name in line and name not in conditions for name in _OPTIONAL):
        return False
    if now is None or isinstance(then, str):  # earlier versions kept a hash of rounded outputs, which proves nothing
        return True
    return then is not None and typed(Fingerprint, then).matches(Fingerprint(now["sha256"], tuple(now["outputs"])))


def replay(
    subject: Subject, trajectory: Trajectory, todo: Iterable[tuple[Path, dict[str, Any]]]
) -> Iterator[str | None]:
    """Measures the checkpoints that a trajectory lacks, as its `missing` yields them.

    Yields, after each checkpoint, None once its line is on disk, or the reason why it could not be measured; the others
    are still measured. What was measured of a file's earlier content is dropped.
    """
    for checkpoint, start in todo:
        try:
            load_weights(subject.model, checkpoint)
            measured = subject.measure(vci=False).to_dict()
        except ValueError as error:  # for example, the model has diverged
            if start["sha256"]:  # else the file cannot be read now, which says nothing about its content
                trajectory.drop(start)
            yield str(error) if isinstance(error, CheckpointError) else f"{checkpoint}: {error}"
        else:
            trajectory.add({**start, **measured})
            yield None
