"""Figures that the pages show and no report does: where runs of a grid end, and theory beside measurement."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from neurocollapse.reports.figures.drawing import (
    COLOURS,
    DASHES,
    GREY,
    REFERENCE,
    grid,
    house_style,
    in_powers,
    set_ticks,
    write_around,
)
from neurocollapse.reports.figures.frames import checked
from neurocollapse.reports.figures.records import (
    draw_trajectories,
    dress,
    looks_of,
    nc3_reference,
    reference_entry,
    set_epoch_axis,
    values,
)
from neurocollapse.reports.panels import data_term

MARKERS = "osD^vP"
MEASURES = ("nc1", "nc2_equinorm", "nc2_cosine", "nc3", "nc4")

#: Two strokes across an axis.
GAP: dict[str, Any] = {
    "marker": [(-0.4, -1), (0.4, 1)],
    "markersize": 6,
    "markeredgewidth": 0.6,
    "color": "black",
    "linestyle": "none",
    "clip_on": False,
}


def trade_off_figure(frame: pd.DataFrame) -> Figure:
    """Each run's last record on the training set against λ: NC1 to NC4 and the data term, a line for each network.

    A line is the mean over seeds, a bar one sample standard deviation to either side, a dot a seed. λ = 0 stands left
    of a gap in the axis. A last value that is not finite is left out, and the note counts the runs that had one.

    Raises `ValueError` for an empty frame, a missing column, an epoch recorded twice, two runs of one network, λ, seed.
    """
    panels = (*MEASURES, data_term(values(frame, "loss")))
    columns = [f"train.{key}" for key in panels]
    frame = checked(frame, ["network", *columns], one_run_per=["network", "weight_decay", "seed"])
    last = frame.groupby("run_id").tail(1)
    with house_style():
        figure, cells = grid(2, 3, size=(10.0, 6.0))
        reference = nc3_reference(last)
        for axes, key, column in zip(cells, panels, columns, strict=True):
            _draw_final_values(axes, last, column)
            dress(axes, key, last[column], reference)
            _set_weight_decay_axis(axes, sorted(set(last["weight_decay"])))
        for axes in cells[3:]:
            axes.set_xlabel(r"weight decay $\lambda$")
        handles = [Line2D([], [], label=name, **look) for name, look in _network_looks(last).items()]
        figure.legend(handles=handles + reference_entry(reference), loc="outside upper center", ncols=4)
        left_out = int((~np.isfinite(last[columns])).any(axis=1).sum())
        counted = f" {left_out} of {len(last)} runs end with values that are not finite." if left_out else ""
        write_around(figure, None, f"Line and bar: mean and standard deviation over seeds. Dot: a seed.{counted}")
    return figure


def _network_looks(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": ("-", *DASHES)[i % (1 + len(DASHES))],
            "marker": MARKERS[i % len(MARKERS)],
            "fillstyle": "none" if i % 2 else "full",
            "markersize": 5,
        }
        for i, name in enumerate(sorted(set(frame["network"])))
    }


def _draw_final_values(axes: Axes, last: pd.DataFrame, column: str) -> None:
    finite = last[np.isfinite(last[column])]
    for name, look in _network_looks(last).items():
        group = finite[finite["network"] == name]
        axes.plot(group["weight_decay"], group[column], ".", color=look["color"], alpha=0.5, markersize=4)
        # The axis has a gap between 0 and the rest, so the line has one too.
        for part in (group[group["weight_decay"] == 0], group[group["weight_decay"] > 0]):
            seeds = part.groupby("weight_decay")[column]
            mean, deviation = seeds.mean(), seeds.std(ddof=1)
            axes.errorbar(mean.index, mean, deviation, capsize=2, elinewidth=0.8, label=name, **look)


def _set_weight_decay_axis(axes: Axes, weight_decays: list[float]) -> None:
    """Logarithmic, with 0 left of a gap; labels, those of powers of ten first, as far as there is room."""
    positive = [value for value in weight_decays if value > 0]
    if positive and len(positive) < len(weight_decays):
        axes.set_xscale("symlog", linthresh=positive[0], linscale=0.5)
        axes.set_xlim(-0.3 * positive[0], positive[-1] * 1.4)
        gap = [0.45 * positive[0], 0.55 * positive[0]]
        axes.plot(gap, [0, 0], transform=axes.get_xaxis_transform(), **GAP)
    elif positive:
        axes.set_xscale("log")
        axes.set_xlim(positive[0] / 1.4, positive[-1] * 1.4)
    place = axes.xaxis.get_transform().transform
    low, high = place(np.array(axes.get_xlim()))
    labelled: list[float] = []
    for value in sorted(weight_decays, key=lambda value: value > 0 and not math.log10(value).is_integer()):
        if all(abs(place(value) - place(other)) > 0.15 * (high - low) for other in labelled):
            labelled.append(value)
    set_ticks(axes.xaxis, {value: in_powers(value) if value in labelled else "" for value in weight_decays}, [])


def starts_figure(frames: dict[str, pd.DataFrame], note: str | None = None) -> Figure:
    """NC1 to NC4 against epochs, with a line and a band over seeds for each λ: a row of panels for each named start."""
    columns = [f"train.{key}" for key in MEASURES]
    frames = {
        name: checked(frame, ["terminal_phase_start", *columns], one_run_per=["weight_decay", "seed"])
        for name, frame in frames.items()
    }
    looks = looks_of({decay for frame in frames.values() for decay in frame["weight_decay"]})
    with house_style():
        figure, cells = grid(len(frames), len(MEASURES), size=(15.5, 2.8 * len(frames)))
        for row, (name, frame) in enumerate(frames.items()):
            for place, (key, column) in enumerate(zip(MEASURES, columns, strict=True)):
                axes = cells[row * len(MEASURES) + place]
                draw_trajectories(axes, frame, "weight_decay", column, looks)
                dress(axes, key, pd.concat([each[column] for each in frames.values()]), nc3_reference(frame))
                set_epoch_axis(axes, int(frame["epoch"].max()))
                axes.sharey(cells[place])
            cells[row * len(MEASURES)].set_ylabel(name)
        for axes in cells[-len(MEASURES) :]:
            axes.set_xlabel("epoch")
        entries = [Line2D([], [], label=rf"$\lambda=${in_powers(decay)}", **look) for decay, look in looks.items()]
        cells[0].legend(handles=entries, loc="lower left")
        write_around(figure, None, note)
    return figure


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


def finding_figure(apart: pd.DataFrame, joined: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Where collapse follows from weight decay: features of two exact problems, and what trained networks end with.

    Args:
        apart: samples of two classes, their coordinate `seen` by W and one `unseen`, without a linear layer.
        joined: the same with a linear layer before the classifier.
        runs: a row for each run: `linear_tail`, `weight_decay` and `unseen`, the share of Tr Σ_W that W does not see.
    """
    with house_style():
        figure, (left, middle, right) = grid(1, 3, size=(11.0, 3.9))
        for axes, frame, title in (
            (left, apart, "ReLU before the classifier:\noutputs collapsed, features not"),
            (middle, joined, "a linear layer before it:\nfeatures collapsed too"),
        ):
            axes.set_title(title)
            axes.axvline(0, **REFERENCE)
            for label, group in frame.groupby("label"):
                look: dict[str, Any] = {"marker": MARKERS[label], "color": COLOURS[label], "markersize": 9}
                axes.plot(group["seen"], group["unseen"], linestyle="none", label=f"class {label + 1}", **look)
            axes.set(xlim=(-0.75, 0.75), ylim=(-0.75, 0.75), xlabel="what the classifier sees of a feature")
        left.set_ylabel("what it does not see")
        left.legend(loc="upper center", ncols=2)
        _draw_unseen(right, runs)
        write_around(
            figure, None, "Left and middle: critical points with exact SQI. Right: 18 networks on 1,000 digits."
        )
    return figure


def _draw_unseen(axes: Axes, runs: pd.DataFrame) -> None:
    axes.set_title("trained on digits: share of the spread\nwithin classes that it does not see")
    for index, (decay, group) in enumerate(runs.groupby("weight_decay")):
        middle = group.groupby("linear_tail")["unseen"].median()
        look: dict[str, Any] = {"color": COLOURS[index], "marker": MARKERS[index]}
        axes.plot(middle.index, middle, label=rf"$\lambda=${in_powers(decay)}", **look)
        axes.plot(group["linear_tail"], group["unseen"], linestyle="none", alpha=0.5, markersize=4, **look)
    axes.set_xticks(sorted(set(runs["linear_tail"])))
    axes.set_xlabel("linear layers before the classifier")
    axes.set_yscale("log")
    axes.legend(loc="best")
