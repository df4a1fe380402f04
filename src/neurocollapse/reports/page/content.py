"""Prepares the content of a report as plain values for its page: rounds numbers, and packs a limited set of samples."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...training import RunConfig
from ..panels import COLLAPSE_PANELS, LAYER_PANELS, PANELS, data_term, layer_keys

#: The bytes of runs and of samples in motion in a page, which has 1.6 MB beside: the more runs, the fewer in motion.
_CONTENT_BYTES = 3_300_000
#: Samples in motion are 16-bit integers, which base64 and the matrices beside them make larger.
_MOTION_SHARE = 0.6

#: The most records of a run that are shown in motion.
_FRAMES = 32

#: For the norms of the means only the scale-free reading is shown.
_PANELS = {key: panel for key, panel in PANELS.items() if key != "nc2_norm_variance"}

#: Keys without a panel, for the tables and the downloads.
_OTHER_KEYS = ("accuracy", "loss", "objective")


@dataclass(frozen=True)
class ReportRun:
    """A run as it was found. If it is damaged, `records` and `snapshots` are empty, and `message` says why.

    `status` is finished, unfinished, diverged or damaged; `snapshots` are arrays by epoch, as in `training.snapshot`.
    """

    name: str
    status: str
    config: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""
    num_classes: int = 0
    records: Sequence[Mapping[str, Any]] = ()
    snapshots: Mapping[int, Mapping[str, np.ndarray]] = field(default_factory=dict)
    seconds: float = math.nan
    provenance: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()


def report_content(
    runs: Sequence[ReportRun],
    *,
    title: str,
    theory: Mapping[str, Any] | None = None,
    claims: Sequence[Mapping[str, Any]] = (),
    left_out: Sequence[str] = (),
    reload_seconds: float | None = None,
) -> dict[str, Any]:
    """Returns the values that the page shows.

    `theory` holds theory tables as plain values by the run's name, `claims` holds verdicts, and `left_out` says what
    could not be read. With `reload_seconds` the page reloads itself as long as runs are unfinished.
    """
    found = [run for run in runs if run.status != "damaged"]
    varied = _varied(found)
    whole = sorted(found, key=lambda run: [values.index(run.config.get(name)) for name, values in varied.items()])
    values_of_runs = [_run(run, varied) for run in whole]
    left = _CONTENT_BYTES - len(json.dumps(values_of_runs, separators=(",", ":")))
    moving = _moving(whole, varied, left * _MOTION_SHARE)
    return {
        "title": title,
        "reload": reload_seconds,
        "fields": [{"name": name, "values": values} for name, values in varied.items()],
        "common": _common(whole),
        "panels": _panels(whole),
        "layers": _layer_panels(whole),
        "runs": values_of_runs,
        "motion": {run.name: _motion(run) for run in moving},
        "theory": _finite(theory or {}),
        "claims": list(claims),
        "left_out": list(left_out),
        "damaged": [{"name": run.name, "message": run.message} for run in runs if run.status == "damaged"],
        "provenance": _distinct(record for run in whole for record in run.provenance),
        "notes": _distinct(note for run in whole for note in run.notes),
    }


def _varied(runs: Sequence[ReportRun]) -> dict[str, list[Any]]:
    """Returns the fields in which the runs differ with all their values: λ first, the seed last, and always both.

    Runs of the user's own loop may lack both; their names are then among the fields.
    """
    there = _fields(runs)
    names = [name for name in there if name not in ("weight_decay", "seed")]
    found = {name: _values(runs, name) for name in ("weight_decay", *names, "seed") if name in there}
    return {n: values for n, values in found.items() if len(values) > 1 or n in ("weight_decay", "seed", "run")}


def _fields(runs: Sequence[ReportRun]) -> dict[str, Any]:
    """Returns the fields of all configurations, each with its default if it has one."""
    names = dict.fromkeys(name for run in runs for name in run.config) if runs else vars(RunConfig())
    return {name: vars(RunConfig()).get(name, ...) for name in names}


def _values(runs: Sequence[ReportRun], name: str) -> list[Any]:
    values = _distinct(run.config.get(name) for run in runs)
    return sorted(values, key=lambda value: (isinstance(value, str), value is None, value if value is not None else 0))


def _distinct(values: Any) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _common(runs: Sequence[ReportRun]) -> dict[str, Any]:
    """Returns the fields that have one value in all runs, and whether it is the default."""
    return {
        name: {"value": values[0], "default": values[0] == default}
        for name, default in _fields(runs).items()
        if len(values := _values(runs, name)) == 1
    }


def _panels(runs: Sequence[ReportRun]) -> list[dict[str, str]]:
    term = data_term(run.config.get("loss", "square") for run in runs)
    return [
        {"key": key, "name": panel.name, "formula": panel.formula}
        for key, panel in _PANELS.items()
        if key in (term, *COLLAPSE_PANELS)
    ]


def _layer_panels(runs: Sequence[ReportRun]) -> list[dict[str, str]]:
    """Returns the measures of layers that some run has."""
    there = {measure for run in runs for record in run.records[:1] for _, measure in layer_keys(record)}
    return [
        {"key": key, "name": panel.name, "formula": panel.formula}
        for key, panel in LAYER_PANELS.items()
        if key in there
    ]


def _run(run: ReportRun, varied: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": run.name,
        "status": run.status,
        "message": run.message,
        "values": {name: run.config.get(name) for name in varied},
        "seconds": _rounded(run.seconds),
        "epoch": run.records[-1]["epoch"] if run.records else None,
        "epochs": run.config.get("epochs"),
        "classes": run.num_classes,
        "recorded": [record["epoch"] for record in run.records],
        "series": {split: _series(run, split) for split in ("train", "test")},
        "norms": _norms(run.records),
        "layers": _layers(run.records),
        "terminal": run.records[-1].get("terminal_phase_start") if run.records else None,
    }


def _finite(value: Any) -> Any:
    """Returns plain values, with None for each number that JSON lacks."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _series(run: ReportRun, split: str) -> dict[str, list[float | None]]:
    """Returns the values over the records by key, for the keys that have a value; NC2 is constant for two classes."""
    keys = [key for key in (*_PANELS, *_OTHER_KEYS) if run.num_classes != 2 or not key.startswith("nc2")]
    found = {key: [_rounded(record.get(f"{split}.{key}")) for record in run.records] for key in keys}
    return {key: values for key, values in found.items() if any(value is not None for value in values)}


def _rounded(value: Any) -> float | None:
    """Rounds to seven digits; returns None for a value that is not a number or not finite."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(f"{value:.7g}")


def _norms(records: Sequence[Mapping[str, Any]]) -> list[list[float | None]]:
    """Returns ‖W_l‖² of every layer, over the records; an empty list unless each has them, of as many layers."""
    by_record = [norms for record in records if isinstance(norms := record.get("train.weight_norms"), list)]
    if len(by_record) < len(records) or len(set(map(len, by_record))) > 1:
        return []
    return [[_rounded(value) for value in layer] for layer in zip(*by_record, strict=True)]


def _layers(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float | None]]]:
    """Returns the values over the records by measure and layer, the layers in their order."""
    found: dict[str, dict[str, list[float | None]]] = {}
    for (layer, measure), key in layer_keys(records[0] if records else ()).items():
        found.setdefault(measure, {})[layer] = [_rounded(record.get(key)) for record in records]
    return {measure: found[measure] for measure in LAYER_PANELS if measure in found}


def _moving(runs: Sequence[ReportRun], varied: Mapping[str, Any], left: float) -> list[ReportRun]:
    """Returns the runs whose samples fit into so many bytes: one of every setting before a second seed of any.

    There is one at least.
    """
    seen: dict[Any, int] = {}

    def turn(run: ReportRun) -> int:
        setting = tuple(repr(run.config.get(name)) for name in varied if name != "seed")
        seen[setting] = seen.get(setting, -1) + 1
        return seen[setting]

    chosen: list[ReportRun] = []
    for run in sorted((run for run in runs if run.snapshots), key=turn):
        size = sum(2 * run.snapshots[epoch]["samples"].size for epoch in _frames(run))
        if size <= left or not chosen:
            chosen.append(run)
            left -= size
    return chosen


def _frames(run: ReportRun) -> list[int]:
    """Returns the recorded epochs that are shown, which include the first and the last."""
    epochs = sorted(run.snapshots)
    places = np.linspace(0, len(epochs) - 1, min(_FRAMES, len(epochs))).round().astype(int)
    return [epochs[place] for place in places]


def _motion(run: ReportRun) -> dict[str, Any]:
    """Returns the samples of all frames as 16-bit integers in base64, with the value of the largest integer."""
    frames = _frames(run)
    shots = [run.snapshots[epoch] for epoch in frames]
    scales = [float(np.abs(shot["samples"]).max()) or 1.0 for shot in shots]
    packed = [np.round(shot["samples"] / scale * 32767) for shot, scale in zip(shots, scales, strict=True)]
    return {
        "epochs": frames,
        "labels": shots[0]["labels"].tolist(),
        "scales": [_rounded(scale) for scale in scales],
        "samples": base64.b64encode(np.stack(packed).astype("<i2").tobytes()).decode(),
        **{name: [_matrix(shot[name]) for shot in shots] for name in ("means", "weight_gram", "means_gram")},
    }


def _matrix(values: np.ndarray) -> list[list[float | None]]:
    return [[_rounded(value) for value in row] for row in values.tolist()]
