"""The command line: a function for each command, its arguments the options, its docstring the help."""

import contextlib
import dataclasses
import io
import math
import os
import signal
import sys
import typing
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import tyro
from rich.console import Console
from rich.table import Table

from .atomic import atomic_path
from .experiment import carry_out
from .feature_files import read_features
from .figures import collapse_figure, save_figure
from .measuring import measure as measure_features
from .store import folders, records_frame, runs_table, to_json
from .sweep import Sweep
from .tables import describe_ordering, paper_ordering, summary, wide
from .training import RunConfig

# Without markup and emoji: paths may hold [brackets] and :colons:. So wide that no table is cut short: in a pipe rich
# would take 80 columns for all there are.
out_console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False, width=1000)
messages = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)

#: Errors that a user can mend: one line and exit status 2. `ValueError` is the base of the package's own.
USER_ERRORS = (ValueError, OSError)


#: What figures call the data sets.
TITLES = {"mnist5k": "5,000 MNIST digits", "mnist": "MNIST", "cifar10": "CIFAR-10"}


def reproduce(
    dataset: str = RunConfig.dataset,
    network: str = RunConfig.network,
    weight_decay: tuple[float, ...] = (0.0, 5e-4, 1e-3),
    seeds: int = 1,
    epochs: int = RunConfig.epochs,
    per_class: int | None = None,
    data_dir: Path | None = None,
    out: Path = Path("results/reproduce"),
    workers: int | None = None,
    device: str = "cpu",
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """The paper's experiment: train with and without weight decay, draw its figure, print its numbers.

    Run it again to go on where it was stopped; finished runs are not run again.

    Example: neurocollapse reproduce --dataset mnist5k --weight-decay 0 5e-4 1e-3 --seeds 3

    Args:
        dataset: mnist5k, mnist, cifar10, or a .npz file with images and labels.
        network: convnet, mlp, or your own as module:function, called with (input_shape, num_classes).
        weight_decay: Values of λ of Eq. 1; 0 is the comparison without decay.
        seeds: Seeds 0, 1, ... for each λ; several give bands in the figure.
        epochs: Epochs of every run.
        per_class: Train on this many samples of each class.
        data_dir: Where mnist or cifar10 lie, or are downloaded to.
        out: Folder for the runs, the figure and the summary.
        workers: Runs at a time; by default one per core.
        device: cpu, or cuda for an NVIDIA GPU.
        dry_run: Print how long it would take, and stop.
        json: Print the summary as JSON.
    """
    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {seeds}")
    base = RunConfig(dataset=dataset, network=network, epochs=epochs, per_class=per_class)
    sweep = Sweep(base, {"weight_decay": _distinct("--weight-decay", weight_decay), "seed": range(seeds)})
    done = carry_out(
        list(sweep), out, data_dir=data_dir, workers=workers, device=device, dry_run=dry_run, console=messages
    )
    if done is None:
        return 0
    frame = records_frame(done.folders)
    if not len(frame):
        messages.print("nothing was recorded, so there is nothing to draw")
        return 1
    title = f"Neural collapse of the {network} on {TITLES.get(dataset, Path(dataset).name)}"
    paths = save_figure(collapse_figure(frame, title=title, note="; ".join(done.notes) or None), out)
    table = summary(frame)
    with atomic_path(out / "summary.csv") as temporary:
        table.to_csv(temporary, index=False)
    ordering = paper_ordering(frame)
    if json:
        print(to_json({"summary": _rows(table), "ordering": ordering, "failed": done.failures}, indent=2))
    else:
        _print_frame(wide(table).reset_index(), "last epoch of the finished runs, mean ± deviation over seeds")
        out_console.print(describe_ordering(ordering))
        out_console.print(f"figure: {paths[0]}   numbers: {out / 'summary.csv'}")
    return 1 if done.failures else 0


class RunOptions(RunConfig):
    """A run as typed. It is checked in the command, where an error becomes one line, not within the parser."""

    def __post_init__(self) -> None:
        pass


def train(
    config: tyro.conf.OmitArgPrefixes[RunOptions],
    vary: tuple[str, ...] = (),
    data_dir: Path | None = None,
    out: Path = Path("results/runs"),
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
        json: Print the last records as JSON.
    """
    axes: dict[str, Sequence[Any]] = dict(_axis(text) for text in vary)
    if len(axes) < len(vary):
        raise ValueError(f"--vary names a field twice: {' '.join(vary)}")
    base = RunConfig(**dataclasses.asdict(config))
    configs = list(Sweep(base, axes))
    done = carry_out(configs, out, data_dir=data_dir, workers=workers, device=device, dry_run=dry_run, console=messages)
    if done is None:
        return 0
    _print_runs(runs_table(done.folders), json)
    return 1 if done.failures else 0


def measure(
    file: tyro.conf.Positional[Path],
    num_classes: int | None = None,
    vci: bool | None = None,
    json: bool = False,
) -> int:
    """Measure the collapse of features in a file.

    Example: neurocollapse measure features.npz

    Args:
        file: .npz or .safetensors with features (samples, features), labels (samples,) and, optionally,
            weight (classes, features) and bias (classes,), and ood (others, features), samples of no class.
        num_classes: Number of classes; by default the rows of weight, or the largest label plus one.
        vci: Whether to measure nc1_vci too, at N p² operations; by default where that is quick.
        json: Print JSON.
    """
    arrays = read_features(file)
    try:
        measurement = measure_features(
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
    if json:
        print(to_json(measurement.to_dict(), indent=2))
        return 0
    print(measurement)
    by_need: dict[str, list[str]] = {}
    for key, need in measurement.missing.items():
        by_need.setdefault(need, []).append(key)
    for need, keys in by_need.items():
        messages.print(f"not measured: {', '.join(keys)} (for want of {need})")
    return 0


def runs(folder: tyro.conf.Positional[Path], json: bool = False) -> int:
    """List the runs in a folder: how far each is, and its last numbers.

    Example: neurocollapse runs results/reproduce

    Args:
        folder: The folder that a command wrote with --out.
        json: Print JSON.
    """
    _print_runs(runs_table(folders(folder)), json)
    return 0


def _distinct(option: str, values: Sequence[Any]) -> Sequence[Any]:
    if not values:
        raise ValueError(f"{option} needs at least one value")
    if len(set(values)) < len(values):
        raise ValueError(f"{option} has a value twice: {' '.join(map(str, values))}")
    return values


def _axis(text: str) -> tuple[str, Sequence[Any]]:
    """`field=value,value` with the values read as the type of that field of `RunConfig`."""
    name, equals, values = text.partition("=")
    name = name.replace("-", "_")
    types = typing.get_type_hints(RunConfig)
    if not equals or name not in types:
        raise ValueError(f"--vary {text!r} is not field=value,value,...; the fields are {', '.join(types)}")
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # what tyro says would be about another command line
            parsed = [tyro.cli(types[name], args=[value], console_outputs=False) for value in values.split(",")]
    except SystemExit:
        raise ValueError(f"--vary {text!r}: {values!r} is not a list of values for {name}") from None
    return name, _distinct(f"--vary {name}", parsed)


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows for JSON, where what is missing is null."""
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()} for row in frame.to_dict("records")
    ]


def _print_runs(table: pd.DataFrame, json: bool) -> None:
    if json:
        print(to_json(_rows(table), indent=2))
    elif len(table):
        _print_frame(table.map(_shown), f"{len(table)} run(s)")
    else:
        out_console.print("no runs here")


def _shown(value: Any) -> str:
    if isinstance(value, float):
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


def main(args: Sequence[str] | None = None) -> None:
    """Entry point. Exit status 0; 1 where a run failed; 2 for what the user can mend; 130 for Ctrl-C."""
    warnings.showwarning = lambda message, *_args, **_kwargs: messages.print(f"warning: {message}")
    try:
        status: int = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="neurocollapse",
            description="Train, measure and explain neural collapse.",
            args=args,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except BrokenPipeError:  # the reader, `head` for one, has had enough; Python would complain once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except USER_ERRORS as error:
        messages.print(f"error: {' '.join(str(error).split())}")
        status = 2
    except KeyboardInterrupt as stop:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one could only disturb the end
        messages.print("; ".join(["stopped", *map(str, stop.args)]))
        status = 130
    sys.exit(status)
