"""A sweep by Ray on two workers against one: wall time and their ratio; how long Ray takes to start is shown apart."""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import ray

import neurocollapse as nc
from neurocollapse.engines.ray_cluster import train_on_ray

#: Runs of about a quarter of a minute, so that what is timed is training, and not the two seconds of importing PyTorch.
BASE = nc.RunConfig(network="mlp", depth=5, width=512, per_class=200, epochs=30)
RUNS, REPETITIONS = 8, 3


def seconds(workers: int, epochs: int) -> float:
    base = nc.RunConfig(**{**vars(BASE), "epochs": epochs})
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        events = list(train_on_ray(list(nc.Sweep(base, {"seed": range(RUNS)})), Path(folder), workers=workers))
        elapsed = time.perf_counter() - start
    assert sum(event.kind == "done" for event in events) == RUNS
    return elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, help="of each, in turn")
    parser.add_argument("--epochs", type=int, default=BASE.epochs, help="of each run")
    options = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    start = time.perf_counter()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    begun = time.perf_counter() - start
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(options.repetitions):
        for workers, taken in times.items():
            taken.append(seconds(workers, options.epochs))
    ray.shutdown()
    medians = {workers: statistics.median(taken) for workers, taken in times.items()}
    print(f"{RUNS} runs of the mlp on mnist5k, {options.epochs} epochs each; load average {os.getloadavg()[0]:.1f}")
    print(f"{'start of Ray':<16}{begun:>8.1f} s")
    for workers, taken in times.items():
        print(f"{f'{workers} worker(s)':<16}{medians[workers]:>8.1f} s   each: {' '.join(f'{t:.1f}' for t in taken)}")
    print(f"{'ratio':<16}{medians[1] / medians[2]:>8.2f}   (the target is 1.7)")


if __name__ == "__main__":
    main()
