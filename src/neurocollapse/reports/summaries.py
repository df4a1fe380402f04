"""Summarises records: last records, means over seeds, and whether the paper's ordering appears."""

from collections.abc import Sequence

import pandas as pd

from .panels import COLLAPSE_PANELS

#: The keys that a summary shows for every weight decay, in this order.
SUMMARY_KEYS = (
    "train.accuracy",
    "test.accuracy",
    "train.loss_data",
    "train.loss",
    "train.cross_entropy",
    "train.objective",
    "train.nc1",
    "train.nc1_trace_ratio",
    "train.nc2_norm_variance",
    "train.nc2_equinorm",
    "train.nc2_cosine",
    "train.nc3",
    "train.nc3_centered",
    "train.nc4",
    "train.sqi_gap",
    "train.sqi_off",
    "gradient_norm",
    "relative_gradient",
    "norm_spread",
    "nc1_slope",
)

#: The panels in which the paper has λ = 0 above every λ > 0, and `nc2_equinorm`, a scale-free form of one of them.
ORDERED_KEYS = tuple(f"train.{key}" for key in COLLAPSE_PANELS)


def final_records(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the last record of every run."""
    return frame.loc[frame.groupby("run_id", sort=False)["epoch"].idxmax()].reset_index(drop=True)


def summary(frame: pd.DataFrame, by: tuple[str, ...] = ("weight_decay",)) -> pd.DataFrame:
    """Returns the mean and sample deviation of the last records over seeds, with a row per (group, key).

    Columns: `by`, `key`, `mean`, `deviation` (nan for a single run), `runs`. Only runs that finished count.
    """
    final = final_records(frame[frame["status"] == "finished"])
    norms = [column for column in map(str, final) if column.startswith("train.weight_norms.")]
    keys = [key for key in (*SUMMARY_KEYS, *norms) if key in final]
    long = final.melt(id_vars=list(by), value_vars=keys, var_name="key").dropna(subset="value")
    long["key"] = pd.Categorical(long["key"], categories=keys, ordered=True)
    grouped = long.groupby([*by, "key"], observed=True)["value"]
    return grouped.agg(mean="mean", deviation="std", runs="size").reset_index()


HOLDS, IN_THE_MEANS, DOES_NOT_HOLD = "holds", "in the means", "does not hold"


def paper_ordering(frame: pd.DataFrame) -> dict[str, str]:
    """Returns, for every panel of the paper, whether λ = 0 ends above every λ > 0.

    `holds`: the lowest seed of λ = 0 lies above the highest seed of every λ > 0; `in the means`: only the means over
    seeds have this order; `does not hold`: neither, or a value is undefined. The result is empty unless runs with
    λ = 0 and with λ > 0 have finished.
    """
    final = final_records(frame[frame["status"] == "finished"])
    without, decayed = final[final["weight_decay"] == 0], final[final["weight_decay"] > 0]
    if without.empty or decayed.empty:
        return {}
    return {key: _ordering(without[key], decayed[[key, "weight_decay"]], key) for key in ORDERED_KEYS}


def _ordering(without: pd.Series, decayed: pd.DataFrame, key: str) -> str:
    if without.isna().any() or decayed[key].isna().any():
        return DOES_NOT_HOLD
    if without.mean() <= decayed.groupby("weight_decay")[key].mean().max():
        return DOES_NOT_HOLD
    return HOLDS if without.min() > decayed[key].max() else IN_THE_MEANS


def missing_decays(frame: pd.DataFrame, asked: Sequence[float]) -> list[float]:
    """Returns the requested λ for which no run has finished, and for which there is no verdict."""
    finished = set(frame.loc[frame["status"] == "finished", "weight_decay"])
    return [decay for decay in asked if decay not in finished]


def describe_ordering(ordering: dict[str, str], asked: Sequence[float] = (), missing: Sequence[float] = ()) -> str:
    """Returns a sentence that names the panels where the paper's ordering appears, and those where it does not.

    If some of the λ that were `asked` for are `missing`, it says how many it covers.
    """
    failed = ", ".join(f"{decay:g}" for decay in missing)
    judged = f" (of {len(asked) - len(missing)} of {len(asked)} λ; {failed} failed)" if missing else ""
    if not ordering:
        return f"no comparison with λ = 0{judged}: it takes finished runs with λ = 0 and with λ > 0"

    def named(verdict: str) -> str:
        return ", ".join(key.removeprefix("train.") for key, found in ordering.items() if found == verdict) or "none"

    return (
        f"the paper's ordering, λ = 0 above every λ > 0{judged}, holds in: {named(HOLDS)}; "
        f"in the means over seeds only: {named(IN_THE_MEANS)}; does not hold in: {named(DOES_NOT_HOLD)}"
    )


def describe_rest(frame: pd.DataFrame) -> str:
    """Returns a sentence that says how far from rest the runs of each λ ended, as medians over seeds.

    With λ > 0 it gives ‖∇L‖ / (‖∇L_data‖ + λ‖W‖) and max/min − 1 of the ‖W_l‖², with λ = 0 the data term. It is empty
    for records of earlier versions, which lack these.
    """
    if "relative_gradient" not in frame:
        return ""
    final = final_records(frame)
    term = "train.cross_entropy" if "train.cross_entropy" in final else "train.loss_data"
    ends = final.groupby("weight_decay")[["relative_gradient", "norm_spread", term]].median()
    decayed = [
        f"{gradient:.2g} and {spread:.2g} at λ = {decay:g}" for decay, gradient, spread, _ in ends.itertuples() if decay
    ]
    parts = [f"‖∇L‖ / (‖∇L_data‖ + λ‖W‖) and the spread of the ‖W_l‖² are {', '.join(decayed)}"] if decayed else []
    parts += [f"the data term is {value:.2g} at λ = 0" for value in ends[term][ends.index == 0]]
    return f"distance from rest at the end: {'; '.join(parts)}"


def number(mean: float, deviation: float = float("nan")) -> str:
    """Formats a mean with its deviation, `0.01234 ± 0.00056`, or the mean alone if there is no deviation."""
    return f"{mean:.4g}" if pd.isna(deviation) else f"{mean:.4g} ± {deviation:.2g}"


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """Lays out a `summary` by weight decay for reading: a row per key, a column per λ."""
    text = table.assign(text=[number(m, d) for m, d in zip(table["mean"], table["deviation"], strict=True)])
    laid_out = text.pivot(index="key", columns="weight_decay", values="text")
    return laid_out.rename(columns=lambda decay: f"λ = {decay:g}")
