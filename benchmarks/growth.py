"""Fits what measuring costs as a formula of N, p and C on three sizes, and tests it on a fourth.

    python benchmarks/growth.py
    python benchmarks/growth.py --shrink 4      # smaller sizes, to try the script

Features of float32 are measured by `measure`, without nc1_vci, each size in a process of its own: seconds of its
processor, the median of several; the peak of memory above what was there; and the bytes that a process would send to
others. Seconds are fitted by three rates, one for each term of the formula in docs/growth.md, and so do not hold for
another machine.
"""

import argparse
import multiprocessing
import pickle
import resource
import statistics
import time

import numpy as np
import torch
from scipy.optimize import nnls

import neurocollapse as nc

#: N, p, C of the three sizes that are fitted, and of those that are tested.
FITTED = ((20_000, 1024, 500), (12_000, 128, 6_000), (12_000, 768, 5_000))
TESTED = ((16_000, 384, 8_000), (100_000, 512, 10))
TERMS = "N p (130 + r + C)", "C p (C + r)", "C²"
REPEATS = 3


def operations(N: int, p: int, C: int) -> tuple[float, float, float]:
    """The terms of the formula: by sample, reading and products in float32; products of the means; pairs of classes.

    To read a number, twice, and take the mean off it costs as much as 130 products.
    """
    rank = min(p, C - 1)
    return N * p * (130 + rank + C), C * p * (C + rank), C * C


def measured(N: int, p: int, C: int) -> tuple[float, float, int, int]:
    """Seconds of one thread, bytes of memory, and bytes of the class means and of the projections as they are sent."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    labels, means = torch.arange(N) % C, torch.randn(C, p, generator=generator)
    features = torch.randn(N, p, generator=generator).mul_(0.5)
    for rows in torch.arange(N).split(1024):
        features[rows] += means[labels[rows]]
    weight, before, taken = means / p, peak(), []
    for _ in range(REPEATS):
        start = time.process_time()
        nc.measure(features, labels, weight, vci=False)
        taken.append(time.process_time() - start)
    memory = peak() - before
    class_means = nc.ClassMeans(C)
    class_means.update(features, labels)
    projections = nc.Projections(class_means, nc.Classifier(weight), covariance=False)
    sent = (len(pickle.dumps(part)) for part in (class_means, projections.sums))
    return statistics.median(taken), memory, *sent


def peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shrink", type=int, default=1, help="divide N and C by this")
    shrink = parser.parse_args().shrink
    sizes = [(N // shrink, p, max(2, C // shrink)) for N, p, C in FITTED + TESTED]
    results = []
    for size in sizes:
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # whose peak of memory is its own
            results.append(pool.apply(measured, size))
    seconds = np.array([result[0] for result in results])
    shares = np.array([operations(*size) for size in sizes]) / seconds[:, None]
    rates, _ = nnls(shares[:3], np.ones(3))  # so that errors are relative to the seconds
    for term, rate in zip(TERMS, rates, strict=True):
        print(f"{term:<18}{1e12 * rate:>10.1f} ps each")
    print(f"{'N':>9}{'p':>7}{'C':>7}{'seconds':>9}{'formula':>9}{'MB':>8}{'of 8 C p':>9}{'sent MB':>9}{'of 8 C p':>9}")
    for size, (taken, memory, *sent), share in zip(sizes, results, shares, strict=True):
        N, p, C = size
        means = 8 * C * p
        print(
            f"{N:>9}{p:>7}{C:>7}{taken:>9.2f}{share @ rates * taken:>9.2f}{memory / 1e6:>8.0f}{memory / means:>9.1f}"
            f"{sum(sent) / 1e6:>9.1f}{sum(sent) / means:>9.2f}",
            flush=True,
        )
    found = ", ".join(f"{share @ rates:.2f}" for share in shares[3:])
    print(f"the last {len(TESTED)} are not fitted: the formula gives {found} of their seconds (aim: 0.8 to 1.25)")


if __name__ == "__main__":
    main()
