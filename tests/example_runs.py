"""Runs made by hand for reports: classes that collapse on a simplex at a known pace."""

from dataclasses import asdict
from typing import Any

import numpy as np

from neurocollapse.reports import ReportRun
from neurocollapse.training import RunConfig

KEYS = ("loss_data", "cross_entropy", "nc1", "nc2_equinorm", "nc2_cosine", "nc3", "nc4", "accuracy", "loss")


def collapsing(classes: int, spread: float, generator: np.random.Generator, shown: int = 60) -> dict[str, np.ndarray]:
    """What a snapshot holds where W is the simplex, its vertices are the means, and the samples lie around them."""
    weight = np.sqrt(classes / (classes - 1)) * (np.eye(classes) - 1 / classes)
    labels = np.repeat(np.arange(classes), shown)
    kept = min(classes, 10)
    samples = weight[labels] + spread * generator.standard_normal((len(labels), classes))
    gram = (weight @ weight.T)[:kept, :kept]
    return {
        "labels": labels[: kept * shown],
        "samples": (samples @ weight.T)[: kept * shown, :kept].astype(np.float32),
        "means": gram.astype(np.float32),
        "means_gram": gram.astype(np.float32),
        "weight_gram": gram.astype(np.float32),
    }


def layers_of(value: float) -> dict[str, float]:
    """The keys of two layers with a weight, and of a ReLU between."""
    keys = {f"train.layers.{layer}.nc1": value / depth for depth, layer in enumerate(("body.0", "body.1", "head"), 1)}
    return keys | {"train.layers.body.0.weight_share_frame": 1 - value, "train.layers.head.weight_share_frame": 1.0}


def report_run(*, epochs: int = 4, records: int = 60, classes: int = 4, **fields: Any) -> ReportRun:
    """A finished run with so many records, at most one an epoch, whose keys all fall as 1/(1 + epoch)."""
    config = RunConfig(**{"network": "mlp", "epochs": epochs, **fields})
    generator = np.random.default_rng([config.seed, round(1e7 * config.weight_decay)])
    recorded = sorted({round(epoch) for epoch in np.linspace(0, epochs, min(records, epochs + 1))})
    of_epoch = {epoch: 1 / (1 + epoch) + config.weight_decay + 1e-3 * config.seed for epoch in recorded}
    rows = [
        {
            "epoch": epoch,
            "terminal_phase_start": recorded[-1] if epoch == recorded[-1] else None,
            **{f"{split}.{key}": value * (place + 1) * (1 if split == "train" else 1.5)
               for split in ("train", "test") for place, key in enumerate(KEYS)},
            "train.weight_norms": [1 + value, 2 - value],
            **(layers_of(value) if config.layers == "all" else {}),
        }
        for epoch, value in of_epoch.items()
    ]  # fmt: skip
    return ReportRun(
        name=f"run-{config.weight_decay:g}-{config.seed}-{config.depth}-{config.bias}-{config.per_class}",
        status="finished",
        config=asdict(config),
        num_classes=classes,
        records=rows,
        snapshots={epoch: collapsing(classes, value, generator) for epoch, value in of_epoch.items()},
        seconds=12.5,
        provenance=[{"torch": "2", "device": "cpu"}],
    )
