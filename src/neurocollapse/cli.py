"""The command line: a function for each command, its arguments the options, its docstring the help."""

import dataclasses
import io
import math
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import pandas as pd
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from . import __version__
from .atomic import atomic_path
from .experiment import Plan, carry_out, prepare
from .feature_files import read_features
from .figures import collapse_figure, save_figure
from .measuring import measure as measure_features
from .metrics import Measurement
from .metrics.reference import reference_values
from .options import ComparedOptions, Folder, RunOptions, axis, distinct
from .replay import Subject, Trajectory, find_checkpoints, load_weights, replay, subject
from .shelf import folders, records_frame, runs_table
from .store import to_json
from .sweep import Sweep
from .tables import describe_ordering, missing_decays, paper_ordering, summary, wide
from .training import RunConfig

# Without markup and emoji: paths may hold [brackets] and :colons:. So wide that no table is cut short: in a pipe rich
# would take 80 columns for all there are.
out_console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False, width=1000)
messages = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)

#: Errors that a user can mend: one line and exit status 2. `ValueError` is the base of the package's own.
USER_ERRORS = (ValueError, OSError)


#: What figures call the data sets.
TITLES = {"mnist5k": "5,000 MNIST digits", "mnist": "MNIST", "cifar10": "CIFAR-10"}


#: What the table of a trajectory shows.
TRAJECTORY_KEYS = ("accuracy", "loss_data", "nc1", "nc1_trace_ratio", "nc2_equinorm", "nc2_cosine", "nc3", "nc4")


def reproduce(
    config: tyro.conf.OmitArgPrefixes[ComparedOptions],
    weight_decay: tuple[float, ...] = (0.0, 5e-4, 1e-3),
    seeds: int = 1,
    data_dir: Path | None = None,
    out: Folder = Path("results/reproduce"),
    workers: int | None = None,
    device: str = "cpu",
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """The paper's experiment: train with and without weight decay, draw its figure, print its numbers.

    Run it again to go on where it was stopped; finished runs are not run again.

    Example: neurocollapse reproduce --dataset mnist5k --weight-decay 0 5e-4 1e-3 --seeds 3

    Args:
        config: Every run.
        weight_decay: Values of λ of Eq. 1; 0 is the comparison without decay.
        seeds: Seeds 0, 1, ... for each λ; several give bands in the figure.
        data_dir: Where mnist or cifar10 lie, or are downloaded to.
        out: Folder for the runs, the figure and the summary.
        workers: Runs at a time; by default one per core.
        device: cpu, or cuda for an NVIDIA GPU.
        dry_run: Print how long it would take, and stop.
        json: Print the summary as JSON, where NaN and infinity are the strings "nan", "inf", "-inf", and null is what
            there is none of.
    """
    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {seeds}")
    base = RunConfig(**dataclasses.asdict(config))
    sweep = Sweep(base, {"weight_decay": distinct("--weight-decay", weight_decay), "seed": range(seeds)})
    plan = prepare(list(sweep), out, data_dir=data_dir, workers=workers, device=device, console=messages)
    if dry_run:
        return _print_plan(plan, json)
    done = carry_out(plan, messages)
    frame = records_frame(done.folders)
    if not len(frame):
        messages.print("nothing was recorded, so there is nothing to draw")
        return 1
    title = f"Neural collapse of the {base.network} on {TITLES.get(base.dataset, Path(base.dataset).name)}"
    note = "; ".join(plan.notes) or None
    paths = save_figure(collapse_figure(frame, title=title, note=note, weight_decays=weight_decay), out)
    table = summary(frame)
    with atomic_path(out / "summary.csv") as temporary:
        table.to_csv(temporary, index=False)
    ordering, missing = paper_ordering(frame), missing_decays(frame, weight_decay)
    if json:
        answer = {"summary": _rows(table), "ordering": ordering, "missing": missing, "failed": done.failures}
        print(to_json(answer, indent=2))
    else:
        _print_frame(wide(table).reset_index(), "last epoch of the finished runs, mean ± deviation over seeds")
        out_console.print(describe_ordering(ordering, weight_decay, missing))
        out_console.print(f"figure: {paths[0]}   numbers: {out / 'summary.csv'}")
    return 1 if done.failures else 0


def train(
    config: tyro.conf.OmitArgPrefixes[RunOptions],
    vary: tuple[str, ...] = (),
    data_dir: Path | None = None,
    out: Folder = Path("results/runs"),
    workers: int | None = None,
    device: str = "cpu",
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Train one configuration, or the product of several values of its fields.

    Example: neurocollapse train --network mlp --epochs 30 --vary weight_decay=0,5e-4 seed=0,1,2

    Args:
        config: The run.
        vary: Fields to vary, each as field=value,value,...; every combination is a run.
        data_dir: Where mnist or cifar10 lie, or are downloaded to.
        out: Folder for the runs.
        workers: Runs at a time; by default one per core.
        device: cpu, or cuda for an NVIDIA GPU.
        dry_run: Print how long it would take, and stop.
        json: Print the last records as JSON, where NaN and infinity are the strings "nan", "inf", "-inf", and null
            is what there is none of.
    """
    axes: dict[str, Sequence[Any]] = dict(axis(text) for text in vary)
    if len(axes) < len(vary):
        raise ValueError(f"--vary names a field twice: {' '.join(vary)}")
    base = RunConfig(**dataclasses.asdict(config))
    configs = list(Sweep(base, axes))
    plan = prepare(configs, out, data_dir=data_dir, workers=workers, device=device, console=messages)
    if dry_run:
        return _print_plan(plan, json)
    done = carry_out(plan, messages)
    _print_runs(runs_table(done.folders), json)
    return 1 if done.failures else 0


def measure(
    file: tyro.conf.Positional[Path | None] = None,
    model: str | None = None,
    checkpoint: str | None = None,
    dataset: str | None = None,
    data_dir: Path | None = None,
    split: Literal["train", "test"] = "train",
    per_class: int | None = None,
    out: Path = Path("results/trajectory.jsonl"),
    num_classes: int | None = None,
    vci: bool | None = None,
    explain: bool = False,
    json: bool = False,
) -> int:
    """Measure the collapse of features in a file, or of a model at one checkpoint or many.

    Example: neurocollapse measure features.npz

    Example: neurocollapse measure --model models:resnet --checkpoint 'epoch_*.safetensors' --dataset cifar10

    Args:
        file: .npz or .safetensors with features (samples, features), labels (samples,) and, optionally,
            weight (classes, features) and bias (classes,), and ood (others, features), samples of no class.
        model: Instead of a file: convnet, mlp, or module:function, called as function(input_shape, num_classes) or
            without arguments.
        checkpoint: Weights to load into the model, .safetensors or what torch.save wrote of a state_dict; a quoted
            pattern such as 'epoch_*.safetensors' for a trajectory. Without it the model is measured untrained.
        dataset: What the model is measured on: mnist5k, mnist, cifar10, gaussian, or an .npz file.
        data_dir: Where mnist or cifar10 lie, or are downloaded to.
        split: train, or test, on its own class means.
        per_class: Take only so many training samples of each class.
        out: File for a trajectory, a line per checkpoint; what is in it is not measured again.
        num_classes: Of a file: number of classes; by default the rows of weight, or the largest label plus one.
        vci: Whether to measure nc1_vci too, at N p² operations; by default where that is quick.
        explain: Show beside each number what it would be without structure, and at collapse.
        json: Print JSON, where NaN and infinity are the strings "nan", "inf", "-inf", and null is what there is
            none of.
    """
    if (file is None) == (model is None):
        raise ValueError("measure takes either a file of features, or --model with --dataset")
    if model is None:
        if checkpoint is not None or dataset is not None:
            raise ValueError("--checkpoint and --dataset go with --model, not with a file of features")
        assert file is not None
        return _print_measurement(_measured_file(file, num_classes, vci), None, explain, json)
    if dataset is None:
        raise ValueError("--model needs --dataset, the data to measure it on")
    who = subject(model, dataset, data_dir=data_dir, split=split, per_class=per_class)
    checkpoints = find_checkpoints(checkpoint) if checkpoint is not None else []
    if len(checkpoints) > 1:
        if explain or vci is not None:
            raise ValueError(f"--explain and --vci go with one checkpoint, and {checkpoint!r} names {len(checkpoints)}")
        return _print_trajectory(who, checkpoints, out, json)
    initial = who.measure(vci) if explain or not checkpoints else None
    for path in checkpoints:
        load_weights(who.model, path)
    measured = who.measure(vci) if checkpoints else initial
    assert measured is not None
    return _print_measurement(measured, initial if checkpoints else None, explain, json)


def _measured_file(file: Path, num_classes: int | None, vci: bool | None) -> Measurement:
    arrays = read_features(file)
    try:
        return measure_features(
            arrays["features"],
            arrays["labels"],
            arrays.get("weight"),
            arrays.get("bias"),
            ood=arrays.get("ood"),
            num_classes=num_classes,
            vci=vci,
        )
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _print_measurement(measured: Measurement, initial: Measurement | None, explain: bool, json: bool) -> int:
    if explain:
        table = reference_values(measured, initial).reset_index()
        if json:
            print(to_json(_rows(table), indent=2))
        else:
            _print_frame(table.map(_shown), "each number, and what it would be")
        return 0
    if json:
        print(to_json(measured.to_dict(), indent=2))
        return 0
    print(measured)
    by_need: dict[str, list[str]] = {}
    for key, need in measured.missing.items():
        by_need.setdefault(need, []).append(key)
    for need, keys in by_need.items():
        messages.print(f"not measured: {', '.join(keys)} (for want of {need})")
    return 0


def _print_trajectory(who: Subject, checkpoints: list[Path], out: Path, json: bool) -> int:
    out.parent.mkdir(parents=True, exist_ok=True)
    trajectory = Trajectory(out, who.conditions)
    todo = list(trajectory.missing(checkpoints))
    if len(todo) < len(checkpoints):
        messages.print(f"{len(checkpoints) - len(todo)} checkpoint(s) were measured before, in {out}")
    failures = list(track(replay(who, trajectory, todo), "measuring", len(todo), console=messages, disable=not todo))
    failed = [failure for failure in failures if failure is not None]
    for failure in failed:
        messages.print(f"not measured: {' '.join(failure.split())}")
    lines = trajectory.of(checkpoints)
    if json:
        print(to_json(lines, indent=2))
        return 2 if failed else 0
    shown = (
        "checkpoint",
        "accuracy",
        "loss_data",
        "nc1",
        "nc1_trace_ratio",
        "nc2_equinorm",
        "nc2_cosine",
        "nc3",
        "nc4",
    )
    frame = pd.DataFrame([{key: line.get(key) for key in shown} for line in lines])
    _print_frame(frame.map(_shown), f"{len(lines)} checkpoints; every key is in {out}")
    return 2 if failed else 0


def runs(folder: tyro.conf.Positional[Path], json: bool = False) -> int:
    """List the runs in a folder: how far each is, and its last numbers.

    Example: neurocollapse runs results/reproduce

    Args:
        folder: The folder that a command wrote with --out.
        json: Print JSON, where NaN and infinity are the strings "nan", "inf", "-inf", and null is what there is
            none of.
    """
    found = folders(folder)
    _print_runs(runs_table(found), json)
    damages = [damage for run in found if (damage := run.damage)]
    for damage in damages:
        messages.print(f"damaged: {damage}")
    return 2 if damages else 0


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows for JSON, where what is missing is null."""
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()} for row in frame.to_dict("records")
    ]


def _print_plan(plan: Plan, json: bool) -> int:
    """What a dry run has to say beyond the estimate that `prepare` prints for people."""
    if json:
        ids = {ended: [run.folder.path.name for run in plan.runs if run.ended is ended] for ended in (False, True)}
        print(
            to_json(
                {"seconds": plan.seconds, "workers": plan.workers, "runs": ids[False], "ended": ids[True]}, indent=2
            )
        )
    return 0


def _print_runs(table: pd.DataFrame, json: bool) -> None:
    if json:
        print(to_json(_rows(table), indent=2))
    elif len(table):
        _print_frame(table.map(_shown), f"{len(table)} run(s)")
    else:
        out_console.print("no runs here")


def _shown(value: Any) -> str:
    if isinstance(value, float):
        if value.is_integer() and value < 1e9:  # epochs too, which beside a missing one are floats
            return f"{value:.0f}"
        return "" if math.isnan(value) else f"{value:.4g}"
    return "" if value is None else str(value)


def _print_frame(frame: pd.DataFrame, title: str) -> None:
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for place, column in enumerate(frame):
        table.add_column(str(column), justify="left" if place == 0 else "right", no_wrap=True)
    for row in frame.itertuples(index=False):
        table.add_row(*("" if pd.isna(cell) else str(cell) for cell in row))
    out_console.print(table, crop=False)


COMMANDS: dict[str, Callable[..., int]] = {"reproduce": reproduce, "train": train, "measure": measure, "runs": runs}


class Terminated(KeyboardInterrupt):
    """SIGTERM: like Ctrl-C, an end that somebody wishes for."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point. Exit status 0; 1 where a run failed; 2 for what the user can mend; 130, 143 for Ctrl-C, SIGTERM."""
    words = sys.argv[1:] if args is None else list(args)
    warnings.showwarning = lambda message, *_args, **_kwargs: messages.print(f"warning: {message}")
    signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may lack the letters of formulas
        sys.stdout.reconfigure(errors="replace")
    try:
        status = _run(words)
        sys.stdout.flush()  # here, where it can be told that the disk is full
    except BrokenPipeError:  # the reader, `head` for one, has had enough
        _discard_output()
        status = 141
    except USER_ERRORS as error:
        messages.print(f"error: {' '.join(_told(error).split())}")
        status = 2
    except KeyboardInterrupt as stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # a second one could only disturb the end
        messages.print("; ".join(["stopped", *map(str, stop.args)]))
        status = 143 if isinstance(stop, Terminated) else 130
    sys.exit(status)


def _run(words: Sequence[str]) -> int:
    if words == ["--version"]:
        print(f"neurocollapse {__version__}")
        return 0
    return tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="neurocollapse",
        description="Train, measure and explain neural collapse. --version tells the version.",
        args=words,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno and error.filename is None:  # of no file, so of what is printed
        _discard_output()
        return f"the output cannot be written ({error.strerror}); make room, or send it elsewhere"
    return str(error)


def _discard_output() -> None:
    """What is still to be written would make Python complain once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
