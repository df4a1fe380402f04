"""Trains the runs of docs/layers.md, and makes its figure and table: python docs/layers.py RUNS.

RUNS keeps the runs; those that are there are not made again. All take ten minutes on two cores. The records of
the layers are kept in docs/layers.csv.
"""

import sys
from pathlib import Path

import pandas as pd

import neurocollapse as nc
from neurocollapse.reports import layers_figure, save_figure

HERE = Path(__file__).parent
DATA = HERE / "layers.csv"
DECAYS = (0.0, 2e-3)
SEEDS = (0, 1)
BASE = nc.RunConfig.of_version(2, network="mlp", per_class=100, depth=6, width=256, epochs=300, layers="all")


def trained(folder: Path) -> pd.DataFrame:
    """The columns of the runs that the page needs."""
    nc.sweep(nc.Sweep(BASE, {"weight_decay": DECAYS, "seed": SEEDS}), out=folder)
    frame = nc.runs(folder)
    kept = ["run_id", "status", "weight_decay", "seed", "epoch", "train.accuracy", "test.accuracy", "train.loss_data"]
    return frame[kept + [column for column in frame if column.startswith("train.layers.")]]


def main(folder: Path) -> None:
    frame = trained(folder)
    frame.to_csv(DATA, index=False, float_format="%.5g")
    save_figure(layers_figure(pd.read_csv(DATA)), HERE, "layers")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
