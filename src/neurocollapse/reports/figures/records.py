"""Draws the paper's figure from records: pure functions from a data frame to a matplotlib figure.

A frame has one row per run and recorded epoch: `run_id`, the run's configuration (`weight_decay`, which is Eq. 1's λ,
`seed`, `network`, …), `epoch` (0 is before training), `terminal_phase_start`, and metrics: `train.nc1`, `test.nc1`, ….
A row with a NaN or an infinity for a metric adds no point to that metric's panel.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..._errors import checks_arguments
from ..panels import COLLAPSE_PANELS, PANELS, data_term
from .drawing import (
    COLOURS,
    DASHES,
    GREEN,
    GREY,
    REFERENCE,
    grid,
    house_style,
    in_powers,
    set_ticks,
    set_value_axis,
    write_around,
)
from .frames import checked, tidy, values

START: dict[str, Any] = {
    "marker": "o",
    "markersize": 5,
    "markeredgecolor": "white",
    "linestyle": "none",
    "label": "training error is 0 from here",
}
END: dict[str, Any] = {
    "marker": "x",
    "markersize": 5,
    "markeredgewidth": 1.2,
    "linestyle": "none",
    "label": "a run’s last finite record",
}


@checks_arguments
def collapse_figure(
    frame: pd.DataFrame,
    *,
    split: str = "train",
    title: str | None = None,
    note: str | None = None,
    weight_decays: Sequence[float] = (),
    by: Literal["weight_decay", "run_id"] = "weight_decay",
) -> Figure:
    """Draws the paper's panels against epochs: data term, NC1, NC2 (three readings), NC3, NC4, with a line for each λ.

    With `by="run_id"` there is a line for each run instead.

    The data term is the square loss, or the cross-entropy if a column `loss` says so for every run.

    A line is the median over seeds, and the band around it goes from the least to the greatest. A run is interpolated
    between its records, so that runs recorded at different epochs have a median. `note` is printed below the panels.
    Pass all `weight_decays` of the experiment so that each λ keeps its colour when runs of another λ are missing. With
    a column `num_classes`, NC3 has a thin line at √(2 − 2√(1 − 1/C)), the optimum of the unconstrained features model
    without a bias, where W is an orthogonal frame; it is left out if columns `loss` or `bias` show another objective.

    Raises `ValueError` for an empty frame, a missing column, an epoch recorded twice, or two runs with one λ and seed.

    Rangamani and Banburski-Fahey (2022), Figures 1 and 2.
    """
    frame = tidy(frame)
    panels = (data_term(values(frame, "loss")), *COLLAPSE_PANELS)
    columns = [f"{split}.{key}" for key in panels]
    one_run_per = ["weight_decay", "seed"] if by == "weight_decay" else ["run_id"]
    frame = checked(frame, ["terminal_phase_start", *columns], one_run_per=one_run_per)
    there = set(frame[by])
    looks = {value: look for value, look in looks_of({*weight_decays, *there}).items() if value in there}
    with house_style():
        figure, cells = grid(2, 4, size=(10.8, 5.9))
        write_around(figure, title, note)
        reference = nc3_reference(frame)
        for axes, key, column in zip(cells[:7], panels, columns, strict=True):
            draw_trajectories(axes, frame, by, column, looks)
            dress(axes, key, frame[column], reference)
            set_epoch_axis(axes, int(frame["epoch"].max()))
        for axes in cells[3:7]:  # the lowest of each column, since the eighth cell holds the legend
            axes.set_xlabel("epoch")
        drawn = {line.get_label() for axes in cells for line in axes.lines}
        marks = _marks(frame, by, drawn) | {str(line.get_label()): line for line in reference_entry(reference)}
        _draw_legend(cells[7], looks, marks, by, split)
    return figure


def looks_of(lines: set[Any]) -> dict[Any, dict[str, Any]]:
    """Returns colour and dashes of each λ or run: green and solid for 0, then orange, blue and others in order."""
    looks: dict[Any, dict[str, Any]] = {0.0: {"color": GREEN, "linestyle": "-"}} if 0.0 in lines else {}
    for i, line in enumerate(sorted(lines - {0.0})):
        looks[line] = {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % len(DASHES)]}
    return looks


def _label(line: Any) -> str:
    return in_powers(line) if isinstance(line, float) else str(line).replace("$", r"\$")


def draw_trajectories(axes: Axes, frame: pd.DataFrame, by: str, column: str, looks: dict[Any, dict[str, Any]]) -> None:
    for line, look in looks.items():
        group = frame[frame[by] == line]
        finite = group[np.isfinite(group[column])]
        if finite.empty:
            continue
        runs = finite.pivot(index="epoch", columns="run_id", values=column)
        runs = runs.interpolate(method="index", limit_area="inside")
        median = runs.median(axis=1)
        single: dict[str, Any] = {"marker": "o", "markersize": 3.5} if len(median) == 1 else {}
        axes.plot(median.index, median, label=_label(line), **look, **single)
        if len(runs.columns) > 1:
            axes.fill_between(median.index, runs.min(axis=1), runs.max(axis=1), color=look["color"], alpha=0.18, lw=0)
        for run in (runs[run_id].dropna() for run_id in runs):
            if run.index[-1] < frame["epoch"].max():
                axes.plot(run.index[-1], run.iloc[-1], color=look["color"], **END)
        start = _terminal_phase_start(group)
        if median.index[0] <= start <= median.index[-1]:
            axes.plot(start, np.interp(start, median.index, median), color=look["color"], **START)


def _terminal_phase_start(group: pd.DataFrame) -> float:
    """Returns the median over runs, which is a recorded epoch; inf unless more than half the runs have reached it."""
    starts = group.groupby("run_id").tail(1)["terminal_phase_start"].fillna(math.inf)
    return sorted(starts)[len(starts) // 2]


def nc3_reference(frame: pd.DataFrame) -> float:
    """Returns √(2 − 2√(1 − 1/C)); nan unless all runs have one number of classes, the square loss and no bias."""
    classes = {number for number in values(frame, "num_classes") if number > 1}
    if values(frame, "loss") - {"square"} or values(frame, "bias") - {"none"}:
        return math.nan
    return math.sqrt(2 - 2 * math.sqrt(1 - 1 / classes.pop())) if len(classes) == 1 else math.nan


def reference_entry(reference: float) -> list[Line2D]:
    """Returns the legend entry of NC3's reference line; an empty list if there is no reference."""
    label = f"bias-free unconstrained\nfeatures model: {reference:.3f}"
    return [] if math.isnan(reference) else [Line2D([], [], label=label, **REFERENCE)]


def dress(axes: Axes, key: str, column: pd.Series, reference: float) -> None:
    """Writes a panel's title, sets its y axis and, for NC3, draws the reference line."""
    name, _, formula = PANELS[key]
    # Two texts, each on its own baseline: in one text, a tall formula would lift the name above its neighbours.
    axes.set_title(name, pad=21)
    axes.annotate(formula, (0, 1), xytext=(0, 7), xycoords="axes fraction", textcoords="offset points", va="baseline")
    finite = column[np.isfinite(column)].to_numpy()
    if not len(finite):
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", color=GREY)
    if key == "nc3" and not math.isnan(reference):
        axes.axhline(reference, **REFERENCE)
        finite = np.append(finite, reference)
    set_value_axis(axes, finite)


def set_epoch_axis(axes: Axes, last: int) -> None:
    axes.set_xscale("symlog", linthresh=1, linscale=0.35)
    axes.set_xlim(-0.3, max(last, 1) * 1.2)
    decades = [10.0**k for k in range(len(str(last)))]
    ticks = [0.0, *decades] if last >= 10 else [tick for tick in (0.0, 1.0, 2.0, 5.0) if tick <= max(last, 1)]
    between = [m * decade for decade in decades for m in range(2, 10) if m * decade <= last]
    set_ticks(axes.xaxis, {tick: f"{tick:.0f}" for tick in ticks}, between)


def _marks(frame: pd.DataFrame, by: str, drawn: set[object]) -> dict[str, Any]:
    """Returns legend entries for the band, if there are several seeds, and for the marks whose labels are `drawn`."""
    marks: dict[str, Any] = {}
    seeds = frame.drop_duplicates("run_id").groupby(by).size()
    if seeds.max() > 1:
        count = f"{seeds.max()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
        marks[f"median and range of {count} seeds"] = (Patch(color=GREY, alpha=0.25, lw=0), Line2D([], [], color=GREY))
    return marks | {
        look["label"]: Line2D([], [], color=GREY, **look) for look in (START, END) if look["label"] in drawn
    }


def _draw_legend(axes: Axes, looks: dict[Any, dict[str, Any]], marks: dict[str, Any], by: str, split: str) -> None:
    """Draws λ above and the marks below, in a cell without axes, which leaves the height of titles and ticks free."""
    axes.set_axis_off()
    lines = [Line2D([], [], label=_label(line), **look) for line, look in looks.items()]
    title = "Run" if by == "run_id" else r"Weight decay $\lambda$"
    title += ", " + {"train": "training set", "test": "test set"}.get(split, split)
    place: dict[str, Any] = {"borderaxespad": 0, "borderpad": 0, "handlelength": 2.8, "alignment": "left"}
    columns = math.ceil(len(lines) / 5)
    above = axes.legend(handles=lines, title=title, ncols=columns, loc="upper left", bbox_to_anchor=(0, 1.2), **place)
    axes.add_artist(above)
    axes.legend(marks.values(), marks.keys(), loc="lower left", bbox_to_anchor=(0, -0.2), **place)
