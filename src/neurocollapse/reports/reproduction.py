"""Reproduces the paper's experiment: trains with and without weight decay, draws, summarises and verifies."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from .._errors import InputError, checks_arguments, did_you_mean
from .._files import atomic_path, check_replaceable, path_of
from .._html import Brief
from ..sweeps import Machines, Sweep, SweepResult, keep_tables, plan_sweep, records_frame
from ..training import RECIPES, RunConfig
from .figures import collapse_figure, save_figure
from .figures.drawing import figure_paths
from .folder_report import PAGE_MARK, titled, write_report
from .summaries import describe_rest, missing_decays, paper_ordering, summary

#: How summary.csv begins.
_SUMMARY_MARK = b"weight_decay,key,mean,deviation,runs"


@dataclass(frozen=True, repr=False)
class Reproduction(Brief):
    """The results of `reproduce`: the runs, their records and summary, the figure and the report."""

    runs: SweepResult
    records: pd.DataFrame
    """Every record of every run, as `runs` gives them."""
    summary: pd.DataFrame
    """The last records, with mean and deviation over seeds; also in summary.csv."""
    ordering: dict[str, str]
    """For each measure, whether λ = 0 lies above the others, as in the paper."""
    missing: list[float]
    """Values of λ without a finished run."""
    figures: list[Path]
    report: Path | None
    """The page; None if no run recorded anything."""


def reproduction_sweep(config: RunConfig, weight_decays: Sequence[float], seeds: int) -> Sweep:
    """Returns the runs of `reproduce`: every λ with the seeds 0, 1, …."""
    if seeds < 1:
        raise InputError(f"seeds must be at least 1, got {seeds}")
    return Sweep(config, {"weight_decay": weight_decays, "seed": range(seeds)})


@checks_arguments
def reproduce(
    config: RunConfig | None = None,
    *,
    recipe: str = "default",
    weight_decays: Sequence[float] | None = None,
    seeds: int = 1,
    out: Path | str = "results/reproduce",
    engine: str = "processes",
    workers: int | None = None,
    device: str = "cpu",
    data_dir: Path | str | None = None,
    address: str | None = None,
    tensorboard: Path | str | None = None,
    progress: bool | None = None,
) -> Reproduction:
    """Reproduces the paper's experiment: trains with and without weight decay, draws its figure, writes the report.

    The arguments that are not listed are those of `sweep`.

    Args:
        config: the configuration that all runs share; by default that of the recipe.
        recipe: default, or paper, the authors' public code in the units of Eq. 1.
        weight_decays: the values of λ of Eq. 1, by default the recipe's; 0 is the comparison without decay.
        seeds: the number of seeds, 0, 1, …, for each λ; several give bands in the figure.
        out: the folder for the runs, figure.{png,pdf,svg}, summary.csv, theory.json and report.html.

    Raises:
        NeurocollapseError: see `sweep`.
    """
    if recipe not in RECIPES:
        raise InputError(f"recipe must be {' or '.join(RECIPES)}, got {recipe!r}{did_you_mean(recipe, RECIPES)}")
    config, out = config or RECIPES[recipe].config, path_of(out)
    weight_decays = RECIPES[recipe].weight_decays if weight_decays is None else weight_decays
    machines = Machines(path_of(data_dir), workers, device, engine, address, path_of(tensorboard), progress)
    figure_paths(out)  # what is written at the end is looked for now
    check_replaceable(out / "summary.csv", _SUMMARY_MARK)
    check_replaceable(out / "report.html", PAGE_MARK)
    plan = plan_sweep(reproduction_sweep(config, weight_decays, seeds), out, machines)
    done = plan.carry_out()
    frame = records_frame(done.whole)
    if not len(frame):
        return Reproduction(done, frame, pd.DataFrame(), {}, list(weight_decays), [], None)
    note = "; ".join([*plan.notes, *filter(None, [describe_rest(frame)])]) or None
    figure = collapse_figure(frame, title=titled([vars(config)]), note=note, weight_decays=weight_decays)
    figures = save_figure(figure, out)
    table = summary(frame)
    with atomic_path(out / "summary.csv", _SUMMARY_MARK) as temporary:
        table.to_csv(temporary, index=False)
    keep_tables(
        [run for run in done.whole if run.status == "finished"],
        out / "theory.json",
        data_dir=machines.data_dir,
        device=machines.device_here,
        progress=progress,
    )
    page, _ = write_report(out)
    return Reproduction(done, frame, table, paper_ordering(frame), missing_decays(frame, weight_decays), figures, page)
