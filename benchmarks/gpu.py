"""Times the paper's two figures on a GPU: 3 λ × 5 seeds of the convnet on full MNIST and CIFAR-10.

Trains the 15 runs for a few epochs stacked into one program, and one of them alone. For an epoch of all 15 it prints
the seconds of both, their ratio, images per second, and the rate of the stacked program's products relative to the
device's own rate of multiplying matrices, measured here. It also estimates the time of 100 epochs with their 15
measurements.

    python benchmarks/gpu.py --data-dir DATA
    python benchmarks/gpu.py --dataset mnist5k --device cpu --epochs 2      # tries the script without a GPU
"""

import argparse
import math
import statistics
import time
import warnings
from collections import defaultdict
from pathlib import Path

import torch
from torch import nn

from neurocollapse.datasets import Dataset
from neurocollapse.sweeps import Sweep, check_device
from neurocollapse.training import RunConfig, epochs, network_of, recorded_epochs, train_together, training_data

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", default=["mnist", "cifar10"])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    try:
        check_device(arguments.device)
    except ValueError as error:
        parser.error(str(error))
    warnings.simplefilter("ignore")
    rate = matrix_rate(arguments.device)
    name = torch.cuda.get_device_name(arguments.device) if arguments.device.startswith("cuda") else arguments.device
    print(f"{name}: {rate / 1e12:.2f} TFLOP/s in float32 products, torch {torch.__version__}")
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
