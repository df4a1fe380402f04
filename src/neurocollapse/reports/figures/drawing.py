"""Tools that figures share: one style, axes that suit their values, and writing to disk."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedFormatter, FixedLocator, NullFormatter

from ..._files import atomic_path, check_replaceable, path_of

#: What each figure says of its origin, and what is in figure.* of versions before it did: the size.
_ORIGIN = "Drawn by neurocollapse"
_MARKS = (_ORIGIN.encode(), b"\x00\x00\x08\x70\x00\x00\x04\x9c\x08", b"[ 0 0 777.6 424.8 ]", b'"0 0 777.6 424.8"')

GREEN = "#009E73"
#: Okabe and Ito's palette, with a wine red in place of its yellow, which is hard to see on white.
COLOURS = ("#E69F00", "#0072B2", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#882255")
#: Five dashes and seven colours: a pair comes back only after 35 values of λ.
DASHES = ((0, (5, 1.5)), (0, (7, 1.5, 1.5, 1.5)), (0, (1.5, 1.2)), (0, (9, 2)), (0, (4, 1.2, 1.2, 1.2, 1.2, 1.2)))
GREY = "#555555"
REFERENCE: dict[str, Any] = {"color": GREY, "linewidth": 0.8, "linestyle": (0, (1, 2))}

STYLE: dict[Any, Any] = {
    # Named, since the generic "serif" would be looked up again in the caller's settings when the figure is drawn.
    "font.family": ["STIXGeneral", "DejaVu Serif"],
    "mathtext.fontset": "stix",
    # At 10 points the exponents, the smallest text, have 7.
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titley": 1.0,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "legend.title_fontsize": 10,
    "legend.labelspacing": 0.35,
    "legend.columnspacing": 1.2,
    "figure.titlesize": 12.5,
    "pdf.fonttype": 42,
    "svg.hashsalt": "neurocollapse",
}

#: The origin of a file of each kind, without its date.
_METADATA: dict[str, dict[str, str | None]] = {
    "png": {"Software": _ORIGIN},
    "pdf": {"Creator": _ORIGIN, "CreationDate": None},
    "svg": {"Creator": _ORIGIN, "Date": None},
}


def save_figure(figure: Figure, folder: Path, stem: str = "figure") -> list[Path]:
    """Writes `stem`.png (200 dpi), .pdf and .svg into `folder`; equal figures give equal bytes.

    Each file is written beside its place and moved there, so that a reader never sees half a file. Raises `WriteError`
    if one of them is there that this function did not write, before anything is written.
    """
    paths = figure_paths(path_of(folder), stem)
    for path, metadata in zip(paths, _METADATA.values(), strict=True):
        with atomic_path(path, *_MARKS) as temporary, house_style():
            figure.savefig(temporary, format=path.suffix[1:], dpi=200, metadata=metadata)
    return paths


def figure_paths(folder: Path, stem: str = "figure") -> list[Path]:
    """Returns the files that `save_figure` writes. Raises `WriteError` if one of them is somebody else's."""
    paths = [folder / f"{stem}.{suffix}" for suffix in _METADATA]
    for path in paths:
        check_replaceable(path, *_MARKS)
    return paths


@contextmanager
def house_style() -> Iterator[None]:
    """Sets matplotlib's style within the block. Drawing and saving both read it, whatever the caller has set."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def grid(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """Returns a figure of this size in inches, and its axes in rows and columns."""
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.08))
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def write_around(figure: Figure, title: str | None, note: str | None) -> None:
    """Writes a title above the panels and a note below them."""
    # A title may be a path or a name with dollar signs or underscores, not a formula.
    if title:
        figure.suptitle(title, parse_math=False)
    if note:
        figure.supxlabel(fill(note, 200), x=0.01, ha="left", fontsize=9, color=GREY, parse_math=False)


def set_value_axis(axes: Axes, values: np.ndarray) -> None:
    """Makes the axis linear from 0 if the values stay within a decade, else logarithmic; a 0 stands at the bottom."""
    positive = values[values > 0]
    largest = positive.max(initial=0)
    # Below rounding, differences mean nothing, and a value counts as 0.
    smallest = max(positive.min(initial=largest), 1e-14 * largest)
    if largest < 10 * smallest or not len(positive):
        top = largest or 1.0
        axes.set_ylim(-0.04 * top, 1.08 * top)
        return
    if values.min() < smallest:
        floor = 10.0 ** math.floor(math.log10(smallest))
        axes.set_yscale("symlog", linthresh=floor, linscale=0.4)
        axes.set_ylim(-0.25 * floor, largest * (largest / floor) ** 0.06)
        _set_log_ticks(axes, floor, largest, zero=True)
    else:
        # "clip" draws a deviation larger than its mean down to the bottom instead of omitting it.
        axes.set_yscale("log", nonpositive="clip")
        margin = (largest / smallest) ** 0.06
        axes.set_ylim(smallest / margin, largest * margin)
        _set_log_ticks(axes, smallest / margin, largest * margin, zero=False)


def _set_log_ticks(axes: Axes, low: float, high: float, *, zero: bool) -> None:
    """Labels powers of ten, at most six; or 1, 2, 5 if fewer than two powers are visible."""
    exponents = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    if len(exponents) >= 2:
        shown = exponents[:: math.ceil(len(exponents) / 6)]
        ticks = {10.0**k: f"$10^{{{k}}}$" for k in shown}
    else:
        around = [m * 10.0**k for k in range(exponents.start - 2, exponents.stop + 1) for m in (1, 2, 5)]
        ticks = {value: in_powers(value) for value in around if low <= value <= high}
    if zero:
        ticks[0.0] = "0"
    between = [m * 10.0**k for k in range(exponents.start - 1, exponents.stop) for m in range(1, 10)]
    set_ticks(axes.yaxis, ticks, [value for value in between if low <= value <= high])


def set_ticks(axis: Axis, labelled: dict[float, str], minor: Sequence[float]) -> None:
    """Sets the major ticks with their labels, and the minor ticks without."""
    axis.set_major_locator(FixedLocator(list(labelled)))
    axis.set_major_formatter(FixedFormatter(list(labelled.values())))
    axis.set_minor_locator(FixedLocator(minor))
    axis.set_minor_formatter(NullFormatter())


def in_powers(value: float) -> str:
    r"""Formats a number plainly, or as a multiple of a power of ten if that is shorter.

    >>> in_powers(0.25), in_powers(1e-3), in_powers(5e-4)
    ('0.25', '$10^{-3}$', '$5\\cdot10^{-4}$')
    """
    mantissa, exponent = f"{value:.5e}".split("e")
    if value == 0 or -2 <= int(exponent) < 4:
        return f"{value:g}"
    factor = "" if float(mantissa) == 1 else rf"{float(mantissa):g}\cdot"
    return f"${factor}10^{{{int(exponent)}}}$"
