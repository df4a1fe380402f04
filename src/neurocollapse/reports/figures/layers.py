"""Draws layers against epochs with a measure as colour, for runs that recorded all layers."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from ..._errors import InputError, checks_arguments
from ..panels import LAYER_PANELS, layer_keys
from .drawing import grid, house_style, in_powers, write_around
from .frames import checked, tidy

#: The measures that are shown by default.
SHOWN = ("nc1_trace_ratio", "nearest_mean_error", "weight_share_frame", "weight_alignment_frame")


@checks_arguments
def layers_figure(
    frame: pd.DataFrame, measures: Sequence[str] = SHOWN, *, title: str | None = None, note: str | None = None
) -> Figure:
    """Draws a panel for each measure of layers and each λ: a row for each layer, the first above, a column a record.

    A colour is the median over seeds; all panels of a measure share their colours. Layers without a weight have no row
    where the measure is of weights. Raises `ValueError` if no layer was recorded, for a measure that there is not, for
    no measure, and for what `collapse_figure` raises it.
    """
    frame = tidy(frame)
    columns = layer_keys(frame.columns)
    if not columns:
        raise InputError('the frame has no layers; pass records of runs that were trained with layers="all"')
    if not measures:
        raise InputError(f"measures names none, so there is nothing to draw; choose among {', '.join(LAYER_PANELS)}")
    if unknown := [measure for measure in measures if measure not in LAYER_PANELS]:
        raise InputError(f"there is no measure {unknown[0]!r} of layers; choose among {', '.join(LAYER_PANELS)}")
    there = list(dict.fromkeys(measure for _, measure in columns))
    if absent := [measure for measure in measures if measure not in there]:
        raise InputError(f"no layer of the frame has {absent[0]}; it has {', '.join(there)}")
    frame = checked(frame, list(columns.values()), one_run_per=["weight_decay", "seed"])
    decays = sorted(set(frame["weight_decay"]))
    with house_style():
        figure, cells = grid(len(measures), len(decays), size=(1.6 + 3.4 * len(decays), 0.7 + 2.1 * len(measures)))
        write_around(figure, title, note)
        for row, measure in enumerate(measures):
            named = {layer: column for (layer, key), column in columns.items() if key == measure}
            panels = [_median(frame[frame["weight_decay"] == decay], named) for decay in decays]
            across = cells[row * len(decays) : (row + 1) * len(decays)]
            norm = _norm(measure, np.concatenate([panel.to_numpy().ravel() for panel in panels]))
            for axes, panel, decay in zip(across, panels, decays, strict=True):
                mesh = axes.pcolormesh(panel.to_numpy(), norm=norm, cmap="viridis")
                _dress(axes, panel, first=axes is across[0], last=row == len(measures) - 1)
                if row == 0:
                    axes.set_title(rf"$\lambda$ = {in_powers(decay)}")
            figure.colorbar(mesh, ax=across, label=LAYER_PANELS[measure].mathtext)
    return figure


def _median(group: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    """Returns the medians over runs: a row for each layer, a column for each epoch."""
    medians = group.groupby("epoch")[list(columns.values())].median()
    return medians.set_axis(list(columns), axis=1).T


def _norm(measure: str, values: np.ndarray) -> Normalize:
    """Returns the scale of a measure's colours: logarithmic for NC1, from 0 to 1 for shares, else from 0."""
    finite = values[np.isfinite(values)]
    positive = finite[finite > 0]
    if measure.startswith("nc1") and len(positive):
        return LogNorm(positive.min(), positive.max(), clip=True)
    top = finite.max(initial=1.0) if measure == "weight_stable_rank" else 1.0
    return Normalize(0.0, top)


def _dress(axes: Axes, panel: pd.DataFrame, *, first: bool, last: bool) -> None:
    """Names the layers beside the first panel of a row, and some epochs below the last of a column."""
    axes.grid(visible=False)
    axes.invert_yaxis()
    axes.set_yticks(np.arange(len(panel)) + 0.5, list(panel.index) if first else [""] * len(panel))
    step = max(1, len(panel.columns) // 6)
    places = range(0, len(panel.columns), step)
    axes.set_xticks([place + 0.5 for place in places], [f"{panel.columns[place]}" if last else "" for place in places])
    axes.set_xlabel("epoch" if last else "")
