"""Draws README's figure from the runs of both starts: python docs/starts.py RUNS.

The runs are those of docs/reproduce.md: `neurocollapse train --vary seed=0,1,2 initialization=norm,default
weight_decay=0,5e-4,1e-3 --out RUNS`. They were fixed before they were made: the default recipe, three seeds, all shown.
"""

import sys
from pathlib import Path

from figures import starts_figure

import neurocollapse as nc
from neurocollapse.reports import save_figure

HERE = Path(__file__).parent
STARTS = {"default": "PyTorch's start", "norm": "norm 4 in every layer"}


def main(runs: Path) -> None:
    frame = nc.runs(runs)
    frame = frame[frame.status == "finished"]
    last = frame.groupby("run_id").tail(1).set_index(["initialization", "weight_decay", "seed"]).sort_index()
    keys = ["loss_data", "accuracy", "nc1", "nc2_equinorm", "nc2_cosine", "nc3", "nc4", "sqi_gap"]
    shown = last[[f"train.{key}" for key in keys] + ["test.accuracy", "relative_gradient", "norm_spread"]]
    shown.to_csv(HERE / "starts.csv", float_format="%.4g")
    print(shown.groupby(["initialization", "weight_decay"]).median().T.to_string(float_format="{:.3g}".format))
    figure = starts_figure({words: frame[frame.initialization == start] for start, words in STARTS.items()})
    save_figure(figure, HERE, "starts")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
