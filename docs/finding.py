"""Trains the runs of "In short" in docs/theory.md, and makes its figure: python docs/finding.py RUNS.

RUNS keeps the runs; those that are there are not made again. All take ten minutes on two cores. What the figure
shows of the runs is kept in docs/finding.csv.
"""

import sys
from pathlib import Path

import pandas as pd
import torch
from figures import finding_figure
from torch import Tensor

import neurocollapse as nc
from neurocollapse.reports import save_figure
from neurocollapse.sweeps import objective_of_run
from neurocollapse.theory.two_clusters import joined_clusters, two_clusters
from neurocollapse.training import FullBatch

HERE = Path(__file__).parent
DATA = HERE / "finding.csv"
#: Fixed before the runs: 1,000 digits, an mlp of five layers with a free bias in the classifier. All runs are shown.
BASE = nc.RunConfig.of_version(2, network="mlp", per_class=100, depth=5, width=256, bias="free", epochs=300)
AXES = {"weight_decay": (0.0, 2e-3), "linear_tail": (0, 1, 2), "seed": (0, 1, 2)}


def features_of(objective: FullBatch) -> tuple[Tensor, Tensor, Tensor]:
    """The features before the classifier, the labels and the classifier's rows."""
    model = objective.model
    caught: list[Tensor] = []
    handle = model.classifier.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].detach()))
    with torch.no_grad():
        model(objective.inputs)
    handle.remove()
    return caught[0].double(), objective.labels, model.classifier.weight.detach().double()


def unseen_share(features: Tensor, labels: Tensor, weight: Tensor) -> float:
    """The share of Tr Σ_W outside the C − 1 leading right singular directions of W, which change no output."""
    one_hot = torch.nn.functional.one_hot(labels).double()
    residuals = features - (one_hot / one_hot.sum(dim=0)) @ (one_hot.T @ features)
    directions = torch.linalg.svd(weight, full_matrices=False).Vh[: len(weight) - 1]
    unseen = residuals - residuals @ directions.T @ directions
    return (unseen.square().sum() / residuals.square().sum()).item()


def trained(folder: Path) -> pd.DataFrame:
    """A row for each run: its λ, linear layers and seed, and what it ended with."""
    done = nc.sweep(nc.Sweep(BASE, AXES), out=folder)
    last = nc.runs(folder).groupby("run_id").tail(1).set_index("run_id")
    rows = []
    for run in done:
        record, config = last.loc[run.path.name], run.config
        rows.append(
            {
                **{name: getattr(config, name) for name in AXES},
                "unseen": unseen_share(*features_of(objective_of_run(run))),
                **{key: record[f"train.{key}"] for key in ("accuracy", "loss_data", "nc1", "nc1_trace_ratio", "nc3")},
                **{key: record[key] for key in ("relative_gradient", "status")},
            }
        )
    return pd.DataFrame(rows)


def on_a_plane(objective: FullBatch) -> pd.DataFrame:
    """The features of two classes of two clusters: along W's row space, and along what W does not see."""
    features, labels, weight = features_of(objective)
    seen = (weight[0] - weight[1]) / torch.linalg.norm(weight[0] - weight[1])
    reduced = features @ (torch.eye(len(seen)).double() - seen[:, None] * seen)
    between = torch.stack([reduced[labels == c][0] - reduced[labels == c][1] for c in range(2)]).sum(dim=0)
    length = torch.linalg.norm(between)
    unseen = between / length if length > 1e-9 else torch.zeros_like(between)
    return pd.DataFrame({"label": labels, "seen": features @ seen, "unseen": features @ unseen})


def main(folder: Path) -> None:
    frame = trained(folder)
    frame.to_csv(DATA, index=False, float_format="%.5g")
    planes = [on_a_plane(two_clusters(2, 1e-3)), on_a_plane(joined_clusters(2, 1e-3))]
    save_figure(finding_figure(*planes, pd.read_csv(DATA)), HERE, "finding")
    means = frame.groupby(["linear_tail", "weight_decay"]).mean(numeric_only=True)
    print(means.drop(columns="seed").to_string(float_format="{:.3g}".format))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
