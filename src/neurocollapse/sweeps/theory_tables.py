"""Verifies runs on disk against the theory and keeps their tables beside them in theory.json."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .._errors import InputError, RunError, VerificationError, WriteError
from .._files import in_one_line, read_bytes, to_json, write_text
from .._progress import Progress
from .._schema import parsed, typed
from ..datasets import Dataset
from ..networks import decays, find_classifier
from ..theory import Comparison, TheoryTable, balance_along_flow, doubt_of_decoupled, table_of
from ..training import FullBatch, RunConfig, flow_time, network_of, training_data
from .folder import RunFolder
from .identity import check_same
from .naming import run_name
from .networks_tried import fingerprint
from .sums_of_rows import check_predicted, recorded_sums, table_of_sums
from .tensors import load_weights

#: The version of the statements in theory.json; a table kept from another version is computed again.
THEORY_VERSION = 1

_NO_WEIGHTS = "there are no weights to verify: the run is {}; {}"

ALONG = "along training, read as gradient flow"


def verify_run(
    folder: RunFolder, *, data_dir: Path | None = None, device: str = "cpu", force: bool = False
) -> TheoryTable:
    """Returns the theory table at a finished run's last weights. Raises `RunError`, `VerificationError`."""
    dataset = training_data(folder.config, data_dir)
    check_predicted(folder.config)
    objective = _objective(folder, dataset, device)
    if folder.config.loss != "square":
        table = table_of_sums(folder.config, objective, dataset, recorded_sums(folder))
    else:
        table = table_of(objective, force=force, doubt=_doubt(folder.config, force=force))
        if along := _balance_along(folder, len(objective.labels)):
            table = replace(table, sections={**table.sections, ALONG: along})
    if folder.path.resolve().name != run_name(folder.config, dataset.sha256, folder.description["defaults"]):
        renamed = "the folder's name is not the run's own: it was renamed, or its config.json was edited since"
        table = replace(table, notes=(renamed, *table.notes))
    return table


def verify_trained(
    config: RunConfig, model: nn.Module | None, dataset: Dataset, last: int, *, force: bool = False
) -> TheoryTable:
    """Returns the theory table of a run in memory at its `last` epoch; `model` is None if it diverged.

    Raises `VerificationError`.
    """
    check_predicted(config)
    if model is None:
        raise VerificationError(_NO_WEIGHTS.format("diverged", "name another"))
    objective = _full_batch(config, model, dataset, next(model.parameters()).device)
    if config.loss != "square":
        return table_of_sums(config, objective, dataset, {last: None})
    return table_of(objective, force=force, doubt=_doubt(config, force=force))


def objective_of_run(folder: RunFolder, *, data_dir: Path | None = None, device: str = "cpu") -> FullBatch:
    """Returns the objective of Eq. 1 for a run's network at its last weights, on its training data.

    Raises `RunError` for a damaged run, other data or an edited network, and `VerificationError` for a run without
    weights.
    """
    if folder.config.loss != "square":
        raise VerificationError(f"the run's loss is {folder.config.loss}, and the theory is about the square loss")
    return _objective(folder, training_data(folder.config, data_dir), device)


def _objective(folder: RunFolder, dataset: Dataset, device: str) -> FullBatch:
    folder.check_whole()
    config = folder.config
    if folder.status != "finished":
        remedy = "name another" if folder.status == "diverged" else "finish it, or name another"
        raise VerificationError(_NO_WEIGHTS.format(folder.status, remedy))
    check_same(folder, dataset, fingerprint(config, dataset))
    model = network_of(config, dataset)
    load_weights(model, folder)
    return _full_batch(config, model.to(device), dataset, device)


def _full_batch(config: RunConfig, model: nn.Module, dataset: Dataset, device: torch.device | str) -> FullBatch:
    images, labels = dataset.train.images.to(device), dataset.train.labels.to(device)
    each = decays(model, find_classifier(model, images[:2], dataset.num_classes), config.weight_decay, config.bias)
    return FullBatch(model, images, labels, each, config.loss)


def _doubt(config: RunConfig, *, force: bool) -> str | None:
    """Returns the reason why the theory does not apply, if `force` is set; otherwise raises `VerificationError`."""
    return doubt_of_decoupled(config.optimizer, force=force) if config.decouples else None


def _balance_along(folder: RunFolder, samples: int) -> tuple[Comparison, ...]:
    """Compares the layer norms of the records with e^{−2λt}, t the sum of the learning rates; for SGD at a fixed λ."""
    config, records = folder.config, folder.records()
    flows = config.optimizer == "sgd" and config.decay_start == 1 and config.balancing == "none"
    if not flows or len(records) < 2:
        return ()
    times = [flow_time(config, record["epoch"], samples) for record in records]
    return tuple(balance_along_flow(times, [record["train.weight_norms"] for record in records], config.weight_decay))


class TheoryFile:
    """The tables of runs in one .json file, which is rewritten after each; if it cannot be read, it starts empty.

    A kept table is used for a run with the same weights and from the same version of the statements.
    """

    def __init__(self, path: Path, *, force: bool = False):
        self.path, self.force = path, force
        self.entries: dict[str, Any] = {}
        self.damage = ""
        """Why an existing file cannot be read."""
        self.unwritten = ""
        """Why the file cannot be written, such as a folder that one may only read."""
        try:
            self.entries = typed(dict[str, Any], parsed(read_bytes(path)))
        except FileNotFoundError:
            pass
        except Exception as error:  # it is only kept to save time
            self.damage = f"{path} cannot be read ({in_one_line(error)}); verify writes it again"

    def _key(self, folder: RunFolder) -> dict[str, Any]:
        return {"version": THEORY_VERSION, "weights": folder.weights_digest, "forced": self.force}

    def get(self, folder: RunFolder) -> TheoryTable | None:
        """Returns the run's table; None if there is none for its weights, none readable, or the run is damaged."""
        entry = self.entries.get(folder.path.name)
        try:
            if not isinstance(entry, dict) or not self._key(folder).items() <= entry.items():
                return None
            folder.check_whole()
            return TheoryTable.from_dict(entry)
        except (InputError, RunError):
            return None

    def keep(self, folder: RunFolder, table: TheoryTable) -> None:
        """Adds the run's table and writes the file, if that can be written."""
        self.entries[folder.path.name] = {**self._key(folder), **table.to_dict()}
        try:
            write_text(self.path, to_json(self.entries, indent=1) + "\n")
        except WriteError as error:
            self.unwritten = str(error)


def verify_runs(
    folders: Iterable[RunFolder], kept: TheoryFile, *, data_dir: Path | None = None, device: str = "cpu"
) -> Iterator[tuple[RunFolder, TheoryTable | str]]:
    """Yields each run with its table or the reason why it has none; tables already in `kept` are not recomputed."""
    for folder in folders:
        table = kept.get(folder)
        if table is None:
            try:
                table = verify_run(folder, data_dir=data_dir, device=device, force=kept.force)
            except ValueError as error:  # the package's own: the other runs are still verified
                yield folder, str(error)
                continue
            kept.keep(folder, table)
        yield folder, table


def keep_tables(
    found: Sequence[RunFolder],
    theory_file: Path,
    *,
    data_dir: Path | None = None,
    device: str = "cpu",
    force: bool = False,
    progress: bool | None = None,
) -> dict[RunFolder, TheoryTable]:
    """Returns the tables of these runs and keeps them in `theory_file`; names the runs without a table, and why."""
    shown = Progress(progress)
    tables = {}
    reasons: dict[str, list[str]] = {}
    kept = TheoryFile(theory_file, force=force)
    verified = verify_runs(found, kept, data_dir=data_dir, device=device)
    if not all(kept.get(folder) for folder in found):
        verified = shown.track(verified, "verifying", len(found))
    for folder, table in verified:
        if isinstance(table, str):
            reasons.setdefault(table, []).append(folder.path.name)
        else:
            tables[folder] = table
    for reason, runs in reasons.items():
        which = f"all {len(runs)} runs" if len(runs) == len(found) > 1 else ", ".join(runs)
        shown.say(f"not verified, {which}: {reason}")
    if kept.unwritten:
        shown.say(f"the tables are not kept: {kept.unwritten}")
    return tables
