"""Measures features of a language model, with its vocabulary as classes: seconds and peak memory.

    python benchmarks/language.py --classes 5000 50257
    python benchmarks/language.py --classes 5000 --beside path/to/neural-collapse

Tokens are drawn by Zipf's law, each at least once, p = 768. `--beside` takes a checkout of rhubarbwu/neural-collapse,
whose published loop of four accumulators is then run on the same tokens, in batches of 512, with its tiles. Each side
runs in a process of its own. Memory is the peak of the process less what it was before measuring.
"""

import argparse
import multiprocessing
import resource
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

BATCH, TILE = 512, 1024

#: Our keys, and how the other package computes the same number.
SAME = ("nc1_per_class", "nc1_cdnv", "nc2_etf", "nc2_uniformity", "nc3_duality", "1 - nc4")


def tokens(num_classes: int, num_features: int, per_class: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features around random means, their tokens, and a classifier that leans on the means."""
    generator = torch.Generator().manual_seed(0)
    shares = 1 / torch.arange(1, num_classes + 1).double()
    drawn = torch.multinomial(shares, (per_class - 1) * num_classes, replacement=True, generator=generator)
    labels = torch.cat([torch.arange(num_classes), drawn])
    means = torch.randn(num_classes, num_features, generator=generator)
    features = torch.randn(len(labels), num_features, generator=generator)
    for rows in torch.arange(len(labels)).split(4096):
        features[rows] += means[labels[rows]]
    return features, labels, means / num_features**0.5


def ours(features: Tensor, labels: Tensor, weight: Tensor) -> dict[str, float]:
    import neurocollapse as nc

    measured = nc.measure(features, labels, weight, vci=False)
    return {**measured, "1 - nc4": 1 - measured["nc4"]}


def theirs(features: Tensor, labels: Tensor, weight: Tensor) -> dict[str, float]:
    from neural_collapse import accumulate, kernels, measure  # type: ignore[import-not-found]

    C, p = weight.shape
    batches = list(zip(features.split(BATCH), labels.split(BATCH), strict=True))
    of_means = accumulate.MeanAccumulator(C, p)
    for h, y in batches:
        of_means.accumulate(h, y)
    means, center = of_means.compute()
    spread = accumulate.CovarAccumulator(C, p, M=means)
    lengths = accumulate.VarNormAccumulator(C, p, M=means)
    for h, y in batches:
        spread.accumulate(h, y, means)
        lengths.accumulate(h, y, means)
    decided = accumulate.DecAccumulator(C, p, M=means, W=weight)
    for h, y in batches:
        decided.accumulate(h, y, weight, means)
    return {
        "nc1_per_class": measure.covariance_ratio(spread.compute(), means, center),
        "nc1_cdnv": measure.variability_cdnv(lengths.compute()[0], means, tile_size=TILE),
        "nc2_etf": measure.simplex_etf_error(means, center),
        "nc2_uniformity": kernels.kernel_stats(means, center, kernel=kernels.log_kernel, tile_size=TILE)[0],
        "nc3_duality": measure.self_duality_error(weight, means, center),
        "1 - nc4": measure.clf_ncc_agreement(decided),
    }


def timed(who: str, path: Path | None, *size: int) -> tuple[float, float, dict[str, float]]:
    """Seconds, MB and numbers of one side, in this process."""
    if path is not None:
        sys.path.insert(0, str(path))
    data = tokens(*size)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    values = {"ours": ours, "theirs": theirs}[who](*data)
    seconds = time.perf_counter() - start
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[5000, 50257])
    parser.add_argument("--features", type=int, default=768)
    parser.add_argument("--per-class", type=int, default=2, help="tokens for each class, on average")
    parser.add_argument("--beside", type=Path, help="a checkout of rhubarbwu/neural-collapse")
    options = parser.parse_args()
    sides = ["ours"] + (["theirs"] if options.beside else [])
    spawn = multiprocessing.get_context("spawn")
    print(f"{'classes':>8} {'side':>7} {'seconds':>8} {'MB':>7}  {'  '.join(f'{key:>14}' for key in SAME)}")
    for num_classes in options.classes:
        for who in sides:
            with spawn.Pool(1) as pool:  # so that one side's memory is not the other's
                size = num_classes, options.features, options.per_class
                seconds, megabytes, values = pool.apply(timed, (who, options.beside, *size))
            numbers = "  ".join(f"{values[key]:>14.6g}" for key in SAME)
            print(f"{num_classes:>8} {who:>7} {seconds:>8.1f} {megabytes:>7.0f}  {numbers}", flush=True)


if __name__ == "__main__":
    main()
