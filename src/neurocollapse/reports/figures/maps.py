"""Draws a sweep as a map: one field across, the others down, the colour a measure at each run's last record."""

import math
from dataclasses import fields
from typing import Any, get_args, get_type_hints

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from ..._errors import InputError, check_names, checks_arguments
from ...training import RunConfig, at_rest
from ..panels import COLLAPSE_PANELS, PANELS, data_term
from .drawing import grid, house_style, in_powers, write_around
from .frames import checked, tidy, values

_FIELDS = [field.name for field in fields(RunConfig)]
_INTEGERS = {name for name, hint in get_type_hints(RunConfig).items() if int in (hint, *get_args(hint))}


@checks_arguments
def map_table(frame: pd.DataFrame, across: str = "weight_decay", *, split: str = "train") -> pd.DataFrame:
    """Returns a row for each cell of a map: the runs that differ in their seed alone, at their last records.

    `frame` is as `runs` gives it. Columns: the fields that vary, without values that make no difference to a run;
    `seeds`, the number of runs; `at_rest` and `diverged`, how many of these are at rest and have diverged; and the
    median of each measure, NaN where a run diverged or lacks the measure: the others alone would show the cell as
    better than it is. Raises `ValueError` for an empty frame, a missing column, or if `across` is no field that varies.
    """
    frame = tidy(frame)
    keys = [data_term(values(frame, "loss")), *COLLAPSE_PANELS]
    frame = checked(frame, [f"{split}.{key}" for key in keys], one_run_per=["run_id"])
    check_names("a map", [across], _FIELDS, "field")
    last = frame.groupby("run_id", sort=False).tail(1)
    records = _records(last)
    configs = [_config(record) for record in records]
    cells = pd.DataFrame([{**vars(config), **dict.fromkeys(config.idle, math.nan)} for config in configs], dtype=object)
    varied = [name for name in _FIELDS if name != "seed" and len({*map(repr, cells[name])} - {"nan"}) > 1]
    _check_across(across, varied)
    _check_seeds(last, cells[[*varied, "seed"]])
    diverged = [record.get("status") == "diverged" for record in records]
    cells = cells[varied].assign(at_rest=list(map(_rests, configs, records)), diverged=diverged)
    cells[keys] = last[[f"{split}.{key}" for key in keys]].to_numpy(float, na_value=math.nan)
    cells.loc[diverged, keys] = math.nan
    kinds: dict[str, tuple[str, Any]] = {"seeds": ("at_rest", "size")}
    kinds |= {name: (name, "sum") for name in ("at_rest", "diverged")}
    kinds |= {key: (key, _median_of_all) for key in keys}
    return cells.groupby(varied, dropna=False, sort=False).agg(**kinds).reset_index()


def _median_of_all(values: pd.Series) -> float:
    return float(values.median(skipna=False))


def _check_across(across: str, varied: list[str]) -> None:
    if across in varied:
        return
    if not varied:
        raise InputError(
            "no field but the seed varies in these runs, and a map needs one; train runs of several values"
        )
    why = "varies within the cells of a map" if across == "seed" else "is the same in all runs"
    raise InputError(f"{across} {why}; choose a field that varies: {', '.join(varied)}")


def _check_seeds(last: pd.DataFrame, settings: pd.DataFrame) -> None:
    """Raises `ValueError` for two runs of one cell and seed, as those whose other fields are not `RunConfig`'s."""
    alike = settings.map(repr).duplicated(keep=False).to_numpy()
    if alike.any():
        first = settings.map(repr).to_numpy()[alike][0]
        one, other, *_ = last["run_id"][(settings.map(repr).to_numpy() == first).all(axis=1)]
        raise InputError(
            f"runs {one} and {other} have the same seed and the same fields of RunConfig, and a cell of a map would "
            f"mix them; select one of them, or give each a seed"
        )


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _config(row: dict[str, Any]) -> RunConfig:
    """The configuration of a row. In a column of integers a pandas frame has floats if one of them is missing."""
    given = {name: row[name] for name in _FIELDS if name in row and not _missing(row[name])}
    whole = {name: int(given[name]) for name in _INTEGERS & given.keys() if given[name] % 1 == 0}
    data = str(given.pop("dataset", RunConfig.dataset))
    try:
        return RunConfig(**given | whole).with_data(data)
    except ValueError as error:
        raise InputError(f"run {row['run_id']} has no configuration of RunConfig ({error}); leave it out") from error


def _rests(config: RunConfig, record: dict[str, Any]) -> bool:
    """Whether a run is at rest at this record; with λ > 0 those of earlier versions do not say."""
    return (config.weight_decay == 0 or "relative_gradient" in record) and at_rest(config, record)


def map_figure(
    table: pd.DataFrame, across: str = "weight_decay", *, title: str | None = None, note: str | None = None
) -> Figure:
    """Draws a table of `map_table`: a panel for each measure, whose cells show the median over the seeds.

    The colours of a panel go from its least to its greatest value in logarithmic steps; a value that has no logarithm
    has no colour. The numbers of cells whose runs did not all end at rest are in brackets, and "div." is one of which a
    run diverged.
    """
    keys, rows = [key for key in table if key in PANELS], rows_of(table, across)
    columns = sorted(set(table[across]), key=_order)
    with house_style():
        figure, panels = grid(2, 4, size=(3 + 4 * 0.56 * max(4, len(columns)), 2 + 2 * (0.8 + 0.24 * len(rows))))
        write_around(figure, title, note)
        for place, (axes, key) in enumerate(zip(panels, keys, strict=False)):
            at = [{cell[across]: cell for cell in _records(group)} for _, group in rows]
            shown = np.array([[row[value][key] if value in row else math.nan for value in columns] for row in at])
            texts = [[_text(row[value], key) if value in row else "" for value in columns] for row in at]
            _draw(axes, shown.astype(float), texts)
            axes.set_title(PANELS[key].name.replace(" · ", "\n"), fontsize=9)
            axes.set_xticks(range(len(columns)), [_label(value) for value in columns], fontsize=8)
            axes.set_yticks(range(len(rows)), [name if place % 4 == 0 else "" for name, _ in rows], fontsize=8)
        for axes in panels[len(keys) :]:
            axes.set_axis_off()
        for axes in panels[3 : len(keys)]:
            axes.set_xlabel(r"weight decay $\lambda$" if across == "weight_decay" else across.replace("_", " "))
    return figure


def least_over(table: pd.DataFrame, across: str, key: str) -> pd.DataFrame:
    """Returns for each row of a map a measure at the least value of `across`, and its least over the others."""
    start = min(set(table[across]), key=_order)
    found = []
    for name, group in rows_of(table, across):
        first, others = group[group[across] == start][key], group[group[across] != start]
        least = others.loc[others[key].idxmin()] if others[key].notna().any() else None
        found.append(
            {
                "": name,
                f"{key} at {across} {_plain(start)}": first.iloc[0] if len(first) else math.nan,
                "least of the others": math.nan if least is None else least[key],
                "at": None if least is None else _plain(least[across]),
            }
        )
    return pd.DataFrame(found)


def rows_of(table: pd.DataFrame, across: str) -> list[tuple[str, pd.DataFrame]]:
    """Returns the rows of a map from top to bottom, each with its name and its cells."""
    down = list(table.columns[: list(table.columns).index("seeds")].drop(across))
    if not down:
        return [("", table)]
    found = [(key, group) for key, group in table.groupby(down, dropna=False, sort=False)]
    found.sort(key=lambda each: [_order(value) for value in each[0]])
    return [(_joined(down, key), group) for key, group in found]


def _joined(names: list[str], key: tuple[Any, ...]) -> str:
    given = [(name, value) for name, value in zip(names, key, strict=True) if not _missing(value)]
    return ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in given)


def _order(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, then words; what is missing stands first."""
    return (True, 0.0, value) if isinstance(value, str) else (False, -math.inf if _missing(value) else value, "")


def _missing(value: Any) -> bool:
    return bool(pd.isna(value))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _label(value: Any) -> str:
    return value if isinstance(value, str) else in_powers(value)


def _text(cell: dict[str, Any], key: str) -> str:
    if cell["diverged"]:
        return "div."
    if math.isnan(cell[key]):
        return ""
    return f"{cell[key]:.2g}" if cell["at_rest"] == cell["seeds"] else f"({cell[key]:.2g})"


def _draw(axes: Axes, shown: Float[np.ndarray, "rows columns"], texts: list[list[str]]) -> None:
    """Draws the cells of one panel: the colour and the number of each."""
    axes.grid(False)
    positive = np.where(np.isfinite(shown) & (shown > 0), shown, math.nan)
    known = positive[~np.isnan(positive)]
    low, high = (known.min(), known.max()) if len(known) else (1.0, 1.0)
    norm, colours = LogNorm(low, high if high > low else 2 * low), matplotlib.colormaps["viridis"]
    axes.imshow(positive, norm=norm, cmap=colours, aspect="auto")
    for row, column in np.ndindex(shown.shape):
        dark = not math.isnan(positive[row, column]) and norm(shown[row, column]) < 0.55
        axes.text(
            column, row, texts[row][column], ha="center", va="center", fontsize=7, color="white" if dark else "black"
        )
