"""Compares a sweep by Ray on two workers with one worker: wall times and their ratio.

The ratio of `processes` shows the most that the machine allows, since two runs share its memory. The time that Ray
takes to start is printed separately.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import ray

import neurocollapse as nc
from neurocollapse.sweeps import ENGINES

#: Runs long enough that what is timed is training, and not the two seconds of importing PyTorch.
BASE = nc.RunConfig.of_version(2, per_class=200, epochs=10)
RUNS, REPETITIONS = 6, 3


def seconds(engine: str, workers: int, epochs: int) -> float:
    base = nc.RunConfig(**{**vars(BASE), "epochs": epochs})
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        events = list(ENGINES[engine](list(nc.Sweep(base, {"seed": range(RUNS)})), Path(folder), workers=workers))
        elapsed = time.perf_counter() - start
    assert sum(event.kind == "done" for event in events) == RUNS
    return elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, help="repetitions of each, in turn")
    parser.add_argument("--epochs", type=int, default=BASE.epochs, help="epochs of each run")
    options = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    start = time.perf_counter()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    starting = time.perf_counter() - start
    times: dict[tuple[str, int], list[float]] = {(engine, n): [] for engine in ("ray", "processes") for n in (1, 2)}
    for _ in range(options.repetitions):
        for (engine, workers), taken in times.items():
            taken.append(seconds(engine, workers, options.epochs))
            print(f"{engine}, {workers} worker(s): {taken[-1]:.1f} s", flush=True)
    ray.shutdown()
    print(f"{RUNS} runs of the convnet on 2,000 digits, {options.epochs} epochs each; load {os.getloadavg()[0]:.1f}")
    print(f"{'start of Ray':<24}{starting:>8.1f} s")
    for (engine, workers), taken in times.items():
        each = " ".join(f"{t:.1f}" for t in taken)
        print(f"{f'{engine}, {workers} worker(s)':<24}{statistics.median(taken):>8.1f} s   each: {each}")
    for engine, target in (("ray", "   (the target is 1.7)"), ("processes", "")):
        one, two = (statistics.median(times[engine, workers]) for workers in (1, 2))
        print(f"{f'{engine}, ratio':<24}{one / two:>8.2f}{target}")


if __name__ == "__main__":
    main()
