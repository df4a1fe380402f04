"""`reproduce` and `train`: runs on disk from configurations."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import InputError
from .._files import atomic_path, to_json
from ..training import RunConfig
from .listing import print_runs
from .options import ComparedOptions, Folder, MachineOptions, RunOptions, axis, distinct
from .printing import messages, out_console, print_frame, rows

if TYPE_CHECKING:
    from .planning import Plan


def reproduce(
    config: ComparedOptions,
    machines: MachineOptions,
    weight_decay: tuple[float, ...] = (0.0, 5e-4, 1e-3),
    seeds: int = 1,
    out: Folder = Path("results/reproduce"),
    tensorboard: Folder | None = None,
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """The paper's experiment: train with and without weight decay, draw its figure, print its numbers.

    Run it again to go on where it was stopped; finished runs are not run again.

    Example: neurocollapse reproduce --dataset mnist5k --weight-decay 0 5e-4 1e-3 --seeds 3

    Args:
        config: Every run.
        machines: Where they are trained, and how.
        weight_decay: Values of λ of Eq. 1; 0 is the comparison without decay.
        seeds: Seeds 0, 1, ... for each λ; several give bands in the figure.
        out: Folder for the runs, the figure and the summary.
        tensorboard: Folder for TensorBoard, which shows the records there as they come, those of earlier commands too.
        dry_run: Print how long it would take, and stop; data that are not there yet are downloaded for it.
        json: Print the summary as JSON, where NaN and infinity are the strings "nan", "inf", "-inf", and null is what
            there is none of.
    """
    from ..reports import collapse_figure, describe_ordering, missing_decays, paper_ordering, save_figure, summary, wide
    from ..sweeps import Sweep, records_frame
    from .planning import carry_out, prepare
    from .report import titled, write_report
    from .theory import keep_tables

    if seeds < 1:
        raise InputError(f"--seeds must be at least 1, got {seeds}")
    base = RunConfig(**dataclasses.asdict(config))
    sweep = Sweep(base, {"weight_decay": distinct("--weight-decay", weight_decay), "seed": range(seeds)})
    plan = prepare(list(sweep), out, machines, messages, tensorboard=tensorboard)
    if dry_run:
        return _print_plan(plan, json)
    done = carry_out(plan, messages)
    frame = records_frame(done.whole)
    if not len(frame):
        messages.print("nothing was recorded, so there is nothing to draw")
        return 1
    title = titled([base])
    note = "; ".join(plan.notes) or None
    paths = save_figure(collapse_figure(frame, title=title, note=note, weight_decays=weight_decay), out)
    table = summary(frame)
    with atomic_path(out / "summary.csv") as temporary:
        table.to_csv(temporary, index=False)
    keep_tables(
        [run for run in done.whole if run.status == "finished"],
        out / "theory.json",
        data_dir=machines.data_dir,
        device=machines.device_here,
    )
    page, _ = write_report(out)
    ordering, missing = paper_ordering(frame), missing_decays(frame, weight_decay)
    if json:
        answer = {"summary": rows(table), "ordering": ordering, "missing": missing, "failed": done.failures}
        print(to_json(answer, indent=2))
    else:
        print_frame(wide(table).reset_index(), "last epoch of the finished runs, mean ± deviation over seeds")
        out_console.print(describe_ordering(ordering, weight_decay, missing))
        theory = f"   theory beside them: neurocollapse verify {out}" if base.loss == "square" else ""
        out_console.print(f"report: {page}   figure: {paths[0]}   numbers: {out / 'summary.csv'}{theory}")
    return 1 if done.failures else 0


def train(
    config: RunOptions,
    machines: MachineOptions,
    vary: tuple[str, ...] = (),
    out: Folder = Path("results/runs"),
    tensorboard: Folder | None = None,
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Train one configuration, or the product of several values of its fields.

    Example: neurocollapse train --network mlp --epochs 30 --vary weight_decay=0,5e-4 seed=0,1,2

    Args:
        config: The run.
        machines: Where it is trained, and how.
        vary: Fields to vary, each as field=value,value,...; every combination is a run.
        out: Folder for the runs.
        tensorboard: Folder for TensorBoard, which shows the records there as they come, those of earlier commands too.
        dry_run: Print how long it would take, and stop; data that are not there yet are downloaded for it.
        json: Print the last records as JSON, where NaN and infinity are the strings "nan", "inf", "-inf", and null
            is what there is none of.
    """
    from ..sweeps import Sweep, runs_table
    from .planning import carry_out, prepare

    axes: dict[str, Sequence[Any]] = dict(axis(text) for text in vary)
    if len(axes) < len(vary):
        raise InputError(f"--vary names a field twice: {' '.join(vary)}")
    base = RunConfig(**dataclasses.asdict(config))
    configs = list(Sweep(base, axes))
    plan = prepare(configs, out, machines, messages, tensorboard=tensorboard)
    if dry_run:
        return _print_plan(plan, json)
    done = carry_out(plan, messages)
    print_runs(runs_table(done.folders), json)
    return 1 if done.failures else 0


def _print_plan(plan: "Plan", json: bool) -> int:
    """What a dry run has to say beyond the estimate that `prepare` prints for people."""
    if json:
        answer: dict[str, Any] = {"seconds": plan.seconds, "workers": plan.workers}
        answer["runs"] = [run.folder.path.name for run in plan.todo]
        answer["ended"] = [run.folder.path.name for run in plan.runs if run.ended]
        answer["damaged"] = [run.folder.path.name for run in plan.runs if run.damage]
        print(to_json(answer, indent=2))
    return 0
