"""Compares `measure` with the three-pass p × p method of published packages, and with reading the features twice.

Ways to do a thing take turns in one run. Seconds are medians; a ratio is the median of those of each turn, with the
least and the largest. Name cases to run only those. Machines differ, and so do ratios: the aims are for two cores.
"""

import argparse
import hashlib
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, distributed
from torch.utils.data import DataLoader, TensorDataset

import neurocollapse as nc

BATCH = 500


def collapsing(num_samples: int, num_features: int, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features around random means, labels in turn, and a classifier along the means."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num_samples) % num_classes
    means = torch.randn(num_classes, num_features, generator=generator)
    features = torch.randn(num_samples, num_features, generator=generator).mul_(0.5)
    for rows in torch.arange(num_samples).split(64):
        features[rows] += means[labels[rows]]
    return features, labels, means / num_features


def batches(features: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(features.split(BATCH), labels.split(BATCH), strict=True)


def three_passes(features: Tensor, labels: Tensor, weight: Tensor) -> dict[str, float]:
    """Means; the p × p covariance and the spread of each class; decisions; then a pseudo-inverse.

    All in float32, by batches of 500, as in the best known package, rhubarbwu/neural-collapse. Like it, every batch
    counts the classes by a table of its labels, and proves by SHA-256 that means and classifier are still the same.
    """
    C, p = weight.shape

    def members(y: Tensor) -> Tensor:
        table = y[:, None] == torch.arange(C)
        table.sum(dim=0, dtype=torch.int32)
        return table.T.float()

    def digest(matrix: Tensor) -> str:
        return hashlib.sha256(matrix.numpy().tobytes()).hexdigest()

    sums = torch.zeros(C, p)
    for h, y in batches(features, labels):
        sums += members(y) @ h
    counts = labels.bincount()
    means = sums / counts[:, None]
    scatter, spreads, known = torch.zeros(p, p), torch.zeros(C), digest(means)
    for h, y in batches(features, labels):
        assert digest(means) == known
        spreads += (members(y) @ (h - means[y]) ** 2).sum(dim=1)
    for h, y in batches(features, labels):  # of the same pass over the data, but each sum takes its own differences
        assert digest(means) == known
        members(y)
        residuals = h - means[y]
        scatter += residuals.T @ residuals
    agreements = 0
    for h, y in batches(features, labels):
        assert digest(means) == known
        digest(weight)
        members(y)
        distances = h.norm(dim=1)[:, None] ** 2 + means.norm(dim=1) ** 2 - 2 * h @ means.T
        agreements += int((distances.argmin(dim=1) == (h @ weight.T).argmax(dim=1)).sum())
    centered = means - means.mean(dim=0)
    Sigma_W, Sigma_B = scatter / len(labels), centered.T @ centered / C
    gram, duality = centered @ centered.T, weight @ centered.T
    ideal = (torch.eye(C) - 1 / C) / (C - 1) ** 0.5
    variances = spreads / counts
    pairs = (variances[:, None] + variances) / (2 * torch.cdist(means, means) ** 2).fill_diagonal_(torch.inf)
    return {
        "nc1": torch.trace(torch.linalg.pinv(Sigma_B) @ Sigma_W).item(),
        "nc1_cdnv": (pairs.sum() / (C * (C - 1))).item(),
        "nc2_etf": (gram / gram.norm() - ideal).norm().item(),
        "nc3_duality": (duality / duality.norm() - ideal).norm().item(),
        "nc4": 1 - agreements / len(labels),
    }


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def in_turn(repeats: int, **ways: Callable[[], object]) -> dict[str, list[float]]:
    """Seconds of each way, turn by turn; every way runs once unmeasured first."""
    for way in ways.values():
        way()
    taken = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            taken[name].append(seconds(way))
    return taken


def show_ratio(what: str, above: list[float], below: list[float], aim: str) -> None:
    ratios = sorted(a / b for a, b in zip(above, below, strict=True))
    show(what, f"{statistics.median(ratios):.2f}", f"({ratios[0]:.2f} to {ratios[-1]:.2f})", f"aim: {aim}")


def beside_three_passes(num_classes: int, aim: str) -> None:
    features, labels, weight = collapsing(50_000, 2048, num_classes)
    found = {}

    def measure() -> None:
        found["own"] = dict(nc.measure(features, labels, weight))

    def peer() -> None:
        found["theirs"] = three_passes(features, labels, weight)

    taken = in_turn(3, reading=lambda: (features.sum(), features.sum()), measure=measure, peer=peer)
    own, theirs = found["own"], found["theirs"]
    difference = max(abs(own[key] - value) / max(abs(value), 1e-3) for key, value in theirs.items())
    for name, times in taken.items():
        show(f"C = {num_classes}, {name}", f"{statistics.median(times):.3f} s")
    show_ratio("times faster than the peer", taken["peer"], taken["measure"], aim)
    if num_classes == 10:
        show_ratio("over reading the features twice", taken["measure"], taken["reading"], "at most 4")
    show("largest difference of a key", f"{difference:.0e}")


def many_features() -> None:
    features, labels, weight = collapsing(5_000, 100_000, 10)
    own, before = features.numel() * 4 / 2**20, peak_mib()
    show("N = 5,000, p = 100,000, C = 10", f"{seconds(lambda: nc.measure(features, labels, weight)):.2f} s")
    show("memory above what was there", f"{peak_mib() - before:,.0f} MiB", f"{(own + peak_mib() - before) / own:.2f}")


def many_classes() -> None:
    """Streamed: batches are made, used and forgotten, twice."""
    C, p = 10_000, 1024
    means = torch.randn(C, p, generator=torch.Generator().manual_seed(0))

    def sweep(gathered: nc.ClassMeans | nc.Projections, num_samples: int) -> None:
        generator = torch.Generator().manual_seed(1)
        for labels in (torch.arange(num_samples) % C).split(10_000):
            gathered.update(means[labels] + 0.5 * torch.randn(len(labels), p, generator=generator), labels)

    def streamed(num_samples: int) -> None:
        class_means = nc.ClassMeans(C)
        sweep(class_means, num_samples)
        projections = nc.Projections(class_means, nc.Classifier(means / p), covariance=False)
        sweep(projections, num_samples)
        nc.Measurement(projections.statistics())

    first, second = (seconds(lambda n=n: streamed(n)) for n in (100_000, 200_000))
    show("C = 10,000, p = 1,024, N = 100,000 streamed", f"{first:.1f} s")
    show("N = 200,000", f"{second:.1f} s", f"{second / first:.2f}")
    show("peak of the process", f"{peak_mib():,.0f} MiB")


def beside_the_forward_pass() -> None:
    """The paper's convolutional network on 50,000 images of CIFAR's size."""
    network = nc.build_network("convnet", (3, 32, 32), 10)
    data = TensorDataset(torch.randn(50_000, 3, 32, 32), torch.arange(50_000) % 10)
    loader = DataLoader(data, batch_size=BATCH)

    def forward() -> None:
        with torch.no_grad():
            for images, _ in loader:
                network(images)

    taken = in_turn(
        5,
        forward=forward,
        model=lambda: nc.measure_model(network, loader, vci=False),
        layers=lambda: nc.measure_layers(network, loader, vci=False),
    )
    show("forward pass alone", f"{statistics.median(taken['forward']):.2f} s")
    show_ratio("measure_model over it", taken["model"], taken["forward"], "at most 1.05")
    show_ratio("measure_layers over it", taken["layers"], taken["forward"], "at most 1.3")


def two_processes() -> None:
    """The same network on 10,000 images, by one process and by two that share them, each with one thread."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(one_of_two, args=(folder,), nprocs=2)


def one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(0)
    network = nc.build_network("convnet", (3, 32, 32), 10)
    data = TensorDataset(torch.randn(10_000, 3, 32, 32), torch.arange(10_000) % 10)
    loader = DataLoader(data, batch_size=BATCH)
    for name, measure in {"measure_model": nc.measure_model, "measure_layers": nc.measure_layers}.items():
        alone, together = [], []
        for _ in range(4):
            if rank == 0:
                alone.append(seconds(lambda m=measure: m(network, loader, vci=False, together=False)))
            distributed.barrier()
            together.append(seconds(lambda m=measure: m(network, loader, vci=False, together=True)))
        if rank == 0:
            show(f"{name}, one process", f"{statistics.median(alone):.2f} s")
            show_ratio("over two processes", alone[1:], together[1:], "at least 1.8")
    distributed.destroy_process_group()


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def show(*cells: str) -> None:
    print("".join(f"{cell:<48}" if i == 0 else f"{cell:>12}   " for i, cell in enumerate(cells)), flush=True)


CASES: dict[str, Callable[[], None]] = {
    "ten classes": lambda: beside_three_passes(10, "at least 27"),
    "thousand classes": lambda: beside_three_passes(1000, "at least 4.5, and 6 with bfloat16"),
    "many features": many_features,
    "many classes": many_classes,
    "model": beside_the_forward_pass,
    "two processes": two_processes,
}


def run(case: str) -> None:
    CASES[case]()


def main() -> None:
    """Each case in a process of its own, whose peak of memory is its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES, help="by default all")
    for case in parser.parse_args().cases:
        print(f"-- {case}: {torch.get_num_threads()} threads", flush=True)
        process = multiprocessing.get_context("spawn").Process(target=run, args=(case,))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
