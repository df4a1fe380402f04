"""Measures reports of a sweep and of 200 runs: size and time to open in a browser; and the cost of recording for it.

Needs Debian's chromium and chromium-driver, and the package's test extra.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

import neurocollapse as nc
from neurocollapse.reports import ReportRun, report_content, report_page
from neurocollapse.sweeps.resuming import execute
from neurocollapse.training import run as training_run

DECAYS, RECORDS, CLASSES, SHOWN = (0.0, 5e-4, 1e-3), 60, 10, 60
#: Seeds for each λ, and the largest size in MB.
SEEDS = {3: 2.5, 67: 5.0}
KEYS = ("loss_data", "nc1", "nc2_equinorm", "nc2_cosine", "nc3", "nc4", "accuracy", "loss")
REPETITIONS = 5
SETTLING = 5  # seconds until the browser's own start is over


def made_up(weight_decay: float, seed: int) -> ReportRun:
    """Writes a run whose numbers are random, and as large in the file as real ones."""
    generator = np.random.default_rng(seed)
    shot = {"samples": (CLASSES * SHOWN, CLASSES)} | dict.fromkeys(
        ("means", "weight_gram", "means_gram"), (CLASSES,) * 2
    )
    return ReportRun(
        name=f"run-{weight_decay:g}-{seed}",
        status="finished",
        config=asdict(nc.RunConfig(weight_decay=weight_decay, seed=seed)),
        num_classes=CLASSES,
        records=[
            {"epoch": epoch, "train.weight_norms": generator.random(5).tolist()}
            | {f"{split}.{key}": generator.random() for split in ("train", "test") for key in KEYS}
            for epoch in range(RECORDS)
        ],
        snapshots={
            epoch: {"labels": np.repeat(np.arange(CLASSES), SHOWN)}
            | {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shot.items()}
            for epoch in range(RECORDS)
        },
    )


def opening(page: Path) -> float:
    """The seconds until a new browser has drawn the visible plots."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1280,900"):
        options.add_argument(f"--{argument}")
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        driver.get("about:blank")
        time.sleep(SETTLING)
        driver.get(page.as_uri())
        drawn = """
            const inSight = [...document.querySelectorAll(".plot")].filter(
                (plot) => plot.getBoundingClientRect().top < innerHeight);
            return inSight.length && inSight.every((plot) => plot.data) ? performance.now() : 0;"""
        while not (milliseconds := driver.execute_script(drawn)):
            time.sleep(0.01)
        return milliseconds / 1000
    finally:
        driver.quit()


def show_report(seeds: int, largest: float, page: Path) -> None:
    """Writes a report and opens it; the aim is a second and so many MB."""
    runs = [made_up(decay, seed) for decay in DECAYS for seed in range(seeds)]
    start = time.perf_counter()
    page.write_text(report_page(report_content(runs, title="A large sweep")), encoding="utf-8")
    written = time.perf_counter() - start
    print(f"{len(runs)} runs of {RECORDS} records, {CLASSES} classes")
    print(f"{'written in':<28}{written:>8.2f} s")
    print(f"{'size':<28}{page.stat().st_size / 1e6:>8.2f} MB   (the target is {largest})", flush=True)
    times = [opening(page) for _ in range(REPETITIONS)]
    spread = f"{min(times):.2f} to {max(times):.2f}"
    print(f"{'opened in':<28}{statistics.median(times):>8.2f} s    (the target is 1; {spread})", flush=True)


def training(config: nc.RunConfig, folder: Path) -> float:
    start = time.perf_counter()
    execute(config, nc.load_dataset(config.dataset, per_class=config.per_class), folder)
    return time.perf_counter() - start


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for seeds, largest in SEEDS.items():
            show_report(seeds, largest, Path(folder) / "report.html")
        config = nc.RunConfig(per_class=100, epochs=12)
        without, within = [], []
        snapshot = training_run.snapshot
        for repetition in range(REPETITIONS):
            within.append(training(config, Path(folder) / f"with {repetition}"))
            training_run.snapshot = lambda *_: {}
            without.append(training(config, Path(folder) / f"without {repetition}"))
            training_run.snapshot = snapshot
        ratio = statistics.median(a / b for a, b in zip(within, without, strict=True))
        print(f"{'training with, over without':<28}{ratio:>8.3f}      (the target is 1.03)")


if __name__ == "__main__":
    main()
