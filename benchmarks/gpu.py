"""Times the paper's two figures on a GPU: 3 λ × 5 seeds of the convnet on full MNIST and CIFAR-10.

Trains the 15 runs for a few epochs stacked into one program, and one of them alone. For an epoch of all 15 it prints
the seconds of both, their ratio, images per second, and the rate of the stacked program's products relative to the
device's own rate of multiplying matrices, measured here. It also estimates the time of 100 epochs with their 15
measurements.

    python benchmarks/gpu.py --data-dir DATA
    python benchmarks/gpu.py --dataset mnist5k --device cpu --epochs 2      # tries the script without a GPU

With --all it measures what LOG.md has no numbers of, in order of value and for at most --minutes: muon with balancing
against SGD until the same objective, stacked muon, measuring in device memory, and a language model's vocabulary.

    python benchmarks/gpu.py --all --dataset cifar10 --data-dir DATA
    python benchmarks/gpu.py --all --shrink 50 --dataset mnist5k --device cpu
"""

import argparse
import math
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from language import tokens
from measure import collapsing
from time_to_collapse import PAPER_LIKE, RECIPES, reached, train_in_turn
from torch import nn

import neurocollapse as nc
from neurocollapse.datasets import Dataset
from neurocollapse.sweeps import Sweep, check_device
from neurocollapse.training import RunConfig, epochs, network_of, recorded_epochs, train_together, training_data
from neurocollapse.training.run import on_device

AXES = {"weight_decay": (0.0, 1e-4, 5e-4), "seed": range(5)}
EPOCHS = 100


def matrix_rate(device: str) -> float:
    """Floating-point operations a second in products of large float32 matrices: the best of several."""
    size = 8192 if device.startswith("cuda") else 1024
    a, b = torch.randn(2, size, size, device=device)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for the product
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def operations(config: RunConfig, dataset: Dataset) -> int:
    """The operations in the products of the layers for one image in training: forward, and twice that backward."""
    counted = 0

    def count(module: nn.Module, _: object, outputs: torch.Tensor) -> None:
        nonlocal counted
        counted += 2 * module.get_parameter("weight").numel() * math.prod(outputs.shape[2:])

    model = network_of(config, dataset)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    model(dataset.train.images[:1])
    return 3 * counted


def seconds_of(configs: list[RunConfig], dataset: Dataset, device: str) -> tuple[float, float]:
    """The seconds to train an epoch and to measure once, for these runs stacked or for a single one."""
    seconds: dict[str, dict[int, float]] = {"train": defaultdict(float), "measure": defaultdict(float)}
    if len(configs) > 1:
        states = (state for _, state in train_together(configs, dataset, device=device))
    else:
        states = epochs(configs[0], dataset, device=device)
    for state in states:
        for kind, by_epoch in seconds.items():
            by_epoch[state.epoch] += state.seconds[kind]
    # Epoch 0 trains nothing, and the first one warms up.
    return tuple(statistics.median(list(by_epoch.values())[2:]) for by_epoch in seconds.values())


def shrunk(recipe: RunConfig, dataset_name: str, arguments: argparse.Namespace) -> RunConfig:
    """The recipe on the data, or on fewer samples."""
    fewer = None if arguments.shrink == 1 else max(10, 500 // arguments.shrink)
    return replace(recipe, dataset=dataset_name, per_class=fewer)


def to_the_same_objective(dataset_name: str, arguments: argparse.Namespace) -> None:
    """Epochs and seconds until muon is as low as the paper-like recipe ends; the two take turns, for three seeds."""
    lengths = {"paper-like": max(2, 50 // arguments.shrink), "muon, balanced": max(2, 10 // arguments.shrink)}
    recipes = {"paper-like": PAPER_LIKE, "muon, balanced": RECIPES["muon, balanced"]}
    data = training_data(shrunk(RunConfig(), dataset_name, arguments), arguments.data_dir)
    dataset = on_device(data, arguments.device)
    for seed in (10, 11, 12):
        with tempfile.TemporaryDirectory() as folder:
            runs = {
                Path(folder, name): replace(shrunk(recipe, dataset_name, arguments), seed=seed, epochs=lengths[name])
                for name, recipe in recipes.items()
            }
            slow, fast = train_in_turn(runs, dataset, arguments.device).values()
        level, whole = slow[-1]["objective"], slow[-1]["seconds"]
        taken = reached(fast, level, math.inf)
        print(
            f"{dataset_name}, seed {seed}: paper-like {level:.5f} in {lengths['paper-like']} epochs and {whole:.1f} s; "
            f"muon, balanced as low after {taken:.1f} s ({whole / taken:.1f} times as fast), in the end "
            f"{fast[-1]['objective']:.5f} in {lengths['muon, balanced']} epochs and {fast[-1]['seconds']:.1f} s",
            flush=True,
        )


def stacked_muon(dataset_name: str, arguments: argparse.Namespace) -> None:
    """An epoch of the 15 runs of the recipe "muon, balanced", stacked and one after another."""
    base = replace(shrunk(RECIPES["muon, balanced"], dataset_name, arguments), epochs=arguments.epochs)
    dataset, configs = training_data(base, arguments.data_dir), list(Sweep(base, AXES))
    stacked, _ = seconds_of(configs, dataset, arguments.device)
    alone = len(configs) * seconds_of(configs[:1], dataset, arguments.device)[0]
    what = f"{dataset_name}, muon: an epoch of {len(configs)} runs"
    print(f"{what} {stacked:.2f} s stacked, {alone:.2f} s one after another", flush=True)


def waited(function: Callable[[], object], device: str) -> float:
    """Median seconds of five calls, after one that warms up, until the device is done."""
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        function()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def measuring(arguments: argparse.Namespace, rate: float) -> None:
    """Measures features in device memory, beside reading them twice and multiplying them once at the device's rate."""
    shrink, device = arguments.shrink, arguments.device
    sizes = [(collapsing, (50_000, 2048, 10)), (collapsing, (50_000, 2048, 1000)), (tokens, (50_257, 768, 2))]
    for make, size in sizes:
        size = tuple(max(2, number // shrink) if number not in (2048, 768) else number for number in size)
        features, labels, weight = (part.to(device) for part in make(*size))
        (N, p), C = features.shape, len(weight)
        taken = waited(partial(nc.measure, features, labels, weight, vci=False), device)
        read = 2 * waited(features.sum, device)
        products = 2 * N * p * (C + min(p, C - 1)) / rate
        print(
            f"measuring N = {N:,}, p = {p:,}, C = {C:,}: {taken:.3f} s; reading twice {read:.4f} s, "
            f"products at the matrix rate {products:.4f} s: {taken / (read + products):.1f} times both",
            flush=True,
        )


def everything(arguments: argparse.Namespace, rate: float) -> None:
    """In order of value; what would begin after the time is over is left out, and said."""
    begun = time.perf_counter()
    first = arguments.dataset[-1]
    parts = {
        "muon against SGD": lambda: to_the_same_objective(first, arguments),
        "stacked muon": lambda: stacked_muon(first, arguments),
        "measuring": lambda: measuring(arguments, rate),
    }
    for name, part in parts.items():
        minutes = (time.perf_counter() - begun) / 60
        if minutes > arguments.minutes:
            print(f"{name}: left out, {minutes:.0f} minutes are over")
            continue
        print(f"-- {name}, after {minutes:.1f} minutes", flush=True)
        part()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", default=["mnist", "cifar10"])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--all", action="store_true", help="measure what LOG.md lacks, in place of the figures")
    parser.add_argument("--minutes", type=float, default=15, help="begin nothing after these, with --all")
    parser.add_argument("--shrink", type=int, default=1, help="divide sizes by this, with --all, to try the script")
    arguments = parser.parse_args()
    try:
        check_device(arguments.device)
    except ValueError as error:
        parser.error(str(error))
    warnings.simplefilter("ignore")
    rate = matrix_rate(arguments.device)
    name = torch.cuda.get_device_name(arguments.device) if arguments.device.startswith("cuda") else arguments.device
    print(f"{name}: {rate / 1e12:.2f} TFLOP/s in float32 products, torch {torch.__version__}")
    if arguments.all:
        everything(arguments, rate)
        return
    figures(arguments, rate)


def figures(arguments: argparse.Namespace, rate: float) -> None:
    total = 0.0
    for dataset_name in arguments.dataset:
        base = RunConfig.of_version(2, dataset=dataset_name, epochs=arguments.epochs)
        dataset = training_data(base, arguments.data_dir)
        configs = list(Sweep(base, AXES))
        stacked, measured = seconds_of(configs, dataset, arguments.device)
        alone = len(configs) * seconds_of(configs[:1], dataset, arguments.device)[0]
        images = len(configs) * len(dataset.train.labels) / stacked
        share = images * operations(base, dataset) / rate
        figure = EPOCHS * stacked + len(recorded_epochs(RunConfig(epochs=EPOCHS))) * measured
        total += figure
        print(
            f"{dataset_name}: an epoch of {len(configs)} runs {stacked:.2f} s stacked, {alone:.2f} s one after another "
            f"(ratio {alone / stacked:.2f}); {images:,.0f} images/s, {share:.1%} of the matrix rate; measuring "
            f"{measured:.1f} s; {EPOCHS} epochs {figure / 60:.1f} min"
        )
    print(f"both figures: {total / 60:.1f} min (aim: 10 min, ratio 5, on one H100)")


if __name__ == "__main__":
    main()
