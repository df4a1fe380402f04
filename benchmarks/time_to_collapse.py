r"""Measures the time to collapse: seconds until objective and NC1 are low, for the paper-like recipe and faster ones.

All recipes train the same network on the same data on one thread, at several lengths. The runs of a seed take turns,
a fortieth or a tenth of each at a time. For each recipe and level the best length counts, so that a merely shorter
schedule wins nothing. The objective, Eq. 1 on all training data, and NC1 are measured along the way, while the clock
is stopped. Seconds are processor time of the training, so that other load on the machine matters little; with
--device cuda they are wall time.

Finished runs are kept in --out and not trained again. What LOG.md shows:
    python benchmarks/time_to_collapse.py --recipes muon "muon, λ constant" default
    python benchmarks/time_to_collapse.py --dataset cifar10 --data-dir DATA --precision float32 --epochs 10 \
        --paper-like-epochs 50 --recipes "muon, balanced" --paces
Muon multiplies in bfloat16, which is slow on a processor without it: use --precision float32 there. With large
batches glibc may give the memory of every step back, and the page faults cost a tenth of the time:
MALLOC_TRIM_THRESHOLD_=1000000000 and MALLOC_MMAP_THRESHOLD_=33554432 in the environment keep it.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

import neurocollapse as nc
from neurocollapse.datasets import Dataset
from neurocollapse.training.epoch import Alone
from neurocollapse.training.run import Run, on_device

#: The best objective of a long run of any recipe at λ = 5e-4, found on seeds that the table does not use: see LOG.md.
REFERENCE = {"mnist5k": 0.00910}
#: Multiples of the reference that are timed.
FACTORS = (1.5, 1.2, 1.1, 1.02)
#: How often at least a run is measured.
POINTS = {"mnist5k": 40, "cifar10": 10}
#: How many samples of the data, and how often, --paces trains on.
PART, ROUNDS = 10240, 11

MUON = nc.RunConfig.of_version(2, optimizer="muon", batch_size=128, precision="bfloat16", decay_start=10.0)
MUON_512 = replace(MUON, decay_start=1.0, batch_size=512, learning_rate=0.2, initial_norm=2.5)
PAPER_LIKE = nc.RunConfig.of_version(2, initialization="default", learning_rate=0.067, schedule="steps", batch_size=128)
PAPER_LIKE_EPOCHS = (50, 100, 200, 350)
RECIPES = {
    "muon": MUON,
    "muon, λ constant": replace(MUON, decay_start=1.0),
    "muon, batch 512": MUON_512,
    "muon, balanced": replace(MUON_512, balancing="epoch"),
    "default": nc.RunConfig(),
}

Curve = list[dict[str, float]]
#: recipe -> epochs -> a curve for each seed
Curves = dict[str, dict[int, list[Curve]]]


def points(config: nc.RunConfig, dataset: Dataset, device: str) -> Iterator[dict[str, float]]:
    """The seconds of training until an epoch, and the measurements there."""
    if device != "cpu":  # outside the clock: libraries set themselves up in the first steps of a kind
        Alone(Run(config, dataset, device)).epoch(1)
    run = Run(config, dataset, device)
    program = Alone(run)
    split = dataset.train
    batches = list(zip(split.images.split(1000), split.labels.split(1000), strict=True))
    every = max(1, config.epochs // POINTS[dataset.name])
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds = 0.0
    for epoch in range(1, config.epochs + 1):
        start = clock()
        program.epoch(epoch)
        seconds += clock() - start
        if epoch % every == 0 or epoch == config.epochs:
            with warnings.catch_warnings(action="ignore"):
                m = nc.measure_model(run.model, batches, weight_decay=config.weight_decay, vci=False)
            yield {
                "epoch": epoch,
                "seconds": seconds,
                "objective": m["loss"],
                "nc1": m["nc1"],
                "error": 1 - m["accuracy"],
            }


def kept_curve(path: Path, config: nc.RunConfig, device: str) -> Curve | None:
    """The run's points, if they were kept."""
    if not path.exists():
        return None
    kept = json.loads(path.read_text())
    same = (nc.RunConfig(**kept["config"]), kept["device"]) == (config, device)  # fields since then at their defaults
    return kept["points"] if same else None


def train_in_turn(runs: dict[Path, nc.RunConfig], dataset: Dataset, device: str) -> dict[Path, Curve]:
    """The points of each run, read from disk or trained; the runs take turns, since the speed of a machine varies."""
    found = {path: kept_curve(path, config, device) for path, config in runs.items()}
    todo = {path: points(runs[path], dataset, device) for path, curve in found.items() if curve is None}
    curves = {path: curve or [] for path, curve in found.items()}
    while todo:
        for path, program in list(todo.items()):
            point = next(program, None)
            if point is not None:
                curves[path].append(point)
                continue
            del todo[path]
            part = path.with_suffix(".part")
            part.write_text(json.dumps({"config": asdict(runs[path]), "device": device, "points": curves[path]}))
            part.replace(path)
    return curves


def reached(curve: Curve, objective: float, nc1: float) -> float:
    """The seconds until both are as low; infinite if they never are."""
    return next((p["seconds"] for p in curve if p["objective"] <= objective and p["nc1"] <= nc1), math.inf)


def fastest(lengths: dict[int, list[Curve]], objective: float, nc1: float) -> tuple[float, str]:
    """The least median over seeds of the seconds, over all lengths, and a text with the seconds of each seed."""
    times = {epochs: [reached(curve, objective, nc1) for curve in curves] for epochs, curves in lengths.items()}
    best = min(times, key=lambda epochs: (statistics.median(times[epochs]), epochs))
    if all(math.isinf(value) for seconds in times.values() for value in seconds):
        return math.inf, "never, at any length"
    return statistics.median(times[best]), f"{shown(times[best])} s ({best} epochs)"


def shown(values: Sequence[float], digits: str = ".1f") -> str:
    return ", ".join("never" if math.isinf(value) else format(value, digits) for value in values)


def print_ends(curves: Curves, reference: float) -> None:
    print("\n| recipe | epochs | seconds | objective | / L* | NC1 | training error |\n|---|---|---|---|---|---|---|")
    for name, lengths in curves.items():
        for epochs, runs in lengths.items():
            ends = [run[-1] for run in runs]
            relative = statistics.median(end["objective"] for end in ends) / reference
            cells = [
                shown([end[key] for end in ends], digits)
                for key, digits in (("seconds", ".0f"), ("objective", ".5f"), ("nc1", ".3f"), ("error", ".4f"))
            ]
            multiple = "" if math.isnan(relative) else f"{relative:.2f}"
            print(f"| {name} | {epochs} | {cells[0]} | {cells[1]} | {multiple} | {cells[2]} | {cells[3]} |")


def print_times(curves: Curves, reference: float, nc1: float) -> None:
    first, *others = curves
    level = min(max(run[-1]["objective"] for run in runs) for runs in curves[first].values())
    levels = {f"the best of {first}": level, **{f"{factor:g} L*": factor * reference for factor in FACTORS}}
    print(
        "\n| until | objective | NC1 | " + " | ".join(curves) + " | ratio |\n|---|---|---|" + "---|" * (len(curves) + 1)
    )
    for bound in (math.inf, nc1):
        for label, objective in levels.items():
            if math.isnan(objective):
                continue
            (theirs, in_words), *found = [fastest(curves[name], objective, bound) for name in (first, *others)]
            ratios = [
                f"{theirs / ours:.1f}" if theirs < math.inf else "∞" if ours < math.inf else "" for ours, _ in found
            ]
            cells = " | ".join([in_words, *(words for _, words in found)])
            limit = "" if math.isinf(bound) else f"{bound:g}"
            print(f"| {label} | {objective:.5f} | {limit} | {cells} | {', '.join(ratios)} |")


def print_paces(recipes: dict[str, nc.RunConfig], dataset: Dataset, device: str) -> None:
    """Prints the time per sample. Recipes take turns with parts of an epoch, since the speed of a machine varies."""
    train = dataset.train
    part = replace(train, images=train.images[:PART].clone(), labels=train.labels[:PART].clone())
    clock = time.process_time if device == "cpu" else time.perf_counter
    programs = {name: Alone(Run(config, replace(dataset, train=part), device)) for name, config in recipes.items()}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for epoch in range(1, 2 + ROUNDS):  # the first warms up
        for name, program in programs.items():
            start = clock()
            program.epoch(epoch)
            seconds[name].append((clock() - start) / len(part.labels))
    first = next(iter(seconds.values()))
    print("\n| recipe | µs a sample | of the first recipe's |\n|---|---|---|")
    for name, times in seconds.items():
        ratio = statistics.median(one / other for one, other in zip(times[1:], first[1:], strict=True))
        print(f"| {name} | {1e6 * statistics.median(times[1:]):.0f} | {ratio:.2f} |")


def measured(
    asked: dict[str, tuple[nc.RunConfig, Sequence[int]]], dataset: Dataset, arguments: argparse.Namespace
) -> Curves:
    """Measures the curves of each recipe at each of its lengths, and prints the last point of each."""
    curves: Curves = {name: {epochs: [] for epochs in lengths} for name, (_, lengths) in asked.items()}
    for seed in arguments.seeds:
        places, runs = {}, {}
        for name, (recipe, lengths) in asked.items():
            for epochs in lengths:
                config = replace(recipe, epochs=epochs, seed=seed)
                what = f"{arguments.dataset}, {name}, {config.precision}, {epochs} epochs, seed {seed}"
                path = arguments.out / f"{what}.json"
                places[path], runs[path] = (name, epochs), config
        for path, curve in train_in_turn(runs, dataset, arguments.device).items():
            name, epochs = places[path]
            curves[name][epochs].append(curve)
            print(f"{path.stem}: {curve[-1]}", flush=True)
    return curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=list(POINTS), default="mnist5k")
    parser.add_argument("--data-dir", type=Path, help="folder with the files of cifar10")
    scratch = Path(tempfile.gettempdir()) / "time_to_collapse"
    parser.add_argument("--out", type=Path, default=scratch, help="where finished runs are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12], help="runs of each length")
    parser.add_argument("--paper-like-epochs", type=int, nargs="+", default=PAPER_LIKE_EPOCHS)
    parser.add_argument("--epochs", type=int, nargs="+", default=[10, 30, 120], help="lengths of the other recipes")
    parser.add_argument("--recipes", nargs="*", choices=list(RECIPES), default=["muon"])
    parser.add_argument("--precision", choices=["float32", "tf32", "bfloat16"], default="bfloat16", help="of muon")
    parser.add_argument("--reference", type=float, help="L*, instead of the one in the script")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--nc1", type=float, default=0.1, help="level of NC1 to be reached too")
    parser.add_argument("--paces", action="store_true", help="time the recipes in turn, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset = on_device(nc.load_dataset(arguments.dataset, data_dir=arguments.data_dir), arguments.device)
    arguments.out.mkdir(parents=True, exist_ok=True)
    recipes = {"paper-like": PAPER_LIKE} | {name: RECIPES[name] for name in arguments.recipes}
    for name, recipe in recipes.items():
        precision = arguments.precision if recipe.optimizer == "muon" else recipe.precision
        recipes[name] = replace(recipe, dataset=arguments.dataset, precision=precision)
    asked = {
        name: (recipe, arguments.paper_like_epochs if name == "paper-like" else arguments.epochs)
        for name, recipe in recipes.items()
    }
    curves = measured(asked, dataset, arguments)
    reference = arguments.reference or REFERENCE.get(arguments.dataset, math.nan)
    print_ends(curves, reference)
    print_times(curves, reference, arguments.nc1)
    if arguments.paces:
        print_paces(recipes, dataset, arguments.device)


if __name__ == "__main__":
    main()
