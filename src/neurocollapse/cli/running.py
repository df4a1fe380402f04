"""The commands `reproduce` and `train`: train runs on disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import InputError
from .._files import to_json
from ..training import RECIPES
from .listing import print_runs
from .options import ComparedOptions, FollowedOptions, RecipeName, RunOptions, axis
from .parsing import given
from .printing import messages, out_console, print_frame, rows

if TYPE_CHECKING:
    from ..sweeps import Plan


def reproduce(
    config: ComparedOptions,
    machines: FollowedOptions,
    recipe: RecipeName = "default",
    weight_decay: tuple[float, ...] = RECIPES["default"].weight_decays,
    seeds: int = 1,
    out: Path = Path("results/reproduce"),
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Reproduce the paper's experiment: train with and without weight decay, draw its figure, print its numbers.

    The same command resumes runs that were stopped; finished runs are not run again.

    Example: neurocollapse reproduce --dataset mnist5k --weight-decay 0 5e-4 1e-3 --seeds 3

    Args:
        config: The configuration that all runs share.
        machines: Where the runs are trained, and how.
        recipe: The defaults of the other options: default, or paper, the authors' public code in the units of Eq. 1,
            which takes 350 epochs. The help beside it shows their values.
        weight_decay: The values of λ of Eq. 1; 0 is the comparison without decay.
        seeds: Number of seeds, 0, 1, ..., for each λ; several give bands in the figure.
        out: The folder for the runs, the figure and the summary.
        dry_run: Print how long it would take, and stop; missing data are downloaded for it.
        json: Print the summary as JSON, with NaN and infinity as the strings "nan", "inf", "-inf", and null where
            there is no value.
    """
    from ..reports import describe_ordering, describe_rest, reproduction_sweep, wide
    from ..reports import reproduce as run_reproduction
    from ..sweeps import plan_sweep

    if dry_run:
        sweep = reproduction_sweep(config, weight_decay, seeds)
        return _print_plan(plan_sweep(sweep, out, machines), json)
    done = run_reproduction(config, weight_decays=weight_decay, seeds=seeds, out=out, **vars(machines))
    if done.report is None:
        messages.print("nothing was recorded, so there is nothing to draw")
        return 1
    if json:
        answer = {"summary": rows(done.summary), "ordering": done.ordering, "missing": done.missing}
        print(to_json({**answer, "failed": done.runs.failures}, indent=2))
    else:
        print_frame(wide(done.summary).reset_index(), "last epoch of the finished runs, mean ± deviation over seeds")
        out_console.print(describe_ordering(done.ordering, weight_decay, done.missing))
        out_console.print(describe_rest(done.records))
        theory = f"   theory beside them: neurocollapse verify {out}" if config.loss == "square" else ""
        paths = f"report: {done.report}   figure: {done.figures[0]}   numbers: {out / 'summary.csv'}"
        out_console.print(f"{paths}{theory}")
    return 1 if done.runs.failures else 0


def train(
    config: RunOptions,
    machines: FollowedOptions,
    vary: tuple[str, ...] = (),
    out: Path = Path("results/runs"),
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Train one configuration, or the product of several values of its fields.

    Example: neurocollapse train --network mlp --epochs 30 --vary weight_decay=0,5e-4 seed=0,1,2

    Args:
        config: The configuration of the run.
        machines: Where the run is trained, and how.
        vary: The fields to vary, each as field=value,value,...; every combination is a run.
        out: The folder for the runs.
        dry_run: Print how long it would take, and stop; missing data are downloaded for it.
        json: Print the last records as JSON, with NaN and infinity as the strings "nan", "inf", "-inf", and null where
            there is no value.
    """
    from ..sweeps import Sweep, plan_sweep, runs_table

    axes: dict[str, Sequence[Any]] = dict(axis(text) for text in vary)
    if len(axes) < len(vary):
        raise InputError(f"--vary names a field twice: {' '.join(vary)}")
    for name, values in axes.items():
        if given(name) and (lost := getattr(config, name)) not in values:
            raise InputError(f"--vary {name} replaces the {name} {lost}; give the one or the other, or vary it too")
    sweep = Sweep(config, axes)
    plan = plan_sweep(sweep, out, machines)
    if dry_run:
        return _print_plan(plan, json)
    done = plan.carry_out()
    print_runs(runs_table(done), json)
    return 1 if done.failures else 0


def _print_plan(plan: "Plan", json: bool) -> int:
    """Prints the plan of a dry run as JSON; `plan_sweep` has already printed the estimate for people."""
    if json:
        answer: dict[str, Any] = {"seconds": plan.seconds, "workers": plan.machines.workers}
        answer["runs"] = [run.folder.path.name for run in plan.todo]
        answer["ended"] = [run.folder.path.name for run in plan.runs if run.ended]
        answer["damaged"] = [run.folder.path.name for run in plan.runs if run.damage]
        print(to_json(answer, indent=2))
    return 0
