"""Times the theory table of the default run, in seconds and as a multiple of the full gradient in float64 it needs."""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

import neurocollapse as nc
from neurocollapse.sweeps import objective_of_run, verify_run
from neurocollapse.sweeps.resuming import execute


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    dataset = nc.load_dataset("mnist5k")
    with tempfile.TemporaryDirectory() as folder:
        run = execute(nc.RunConfig(epochs=0), dataset, Path(folder))
        objective = objective_of_run(run)
        tables, gradients = [], []
        for _ in range(3):  # in turn
            start = time.perf_counter()
            verify_run(run)
            tables.append(time.perf_counter() - start)
            start = time.perf_counter()
            objective.data_gradient()
            gradients.append(time.perf_counter() - start)
    table, gradient = statistics.median(tables), statistics.median(gradients)
    print(f"convnet on mnist5k, {torch.get_num_threads()} threads, medians of three")
    print(f"{'one gradient':<16}{gradient:>8.2f} s")
    print(f"{'theory table':<16}{table:>8.2f} s{table / gradient:>8.2f}×")


if __name__ == "__main__":
    main()
