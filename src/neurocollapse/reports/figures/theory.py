"""Theory beside measurement, drawn: norms of the classifier's rows and of the layers, and minority collapse."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .drawing import COLOURS, GREY, MARKERS, REFERENCE, grid, house_style, write_around


def theory_figure(rows: pd.DataFrame, flow: pd.DataFrame, weight_decay: float, note: str | None = None) -> Figure:
    """‖W^c‖² as predicted against measured, and the layers' norms merging along gradient flow.

    Args:
        rows: a row for each classifier row: `network`, `predicted` and `measured` ‖W^c‖².
        flow: a row for each time: `time`, and ‖W_l‖² in columns `W_1`, `W_2`, ….
        weight_decay: λ of the flow; ‖W_l‖² − ‖W_k‖² should fall as e^{−2λt}.
    """
    with house_style():
        figure, (left, right) = grid(1, 2, size=(10.0, 4.2))
        _draw_rows(left, rows)
        _draw_merging(right, flow, weight_decay)
        write_around(figure, None, note)
    return figure


def _draw_rows(axes: Axes, rows: pd.DataFrame) -> None:
    axes.set_title(r"Rows of the classifier, Eq. 3: $(\varepsilon-\frac{C}{C-1}\varepsilon^2)/(C\lambda)$")
    for index, (network, group) in enumerate(rows.groupby("network", sort=False)):
        look: dict[str, Any] = {"marker": MARKERS[index % len(MARKERS)], "color": COLOURS[index % len(COLOURS)]}
        axes.plot(group["predicted"], group["measured"], linestyle="none", markersize=5, label=str(network), **look)
    ends = np.array(
        [rows[["predicted", "measured"]].min().min() / 1.2, rows[["predicted", "measured"]].max().max() * 1.2]
    )
    axes.plot(ends, ends, label="predicted = measured", **REFERENCE)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(r"predicted $\Vert W^c\Vert^2$")
    axes.set_ylabel(r"measured $\Vert W^c\Vert^2$")
    axes.legend(loc="best")


def _draw_merging(axes: Axes, flow: pd.DataFrame, weight_decay: float) -> None:
    axes.set_title(r"Layers along gradient flow: $|\Vert W_l\Vert^2-\Vert W_{l-1}\Vert^2|$")
    time, norms = flow["time"].to_numpy(), flow.drop(columns="time").to_numpy()
    decay = np.exp(-2 * weight_decay * (time - time[0]))
    for layer, difference in enumerate(np.abs(np.diff(norms, axis=1)).T):
        colour = COLOURS[layer % len(COLOURS)]
        axes.plot(time, difference[0] * decay, color=colour, linewidth=1.0, label="_")
        marks: dict[str, Any] = {"marker": MARKERS[layer % len(MARKERS)], "color": colour, "markersize": 5}
        axes.plot(time, difference, linestyle="none", label=f"layers {layer + 2} and {layer + 1}", **marks)
    axes.plot([], [], color=GREY, linewidth=1.0, label=r"predicted, $e^{-2\lambda t}$")
    axes.set_yscale("log")
    axes.set_xlabel("time of gradient flow")
    axes.legend(loc="best")


def minority_figure(frame: pd.DataFrame, threshold: float) -> Figure:
    """Output of a class of the unconstrained features model on itself against its size: zero up to the threshold.

    Args:
        frame: a row for each problem: `size` n_k of the small class, its output `found` and in `closed_form`.
        threshold: N² λ_W λ_H, up to which a class collapses; it depends on n_k itself, as N does, so that it is the
            size at which the two are equal.
    """
    with house_style():
        figure, (axes,) = grid(1, 1, size=(5.6, 4.0))
        axes.plot(frame["size"], frame["closed_form"], color=COLOURS[1], label="closed form")
        axes.plot(frame["size"], frame["found"], "o", color=COLOURS[0], markersize=5, label="found from random starts")
        axes.axvline(threshold, label=r"$n_k=N^2\lambda_W\lambda_H$", **REFERENCE)
        axes.set_xlabel(r"samples $n_k$ of the small class")
        axes.set_ylabel("its own output")
        axes.legend(loc="best")
    return figure
