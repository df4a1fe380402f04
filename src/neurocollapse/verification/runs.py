"""The theory table of runs on disk, kept beside them in theory.json."""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..datasets import load_dataset
from ..full_batch import FullBatch
from ..networks import decays, find_classifier
from ..probing import fingerprint
from ..store import RunFolder, to_json, write_text
from ..theory import Comparison, TheoryTable, balance_along_flow
from ..training import flow_time, network_of
from .gathering import VerificationError
from .models import table_of

#: Version of what theory.json holds: it changes with the statements, so that a kept table is not taken for a new one.
THEORY_VERSION = 1

ALONG = "along training, read as gradient flow"


def verify_run(folder: RunFolder, *, data_dir: Path | None = None, force: bool = False) -> TheoryTable:
    """The theory table of a finished run's last weights. Raises `StoreError`, `VerificationError`."""
    objective = objective_of_run(folder, data_dir=data_dir)
    table = table_of(objective, force=force)
    along = _balance_along(folder, len(objective.labels))
    return TheoryTable({**table.sections, **({ALONG: along} if along else {})}, table.facts, table.notes)


def objective_of_run(folder: RunFolder, *, data_dir: Path | None = None) -> FullBatch:
    """Eq. 1 of a run's network at its last weights, on its training data.

    Raises `StoreError` for a damaged run, other data or an edited network, `VerificationError` for one without weights.
    """
    folder.check_whole()
    config = folder.config
    if folder.status != "finished":
        raise VerificationError(
            f"{folder.path} has no weights to verify: the run is {folder.status}; finish it, or name another"
        )
    dataset = load_dataset(config.dataset, data_dir=data_dir, per_class=config.per_class)
    folder.check_same(dataset, fingerprint(config, dataset))
    model = network_of(config, dataset)
    model.load_state_dict(folder.weights())
    each = decays(model, find_classifier(model), config.weight_decay, config.bias)
    return FullBatch(model, dataset.train.images, dataset.train.labels, each)


def _balance_along(folder: RunFolder, samples: int) -> tuple[Comparison, ...]:
    """The layer norms of the records against e^{−2λt}, t the sum of the learning rates; none of Adam, which rescales."""
    config, records = folder.config, folder.records()
    if config.optimizer != "sgd" or len(records) < 2:
        return ()
    times = [flow_time(config, record["epoch"], samples) for record in records]
    return tuple(balance_along_flow(times, [record["train.weight_norms"] for record in records], config.weight_decay))


def verify_runs(
    folders: Iterable[RunFolder],
    theory_file: Path,
    *,
    data_dir: Path | None = None,
    force: bool = False,
    on_table: Callable[[RunFolder], None] = lambda _: None,
) -> dict[str, TheoryTable]:
    """The tables of all finished runs by their ids, written to `theory_file` one by one.

    What is in that file of the same weights, from the same statements, is not computed again. `on_table` is called
    after each run.
    """
    known = _read(theory_file)
    tables = {}
    for folder in folders:
        key = {"version": THEORY_VERSION, "weights": _digest(folder.path / "model.safetensors"), "forced": force}
        entry = known.get(folder.path.name)
        if not isinstance(entry, dict) or not key.items() <= entry.items():
            table = verify_run(folder, data_dir=data_dir, force=force)
            known[folder.path.name] = {**key, **table.to_dict()}
            write_text(theory_file, to_json(known, indent=1) + "\n")
        tables[folder.path.name] = TheoryTable.from_dict(known[folder.path.name])
        on_table(folder)
    return tables


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def _read(path: Path) -> dict[str, Any]:
    """What was kept; nothing where it cannot be read, since all of it can be computed again."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
