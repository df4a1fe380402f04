"""Draws the paper's panels from whatever holds records."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ..._errors import InputError, RunError, checks_arguments
from ..._files import path_of
from ...sweeps import frame_of, record_rows, runs
from ..panels import COLLAPSE_PANELS, data_term
from ..trajectories import trajectory_runs
from .frames import tidy, values
from .records import collapse_figure


@checks_arguments
def plot(
    records: pd.DataFrame | Path | str, *, split: str = "train", title: str | None = None, note: str | None = None
) -> Figure:
    """Draws the paper's panels against epochs, and returns a matplotlib figure.

    A line is a λ, the median over its seeds, if `weight_decay` and `seed` tell the runs apart, and else a run. A number
    that was not recorded leaves its panel empty.

    Args:
        records: a frame such as `runs` returns, a folder of runs or of one, or the .jsonl file of a trajectory that
            `neurocollapse measure` wrote.
        split: "train", or "test" if the test data were measured.
        title: is written above the panels.
        note: is written below them.

    Raises:
        ValueError: there are no records, or none of this split.

    >>> import neurocollapse as nc
    >>> import pandas as pd
    >>> frame = pd.DataFrame({"run_id": "mine", "epoch": [1, 2], "train.nc1": [0.5, 0.25]})
    >>> figure = nc.plot(frame, title="My run")
    >>> figure.get_suptitle()
    'My run'
    """
    frame = tidy(records if isinstance(records, pd.DataFrame) else records_of(path_of(records, RunError)))
    columns = [f"{split}.{key}" for key in (data_term(values(frame, "loss")), *COLLAPSE_PANELS)]
    if len(frame) and not {*columns} & {*frame.columns}:
        raise InputError(f"nothing in the records begins with {split}.; measure that split, or draw another")
    absent = [name for name in ("terminal_phase_start", *columns) if name not in frame]
    frame = frame.assign(**dict.fromkeys(absent, float("nan")))
    if not {"loss", "bias"} <= set(frame):  # which say whether the reference of NC3 is that of these networks
        frame = frame.drop(columns="num_classes", errors="ignore")
    return collapse_figure(
        frame, split=split, title=title, note=note, by="weight_decay" if _by_decay(frame) else "run_id"
    )


def records_of(path: Path) -> pd.DataFrame:
    """Returns the records of a folder of runs, or of a trajectory, as `runs` does."""
    if path.suffix != ".jsonl":
        return runs(path)
    found = trajectory_runs(path)
    described = [{"config": run.config, "num_classes": run.num_classes} for run in found]
    rows = [
        record_rows(run.name, run.status, each, map(dict, run.records))
        for run, each in zip(found, described, strict=True)
    ]
    return frame_of([row for of_run in rows for row in of_run])


def _by_decay(frame: pd.DataFrame) -> bool:
    """Whether λ and the seed are known and tell the runs apart."""
    if not {"run_id", "weight_decay", "seed"} <= set(frame):
        return False
    each = frame.drop_duplicates("run_id")[["weight_decay", "seed"]]
    each = each.assign(weight_decay=pd.to_numeric(each["weight_decay"], errors="coerce"))  # a loop's own may be text
    return not (each.isna().any(axis=None) or each.duplicated().any())
